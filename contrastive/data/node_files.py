"""Readers of the files that node-classification graphs come in. Nothing in them is executed."""

from __future__ import annotations

import collections
import pickle
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.lib import format as npy
from scipy import sparse

from contrastive.data.nodes import NodeDataset, undirected_graph
from contrastive.errors import ContrastiveError

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
    Labels: ``node_label``, ``labels`` or ``y``; none is fine.
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
    labels = None if name is None else torch.from_numpy(np.asarray(arrays[name]).astype(np.int64))
    if labels is not None and len(labels) != x.shape[0]:
        raise ContrastiveError(f"{path}: there are {len(labels)} labels for {x.shape[0]} nodes")
    return NodeDataset(undirected_graph(src, dst, x), labels)


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
    name = source.split(":")[1]
    try:
        import dgl.data
    except ImportError as error:
        raise ContrastiveError("dgl: sources need DGL (Python < 3.12): pip install dgl==1.1.3") from error
    cls = getattr(dgl.data, name, None)
    if cls is None:
        raise ContrastiveError(f"dgl.data has no {name}; see docs.dgl.ai for the names of its data sets")
    try:
        graph = cls()[0]
    except Exception as error:  # a data set of DGL's can fail in any way, downloading among them
        raise ContrastiveError(f"{source} cannot be read: {error}") from error
    src, dst = (ends.numpy() for ends in graph.edges())
    split = None
    if "train_mask" in graph.ndata and graph.ndata["train_mask"].ndim == 1:
        masks = (graph.ndata[f"{part}_mask"].bool() for part in ("train", "val", "test"))
        split = tuple(mask.nonzero().squeeze(1).numpy() for mask in masks)
    return NodeDataset(
        undirected_graph(src, dst, graph.ndata["feat"].float()), graph.ndata["label"].long(), split
    )
