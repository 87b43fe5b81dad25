"""Graphs: one ``GraphBatch`` that holds them all, read from TUDataset files, DGL's sets, or Python."""

from __future__ import annotations

import io
import zipfile
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
            ``degree`` the one-hot degree, ``auto`` the first where there are any, else the second.
        max_degree: higher degrees count as this one.

    Raises:
        ContrastiveError: nothing there, or a file that does not fit the others; the message names it.
    """
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


def read_tu(path: Path) -> GraphDataset:
    """Read TUDataset's text files (Morris et al. 2020, arXiv 2007.08663).

    ``NAME_A.txt`` (a line "from, to" an edge, from 1), ``NAME_graph_indicator.txt`` (each node's graph),
    and where there are ``_graph_labels`` (classes) or ``_graph_attributes`` (values), ``_node_labels``
    (one-hot in ``x``), ``_node_attributes`` (after them in ``x``), ``_edge_labels`` (one-hot in
    ``edge_attr``) and ``_edge_attributes``.

    Args:
        path: a folder, or a zip of one.

    Raises:
        ContrastiveError: a file is missing, does not parse, or has another number of lines than it should.
    """
    files = _TUFiles(path)
    edges = files.numbers("A", np.int64, required=True)
    indicator = files.numbers("graph_indicator", np.int64, required=True)
    assert edges is not None and indicator is not None
    if edges.shape[1] != 2:
        raise ContrastiveError(f"{files.name('A')} has {edges.shape[1]} numbers a line; expected 2")
    graph_of_node = indicator[:, 0] - 1
    num_nodes, num_graphs = len(graph_of_node), int(graph_of_node.max()) + 1
    if (np.diff(graph_of_node) < 0).any() or graph_of_node[0] != 0:
        raise ContrastiveError(f"{files.name('graph_indicator')} must start at 1 and never fall")
    labels = files.numbers("graph_labels", np.float64, expected=num_graphs)
    x = _joined(
        files.numbers("node_labels", np.int64, expected=num_nodes),
        files.numbers("node_attributes", np.float32, expected=num_nodes),
    )
    edge_attr = _joined(
        files.numbers("edge_labels", np.int64, expected=len(edges)),
        files.numbers("edge_attributes", np.float32, expected=len(edges)),
    )
    try:
        graphs = GraphBatch.from_edges(
            edges - 1,
            torch.zeros(num_nodes, 0) if x is None else x,
            edge_attr=edge_attr,
            ptr=np.concatenate([[0], np.bincount(graph_of_node, minlength=num_graphs).cumsum()]),
        )
    except ValueError as error:
        raise ContrastiveError(f"{files.name('A')}: {error}") from error
    if labels is None:
        values = files.numbers("graph_attributes", np.float32, expected=num_graphs)
        return GraphDataset(graphs, None if values is None else torch.from_numpy(values))
    classes, number = np.unique(labels[:, 0], return_inverse=True)
    return GraphDataset(graphs, torch.from_numpy(number), [f"{label:g}" for label in classes])


class _TUFiles:
    """The text files of one TUDataset, in a folder or a zip."""

    def __init__(self, path: Path) -> None:
        if path.is_dir():
            raw = path / "raw"  # where PyG's TUDataset puts them
            path = raw if raw.is_dir() and not any(path.glob("*_A.txt")) else path
            self.texts = {file.name: file for file in sorted(path.glob("*.txt"))}
        elif path.suffix == ".zip" and path.is_file():
            try:
                self.zip = zipfile.ZipFile(path)
            except Exception as error:  # zipfile can fail in any way on damaged bytes
                raise ContrastiveError(f"{path} is not a zip: {error}") from error
            self.texts = {Path(name).name: name for name in self.zip.namelist() if name.endswith(".txt")}  # type: ignore[misc]
        else:
            raise ContrastiveError(f"there is no folder or zip of TUDataset files {path}")
        names = [name.removesuffix("_A.txt") for name in self.texts if name.endswith("_A.txt")]
        if len(names) != 1:
            raise ContrastiveError(f"{path} must hold one NAME_A.txt, but holds {len(names)}")
        self.path, self.dataset = path, names[0]

    def name(self, kind: str) -> str:
        return f"{self.path}: {self.dataset}_{kind}.txt"

    def numbers(
        self, kind: str, dtype: Any, *, required: bool = False, expected: int | None = None
    ) -> np.ndarray | None:
        """The numbers of a file, a row a line; None where there is no such file."""
        member: Any = self.texts.get(f"{self.dataset}_{kind}.txt")
        if member is None:
            if required:
                raise ContrastiveError(f"{self.name(kind)} is missing")
            return None
        try:
            data = member.read_bytes() if isinstance(member, Path) else self.zip.read(member)
            rows = np.loadtxt(io.BytesIO(data), delimiter=",", dtype=dtype, ndmin=2)
        except Exception as error:  # as can NumPy's reader
            raise ContrastiveError(f"{self.name(kind)} does not parse: {error}") from error
        if not len(rows):
            raise ContrastiveError(f"{self.name(kind)} is empty")
        if expected is not None and len(rows) != expected:
            raise ContrastiveError(f"{self.name(kind)} has {len(rows)} lines; the others ask for {expected}")
        return rows


def _joined(labels: np.ndarray | None, attributes: np.ndarray | None) -> Tensor | None:
    """One-hot labels, a block a column, and then the attributes; float32."""
    parts = [torch.from_numpy(attributes)] if attributes is not None else []
    if labels is not None:
        numbers = [torch.from_numpy(np.unique(column, return_inverse=True)[1]) for column in labels.T]
        parts = [F.one_hot(column).float() for column in numbers] + parts
    return torch.cat(parts, dim=1) if parts else None


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
    return _labelled(*read_graph_file(path)) if path.suffix in GRAPH_FILES else read_tu(path)


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
        node_features: ``attributes`` (one-hot labels and attributes of the nodes), ``degree``, or ``auto``.
        max_degree: of the one-hot degree.
        batch_size: graphs a process takes a step. Every other graph in the batch is a negative.
        val_fraction: share kept from pretraining, for the online evaluation.
        test_fraction: share held out as a test split, where none is published; the cross-validation
            protocols pretrain on all graphs without their labels and want 0.
        num_workers: processes that assemble batches.
        seed: of the validation split and of the order; taken from ``seed_everything``.
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
