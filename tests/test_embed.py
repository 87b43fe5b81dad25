"""``contrastive embed``: every kind of item in every kind of file, whole or not at all."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import contrastive.embed
from contrastive.cli import main
from contrastive.data.images import read_images
from contrastive.export import write_safetensors
from contrastive.features import FrozenEncoder, load_encoder
from encoders.graph import GraphEncoder, NodeEncoder
from encoders.graph_batch import GraphBatch
from encoders.image import ResNet

SMILES = ["CCO", "c1ccccc1", "CC(=O)O", "C1CCNCC1", "CN"]


def export(folder, network, data, **arguments):
    """An export of an untrained graph network; returns its folder."""
    torch.manual_seed(0)
    arguments |= {"num_hidden": 8, "num_layers": 2}
    spec = {"class_path": f"encoders.graph.{network.__name__}", "init_args": arguments}
    config = {"model": {"encoder": spec}, "data": {"class_path": data}}
    folder.mkdir()
    write_safetensors(FrozenEncoder(network(**arguments), nn.Identity(), config), folder, None)
    return folder


def test_digits_in_every_format(digits_run, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra parquet")
    for name in ("f.npz", "f.parquet", "f.npy"):
        options = [
            "--data",
            "digits",
            "--split",
            "test",
            "--output",
            str(tmp_path / name),
            "--batch-size",
            "100",
        ]
        assert main(["embed", str(digits_run), *options]) == 0
    data = read_images("digits", "test")
    h = load_encoder(digits_run)(data.images).numpy()
    arrays = np.load(tmp_path / "f.npz")
    np.testing.assert_allclose(arrays["h"], h, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(arrays["y"], data.labels)
    assert arrays["classes"].tolist() == [str(i) for i in range(10)]
    mapped = np.load(tmp_path / "f.npy", mmap_mode="r")
    assert isinstance(mapped, np.memmap)
    np.testing.assert_array_equal(mapped, arrays["h"])
    np.testing.assert_array_equal(np.load(tmp_path / "f.y.npy"), data.labels)
    table = parquet.read_table(tmp_path / "f.parquet")
    np.testing.assert_array_equal(np.stack(table["h"].to_numpy()), arrays["h"])
    assert table["y"].to_pylist() == [str(int(label)) for label in data.labels]
    assert parquet.ParquetFile(tmp_path / "f.parquet").num_row_groups == 6  # batch by batch
    assert {file.name for file in tmp_path.iterdir()} == {"f.npz", "f.parquet", "f.npy", "f.y.npy"}


def test_files_are_named_and_targets_of_a_table_are_kept(digits_run, tmp_path):
    lines = ["path,round,ink"]
    for i in range(6):
        Image.new("L", (8, 8), 40 * i).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,{i % 2},{'' if i == 2 else i / 10}")
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    out = tmp_path / "f.npz"
    options = ["--data", str(tmp_path / "t.csv"), "--targets", "round,ink", "--output", str(out)]
    assert main(["embed", str(digits_run), *options]) == 0
    arrays = np.load(out)
    assert arrays["classes"].tolist() == ["round", "ink"] and arrays["y"].shape == (6, 2)
    for item, y in zip(arrays["item"], arrays["y"]):
        i = int(item.rpartition("/")[2][0])
        np.testing.assert_allclose(y, [i % 2, np.nan if i == 2 else i / 10], rtol=1e-6)


def test_molecules(tmp_path):
    pytest.importorskip("rdkit", reason="needs the extra: pip install contrastive-pretraining[molecules]")
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra parquet")
    run = export(
        tmp_path / "run", GraphEncoder, "contrastive.data.molecules.MoleculeData", node_features="atoms"
    )
    rows = [f"{name},{i / 2}" for i, name in enumerate(SMILES)]
    (tmp_path / "m.csv").write_text("\n".join(["smiles,logp", *rows]) + "\n")
    for name in ("m.npz", "m.parquet"):
        options = ["--data", str(tmp_path / "m.csv"), "--targets", "logp", "--output", str(tmp_path / name)]
        assert main(["embed", str(run), *options, "--batch-size", "2"]) == 0
    arrays = np.load(tmp_path / "m.npz")
    h = load_encoder(run)(GraphBatch.from_smiles(SMILES)).numpy()
    np.testing.assert_allclose(arrays["h"], h, atol=1e-5)
    assert arrays["item"].tolist() == SMILES and arrays["y"][:, 0].tolist() == [0, 0.5, 1, 1.5, 2]
    table = parquet.read_table(tmp_path / "m.parquet").to_pydict()
    assert table["item"] == SMILES and table["logp"] == [0, 0.5, 1, 1.5, 2]


def test_a_target_does_not_take_the_place_of_the_features(tmp_path, capsys):
    pytest.importorskip("rdkit", reason="needs the extra: pip install contrastive-pretraining[molecules]")
    pytest.importorskip("pyarrow", reason="needs the extra parquet")
    run = export(
        tmp_path / "run", GraphEncoder, "contrastive.data.molecules.MoleculeData", node_features="atoms"
    )
    (tmp_path / "m.csv").write_text("smiles,h\nCCO,1\nCC,2\n")
    options = ["--data", str(tmp_path / "m.csv"), "--targets", "h", "--output", str(tmp_path / "m.parquet")]
    assert main(["embed", str(run), *options]) == 1
    assert "a target is called h, as another column is; rename it" in capsys.readouterr().err


def test_nodes(tmp_path):
    run = export(
        tmp_path / "run", NodeEncoder, "contrastive.data.nodes.NodeData", node_features=4, layer="gcn"
    )
    rng = np.random.default_rng(0)
    arrays = {"edges": rng.integers(0, 20, (40, 2)), "x": rng.random((20, 4)), "y": rng.random(20)}
    np.savez(tmp_path / "g.npz", **arrays)
    assert (
        main(["embed", str(run), "--data", str(tmp_path / "g.npz"), "--output", str(tmp_path / "n.npy")]) == 0
    )
    assert np.load(tmp_path / "n.npy").shape == (20, 8)
    np.testing.assert_allclose(np.load(tmp_path / "n.y.npy")[:, 0], arrays["y"], rtol=1e-6)


@pytest.mark.parametrize(
    "out,message",
    [("no/f.npz", "there is no folder"), ("f.csv", "ends in none of .npz, .parquet, .npy")],
)
def test_bad_names_are_refused_before_anything_is_encoded(digits_run, out, message, tmp_path, capsys):
    assert main(["embed", str(digits_run), "--data", "digits", "--output", str(tmp_path / out)]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".npy", ".parquet", ".npz"])
def test_what_is_cut_off_leaves_the_file_as_it_was(digits_run, suffix, tmp_path, monkeypatch):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="needs the extra parquet")
    out = tmp_path / f"f{suffix}"
    out.write_text("what was there")
    whole = contrastive.embed.feature_batches

    def cut_off(*args, **options):
        yield next(whole(*args, **options))
        raise KeyboardInterrupt

    monkeypatch.setattr(contrastive.embed, "feature_batches", cut_off)
    options = ["--data", "digits", "--output", str(out), "--batch-size", "100"]
    assert main(["embed", str(digits_run), *options]) == 130
    assert out.read_text() == "what was there" and len(list(tmp_path.iterdir())) == 1


def test_what_the_run_skips_is_skipped_of_its_own_data(tmp_path, capsys):
    for folder in ("own", "other"):
        (tmp_path / folder).mkdir()
        for i in range(3):
            Image.new("RGB", (8, 8), (i, i, i)).save(tmp_path / folder / f"{i}.png")
        (tmp_path / folder / "bad.png").write_bytes(b"")
    data = {"source": str(tmp_path / "own"), "image_size": 8, "skip_corrupt": True}
    spec = {"class_path": "encoders.image.ResNet", "init_args": {"width": 1}}
    config = {"model": {"encoder": spec}, "data": {"class_path": "ImageData", "init_args": data}}
    (tmp_path / "run").mkdir()
    write_safetensors(FrozenEncoder(ResNet(width=1), nn.Identity(), config), tmp_path / "run", None)
    embed = ["embed", str(tmp_path / "run"), "--output", str(tmp_path / "f.npz")]
    assert main(embed) == 0 and len(np.load(tmp_path / "f.npz")["h"]) == 3
    for args in (["--skip-corrupt", "false"], ["--data", str(tmp_path / "other")]):
        assert main([*embed, *args]) == 1
        assert "bad.png is not a readable image" in capsys.readouterr().err
    assert main([*embed, "--data", str(tmp_path / "other"), "--skip-corrupt"]) == 0
