"""Graphs of the user's own: a list of DGLGraphs or of PyG's ``Data``, and a file of DGLGraphs."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from contrastive.data.processes import guarded_map
from contrastive.errors import ContrastiveError
from encoders.graph_batch import GraphBatch
from encoders.graph_libraries import EDGE_KEYS, FEATURE_KEYS

log = logging.getLogger("contrastive")
_PICKLES = (".pt", ".pth", ".pkl", ".pickle")
GRAPH_FILES = (".bin", *_PICKLES)  # the pickles only to be refused
_TIME_LIMIT = 3600.0  # seconds DGL may take to read a file
_LABELS = ("labels", "label", "glabel", "y")
_TO_DGL = """it may hold code that runs when it is opened, and was not. If you trust it, write it once more:
    import dgl, torch
    from encoders.graph_batch import GraphBatch
    graphs = torch.load({name!r}, weights_only=False)
    parts = dgl.unbatch(GraphBatch.from_pyg(graphs).to_dgl())
    dgl.save_graphs({new!r}, parts, {{"labels": torch.stack([graph.y.view(-1) for graph in graphs])}})
and give {new}. In Python give the list itself: GraphData(graphs)"""


def graphs_and_labels(items: Sequence[Any]) -> tuple[GraphBatch, Tensor | None]:
    """One batch of graphs from Python, and the rows of their labels.

    Args:
        items: DGLGraphs, or ``Data`` of PyG, whose ``y`` is the label where there is one, or pairs of a graph
            and its label, as DGL's data sets yield them.

    Returns:
        The graphs, and ``(G, T)`` labels, or None.

    Raises:
        ContrastiveError: no graph, something else among them, or some with labels and some without.
    """
    if not isinstance(items, Iterable) or hasattr(items, "edge_index") or _is_dgl(items):
        raise ContrastiveError(f"expected a list of graphs; it is a {type(items).__name__}")
    pairs = [item if isinstance(item, tuple) and len(item) == 2 else (item, None) for item in items]
    graphs = [graph for graph, _ in pairs]
    is_pyg = [hasattr(graph, "edge_index") for graph in graphs]
    if len(set(is_pyg)) != 1 or not all(is_pyg[0] or _is_dgl(graph) for graph in graphs):
        raise ContrastiveError(
            f"expected a list of DGLGraphs or of PyG's Data, of one kind; it holds {_kinds(graphs)}"
        )
    try:
        batch = _from_pyg(graphs) if is_pyg[0] else _from_dgl(graphs)
    except ValueError as error:
        raise ContrastiveError(f"the graphs do not fit together: {error}") from error
    if len(batch) != len(graphs):
        raise ContrastiveError(f"{len(batch)} graphs are batched in {len(graphs)}; give them one by one")
    labels = [graph.y if label is None and is_pyg[0] else label for graph, label in pairs]
    return single_precision(batch), _rows(labels)


def single_precision(batch: GraphBatch) -> GraphBatch:
    """Float features as float32, which networks have and NumPy's arrays are not; categories as they are."""
    features = {name: getattr(batch, name) for name in ("x", "edge_attr", "edge_weight")}
    wide = {name: f.float() for name, f in features.items() if f is not None and f.dtype == torch.float64}
    return batch.with_features(**wide) if wide else batch


def _from_dgl(graphs: Sequence[Any]) -> GraphBatch:
    """The graphs as a batch, with a word on features that are not read for their name."""
    import dgl

    try:
        batch = GraphBatch.from_dgl(graphs)
    except dgl.DGLError as error:  # as of other features in one of them, with where in its C++ it failed
        raise ValueError(" ".join(str(error).split("\nStack trace")[0].split())) from error
    if graphs[0].is_homogeneous:
        _tell_of_others("node", "ndata", graphs[0].ndata, FEATURE_KEYS)
        _tell_of_others("edge", "edata", graphs[0].edata, EDGE_KEYS)
        return batch
    names = [set(graphs[0].nodes[kind].data) for kind in graphs[0].ntypes]
    partly = (set.union(*names) - set.intersection(*names)) & {*FEATURE_KEYS}
    if partly:
        listed = ", ".join(sorted(partly))
        log.warning("%s is not read: not all of the types %s have it", listed, ", ".join(graphs[0].ntypes))
    return batch


