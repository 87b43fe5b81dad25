"""Readers of the files that node-classification graphs come in. Nothing in them is executed."""

from __future__ import annotations

import logging
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from scipy import sparse
from torch import Tensor
from torch.nn import functional as F

from contrastive.data.dgl_source import read_dgl_items
from contrastive.data.node_labels import named_targets_of, targets_of
from contrastive.data.ogb_files import read_ogb
from contrastive.data.pickled_arrays import checked_csr, unpickle
from contrastive.errors import ContrastiveError, reading
from encoders.graph_batch import GraphBatch
from encoders.sparse_features import SparseFeatures

log = logging.getLogger("contrastive")

_CSR = ("data", "indices", "indptr", "shape")


@dataclass(frozen=True)
class NodeDataset:
    """One graph with labelled nodes.

    Attributes:
        graph: a ``GraphBatch`` of one graph.
        labels: ``(N,)`` int64 classes, -1 where unknown, ``(N, T)`` float targets, NaN there, or None.
        split: the nodes of the published training, validation and test split, or None.
        classes: the names of the classes, where they have any.
    """

    graph: GraphBatch
    labels: Tensor | None = None
    split: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    classes: tuple[str, ...] = ()


def read_nodes(source: str, *, normalize_features: bool = True) -> NodeDataset:
    """Read a graph whose nodes are the samples, made undirected and without self-loops.

    Args:
        source: ``FOLDER/NAME`` for Planetoid's files ``FOLDER/ind.NAME.*`` (``planetoid/cora``); a ``.npz``
            of the gnn-benchmark form (Amazon, Coauthor), or with arrays ``edges`` ``(E, 2)``, ``x``
            ``(N, F)`` and ``y`` ``(N,)``, numbers or names, of your own; ``dgl:NAME``, a node-classification
            class of ``dgl.data``; or ``ogb:NAME`` (see ``contrastive.data.ogb_files.read_ogb``).
        normalize_features: divide every row of x by the sum of its magnitudes.

    Raises:
        ContrastiveError: nothing there, or a file that is damaged, holds code, or does not fit the others.
    """
    with reading(source):
        dataset = _read(source)
    if normalize_features:
        graph = dataset.graph
        dataset = replace(dataset, graph=graph.with_features(x=rows_normalized(graph.x)))
    return dataset


def _read(source: str) -> NodeDataset:
    path = Path(source).expanduser()
    if source.startswith("dgl:"):
        dataset = read_dgl(source)
    elif source.startswith("ogb:"):
        dataset = _read_ogb(source)
    elif path.suffix == ".npz":
        dataset = read_npz(path)
    elif (path.parent / f"ind.{path.name}.graph").exists():
        dataset = read_planetoid(path.parent, path.name)
    else:
        raise ContrastiveError(
            f"there is no graph {source}: give FOLDER/NAME of files FOLDER/ind.NAME.*, a .npz, dgl:NAME "
            "or ogb:NAME"
        )
    if dataset.graph.num_nodes == 0:
        raise ContrastiveError(f"{source} has no nodes")
    return dataset


def rows_normalized(x: Tensor | SparseFeatures) -> Tensor | SparseFeatures:
    """Rows divided by the sums of their magnitudes; rows of zeros stay."""
    if isinstance(x, Tensor):
        return F.normalize(x, p=1, dim=1)
    sums = x.value.new_zeros(len(x)).index_add_(0, x.row, x.value.abs())
    return x * (1 / sums.masked_fill(sums == 0, 1)).unsqueeze(1)


