"""Readers of the files that node-classification graphs come in. Nothing in them is executed."""

from __future__ import annotations

import collections
import pickle
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.lib import format as npy
from scipy import sparse
from torch import Tensor
from torch.nn import functional as F

from contrastive.data.dgl_source import read_dgl_items
from contrastive.data.ogb_files import read_ogb
from contrastive.errors import ContrastiveError
from encoders.graph_batch import GraphBatch
from encoders.sparse_features import SparseFeatures

try:
    from numpy._core import multiarray  # type: ignore[import-not-found, unused-ignore]
except ImportError:  # NumPy 1
    from numpy.core import multiarray  # type: ignore[no-redef, unused-ignore]

# What arrays and sparse matrices are pickled as, by NumPy and SciPy of any age; anything else is refused.
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("collections", "defaultdict"): collections.defaultdict,
    ("__builtin__", "list"): list,
    ("builtins", "list"): list,
    **{
        (module, name): getattr(multiarray, name)
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
        for name in ("_reconstruct", "scalar")
    },
    **{(module, "csr_matrix"): sparse.csr_matrix for module in ("scipy.sparse.csr", "scipy.sparse._csr")},
}


@dataclass(frozen=True)
class NodeDataset:
    """One graph with labelled nodes.

    Attributes:
        graph: a ``GraphBatch`` of one graph.
        labels: ``(N,)`` int64 classes, ``(N, T)`` float targets with NaN where unknown, or None.
        split: the nodes of the published training, validation and test split, or None.
    """

    graph: GraphBatch
    labels: Tensor | None = None
    split: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None


