"""Build a GraphBatch from DGLGraphs or PyG data, and convert it back."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from encoders.graph_batch import GraphBatch
from encoders.graph_sources import as_tensor, from_edges
from encoders.sparse_features import SparseFeatures

_PER_EDGE = ("edge_attr", "edge_weight", "edge_type")
FEATURE_KEYS = ("x", "feat", "attr")
EDGE_KEYS = (*_PER_EDGE, *FEATURE_KEYS)


def from_dgl(graphs: Any, *, x: str | None = None, edge_attr: str | None = None) -> GraphBatch:
    """Build a batch from DGLGraphs.

    Args:
        graphs: a DGLGraph, batched or not, or several; a graph of several node or edge types becomes one
            whose types are in ``node_type`` and ``edge_type``, with those features that all types have.
        x: the name in ``ndata``; None takes ``x``, ``feat`` or ``attr``, the first that is there.
        edge_attr: the name in ``edata``; None takes ``edge_attr``, ``x``, ``feat`` or ``attr``. Weights and
            types are read as ``edge_weight`` and ``edge_type``.

    Raises:
        ValueError: no graph was given or something else, or a name that the graphs do not have.
    """
    import dgl

    length = len(graphs) if hasattr(graphs, "__len__") else None  # where a data set's indices have no end
    graphs = [graphs] if isinstance(graphs, dgl.DGLGraph) else list(islice(graphs, length))
    if not graphs:
        raise ValueError("from_dgl: given no graph, expected at least one")
    for i, graph in enumerate(graphs):
        if not isinstance(graph, dgl.DGLGraph):
            raise ValueError(f"from_dgl: item {i} is a {type(graph).__name__}, expected a DGLGraph")
    homogeneous = [g if g.is_homogeneous else dgl.to_homogeneous(g, *_shared_keys(g)) for g in graphs]
    merged = dgl.batch(homogeneous) if len(graphs) > 1 else homogeneous[0]
    sizes = torch.cat([_sizes(g) for g in graphs])
    types = {"node_type": dgl.NTYPE, "edge_type": dgl.ETYPE}
    frames = {"node_type": merged.ndata, "edge_type": merged.edata}
    features = {k: frames[k][types[k]] if types[k] in frames[k] else frames[k].get(k) for k in types}
    return from_edges(
        merged.edges(order="eid"),
        _pick(merged.ndata, x, FEATURE_KEYS, "ndata"),
        num_nodes=merged.num_nodes(),
        ptr=torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]),
        edge_attr=_pick(merged.edata, edge_attr, ("edge_attr", *FEATURE_KEYS), "edata"),
        edge_weight=merged.edata.get("edge_weight"),
        **features,
    )


def _sizes(graph: Any) -> Tensor:
    """Nodes of each graph; the parts of a batched graph of several types cannot be told apart."""
    return graph.batch_num_nodes() if graph.is_homogeneous else torch.tensor([graph.num_nodes()])


def _shared_keys(graph: Any) -> tuple[list[str], list[str]]:
    nodes = [set(graph.nodes[t].data) for t in graph.ntypes]
    edges = [set(graph.edges[t].data) for t in graph.canonical_etypes]
    return sorted(set.intersection(*nodes)), sorted(set.intersection(*edges))


def _pick(frame: Any, name: str | None, candidates: Sequence[str], where: str) -> Tensor | None:
    if name is not None and name not in frame:
        raise ValueError(f"{where} has no {name!r}; it has {sorted(map(str, frame))}")
    names = [name] if name is not None else [key for key in candidates if key in frame]
    return frame[names[0]] if names else None


def to_dgl(batch: GraphBatch) -> Any:
    """A batched DGLGraph; ``ndata`` and ``edata`` hold the features under their names here."""
    import dgl

    graph = dgl.graph((batch.src, batch.dst), num_nodes=batch.num_nodes)
    graph.set_batch_num_nodes(batch.nodes_per_graph)
    graph.set_batch_num_edges(batch.edge_ptr.diff())
    for frame, names in ((graph.ndata, ("x", "node_type")), (graph.edata, _PER_EDGE)):
        frame.update(_given(batch, names))
    return graph


def _given(batch: GraphBatch, names: Sequence[str]) -> dict[str, Tensor]:
    """Those of the features that there are, sparse ones written out, as other libraries have them."""
    values = {name: getattr(batch, name) for name in names}
    return {k: v.dense() if isinstance(v, SparseFeatures) else v for k, v in values.items() if v is not None}


def from_pyg(graphs: Any) -> GraphBatch:
    """Build a batch from PyG: a ``Data``, a ``Batch`` or a sequence of them (a data set too).

    Raises:
        ValueError: no graph was given or something else, one of several types, some graphs have a feature
            that others lack or have otherwise, or a graph has another number of its rows than of nodes or
            edges.
    """
    graphs = [graphs] if hasattr(graphs, "edge_index") or hasattr(graphs, "metadata") else list(graphs)
    if any(hasattr(graph, "metadata") for graph in graphs):
        raise ValueError("from_pyg: given HeteroData; give its to_homogeneous(), which has types as numbers")
    if not graphs:
        raise ValueError("from_pyg: given no graph, expected at least one")
    for i, graph in enumerate(graphs):
        if not hasattr(graph, "edge_index"):
            raise ValueError(f"from_pyg: item {i} is a {type(graph).__name__}, expected a Data of PyG")
    sizes = [int(size) for g in graphs for size in (g.ptr.diff() if hasattr(g, "ptr") else [g.num_nodes])]
    starts = np.cumsum([0] + [int(g.num_nodes) for g in graphs])
    ends = [_edge_index(g, i) for i, g in enumerate(graphs)]
    num_nodes, num_edges = np.diff(starts).tolist(), [pairs.shape[1] for pairs in ends]
    features: dict[str, Any] = {key: _join(graphs, key, num_nodes, "nodes") for key in ("x", "node_type")}
    features |= {key: _join(graphs, key, num_edges, "edges") for key in _PER_EDGE}
    edges = _numbered_through(ends, starts)
    ptr = torch.tensor(np.cumsum([0, *sizes]))
    return from_edges((edges[0], edges[1]), num_nodes=int(starts[-1]), ptr=ptr, **features)


def _edge_index(graph: Any, i: int) -> Tensor:
    """``(2, E)`` int64 of a ``Data``; without edges of any type, as ``torch.empty(2, 0)`` is."""
    if graph.edge_index is None:
        raise ValueError(f"graph {i} has no edge_index; without edges it is torch.empty(2, 0)")
    edges = as_tensor(f"edge_index of graph {i}", graph.edge_index)
    if edges.dim() != 2 or len(edges) != 2:
        advice = "; transpose it" if edges.shape[1:] == (2,) else ""
        raise ValueError(f"edge_index of graph {i} has shape {tuple(edges.shape)}, expected (2, E){advice}")
    if edges.numel() and edges.is_floating_point():
        raise ValueError(f"edge_index of graph {i} has dtype {edges.dtype}, expected integers")
    return edges.long()


def _numbered_through(edges: Sequence[Tensor], starts: np.ndarray) -> Tensor:
    """``(2, E)``, the edges of all graphs; one that leaves its graph would be another's, and is refused."""
    graph = torch.repeat_interleave(torch.tensor([ends.shape[1] for ends in edges]))
    ends = torch.cat(list(edges), dim=1)
    graph, first = graph.to(ends.device), torch.from_numpy(starts).to(ends.device)
    wrong = ((ends < 0) | (ends >= first.diff()[graph])).any(0).nonzero()
    if len(wrong):
        i = int(graph[wrong[0]])
        edge = tuple(ends[:, int(wrong[0])].tolist())
        raise ValueError(f"graph {i} has the edge {edge}, expected nodes in 0 … {int(first.diff()[i]) - 1}")
    return ends + first[graph]


