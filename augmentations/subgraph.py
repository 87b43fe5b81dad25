"""Augmentations that keep a connected part of each graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from augmentations.graph import check_probability, draws, restrict
from augmentations.random import SampleRandom
from encoders.graph_batch import GraphBatch


def random_nodes(batch: GraphBatch, random: SampleRandom) -> tuple[Tensor, Tensor]:
    """The graphs that have nodes, and a node of each, drawn uniformly."""
    graphs = (batch.nodes_per_graph > 0).nonzero().squeeze(1)
    place = (random.uniform(1).squeeze(1) * batch.nodes_per_graph).long()
    return graphs, (batch.ptr[:-1] + place)[graphs]


class RandomWalkSubgraph(nn.Module):
    """Keep the nodes that a random walk visits, up to a share of the graph (GraphCL, arXiv 2010.13902).

    The walk starts at a random node and goes against the edges, which is the same in an undirected
    graph; at a node without edges it stays. It ends when it has seen ⌈``ratio`` · n⌉ nodes or made all its
    steps, so that a graph of several components keeps less.

    Args:
        ratio: the largest share of a graph's nodes that is kept.
        restart: probability of going back to the start at each step (GCC, arXiv 2006.09963).
        num_steps: steps; None takes four times the nodes wanted of the largest graph.
        remove: take the other nodes out. False leaves them in place without edges and with ``x`` zero.
    """

    def __init__(
        self, *, ratio: float = 0.8, restart: float = 0.0, num_steps: int | None = None, remove: bool = True
    ) -> None:
        super().__init__()
        self.ratio, self.restart = check_probability("ratio", ratio), check_probability("restart", restart)
        self.num_steps, self.remove = num_steps, remove

    def forward(self, batch: GraphBatch, random: SampleRandom | None = None) -> GraphBatch:
        """Walk in all graphs side by side."""
        random = draws(batch, random)
        graphs, start = random_nodes(batch, random)
        wanted = (batch.nodes_per_graph[graphs] * self.ratio).ceil().long().clamp(min=1)
        # Of each graph's own size, so that its walk does not depend on the batch.
        budget = 4 * wanted if self.num_steps is None else torch.full_like(wanted, self.num_steps)
        steps = max(1, int(budget.max())) if len(graphs) else 1
        move, back = random.uniform(steps)[graphs], random.bernoulli(self.restart, steps)[graphs]
        visited = _walk(batch, start, wanted, budget, move, back)
        return restrict(batch, visited, remove=self.remove)


def _walk(
    batch: GraphBatch, start: Tensor, wanted: Tensor, budget: Tensor, move: Tensor, back: Tensor
) -> Tensor:
    """``(N,)`` bool: the nodes that walks visit in ``budget`` steps, up to ``wanted`` nodes each."""
    indptr, degree = batch.adjacency.indptr, batch.adjacency.degree
    visited = torch.zeros(batch.num_nodes, dtype=torch.bool, device=batch.device)
    visited[start] = True
    count, here = torch.ones_like(start), start
    for i in range(move.shape[1] if batch.num_edges else 0):
        edge = indptr[here] + (move[:, i] * degree[here]).long()
        here = torch.where(degree[here] > 0, batch.src[edge.clamp_(max=batch.num_edges - 1)], here)
        here = torch.where(back[:, i], start, here)
        seen = visited[here]
        visits = seen | ((count < wanted) & (budget > i))
        count += visits ^ seen
        visited[here] = visits
    return visited


class EgoNet(nn.Module):
    """Keep the nodes within some edges of a random node.

    Args:
        num_hops: radius.
        remove: take the other nodes out. False leaves them in place without edges and with ``x`` zero.
    """

    def __init__(self, *, num_hops: int = 2, remove: bool = True) -> None:
        super().__init__()
        self.num_hops, self.remove = num_hops, remove

    def forward(self, batch: GraphBatch, random: SampleRandom | None = None) -> GraphBatch:
        """Cut the neighbourhood of one node out of every graph."""
        inside = torch.zeros(batch.num_nodes, dtype=torch.bool, device=batch.device)
        inside[random_nodes(batch, draws(batch, random))[1]] = True
        for _ in range(self.num_hops):
            reached = batch.src[inside[batch.dst]]
            inside = inside.index_fill(0, reached, True)
        return restrict(batch, inside, remove=self.remove)