def read_nodes(source: str, *, normalize_features: bool = True) -> NodeDataset:
    """Read a graph whose nodes are the samples, made undirected and without self-loops.

    Args:
        source: ``FOLDER/NAME`` for Planetoid's files ``FOLDER/ind.NAME.*`` (``planetoid/cora``); a ``.npz``
            of the gnn-benchmark form (Amazon, Coauthor), or with arrays ``edges`` ``(E, 2)``, ``x``
            ``(N, F)`` and ``y`` ``(N,)`` of your own; ``dgl:NAME``, a node-classification class of
            ``dgl.data``; or ``ogb:NAME`` (see ``contrastive.data.ogb_files.read_ogb``).
        normalize_features: divide every row of x by the sum of its magnitudes.

    Raises:
        ContrastiveError: nothing there, or a file that is damaged, holds code, or does not fit the others.
    """
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
    if normalize_features:
        graph = dataset.graph
        dataset = replace(dataset, graph=graph.with_features(x=rows_normalized(graph.x)))
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
    num_nodes = x.shape[0]
    ends = np.stack([np.concatenate([src, dst]), np.concatenate([dst, src])]).astype(np.int64)
    ends = ends[:, ends[0] != ends[1]]
    if ends.size and (ends.min() < 0 or ends.max() >= num_nodes):
        raise ContrastiveError(f"an edge joins node {ends.max()}, but there are {num_nodes} nodes")
    keys = np.unique(ends[0] * num_nodes + ends[1])
    edges = np.stack([keys // num_nodes, keys % num_nodes], axis=1)
    return GraphBatch.from_edges(edges, num_nodes=num_nodes).with_features(x=_features(x))


def _features(x: Any) -> Tensor | SparseFeatures:
    rows = sparse.csr_matrix(x, dtype=np.float32)
    rows.eliminate_zeros()
    rows.sort_indices()
    if not np.isfinite(rows.data).all():
        raise ContrastiveError(
            f"{(~np.isfinite(rows.data)).sum()} features are not finite; mend or drop them"
        )
    if rows.nnz > 0.1 * x.shape[0] * x.shape[1]:
        return torch.from_numpy(rows.toarray())
    indptr, column = (torch.from_numpy(part.astype(np.int64)) for part in (rows.indptr, rows.indices))
    return SparseFeatures(indptr, column, torch.from_numpy(rows.data), x.shape[1])


class _ArraysOnly(pickle.Unpickler):
    """Unpickles arrays, sparse matrices and lists; a pickle can otherwise run any code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is neither an array nor a list")
        return _ALLOWED[module, name]


def unpickle(file: IO[bytes], where: str) -> Any:
    """Unpickle arrays, SciPy's sparse matrices and lists of numbers.

    Raises:
        ContrastiveError: damaged, or anything else in it, such as code; ``where`` is named.
    """
    try:
        return _ArraysOnly(file, encoding="latin1").load()
    except Exception as error:  # a damaged pickle can fail in any way
        raise ContrastiveError(f"{where} was not opened: {error}") from error


def read_planetoid(folder: Path, name: str) -> NodeDataset:
    """Read Planetoid's files with their public split (Yang et al. 2016, arXiv 1603.08861).

    CiteSeer's test nodes without features and labels are kept, with zero features; they are in no split.
    """
    y, allx, ally, tx, ty, graph = (
        _planetoid_file(folder, name, part) for part in ("y", "allx", "ally", "tx", "ty", "graph")
    )
    order = np.loadtxt(folder / f"ind.{name}.test.index", dtype=np.int64)
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
    labels = torch.from_numpy(onehot.argmax(1))
    return NodeDataset(undirected_graph(src, dst, features), labels, (train, val, np.sort(order)))


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
    Labels: ``node_label``, ``labels`` or ``y``, see `targets_of`; none is fine.
    """
    arrays = _Arrays(path)
    adjacency = arrays.matrix("adj", "adj_matrix")
    x = arrays.matrix("attr", "node_attr")
    if adjacency is not None:
        coo = sparse.coo_matrix(adjacency)
        src, dst = coo.row, coo.col
    elif "edges" in arrays:
        edges = arrays["edges"]
        if edges.ndim != 2 or edges.shape[1] != 2:
            raise ContrastiveError(f"{path}: edges has the shape {edges.shape}; expected (E, 2)")
        src, dst = edges.T
    else:
        raise ContrastiveError(f"{path} has neither adj_matrix nor adj_data nor edges: {arrays.names}")
    if x is None:
        # without features every node is its own word
        x = arrays["x"] if "x" in arrays else sparse.identity(int(max(src.max(), dst.max())) + 1)
    name = next((key for key in ("node_label", "labels", "y") if key in arrays), None)
    labels = None if name is None else targets_of(np.asarray(arrays[name]))
    if labels is not None and len(labels) != x.shape[0]:
        raise ContrastiveError(f"{path}: there are {len(labels)} labels for {x.shape[0]} nodes")
    return NodeDataset(undirected_graph(src, dst, x), labels)


def targets_of(y: np.ndarray) -> Tensor:
    """Labels as they are used: ``(N,)`` whole numbers are int64 classes, all else float32 ``(N, T)`` targets.

    One column is as none. A number that is not finite is a blank, NaN.
    """
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if y.ndim == 1 and (y.dtype.kind in "iub" or bool((np.isfinite(y) & (y == np.round(y))).all())):
        return torch.from_numpy(y.astype(np.int64))
    y = y.reshape(len(y), -1).astype(np.float32)
    return torch.from_numpy(np.where(np.isfinite(y), y, np.nan).astype(np.float32))


class _Arrays:
    """The arrays of a ``.npz``, read without running what object arrays may hold."""

    def __init__(self, path: Path) -> None:
        try:
            self.zip = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise ContrastiveError(f"{path} is not a readable .npz: {error}") from error
        self.path = path
        self.names = [name.removesuffix(".npy") for name in self.zip.namelist()]

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> Any:
        where = f"{self.path}: {name}"
        try:
            with self.zip.open(f"{name}.npy") as file:
                version = npy.read_magic(file)
                header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
                shape, _, dtype = header(file)
                if not dtype.hasobject:
                    file.seek(0)
                    return npy.read_array(file, allow_pickle=False)
                array = unpickle(file, where)
        except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
            raise ContrastiveError(f"{where} cannot be read: {error}") from error
        return array.item() if shape == () else array

    def matrix(self, prefix: str, name: str) -> Any:
        """A sparse matrix under one name, or in four arrays; None where there is neither."""
        if name in self:
            return self[name]
        if f"{prefix}_data" not in self:
            return None
        parts = [self[f"{prefix}_{part}"] for part in ("data", "indices", "indptr")]
        return sparse.csr_matrix(tuple(parts), shape=tuple(self[f"{prefix}_shape"]))


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
