"""TUDataset's text files: graphs with their labels, in a folder or a zip."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from contrastive.errors import ContrastiveError
from encoders.graph_batch import GraphBatch


def read_tu(path: Path) -> tuple[GraphBatch, Tensor | None, list[str]]:
    """Read TUDataset's text files (Morris et al. 2020, arXiv 2007.08663).

    ``NAME_A.txt`` (a line "from, to" an edge, from 1), ``NAME_graph_indicator.txt`` (each node's graph),
    and where there are ``_graph_labels`` (classes, NaN where not known; values
    where they are not whole or several) or ``_graph_attributes`` (values), ``_node_labels``
    (one-hot in ``x``), ``_node_attributes`` (after them in ``x``), ``_edge_labels`` (one-hot in
    ``edge_attr``) and ``_edge_attributes``.

    Args:
        path: a folder, or a zip of one.

    Returns:
        The graphs, ``(G,)`` int64 classes or ``(G, T)`` float32 values or None, and the names of the classes.

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
        return graphs, None if values is None else torch.from_numpy(values), []
    return graphs, *_labels(labels)


def _labels(labels: np.ndarray) -> tuple[Tensor, list[str]]:
    """Classes and their names of a column of whole numbers, -1 for NaN; of others ``(G, T)`` values."""
    column = labels[:, 0]
    known = np.isfinite(column)
    if labels.shape[1] > 1 or (column[known] % 1 != 0).any():
        return torch.from_numpy(np.where(np.isfinite(labels), labels, np.nan).astype(np.float32)), []
    classes, number = np.unique(column[known], return_inverse=True)
    numbers = np.full(len(column), -1)
    numbers[known] = number
    return torch.from_numpy(numbers), [f"{label:.17g}" for label in classes]


class _TUFiles:
    """The text files of one TUDataset, in a folder or a zip."""

    def __init__(self, path: Path) -> None:
        if path.is_dir():
            raw = path / "raw"  # where PyG's TUDataset puts them
            path = raw if raw.is_dir() and not any(path.glob("*_A.txt")) else path
            self.texts: dict[str, Any] = {file.name: file for file in sorted(path.glob("*.txt"))}
        elif path.suffix == ".zip" and path.is_file():
            try:
                self.zip = zipfile.ZipFile(path)
            except Exception as error:  # zipfile can fail in any way on damaged bytes
                raise ContrastiveError(f"{path} is not a zip: {error}") from error
            self.texts = {Path(name).name: name for name in self.zip.namelist() if name.endswith(".txt")}
        else:
            raise ContrastiveError(f"there is no folder or zip of TUDataset files {path}")
        self.texts = {
            name: text for name, text in self.texts.items() if name[0] != "."
        }  # "._" of macOS's zip
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