def _from_pyg(graphs: Sequence[Any]) -> GraphBatch:
    """The same of PyG's ``Data``."""
    if hasattr(graphs[0], "node_attrs"):
        names = set(graphs[0].node_attrs()) - {"y", "node_type", "batch"}
        _tell_of_others("node", "Data", names, ("x",))
        names = set(graphs[0].edge_attrs()) - {"y", "edge_index"}
        _tell_of_others("edge", "Data", names, EDGE_KEYS[:3])
    return GraphBatch.from_pyg(graphs)


def _tell_of_others(kind: str, where: str, names: Iterable[Any], known: Sequence[str]) -> None:
    """Warn where there are features and none is read for its name; DGL's own begin with an underscore."""
    given = sorted(name for name in map(str, names) if not name.startswith("_"))
    if given and not set(given) & set(known):
        log.warning(
            "no %s features are read: %s has %s, and none of %s; name them so",
            kind,
            where,
            ", ".join(given),
            ", ".join(known),
        )


def _is_dgl(graph: Any) -> bool:
    return hasattr(graph, "ndata") and hasattr(graph, "canonical_etypes")


def _kinds(graphs: Sequence[Any]) -> str:
    return ", ".join(sorted({type(graph).__name__ for graph in graphs})) or "nothing"


def _rows(labels: Sequence[Any]) -> Tensor | None:
    """``(G, T)`` labels of G graphs, or None where none has any."""
    absent = sum(label is None for label in labels)
    if absent == len(labels):
        return None
    rows = [None if label is None else _row(label) for label in labels]
    widths = {None if row is None else len(row) for row in rows}
    if absent or len(widths) != 1:
        raise ContrastiveError(
            f"{absent} of {len(labels)} graphs have no label, or their labels differ in length; "
            "give all of them as many, or none"
        )
    return torch.stack([row for row in rows if row is not None])


def _row(label: Any) -> Tensor:
    try:
        return torch.as_tensor(label).reshape(-1)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ContrastiveError(
            f"a label is {label!r}, expected a number or several; number the classes from 0"
        ) from error


def _complaint(path: Path) -> str:
    """What DGL's reader has against a file; empty where it reads it."""
    import dgl

    # a process that was forked has none of the threads that OpenMP believes it has, and would wait for them
    torch.set_num_threads(1)
    log.disabled = True  # what it tells of is told where the file is read
    dgl.utils.set_num_threads(1)
    try:
        graphs, _ = dgl.load_graphs(str(path))
        graphs_and_labels(graphs)
    except Exception as error:  # it can fail in any way
        return f"says {str(error).strip().splitlines()[0]}"  # the rest is where in its C++ it failed
    return ""


def read_graph_file(path: Path) -> tuple[GraphBatch, Tensor | None]:
    """Read what ``dgl.save_graphs`` wrote, with its only labels or those named labels, label, glabel or y.

    Raises:
        ContrastiveError: DGL is missing, the file is not DGL's, or it is a pickle, as ``torch.save`` writes:
            it may hold code, and the message says how to convert it.
    """
    if path.suffix in _PICKLES:
        raise ContrastiveError(f"{path}: {_TO_DGL.format(name=str(path), new=str(path.with_suffix('.bin')))}")
    try:
        import dgl
    except ImportError as error:
        raise ContrastiveError(f"{path} needs DGL (Python < 3.12): pip install dgl==1.1.3") from error
    # DGL's reader ends the process on some damaged files: another one reads the file first
    ((_, (reason,)),) = guarded_map(_complaint, [path], num_workers=1, time_limit=_TIME_LIMIT)
    if reason:
        raise ContrastiveError(f"{path} is no file that dgl.save_graphs wrote: DGL's reader {reason}")
    graphs, labels = dgl.load_graphs(str(path))
    name = next((name for name in _LABELS if name in labels), None)
    if name is None and len(labels) > 1:
        names = ", ".join(sorted(labels))
        raise ContrastiveError(f"{path} has several labels, {names}; save the ones to take as 'labels'")
    rows = [None] * len(graphs) if not labels else list(labels[name or next(iter(labels))])
    return graphs_and_labels(list(zip(graphs, rows)))
