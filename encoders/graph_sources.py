"""Build a GraphBatch from edge lists, DGLGraphs or PyG data, and convert it back.

Here, and not in the constructor, is checked what users hand in.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from encoders.graph_batch import GraphBatch
from encoders.sparse_features import SparseFeatures

_PER_EDGE = ("edge_attr", "edge_weight", "edge_type")
FEATURE_KEYS = ("x", "feat", "attr")
EDGE_KEYS = (*_PER_EDGE, *FEATURE_KEYS)


def from_edges(
    edges: Any,
    x: Any = None,
    *,
    num_nodes: int | None = None,
    ptr: Any = None,
    edge_attr: Any = None,
    edge_weight: Any = None,
    edge_type: Any = None,
    node_type: Any = None,
    undirected: bool = False,
) -> GraphBatch:
    """Build a batch from the edges of one graph, or of several numbered through.

    Args:
        edges: a sequence or array ``(E, 2)`` of (source, destination), or a tuple of two one-dimensional
            arrays, the sources and the destinations; in any order.
        x: ``(N, F)`` float features or ``(N, C)`` integer categories; ``(N,)`` is read as one column; None
            gives every node the constant 1.
        num_nodes: N, where ``x`` is None and the last node may be isolated.
        ptr: ``(G + 1,)`` offsets of the graphs' nodes; None for one graph.
        edge_attr: ``(E, F)`` float or integer features of the edges.
        edge_weight: ``(E,)`` factors.
        edge_type: ``(E,)`` integer relations.
        node_type: ``(N,)`` integer types.
        undirected: each edge is given once: store its reverse too, with the same features.

    Raises:
        ValueError: an edge names a node that is not there or joins two graphs, a feature is not finite or has
            another length than its nodes or edges; the message says which.
    """
    src, dst = _endpoints(edges)
    if x is None and num_nodes is None:
        ends = torch.cat([src, dst, src.new_full((1,), -1)])
        num_nodes = int(ptr[-1]) if ptr is not None else int(ends.max()) + 1
    x = torch.ones(num_nodes or 0, 1) if x is None else _features(x)
    if num_nodes is not None and len(x) != num_nodes:
        raise ValueError(f"x has {len(x)} rows, expected num_nodes = {num_nodes}")
    ptr = torch.tensor([0, len(x)]) if ptr is None else _tensor(ptr).long()
    per_edge = {
        "edge_attr": None if edge_attr is None else _features(edge_attr),
        "edge_weight": None if edge_weight is None else _one_each("edge_weight", _floating(edge_weight)),
        "edge_type": None if edge_type is None else _one_each("edge_type", _tensor(edge_type).long()),
    }
    _check(src, dst, x, ptr, per_edge)
    if undirected:
        src, dst = torch.cat([src, dst]), torch.cat([dst, src])
        per_edge = {k: None if v is None else torch.cat([v, v]) for k, v in per_edge.items()}
    types = None if node_type is None else _one_each("node_type", _tensor(node_type).long())
    if types is not None:
        _check_values("node_type", types, len(x), "node")
    empty = src.new_empty(0)
    return GraphBatch(src=empty, dst=empty, x=x, ptr=ptr, node_type=types).with_edges(src, dst, **per_edge)


def _tensor(values: Any) -> Tensor:
    return values if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values))


def _floating(values: Any) -> Tensor:
    tensor = _tensor(values)
    return tensor if tensor.dtype == torch.float64 and isinstance(values, Tensor) else tensor.float()


def _features(values: Any) -> Tensor:
    """One row a node or edge: int64 where integers were given, else floating point."""
    tensor = _tensor(values)
    tensor = _floating(values) if tensor.is_floating_point() or tensor.dtype == torch.bool else tensor.long()
    return tensor.unsqueeze(1) if tensor.dim() == 1 else tensor


def _one_each(name: str, values: Tensor) -> Tensor:
    """``(E,)`` of ``(E,)`` or ``(E, 1)``."""
    if values.dim() > 1 and values.shape[1:].numel() != 1:
        raise ValueError(f"{name} has shape {tuple(values.shape)}, expected one number each")
    return values.flatten()


def _endpoints(edges: Any) -> tuple[Tensor, Tensor]:
    if isinstance(edges, tuple) and len(edges) == 2 and not np.isscalar(edges[0]) and np.ndim(edges[0]) == 1:
        src, dst = _tensor(edges[0]), _tensor(edges[1])
    else:
        pairs = _tensor(edges)
        if pairs.numel() == 0:
            pairs = pairs.new_empty(0, 2)
        if pairs.dim() != 2 or pairs.shape[1] != 2:
            raise ValueError(
                f"edges has shape {tuple(pairs.shape)}, expected (E, 2): one (source, destination) a row. "
                "For two arrays pass a tuple (sources, destinations)"
            )
        src, dst = pairs[:, 0], pairs[:, 1]
    if len(src) != len(dst):
        raise ValueError(f"edges has {len(src)} sources but {len(dst)} destinations, expected as many")
    if len(src) and (src.is_floating_point() or dst.is_floating_point()):
        raise ValueError(f"edges has dtype {src.dtype}, expected integers: the numbers of the nodes")
    return src.long(), dst.long()


def _check(src: Tensor, dst: Tensor, x: Tensor, ptr: Tensor, per_edge: dict[str, Tensor | None]) -> None:
    if len(ptr) == 0 or ptr[0] != 0 or ptr[-1] != len(x) or (ptr.diff() < 0).any():
        raise ValueError(f"ptr must rise from 0 to the number of nodes, {len(x)}; given {_few(ptr)}")
    for name, ends in (("source", src), ("destination", dst)):
        wrong = ((ends < 0) | (ends >= len(x))).nonzero()
        if len(wrong):
            edge = int(wrong[0])
            raise ValueError(
                f"edge {edge} has {name} {int(ends[edge])}, expected a node in 0 … {len(x) - 1} "
                f"({len(wrong)} such edges; nodes are numbered from 0)"
            )
    graph = torch.searchsorted(ptr, torch.stack([src, dst]), right=True)
    across = (graph[0] != graph[1]).nonzero()
    if len(across):
        edge = int(across[0])
        raise ValueError(
            f"edge {edge} = ({int(src[edge])}, {int(dst[edge])}) joins graphs {int(graph[0, edge]) - 1} and "
            f"{int(graph[1, edge]) - 1}: number the nodes through the batch, and give their offsets as ptr"
        )
    _check_values("x", x, len(x), "node")
    for key, values in per_edge.items():
        if values is not None:
            _check_values(key, values, len(src))


def _check_values(name: str, values: Tensor, expected: int, of: str = "edge given") -> None:
    if len(values) != expected:
        raise ValueError(f"{name} has {len(values)} rows, expected {expected}, one for each {of}")
    flat = values.flatten(1) if values.dim() > 1 else values.unsqueeze(1)
    if values.is_floating_point():
        wrong, what = (~flat.isfinite()).any(1).nonzero(), "NaN or an infinity; replace it first"
    else:
        wrong, what = (flat < 0).any(1).nonzero(), "a negative category; number categories from 0"
    if len(wrong):
        raise ValueError(f"{name} has in row {int(wrong[0])} ({len(wrong)} such rows) {what}")


def _few(values: Tensor) -> str:
    shown = values[:4].tolist()
    return str(shown) if len(values) <= 4 else f"{str(shown)[:-1]}, … {int(values[-1])}]"


def from_dgl(graphs: Any, *, x: str | None = None, edge_attr: str | None = None) -> GraphBatch:
    """Build a batch from DGLGraphs.

    Args:
        graphs: a DGLGraph, batched or not, or a sequence of them; a graph of several node or edge types
            becomes one whose types are in ``node_type`` and ``edge_type``.
        x: the name in ``ndata``; None takes ``x``, ``feat`` or ``attr``, the first that is there.
        edge_attr: the name in ``edata``; None takes ``edge_attr``, ``x``, ``feat`` or ``attr``. Weights and
            types are read as ``edge_weight`` and ``edge_type``.

    Raises:
        ValueError: no graph was given, or a name that the graphs do not have.
    """
    os.environ.setdefault("DGLBACKEND", "pytorch")  # unset, DGL prints and writes ~/.dgl/config.json
    import dgl

    graphs = list(graphs) if isinstance(graphs, Sequence) else [graphs]
    if not graphs:
        raise ValueError("from_dgl: given no graph, expected at least one")
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
    os.environ.setdefault("DGLBACKEND", "pytorch")
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
        ValueError: no graph was given, or some graphs have a feature that others lack.
    """
    graphs = [graphs] if hasattr(graphs, "edge_index") else list(graphs)
    if not graphs:
        raise ValueError("from_pyg: given no graph, expected at least one")
    sizes = [int(size) for g in graphs for size in (g.ptr.diff() if hasattr(g, "ptr") else [g.num_nodes])]
    starts = np.cumsum([0] + [int(g.num_nodes) for g in graphs])
    features: dict[str, Any] = {key: _join(graphs, key) for key in ("x", "node_type", *_PER_EDGE)}
    edges = _numbered_through([_edge_index(g, i) for i, g in enumerate(graphs)], starts)
    ptr = torch.tensor(np.cumsum([0, *sizes]))
    return from_edges((edges[0], edges[1]), num_nodes=int(starts[-1]), ptr=ptr, **features)


def _edge_index(graph: Any, i: int) -> Tensor:
    """``(2, E)`` int64 of a ``Data``; without edges of any type, as ``torch.empty(2, 0)`` is."""
    if graph.edge_index is None:
        raise ValueError(f"graph {i} has no edge_index; without edges it is torch.empty(2, 0)")
    edges = _tensor(graph.edge_index)
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


def _join(graphs: Sequence[Any], key: str) -> Any:
    values: list[Any] = [getattr(g, key, None) for g in graphs]
    absent = sum(value is None for value in values)
    if absent not in (0, len(values)):
        raise ValueError(f"{key} is missing in {absent} of {len(values)} graphs: give it to all or to none")
    if absent:
        return None
    rows = [_tensor(value) for value in values]
    other = next((i for i, row in enumerate(rows) if row.shape[1:] != rows[0].shape[1:]), None)
    if other is not None:
        shapes = f"{tuple(rows[0].shape)} in graph 0 but {tuple(rows[other].shape)} in graph {other}"
        raise ValueError(f"{key} is {shapes}: give all graphs as many columns")
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
