"""A small good source for every reader, and how it is read: what fuzz_readers.py damages."""

from __future__ import annotations

import gzip
import importlib.util
import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy import sparse

from contrastive.data import molecule_features
from contrastive.data.graphs import read_graphs
from contrastive.data.image_dataset import read_image
from contrastive.data.image_shards import shard_sample, shard_samples
from contrastive.data.image_streams import ImageStream
from contrastive.data.images import read_images
from contrastive.data.node_files import read_nodes
from contrastive.data.tables import read_smiles
from contrastive.evaluation import probe
from contrastive.evaluation.protocol import Protocol
from contrastive.features import load_encoder
from contrastive.saved import run_config
from encoders.image import ResNet

RNG = np.random.default_rng(0)
PICTURES = {
    "jpeg": ("a.jpg", "RGB", {"quality": 80}),
    "jpeg-cmyk": ("a.jpg", "CMYK", {}),
    "png": ("a.png", "RGB", {}),
    "png-palette": ("a.png", "P", {}),
    "png-16-bit": ("a.png", "I;16", {}),
    "tiff": ("a.tif", "RGB", {}),
    "tiff-lzw": ("a.tif", "RGB", {"compression": "tiff_lzw"}),
    "tiff-16-bit": ("a.tif", "I;16", {}),
    "webp": ("a.webp", "RGB", {}),
    "bmp": ("a.bmp", "RGB", {}),
    "ppm": ("a.ppm", "RGB", {}),
    "gif-animated": ("a.gif", "P", {"save_all": True}),
}


class Reader(NamedTuple):
    """A reader and a good source for it.

    Attributes:
        make: writes the source's files into an empty folder.
        read: reads the source in a folder to its end.
        package: what the reader needs to be installed; empty where it is a dependency.
    """

    make: Callable[[Path], None]
    read: Callable[[Path], Any]
    package: str = ""


def picture(mode: str = "RGB", size: int = 16) -> Image.Image:
    """An image of noise in any of Pillow's modes."""
    if mode == "I;16":
        return Image.fromarray(RNG.integers(0, 65536, (size, size), np.uint16))
    return Image.fromarray(RNG.integers(0, 256, (size, size, 3), np.uint8)).convert(mode)


def encoded(name: str, mode: str = "RGB", **options: Any) -> bytes:
    """A picture in the format of a file's name."""
    stream = io.BytesIO()
    if options.get("save_all"):
        options = options | {"append_images": [picture(mode), picture(mode)]}
    file_format = Image.registered_extensions()[Path(name).suffix]
    picture(mode).save(stream, file_format, **options)
    return stream.getvalue()


def picture_reader(name: str, mode: str, options: dict[str, Any]) -> Reader:
    """A single image file."""
    return Reader(
        lambda folder: _write(folder, {name: encoded(name, mode, **options)}),
        lambda folder: read_image(folder / name, 8, 3),
    )


