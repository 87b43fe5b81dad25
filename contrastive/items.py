"""A source read as an encoder takes it, images, graphs, nodes or molecules, and encoded item by item."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from contrastive.data.graph_features import refuse_other_features, refuse_smiles
from contrastive.data.graphs import GraphDataset, read_graphs
from contrastive.data.image_dataset import ImageDataset
from contrastive.data.images import open_images, read_images
from contrastive.data.loading import Split
from contrastive.data.molecules import MoleculeDataset, read_molecules
from contrastive.data.node_files import NodeDataset, read_nodes
from contrastive.errors import ContrastiveError
from contrastive.features import FrozenEncoder, accelerator, evaluating, in_channels, takes_graphs
from contrastive.report import track
from encoders.graph import NodeEncoder

log = logging.getLogger("contrastive")

Unit = Literal["images", "graphs", "nodes", "molecules"]
MOLECULE_FILES = (".csv", ".tsv", ".smi", ".smiles", ".txt")


def source_of(encoder: FrozenEncoder, data: str | None) -> str:
    """The source: what is given, or what the encoder was trained on.

    Raises:
        ContrastiveError: neither is known.
    """
    source = data or encoder.data.get("source")
    if source is None:
        raise ContrastiveError("this encoder does not record its data; give --data")
    return source


def unit_of(encoder: FrozenEncoder, source: str) -> Unit:
    """What the items of a source are to an encoder."""
    if not takes_graphs(encoder.encoder):
        return "images"
    module = ((encoder.config or {}).get("data") or {}).get("class_path", "").rpartition(".")[2]
    if module == "NodeData" or isinstance(encoder.encoder, NodeEncoder):
        return "nodes"
    table = source.removesuffix(".gz").endswith(MOLECULE_FILES)
    return "molecules" if table or module == "MoleculeData" else "graphs"


def read_items(
    encoder: FrozenEncoder,
    source: str,
    split: Split = "train",
    *,
    targets: Sequence[str] = (),
    smiles_column: str | None = None,
    cache_dir: str | None = None,
    **options: Any,
) -> Any:
    """Read a source at the size, with the channels or by the features that an encoder was trained with.

    Args:
        encoder: says what the items are.
        source: as ``--data.source`` of pretraining.
        split: of images; other sources are read whole.
        targets: columns of a table of images or molecules.
        smiles_column: of a table of molecules; None is, of the table that it was trained on, the same one.
        cache_dir: of molecules' features; None is the one that pretraining had.
        options: of reading images, ``download`` and ``skip_corrupt``, which is the run's for the data that it
            was trained on where it is not given; other items have none.

    Returns:
        An ``ImageDataset``, ``GraphDataset``, ``MoleculeDataset`` or ``NodeDataset``.

    Raises:
        ContrastiveError: nothing there, or not items of that kind.
    """
    unit, data = unit_of(encoder, source), encoder.data
    if unit == "images":
        shape: dict[str, Any] = {"image_size": image_size_of(encoder), "channels": in_channels(encoder)}
        if shape["image_size"] is None:
            log.warning(
                "images of %s are read at the first one's size: it is not known which the encoder was "
                "trained at",
                source,
            )
        if options.get("skip_corrupt") is None:
            options["skip_corrupt"] = source == data.get("source") and bool(data.get("skip_corrupt"))
        images = read_images(source, split, targets=tuple(targets), **shape, **options)
        return images.readable() if images.skip_corrupt else images  # as those held in memory are
    if unit == "nodes":
        return read_nodes(source, normalize_features=data.get("normalize_features", True))
    if unit == "molecules":
        if not source.removesuffix(".gz").endswith(MOLECULE_FILES):
            raise ContrastiveError(f"{source} is no table of molecules; give a .csv with a smiles column")
        refuse_smiles(encoder)
        cache_dir = cache_dir or data.get("cache_dir")
        if source == data.get("source"):
            smiles_column = smiles_column or data.get("smiles_column")
        dataset: GraphDataset = read_molecules(
            source, smiles_column=smiles_column, targets=targets, cache_dir=cache_dir
        )
    else:
        dataset = read_graphs(source, **{key: data[key] for key in GRAPH_OPTIONS if key in data})
    refuse_other_features(encoder, dataset.graphs.x, source, "give graphs as those it was trained on")
    return dataset


GRAPH_OPTIONS = ("node_features", "max_degree")  # of reading graphs, as pretraining read them


def image_size_of(encoder: FrozenEncoder) -> int | None:
    """The side of the images that a run was trained on: recorded, or that of its data; None if unknown."""
    data = encoder.data
    if data.get("image_size") or not data.get("source"):
        return data.get("image_size")
    options = {key: data[key] for key in ("channels", "unlabelled") if key in data}
    try:
        return open_images(data["source"], "train", **options).image_size
    except ContrastiveError:  # the data is not on this machine
        return None


def with_image_size(encoder: FrozenEncoder) -> dict[str, Any] | None:
    """The configuration of an encoder with the side of its images, which its data alone may tell."""
    config, data = encoder.config, (encoder.config or {}).get("data") or {}
    if config is None or takes_graphs(encoder.encoder) or not data or encoder.data.get("image_size"):
        return config
    return {**config, "data": {**data, "init_args": {**encoder.data, "image_size": image_size_of(encoder)}}}


def num_items(dataset: Any) -> int:
    """Rows that a data set's features have: images, graphs, molecules, or the nodes of its graph."""
    return dataset.graph.num_nodes if isinstance(dataset, NodeDataset) else len(dataset)


def item_names(dataset: Any) -> list[str] | None:
    """What each item is called: a SMILES or a path; None where items have no names."""
    if isinstance(dataset, MoleculeDataset):
        return dataset.smiles
    if isinstance(dataset, ImageDataset) and dataset.paths is not None:
        return [str(path) for path in dataset.paths]
    return None


def feature_batches(
    encoder: FrozenEncoder, dataset: Any, *, batch_size: int = 512, progress: str | None = None
) -> Iterator[Tensor]:
    """Yield frozen features, float32 ``(n, num_features)`` on the CPU, of the items in their order.

    The nodes of a graph come at once, for each depends on the others; other items ``batch_size`` at a time.

    Raises:
        ContrastiveError: the encoder gives another number of rows than there are items.
    """
    device = accelerator()
    encoder.to(device)
    if isinstance(dataset, NodeDataset):
        batches: Sequence[Any] = [None]
    else:
        batches = np.array_split(np.arange(len(dataset)), max(1, -(-len(dataset) // batch_size)))
    for part in track(batches, progress):
        inputs = dataset.graph if part is None else dataset.__getitems__(part.tolist()).input
        with torch.inference_mode(), evaluating(encoder):
            h = encoder(inputs.to(device)).float().cpu()
        expected = num_items(dataset) if part is None else len(part)
        if len(h) != expected:
            raise ContrastiveError(
                f"the encoder gives {len(h)} row(s) of features for {expected} items, expected one each: of "
                "graphs a row a graph, where nodes are the items a row a node, as encoders.graph.NodeEncoder"
            )
        yield h


def encode_items(
    encoder: FrozenEncoder, dataset: Any, *, batch_size: int = 512, progress: str | None = None
) -> np.ndarray:
    """Frozen features of all items, float32 ``(N, num_features)``; see `feature_batches`."""
    return torch.cat([*feature_batches(encoder, dataset, batch_size=batch_size, progress=progress)]).numpy()
