"""Neighbourhoods sampled from a graph that does not fit.

Not by DGL's ``NeighborSampler``: ``dgl.seed`` gives every thread a generator of its own, so that a draw
changes with the number of threads and with the thread that asks, and with four threads from call to call.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from augmentations.random import hash64
from encoders.adjacency import Adjacency


def sample_neighbourhood(
    adjacency: Adjacency, nodes: Tensor, fanouts: Sequence[int], seed: int
) -> tuple[Tensor, Tensor]:
    """Sample up to so many neighbours of each node, hop by hop (GraphSAGE, Hamilton et al. 2017).

    arXiv 1706.02216. Each edge into the frontier gets a hash of (seed, hop, edge), and the smallest of a
    node's are taken: without replacement, and the same wherever it is drawn.

    Args:
        adjacency: of the whole graph.
        nodes: ``(T,)`` int64 distinct nodes to start from.
        fanouts: neighbours a node, a number a hop; −1 takes all.
        seed: of the draw.

    Returns:
        ``(M,)`` int64 nodes, those given first, and the ``(K,)`` int64 ascending edges between them that were
        sampled, by their number in ``adjacency``.
    """
    seen = torch.zeros(adjacency.num_dst, dtype=torch.bool)
    seen[nodes] = True
    reached, frontier, chosen = [nodes], nodes, []
    for hop, fanout in enumerate(fanouts):
        edges, owner = _edges_into(adjacency, frontier)
        if fanout >= 0:
            key = hash64(torch.tensor(seed) ^ hash64(torch.tensor(hop))) ^ edges
            order = hash64(key).argsort()
            order = order[owner[order].argsort(stable=True)]  # by owner, at random within
            first = torch.searchsorted(owner, owner)  # owner ascends, so this is where its edges start
            edges = edges[order[torch.arange(len(edges)) - first < fanout]]
        chosen.append(edges)
        frontier = adjacency.src[edges].unique()
        frontier = frontier[~seen[frontier]]
        seen[frontier] = True
        reached.append(frontier)
    return torch.cat(reached), torch.cat([nodes[:0], *chosen]).unique()


def _edges_into(adjacency: Adjacency, nodes: Tensor) -> tuple[Tensor, Tensor]:
    """The edges into ``nodes``, and for each the place of its node among them, ascending."""
    counts = adjacency.degree[nodes]
    total = int(counts.sum())
    owner = torch.arange(len(nodes)).repeat_interleave(counts, output_size=total)
    first = adjacency.indptr[nodes] - (counts.cumsum(0) - counts)
    return first[owner] + torch.arange(total), owner