def _write(folder: Path, files: dict[str, bytes | str]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def _image_folder(folder: Path) -> None:
    _write(folder, {f"data/{name}/{i}.png": encoded("a.png") for name in "ab" for i in range(4)})


def _image_csv(folder: Path) -> None:
    rows = "".join(f"{i}.png,{'cat' if i % 2 else 'dog'},train\n" for i in range(4))
    _write(folder, {"list.csv": f"path,label,split\n{rows}"})
    _write(folder, {f"{i}.png": encoded("a.png") for i in range(4)})


def _image_npz(folder: Path) -> None:
    images, labels = RNG.integers(0, 256, (4, 8, 8, 3), np.uint8), np.arange(4)[:, None]
    np.savez(folder / "images.npz", train_images=images, train_labels=labels)


def _shards(folder: Path) -> None:
    with tarfile.open(folder / "train-000.tar", "w") as tar:
        for i in range(4):
            for name, content in ((f"{i}.png", encoded("a.png")), (f"{i}.cls", str(i).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def _read_shards(folder: Path) -> None:
    for sample in shard_samples([str(folder / "train-000.tar")]):
        shard_sample(sample).decoded(3)


def _hugging_face(folder: Path) -> None:
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    rows = {"image": [picture() for _ in range(6)], "label": [i % 2 for i in range(6)]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(folder / "hf"))


def _litdata_folder(folder: Path) -> None:
    from litdata.streaming.writer import BinaryWriter

    writer = BinaryWriter(str(folder), chunk_bytes=2**20)
    for i in range(4):
        writer[i] = {"image": encoded("a.png"), "label": i}
    writer.done()
    writer.merge()


def _read_litdata(folder: Path) -> None:
    ImageStream(f"litdata:{folder}", image_size=8, batch_size=2).examples(4)


def _nodes_npz(folder: Path) -> None:
    np.savez(
        folder / "g.npz", edges=[[0, 1], [1, 2], [2, 3]], x=RNG.random((4, 3), np.float32), y=[0, 1, 0, 1]
    )


def _nodes_gnn(folder: Path) -> None:
    adjacency = sparse.csr_matrix(np.diag(np.ones(4), 1))
    arrays = {
        "adj_matrix": adjacency,
        "node_attr": sparse.csr_matrix(RNG.random((5, 3))),
        "node_label": np.arange(5) % 2,
    }
    with zipfile.ZipFile(folder / "g.npz", "w") as archive:
        for name, value in arrays.items():
            with archive.open(f"{name}.npy", "w") as file:
                held = np.asarray(value, dtype=object) if sparse.issparse(value) else value
                np.lib.format.write_array(file, held, allow_pickle=True)


def _nodes_csr(folder: Path) -> None:
    parts = {}
    for name, matrix in (("adj", np.diag(np.ones(4), 1)), ("attr", RNG.random((5, 3)))):
        held = sparse.csr_matrix(matrix)
        parts |= {f"{name}_{part}": getattr(held, part) for part in ("data", "indices", "indptr", "shape")}
    np.savez(folder / "g.npz", **parts, labels=np.arange(5) % 2)


def _planetoid(folder: Path) -> None:
    x = sparse.csr_matrix((RNG.random((510, 4)) > 0.5).astype(np.float32))
    y = np.eye(2, dtype=np.int32)[np.arange(510) % 2]
    parts = {"y": y[:4], "allx": x[:505], "ally": y[:505], "tx": x[505:], "ty": y[505:]}
    graph = {i: [(i + 1) % 510] for i in range(510)}
    files = {f"ind.toy.{k}": pickle.dumps(v) for k, v in {**parts, "graph": graph}.items()}
    _write(folder, {**files, "ind.toy.test.index": "".join(f"{i}\n" for i in range(505, 510))})


TU = {
    "A": "1, 2\n2, 1\n2, 3\n3, 2\n4, 5\n5, 4\n",
    "graph_indicator": "1\n1\n1\n2\n2\n",
    "graph_labels": "1\n-1\n",
    "node_labels": "0\n1\n2\n1\n0\n",
    "node_attributes": "0.5, 1\n2, 3\n4, 5e-1\n6, 7\n8, 9\n",
    "edge_labels": "0\n0\n1\n1\n0\n0\n",
}


def _tu_folder(folder: Path) -> None:
    _write(folder, {f"TOY_{kind}.txt": text for kind, text in TU.items()})


def _tu_zip(folder: Path) -> None:
    with zipfile.ZipFile(folder / "TOY.zip", "w") as archive:
        for kind, text in TU.items():
            archive.writestr(f"TOY/TOY_{kind}.txt", text)


def _dgl_graphs(folder: Path) -> None:
    import dgl

    graphs = [dgl.graph(([0, 1], [1, 2]), num_nodes=3) for _ in range(3)]
    for graph in graphs:
        graph.ndata["x"] = torch.randn(3, 2)
    dgl.save_graphs(str(folder / "g.bin"), graphs, {"labels": torch.arange(3)})


OGB = {
    "raw/edge": "0,1\n1,2\n0,1\n",
    "raw/num-node-list": "3\n2\n",
    "raw/num-edge-list": "2\n1\n",
    "raw/node-feat": "5,0\n6,1\n5,2\n7,0\n5,1\n",
    "raw/edge-feat": "0,1\n1,0\n3,0\n",
}


def _ogb(folder: Path, labels: str, split: str, tables: dict[str, str]) -> None:
    whole = OGB | {f"raw/{labels}": "0\n1\n" if labels == "graph-label" else "0\n1\n0\n1\n0\n"} | tables
    whole |= {f"split/{split}/{name}": f"{i % 2}\n" for i, name in enumerate(("train", "valid", "test"))}
    _write(folder, {f"{name}.csv.gz": gzip.compress(text.encode(), mtime=0) for name, text in whole.items()})


def _smiles_list(folder: Path) -> None:
    _write(folder, {"m.smi": "CCO a\nc1ccccc1 b\n# note\nC[C@H](N)C(=O)O\n[Na+].[Cl-]\nF/C=C/F\n"})


def _smiles_table(folder: Path) -> None:
    table = 'name,smiles,y\na,CCO,1\nb,c1ccccc1,\n"c, d",CC,0.5\n'
    _write(folder, {"m.csv.gz": gzip.compress(table.encode(), mtime=0)})


def read_molecules(file: Path, **options: Any) -> None:
    """As ``read_molecules`` does, in this process: a guarded one can start no others."""
    for smiles in read_smiles(file, **options).smiles:
        molecule_features._molecule(smiles)


def _cached_molecules(folder: Path) -> None:
    features = molecule_features._computed(["CCO", "c1ccccc1", "C("], 1, 10.0, "m.smi")
    molecule_features._save(folder / "cache.safetensors", features)


def _read_cache(folder: Path) -> None:
    features = molecule_features._load(folder / "cache.safetensors", 3)
    if features is not None:
        features.graphs()[0]


ENCODER = {"class_path": "encoders.image.ResNet", "init_args": {"depth": 18, "width": 1}}


def _encoder() -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    return {"model": {"encoder": ENCODER}, "data": {}}, ResNet(depth=18, width=1).state_dict()


def _export(folder: Path) -> None:
    config, weights = _encoder()
    save_file(weights, folder / "model.safetensors")
    _write(folder, {"config.json": json.dumps(config)})


def _checkpoint(folder: Path) -> None:
    config, weights = _encoder()
    state = {f"encoder.{key}": value for key, value in weights.items()}
    torch.save({"state_dict": state, "config": config, "epoch": 1, "global_step": 2}, folder / "last.ckpt")


def _configuration(folder: Path) -> None:
    _write(folder, {"config.yaml": json.dumps(_encoder()[0], indent=1)})


def _result(folder: Path) -> None:
    content = {"runs": ["run"], "representations": ["pretrained"], "protocol": Protocol("digits").to_json()}
    _write(folder, {"probe.json": json.dumps(content | {"rows": [{"accuracy_mean": 0.5}]}, indent=1)})


READERS: dict[str, Reader] = {
    **{f"image {name}": picture_reader(*given) for name, given in PICTURES.items()},
    "image folder": Reader(_image_folder, lambda f: read_images(str(f / "data"), "train", image_size=8)),
    "image .csv": Reader(_image_csv, lambda f: read_images(str(f / "list.csv"), "train")),
    "image .npz": Reader(_image_npz, lambda f: read_images(str(f / "images.npz"), "train")),
    "tar shards": Reader(_shards, _read_shards, "webdataset"),
    "tar shards by number": Reader(
        _shards, lambda f: read_images(str(f / "train-000.tar"), "train"), "webdataset"
    ),
    "Hugging Face folder": Reader(_hugging_face, lambda f: read_images(str(f / "hf"), "train"), "datasets"),
    "litdata folder": Reader(_litdata_folder, _read_litdata, "litdata"),
    "nodes .npz, plain arrays": Reader(_nodes_npz, lambda f: read_nodes(str(f / "g.npz"))),
    "nodes .npz, SciPy objects": Reader(_nodes_gnn, lambda f: read_nodes(str(f / "g.npz"))),
    "nodes .npz, csr parts": Reader(_nodes_csr, lambda f: read_nodes(str(f / "g.npz"))),
    "Planetoid": Reader(_planetoid, lambda f: read_nodes(str(f / "toy"))),
    "TUDataset folder": Reader(_tu_folder, lambda f: read_graphs(str(f))),
    "TUDataset .zip": Reader(_tu_zip, lambda f: read_graphs(str(f / "TOY.zip"))),
    "DGL .bin": Reader(_dgl_graphs, lambda f: read_graphs(str(f / "g.bin")), "dgl"),
    "OGB graphs": Reader(
        lambda f: _ogb(f, "graph-label", "scaffold", {}), lambda f: read_graphs(f"ogb:ogbg-molhiv:{f}")
    ),
    "OGB nodes": Reader(
        lambda f: _ogb(f, "node-label", "time", {"raw/num-node-list": "5\n", "raw/num-edge-list": "3\n"}),
        lambda f: read_nodes(f"ogb:ogbn-arxiv:{f}"),
    ),
    "molecules .smi": Reader(_smiles_list, lambda f: read_molecules(f / "m.smi"), "rdkit"),
    "molecules .csv.gz": Reader(
        _smiles_table, lambda f: read_molecules(f / "m.csv.gz", targets=["y"]), "rdkit"
    ),
    "molecules, cache": Reader(_cached_molecules, _read_cache, "rdkit"),
    "export": Reader(_export, lambda f: load_encoder(f)),
    "checkpoint": Reader(_checkpoint, lambda f: load_encoder(f / "last.ckpt")),
    "run, config.yaml": Reader(_configuration, run_config),
    "result of probe": Reader(_result, lambda f: probe._read_result(f / "probe.json")),
}


def installed(reader: Reader) -> bool:
    """Whether what a reader needs is there."""
    return not reader.package or importlib.util.find_spec(reader.package) is not None
