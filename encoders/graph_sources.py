"""Build a GraphBatch from edge lists. Here, and not in the constructor, is checked what users hand in."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from encoders.graph_batch import GraphBatch


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
        ValueError: an edge names a node that is not there or joins two graphs, a feature is not finite, not
            of numbers, of whole ones where it is a type, or has another length than its nodes or edges; the
            message says which.
    """
    src, dst = _endpoints(edges)
    if x is None and num_nodes is None:
        ends = torch.cat([src, dst, src.new_full((1,), -1)])
        num_nodes = int(ptr[-1]) if ptr is not None else int(ends.max()) + 1
    x = torch.ones(num_nodes or 0, 1) if x is None else _features("x", x)
    if num_nodes is not None and len(x) != num_nodes:
        raise ValueError(f"x has {len(x)} rows, expected num_nodes = {num_nodes}")
    ptr = torch.tensor([0, len(x)]) if ptr is None else _whole("ptr", ptr).flatten()
    per_edge = {
        "edge_attr": None if edge_attr is None else _features("edge_attr", edge_attr),
        "edge_weight": None
        if edge_weight is None
        else _one_each("edge_weight", _floating("edge_weight", edge_weight)),
        "edge_type": None if edge_type is None else _one_each("edge_type", _whole("edge_type", edge_type)),
    }
    _check(src, dst, x, ptr, per_edge)
    if undirected:
        src, dst = torch.cat([src, dst]), torch.cat([dst, src])
        per_edge = {k: None if v is None else torch.cat([v, v]) for k, v in per_edge.items()}
    types = None if node_type is None else _one_each("node_type", _whole("node_type", node_type))
    if types is not None:
        _check_values("node_type", types, len(x), "node")
    empty = src.new_empty(0)
    return GraphBatch(src=empty, dst=empty, x=x, ptr=ptr, node_type=types).with_edges(src, dst, **per_edge)


def as_tensor(name: str, values: Any) -> Tensor:
    """An array or a nested sequence of real numbers as a tensor; ``name`` is what messages call it."""
    try:
        tensor = values if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values))
    except (TypeError, ValueError) as error:  # words, objects, rows of several lengths
        raise ValueError(f"{name} is no array of numbers: {error}") from error
    if tensor.layout is not torch.strided:
        raise ValueError(f"{name} is a sparse tensor; give its to_dense()")
    if tensor.is_complex():
        raise ValueError(f"{name} has complex numbers; give their parts as two features")
    return tensor


def _whole(name: str, values: Any) -> Tensor:
    """int64 of numbers that are whole, of any dtype."""
    tensor = as_tensor(name, values)
    wrong = (tensor != tensor.long()).flatten().nonzero()
    if len(wrong):
        value = float(tensor.flatten()[wrong[0]])
        raise ValueError(
            f"{name} is {value:.6g} at {int(wrong[0])} ({len(wrong)} such values), expected whole numbers"
        )
    return tensor.long()


def _floating(name: str, values: Any) -> Tensor:
    tensor = as_tensor(name, values)
    return tensor if tensor.dtype == torch.float64 and isinstance(values, Tensor) else tensor.float()


def _features(name: str, values: Any) -> Tensor:
    """One row a node or edge: int64 where integers were given, else floating point."""
    tensor = as_tensor(name, values)
    real = tensor.is_floating_point() or tensor.dtype == torch.bool
    tensor = _floating(name, values) if real else tensor.long()
    tensor = tensor.unsqueeze(1) if tensor.dim() == 1 else tensor
    if tensor.dim() != 2:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected one row of numbers each")
    return tensor


def _one_each(name: str, values: Tensor) -> Tensor:
    """``(E,)`` of ``(E,)`` or ``(E, 1)``."""
    if values.dim() > 1 and values.shape[1:].numel() != 1:
        raise ValueError(f"{name} has shape {tuple(values.shape)}, expected one number each")
    return values.flatten()


def _endpoints(edges: Any) -> tuple[Tensor, Tensor]:
    if isinstance(edges, tuple) and len(edges) == 2 and not np.isscalar(edges[0]) and np.ndim(edges[0]) == 1:
        src, dst = as_tensor("edges", edges[0]), as_tensor("edges", edges[1])
    else:
        pairs = as_tensor("edges", edges)
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