def undirected_graph(src: np.ndarray, dst: np.ndarray, x: Any) -> GraphBatch:
    """A graph with every edge in both directions, each once, and no self-loops.

    Args:
        src: ``(E,)`` integers, where each edge starts.
        dst: ``(E,)`` integers, where each edge ends.
        x: ``(N, F)`` features, a NumPy array or SciPy matrix; kept sparse where under a tenth is not zero.

    Raises:
        ContrastiveError: an edge names a node that is not there, or a feature is not finite.
    """
    if np.ndim(x) != 2:
        raise ContrastiveError(f"x has the shape {x.shape}; expected a row of features a node, (N, F)")
    num_nodes = x.shape[0]
    ends = np.stack([np.concatenate([src, dst]), np.concatenate([dst, src])]).astype(np.int64)
    outside = ((ends[:, : len(src)] < 0) | (ends[:, : len(src)] >= num_nodes)).any(axis=0)
    if outside.any():
        edge = int(outside.argmax())
        raise ContrastiveError(
            f"edge {edge} = ({ends[0, edge]}, {ends[1, edge]}) names a node outside 0 … {num_nodes - 1} "
            f"({outside.sum()} such edges; nodes are numbered from 0)"
        )
    ends = ends[:, ends[0] != ends[1]]
    keys = np.unique(ends[0] * num_nodes + ends[1])
    edges = np.stack([keys // num_nodes, keys % num_nodes], axis=1)
    return GraphBatch.from_edges(edges, num_nodes=num_nodes).with_features(x=_features(x))


def _features(x: Any) -> Tensor | SparseFeatures:
    rows = sparse.csr_matrix(x, dtype=np.float32)
    rows.eliminate_zeros()
    rows.sort_indices()
    wrong = (~np.isfinite(rows.data)).nonzero()[0]
    if len(wrong):
        row = int(np.searchsorted(rows.indptr, wrong[0], side="right")) - 1
        raise ContrastiveError(
            f"x has in row {row} NaN or an infinity ({len(wrong)} such values); replace them first"
        )
    if rows.nnz > 0.1 * x.shape[0] * x.shape[1]:
        return torch.from_numpy(rows.toarray())
    indptr, column = (torch.from_numpy(part.astype(np.int64)) for part in (rows.indptr, rows.indices))
    return SparseFeatures(indptr, column, torch.from_numpy(rows.data), x.shape[1])


def read_planetoid(folder: Path, name: str) -> NodeDataset:
    """Read Planetoid's files with their public split (Yang et al. 2016, arXiv 1603.08861).

    CiteSeer's nodes without features and labels are kept, with zero features and the class -1; they are in no
    split.
    """
    y, allx, ally, tx, ty, graph = (
        _planetoid_file(folder, name, part) for part in ("y", "allx", "ally", "tx", "ty", "graph")
    )
    order = _planetoid_order(folder / f"ind.{name}.test.index", allx.shape[0])
    # the rows of tx belong to the nodes listed in test.index, which may leave numbers out
    num_nodes = max(order.max() + 1, len(graph))
    features = sparse.lil_matrix((num_nodes, allx.shape[1]), dtype=np.float32)
    onehot = np.zeros((num_nodes, ally.shape[1]))
    features[: allx.shape[0]], onehot[: len(ally)] = allx, ally
    features[order], onehot[order] = tx, ty
    src = np.repeat(list(graph), [len(ends) for ends in graph.values()])
    dst = np.concatenate([np.asarray(ends, dtype=np.int64) for ends in graph.values()])
    train = np.arange(len(y))
    val = np.arange(len(y), len(y) + 500)
    labels = torch.from_numpy(np.where(onehot.any(1), onehot.argmax(1), -1))
    return NodeDataset(undirected_graph(src, dst, features), labels, (train, val, np.sort(order)))


def _planetoid_order(path: Path, num_others: int) -> np.ndarray:
    with reading(path):
        order = np.loadtxt(path, dtype=np.int64, ndmin=1)
    if not len(order) or order.min() < 0 or order.max() >= 2 * (num_others + len(order)):
        raise ContrastiveError(
            f"{path} lists {len(order)} nodes, {order.min(initial=0)} … {order.max(initial=0)}; expected the "
            f"numbers of the test nodes, which follow on the {num_others} others"
        )
    return order


def _planetoid_file(folder: Path, name: str, part: str) -> Any:
    path = folder / f"ind.{name}.{part}"
    try:
        with path.open("rb") as file:
            return unpickle(file, str(path))
    except OSError as error:
        raise ContrastiveError(f"{path} cannot be read: {error.strerror}") from error


def read_npz(path: Path) -> NodeDataset:
    """Read a ``.npz`` of the gnn-benchmark form (Shchur et al. 2018, arXiv 1811.05868), or of plain arrays.

    Known names: ``adj_matrix`` and ``node_attr`` (SciPy's matrices), or ``adj_data``, ``adj_indices``,
    ``adj_indptr``, ``adj_shape`` and the same with ``attr``; or ``edges`` ``(E, 2)`` and ``x`` ``(N, F)``.
    Labels: ``node_label``, ``labels`` or ``y``, see `named_targets_of`; none is fine. Without features every
    node is its own word, as many as the matrix has rows, the labels say, or else the edges. Edges have no
    weights: a matrix says where they are.
    """
    arrays = _Arrays(path)
    adjacency = arrays.matrix("adj", "adj_matrix")
    x = arrays.matrix("attr", "node_attr")
    if adjacency is not None:
        coo = sparse.coo_matrix(adjacency)
        src, dst = coo.row, coo.col
    elif "edges" in arrays:
        edges = arrays["edges"]
        if edges.ndim != 2 or edges.shape[1] != 2 or (edges.size and edges.dtype.kind not in "iu"):
            raise ContrastiveError(
                f"{path}: edges is {edges.dtype} of the shape {edges.shape}; expected integers (E, 2)"
            )
        src, dst = edges.T
    else:
        raise ContrastiveError(f"{path} has neither adj_matrix nor adj_data nor edges: {arrays.names}")
    name = next((key for key in ("node_label", "labels", "y") if key in arrays), None)
    labels, classes = (None, ()) if name is None else named_targets_of(np.asarray(arrays[name]), name)
    if x is None and "x" in arrays:
        x = arrays["x"]
    elif x is None:
        counted = labels if adjacency is None else coo
        x = _identity(src, dst) if counted is None else sparse.identity(counted.shape[0])
    others = sorted(
        {name for name in arrays.names if name != "metadata" and not name.endswith("_names")} - arrays.read
    )
    if others:
        log.warning(
            "%s: not read are %s; names that are: edges, x, y and those of gnn-benchmark",
            path,
            ", ".join(others),
        )
    if labels is not None and len(labels) != x.shape[0]:
        raise ContrastiveError(f"{path}: there are {len(labels)} labels for {x.shape[0]} nodes")
    return NodeDataset(undirected_graph(src, dst, x), labels, classes=classes)


def _identity(src: np.ndarray, dst: np.ndarray) -> sparse.spmatrix:
    """Every node is its own word; the edges alone say how many nodes there are."""
    num_nodes = int(max(src.max(initial=-1), dst.max(initial=-1))) + 1
    if num_nodes > 1000 + 100 * len(src):
        raise ContrastiveError(
            f"an edge names node {num_nodes - 1}, but there are {len(src)} edges and no x: number the nodes "
            "from 0 without gaps, or give x"
        )
    return sparse.identity(num_nodes)


class _Arrays:
    """The arrays of a ``.npz``, read without running what object arrays may hold."""

    def __init__(self, path: Path) -> None:
        with reading(path):
            self.zip = zipfile.ZipFile(path)
        self.path = path
        self.names = [name.removesuffix(".npy") for name in self.zip.namelist()]
        self.read: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> Any:
        where = f"{self.path}: {name}"
        self.read.add(name)
        with reading(where), self.zip.open(f"{name}.npy") as file:
            version = npy.read_magic(file)
            header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, _, dtype = header(file)
            if not dtype.hasobject:
                file.seek(0)
                return npy.read_array(file, allow_pickle=False)
            array = unpickle(file, where)
            return array.item() if shape == () else array

    def matrix(self, prefix: str, name: str) -> Any:
        """A sparse matrix under one name, or in four arrays; None where there is neither."""
        if name in self:
            return self[name]
        if f"{prefix}_data" not in self:
            return None
        data, indices, indptr, shape = (self[f"{prefix}_{part}"] for part in _CSR)
        return checked_csr(data, indices, indptr, shape)


def read_dgl(source: str) -> NodeDataset:
    """Read a node-classification class of ``dgl.data``, ``dgl:CoraGraphDataset``."""
    graph = read_dgl_items(source)[0]
    src, dst = (ends.numpy() for ends in graph.edges())
    split = None
    if "train_mask" in graph.ndata and graph.ndata["train_mask"].ndim == 1:
        masks = (graph.ndata[f"{part}_mask"].bool() for part in ("train", "val", "test"))
        split = tuple(mask.nonzero().squeeze(1).numpy() for mask in masks)
    return NodeDataset(
        undirected_graph(src, dst, graph.ndata["feat"].float()),
        targets_of(graph.ndata["label"].numpy()),
        split,
    )


def _read_ogb(source: str) -> NodeDataset:
    """A graph of the Open Graph Benchmark; labels of several columns, as of ogbn-proteins, are targets."""
    tables = read_ogb(source)
    num_nodes = int(tables.ptr[-1])
    x = sparse.identity(num_nodes) if tables.x is None else tables.x.numpy()
    src, dst = tables.edges.T
    labels = None if tables.labels is None else targets_of(tables.labels)
    return NodeDataset(undirected_graph(src, dst, x), labels, tables.split)
