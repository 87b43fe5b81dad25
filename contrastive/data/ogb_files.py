"""The tables of the Open Graph Benchmark (Hu et al. 2020, arXiv 2005.00687) as they are published.

The package ``ogb`` is not needed: it keeps what it has read in a pickle, which can run code when opened.
"""

from __future__ import annotations

import gzip
import io
import re
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from contrastive.errors import ContrastiveError

_DIRECTED = ("ogbg-code2",)  # every other set stores an edge once, or directed ones that are read both ways
_BLANK = re.compile(rb"(?:(?<=[,\n])|\A)(?=[,\r\n]|\Z)")
_FRACTION = re.compile(rb"[.aAeEiI]|" + _BLANK.pattern)  # 0.5, nan, 1e-3, inf, or a blank


class Tables(NamedTuple):
    """What a folder holds, graph after graph.

    Attributes:
        edges: ``(E, 2)`` int64, numbered through the graphs, each edge as it is stored.
        undirected: whether an edge stands for both directions.
        x: ``(N, F)`` float32, or ``(N, C)`` int64 categories from 1, for 0 is kept for masks; or None.
        edge_attr: the same of the edges, or None.
        ptr: ``(G + 1,)`` int64 offsets of the graphs' nodes.
        labels: a row a graph, or a node of ``ogbn-…``: int64, or float64 with NaN where not known; or None.
        split: rows of the published training, validation and test split, or None.
    """

    edges: np.ndarray
    undirected: bool
    x: Tensor | None
    edge_attr: Tensor | None
    ptr: np.ndarray
    labels: np.ndarray | None
    split: tuple[np.ndarray, np.ndarray, np.ndarray] | None


def read_ogb(source: str) -> Tables:
    """Read ``ogb:NAME`` or ``ogb:NAME:ROOT``, the tables in ``ROOT/NAME/raw`` and ``ROOT/NAME/split``.

    Args:
        source: NAME is ``ogbg-molhiv``, ``ogbn-arxiv`` and so on; ROOT is where the unpacked set lies, as
            ``ogbg_molhiv``, or the unpacked set itself; ``dataset``, as for ``ogb``, where it is not given.

    Raises:
        ContrastiveError: nothing there, or a table that does not parse or fit the others; it is named.
    """
    _, name, *root = source.split(":", 2)
    folder = _find(name, Path(root[0] if root else "dataset").expanduser())
    raw = folder / "raw"
    edges = _table(raw / "edge.csv.gz", integers=True)
    nodes = _table(raw / "num-node-list.csv.gz", integers=True)[:, 0]
    counts = _table(raw / "num-edge-list.csv.gz", integers=True)[:, 0]
    ptr = np.concatenate([[0], nodes.cumsum()])
    negative = min(nodes.min(), counts.min()) < 0
    if negative or len(nodes) != len(counts) or edges.shape != (counts.sum(), 2):
        raise ContrastiveError(
            f"{raw}: edge.csv.gz has the shape {edges.shape} and num-node-list.csv.gz {len(nodes)} lines, "
            f"but num-edge-list.csv.gz says {counts.sum()} edges in {len(counts)} graphs"
        )
    outside = (edges < 0) | (edges >= nodes.repeat(counts)[:, None])
    if outside.any():
        line = int(outside.any(1).argmax())
        where = f"{raw / 'edge.csv.gz'}, line {line + 1}"
        raise ContrastiveError(f"{where}: {edges[line]} is no edge of its graph")
    labels = "node-label.csv.gz" if name.startswith("ogbn") else "graph-label.csv.gz"
    num_labelled = ptr[-1] if name.startswith("ogbn") else len(nodes)
    return Tables(
        edges + ptr[:-1].repeat(counts)[:, None],
        name not in _DIRECTED,
        _features(raw / "node-feat.csv.gz", ptr[-1]),
        _features(raw / "edge-feat.csv.gz", len(edges)),
        ptr,
        _optional(raw / labels, num_labelled),
        _split(folder / "split", num_labelled),
    )


def _find(name: str, root: Path) -> Path:
    for folder in (root / name.replace("-", "_"), root):
        if (folder / "raw" / "edge.csv.gz").is_file():
            return folder
    raise ContrastiveError(
        f"there is no raw/edge.csv.gz in {root / name.replace('-', '_')} or {root}: download {name} from "
        f"ogb.stanford.edu, unpack it, and give its folder as ogb:{name}:FOLDER. Sets of several kinds of "
        "nodes and those stored as .npz are not read"
    )


def _table(path: Path, *, integers: bool = False) -> np.ndarray:
    """The numbers of a gzipped table, a row a line: int64, or float64 where there is a fraction or blank."""
    try:
        text = gzip.decompress(path.read_bytes()).rstrip(b"\r\n")
        rows: np.ndarray
        if not _FRACTION.search(text):
            rows = np.loadtxt(io.BytesIO(text), delimiter=",", dtype=np.int64, ndmin=2)
        elif integers:
            raise ValueError("expected whole numbers")
        else:
            rows = np.loadtxt(io.BytesIO(_BLANK.sub(b"nan", text)), delimiter=",", ndmin=2)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise ContrastiveError(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from error
    if not len(rows):
        raise ContrastiveError(f"{path} is empty")
    return rows


def _optional(path: Path, num_rows: int) -> np.ndarray | None:
    if not path.exists():
        return None
    rows = _table(path)
    if len(rows) != num_rows:
        raise ContrastiveError(f"{path} has {len(rows)} lines; the other tables ask for {num_rows}")
    return rows


def _features(path: Path, num_rows: int) -> Tensor | None:
    rows = _optional(path, num_rows)
    if rows is None:
        return None
    return torch.from_numpy(rows + 1 if rows.dtype == np.int64 else rows.astype(np.float32))


def _split(folder: Path, num_rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    schemes = sorted(path for path in folder.glob("*") if path.is_dir())
    if len(schemes) > 1:
        names = ", ".join(path.name for path in schemes)
        raise ContrastiveError(f"{folder} holds several splits, {names}; leave the one to read")
    if not schemes:
        return None
    parts = []
    for name in ("train", "valid", "test"):
        rows = _table(schemes[0] / f"{name}.csv.gz", integers=True)[:, 0]
        if rows.min() < 0 or rows.max() >= num_rows:
            raise ContrastiveError(f"{schemes[0] / name}.csv.gz names {rows.max()}, but there are {num_rows}")
        parts.append(np.sort(rows))
    return parts[0], parts[1], parts[2]
