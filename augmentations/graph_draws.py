"""What augmentations of graphs draw: a row for each graph, node or edge of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from augmentations.random import SampleRandom
from encoders.graph_batch import GraphBatch


def draws(batch: GraphBatch, random: SampleRandom | None) -> SampleRandom:
    """``random``, or fresh draws for the graphs of the batch."""
    return SampleRandom.fresh(batch.num_graphs, batch.device) if random is None else random


def node_draws(batch: GraphBatch, random: SampleRandom) -> SampleRandom:
    """One row of draws for each node."""
    return random.expand_ranges(batch.graph_of_node, batch.ptr)


def edge_draws(batch: GraphBatch, random: SampleRandom, undirected: bool) -> SampleRandom:
    """One row of draws for each edge; ``undirected`` gives u → v and v → u the same."""
    graph = batch.graph_of_edge
    if not undirected:
        return random.expand_ranges(graph, batch.edge_ptr)
    first = batch.ptr.index_select(0, graph)
    u, v = batch.src - first, batch.dst - first
    return random.expand(graph, (torch.minimum(u, v) << 32) + torch.maximum(u, v))


def within(some: Tensor | None, graph: Tensor, changed: Tensor) -> Tensor:
    """``changed``, bool of nodes or edges, where their ``graph`` is one of ``some``."""
    return changed if some is None else changed & some.index_select(0, graph)


def check_probability(name: str, p: float) -> float:
    """Return ``p``; ValueError unless it is a probability."""
    if not 0 <= p <= 1:
        raise ValueError(f"{name} is {p}, expected a probability in [0, 1]")
    return p
