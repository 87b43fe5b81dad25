"""Augmentations that keep a connected part of each graph."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from augmentations.graph import restrict
from augmentations.graph_draws import check_probability, draws
from augmentations.random import SampleRandom
from encoders.graph_batch import GraphBatch

_FEW = 256  # walks that are as fast one by one
_DEAR = 100  # edges in a list of Python's for a step of one walk: beyond, the lists cost more than the calls
_LOOK = 16  # steps between two looks at how many still go on


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
        # less what a product is rounded up by, so that 0.6 of 25 nodes are 15
        wanted = (batch.nodes_per_graph[graphs].double() * self.ratio - 1e-9).ceil().long().clamp(min=1)
        # Of each graph's own size, so that its walk does not depend on the batch.
        budget = 4 * wanted if self.num_steps is None else torch.full_like(wanted, self.num_steps)
        steps = max(1, int(budget.max())) if len(graphs) else 1
        move = random.uniform(steps)[graphs].double()
        back = torch.zeros_like(move, dtype=torch.bool)
        if self.restart:
            back = random.bernoulli(self.restart, steps)[graphs]
        visited = _Walks(batch, start, wanted, budget, move, back).walk()
        return restrict(batch, visited, remove=self.remove)


@dataclass
class _Walks:
    """Walks in several graphs: side by side while they are many, and the last and longest one by one.

    Attributes:
        batch: the graphs.
        start: ``(W,)`` int64 nodes.
        wanted: ``(W,)`` int64, how many nodes each may visit.
        budget: ``(W,)`` int64, how many steps it may take.
        move: ``(W, S)`` float64 in [0, 1), which edge each step takes; double, as Python's own numbers are.
        back: ``(W, S)`` bool, whether each step goes to the start instead.
    """

    batch: GraphBatch
    start: Tensor
    wanted: Tensor
    budget: Tensor
    move: Tensor
    back: Tensor

    def walk(self) -> Tensor:
        """``(N,)`` bool: the nodes that are visited."""
        visited = torch.zeros(self.batch.num_nodes, dtype=torch.bool, device=self.batch.device)
        visited[self.start] = True
        count, here = torch.ones_like(self.start), self.start
        for i in range(self.move.shape[1] if self.batch.num_edges else 0):
            if i % _LOOK == 0:
                going = ((count < self.wanted) & (self.budget > i)).nonzero().squeeze(1)
                steps = int((self.budget - i)[going].sum())
                if len(going) <= _FEW and _DEAR * steps >= self.batch.num_edges:
                    return self._walk_on(visited, going, i, here, self.wanted - count)
            here = self._next(here, i)
            seen = visited[here]
            visits = seen | ((count < self.wanted) & (self.budget > i))
            count += visits ^ seen
            visited[here] = visits
        return visited

    def _next(self, here: Tensor, i: int) -> Tensor:
        indptr, degree = self.batch.adjacency.indptr, self.batch.adjacency.degree[here]
        edge = (indptr[here] + (self.move[:, i] * degree).long()).clamp_(max=self.batch.num_edges - 1)
        moved = torch.where(degree > 0, self.batch.src[edge], here)
        return torch.where(self.back[:, i], self.start, moved)

    def _walk_on(self, visited: Tensor, going: Tensor, i: int, here: Tensor, left: Tensor) -> Tensor:
        """The same from step ``i``, when a dozen calls a step would be for a few walks."""
        src, indptr, seen = self.batch.src.tolist(), self.batch.adjacency.indptr.tolist(), visited.tolist()
        walks = torch.stack([here[going], left[going], self.budget[going], self.start[going]], dim=1).tolist()
        moves, backs = self.move[going, i:].tolist(), self.back[going, i:].tolist()
        for (node, unseen, stop, start), walk_moves, walk_backs in zip(walks, moves, backs):
            for move, back in zip(walk_moves[: stop - i], walk_backs):
                edge, end = indptr[node], indptr[node + 1]
                node = start if back else src[edge + int(move * (end - edge))] if end > edge else node
                if not seen[node]:
                    seen[node], unseen = True, unseen - 1
                    if not unseen:
                        break
        return torch.tensor(seen, dtype=torch.bool, device=visited.device)


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
