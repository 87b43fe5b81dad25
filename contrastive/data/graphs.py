"""Graphs: one ``GraphBatch`` that holds them all, read from TUDataset files, DGL's sets, or Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from contrastive.data import Batch
from contrastive.data.dgl_source import read_dgl_items
from contrastive.data.graph_features import refuse_other_features
from contrastive.data.graph_lists import GRAPH_FILES, graphs_and_labels, read_graph_file
from contrastive.data.loading import PretrainingData, Split, split_indices
from contrastive.data.ogb_files import read_ogb
from contrastive.data.tu_files import read_tu
from contrastive.errors import ContrastiveError, reading
from encoders.graph_batch import GraphBatch

NodeFeatures = Literal["auto", "attributes", "degree"]
_HELD_OUT_SEED = 0  # a constant: the test graphs must not change with the seed of a run


class GraphDataset(Dataset):
    """Graphs held as one batch, so that a batch of some of them is an indexing operation.

    Args:
        graphs: all of them.
        labels: ``(G,)`` int64 classes, ``(G, T)`` float targets with NaN where unknown, or None.
        classes: the names of the labels, or of the targets.
        split: the graphs of the published training, validation and test split, or None.
    """

    def __init__(
        self,
        graphs: GraphBatch,
        labels: Tensor | None = None,
        classes: Sequence[str] = (),
        split: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
    ) -> None:
        if labels is not None and len(labels) != len(graphs):
            raise ContrastiveError(f"there are {len(labels)} labels for {len(graphs)} graphs; give one each")
        self.graphs, self.labels, self.classes, self.split = graphs, labels, list(classes), split

    def __len__(self) -> int:
        return len(self.graphs)

    def __getitem__(self, i: int) -> Batch:
        return self.__getitems__([i])

    def __getitems__(self, indices: list[int]) -> Batch:
        index = torch.as_tensor(indices, dtype=torch.int64)
        return Batch(self.graphs[index], None if self.labels is None else self.labels[index], index)

    def subset(self, indices: np.ndarray) -> GraphDataset:
        """The graphs at ``indices``, which are renumbered from 0."""
        index = torch.as_tensor(indices, dtype=torch.int64)
        return GraphDataset(
            self.graphs[index], None if self.labels is None else self.labels[index], self.classes
        )


def read_graphs(
    source: str | Sequence[Any], *, node_features: NodeFeatures = "auto", max_degree: int = 64
) -> GraphDataset:
    """Read all graphs of a source.

    Args:
        source: a folder or .zip of TUDataset text files (``NAME_A.txt``, …; chrsmrrs.github.io/datasets);
            a ``.bin`` of ``dgl.save_graphs``; a list of graphs (see ``graphs_and_labels``);
            ``dgl:NAME`` with the name of a graph-classification class of ``dgl.data``, optionally with
            its arguments' first, ``dgl:GINDataset:MUTAG``; or ``ogb:NAME`` (see ``read_ogb``).
        node_features: ``attributes`` are the one-hot node labels and the node attributes of the files,
            ``degree`` the one-hot degree, ``auto`` the first where there are any, else the second, or of
            DGLGraphs and PyG's ``Data`` the constant 1.
        max_degree: higher degrees count as this one.

    Raises:
        ContrastiveError: nothing there, or a file that does not fit the others; the message names it.
    """
    if node_features not in ("auto", "attributes", "degree"):
        raise ContrastiveError(f"node_features is {node_features!r}; give auto, attributes or degree")
    with reading(named(source)):
        dataset = _read(source)
    graphs = dataset.graphs
    if not len(graphs) or not graphs.num_nodes:
        raise ContrastiveError(f"{named(source)} holds {len(graphs)} graphs of {graphs.num_nodes} nodes")
    if node_features == "attributes" and graphs.x.shape[1] == 0:
        raise ContrastiveError(
            f"{named(source)} has no node labels or attributes; pass node_features: degree"
        )
    if node_features == "degree" or graphs.x.shape[1] == 0:
        graphs = graphs.with_features(x=one_hot_degree(graphs, max_degree))
    return GraphDataset(graphs, dataset.labels, dataset.classes, dataset.split)


def one_hot_degree(graphs: GraphBatch, max_degree: int) -> Tensor:
    """``(N, max_degree + 1)`` float: the number of edges that end at each node, one-hot."""
    degree = torch.bincount(graphs.dst, minlength=graphs.num_nodes).clamp(max=max_degree)
    return F.one_hot(degree, max_degree + 1).float()


def named(source: str | Sequence[Any]) -> str:
    """What messages call a source."""
    if isinstance(source, str):
        return source
    return f"the list of {len(source)} graphs" if isinstance(source, list | tuple) else type(source).__name__


def _read(source: str | Sequence[Any]) -> GraphDataset:
    if not isinstance(source, str):
        return _labelled(*graphs_and_labels(source))
    if source.startswith("dgl:"):
        return _labelled(*graphs_and_labels(read_dgl_items(source)))
    if source.startswith("ogb:"):
        return _read_ogb(source)
    path = Path(source).expanduser()
    return _labelled(*read_graph_file(path)) if path.suffix in GRAPH_FILES else GraphDataset(*read_tu(path))


def _read_ogb(source: str) -> GraphDataset:
    tables = read_ogb(source)
    x = torch.zeros(int(tables.ptr[-1]), 0) if tables.x is None else tables.x
    features = {"edge_attr": tables.edge_attr, "ptr": tables.ptr}
    try:
        graphs = GraphBatch.from_edges(tables.edges, x, undirected=tables.undirected, **features)
    except ValueError as error:
        raise ContrastiveError(f"{source}: {error}") from error
    dataset = _labelled(graphs, None if tables.labels is None else torch.from_numpy(tables.labels))
    dataset.split = tables.split
    return dataset


def _labelled(graphs: GraphBatch, y: Tensor | None) -> GraphDataset:
    """Graphs with ``(G, T)`` labels: one column of integers is classes, anything else float targets."""
    if y is None or y.shape[1] > 1 or y.is_floating_point():
        return GraphDataset(graphs, None if y is None else y.float())
    values, classes = y[:, 0].unique(return_inverse=True)
    return GraphDataset(graphs, classes, [str(int(value)) for value in values])


class GraphData(PretrainingData):
    """Batches of unlabelled graphs for pretraining.

    Args:
        source: a folder or .zip of TUDataset files, a .bin of DGLGraphs, ``dgl:NAME`` or ``ogb:NAME``; in
            Python a list of DGLGraphs or of PyG's ``Data`` too (see ``read_graphs``).
        node_features: ``attributes`` (one-hot labels and attributes of the nodes), ``degree`` (one-hot), or
            ``auto``: the first where there are any, else degrees, or the constant 1 of DGLGraphs and PyG.
        max_degree: of the one-hot degree.
        batch_size: graphs a process takes a step. Every other graph in the batch is a negative.
        val_fraction: share kept from pretraining, for the online evaluation.
        test_fraction: share held out as a test split, where none is published; the cross-validation
            protocols pretrain on all graphs without their labels and want 0.
        num_workers: processes that assemble batches.
        seed: of the validation split and of the order; ``pretrain`` takes it from ``seed_everything``.
    """

    def __init__(
        self,
        source: str | list[Any],
        *,
        node_features: NodeFeatures = "auto",
        max_degree: int = 64,
        batch_size: int = 128,
        val_fraction: float = 0.0,
        test_fraction: float = 0.0,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            named(source),
            batch_size=batch_size,
            val_fraction=val_fraction,
            num_workers=num_workers,
            seed=seed,
        )
        self._source, self.node_features, self.max_degree = source, node_features, max_degree
        self.test_fraction = test_fraction

    def read(self, split: Split) -> GraphDataset:
        """Read a split: the published one; where there is none and ``test_fraction`` is 0, everything."""
        graphs = read_graphs(self._source, node_features=self.node_features, max_degree=self.max_degree)
        if self.trainer:
            refuse_other_features(self.trainer.lightning_module, graphs.graphs.x, self.source)
        if graphs.split is not None:
            return graphs.subset(graphs.split[0 if split == "train" else 2])
        if not self.test_fraction:
            return graphs
        train, test = split_indices(len(graphs), graphs.labels, self.test_fraction, _HELD_OUT_SEED)
        return graphs.subset(train if split == "train" else test)