def _join(graphs: Sequence[Any], key: str, counts: Sequence[int], of: str) -> Any:
    """A feature of all graphs, one row for each of their nodes or edges; None where no graph has it."""
    values: list[Any] = [getattr(g, key, None) for g in graphs]
    absent = sum(value is None for value in values)
    if absent not in (0, len(values)):
        raise ValueError(f"{key} is missing in {absent} of {len(values)} graphs: give it to all or to none")
    if absent:
        return None
    rows = [as_tensor(key, value) for value in values]
    for i, (row, count) in enumerate(zip(rows, counts)):
        if row.dim() == 0 or len(row) != count:
            shape = tuple(row.shape)
            raise ValueError(
                f"{key} of graph {i} has shape {shape}, expected one row for each of its {count} {of}"
            )
        if row.shape[1:] != rows[0].shape[1:]:
            shapes = f"{tuple(rows[0].shape)} in graph 0 but {tuple(row.shape)} in graph {i}"
            raise ValueError(f"{key} is {shapes}: give all graphs as many columns")
        if row.is_floating_point() != rows[0].is_floating_point():
            kinds = f"{rows[0].dtype} in graph 0 but {row.dtype} in graph {i}"
            raise ValueError(f"{key} is {kinds}: give all graphs floats, or all of them categories")
    return torch.cat(rows)


def to_pyg(batch: GraphBatch) -> Any:
    """A ``torch_geometric.data.Batch``; features keep their names.

    Raises:
        ImportError: PyTorch Geometric is not installed.
    """
    try:
        from torch_geometric.data import Batch, Data
    except ImportError as error:
        raise ImportError("to_pyg needs PyTorch Geometric: pip install torch_geometric") from error
    names = ("x", "node_type", *_PER_EDGE)
    graphs = []
    for graph in batch:
        graphs.append(Data(edge_index=torch.stack([graph.src, graph.dst]), **_given(graph, names)))
    return Batch.from_data_list(graphs)
