"""Augmentations of graphs, on the whole batch at once.

Each is called ``augmentation(batch, random=None)`` and returns a new GraphBatch. A graph's draws
are keyed by its index, those of its nodes and edges by their place inside it too, so that what
happens to a graph does not depend on the batch that it is in. ``random`` None draws afresh from
torch's generator.

Some take a third argument ``some``, ``(G,)`` bool, the graphs to augment; None are all. The others stay as
they are and draw nothing that is used. `OneOf` then need not take the batch apart.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from augmentations.graph_draws import check_probability, draws, edge_draws, node_draws, within
from augmentations.random import SampleRandom
from encoders.graph_batch import GraphBatch


class Identity(nn.Module):
    """The batch itself."""

    def forward(
        self, batch: GraphBatch, random: SampleRandom | None = None, some: Tensor | None = None
    ) -> GraphBatch:
        """Return ``batch``."""
        return batch


class Compose(nn.Module):
    """One augmentation after another.

    Args:
        augmentations: applied in this order.
    """

    def __init__(self, *, augmentations: Sequence[nn.Module]) -> None:
        super().__init__()
        self.augmentations = nn.ModuleList(augmentations)

    def forward(self, batch: GraphBatch, random: SampleRandom | None = None) -> GraphBatch:
        """Augment every graph by all."""
        random = draws(batch, random)
        for augmentation in self.augmentations:
            batch = augmentation(batch, random)
        return batch


class OneOf(nn.Module):
    """Each graph draws one of the augmentations; GraphCL (arXiv 2010.13902) draws one for a batch.

    Args:
        augmentations: the choices; all must leave the same features present.
        probabilities: of each, scaled to sum 1; None makes them equal.
    """

    def __init__(
        self, *, augmentations: Sequence[nn.Module], probabilities: list[float] | None = None
    ) -> None:
        super().__init__()
        self.augmentations = nn.ModuleList(augmentations)
        weights = [1.0] * len(self.augmentations) if probabilities is None else probabilities
        if len(weights) != len(self.augmentations) or min(weights, default=0) < 0 or not sum(weights):
            raise ValueError(
                f"probabilities is {weights}, expected {len(self.augmentations)} numbers ≥ 0, not all 0"
            )
        self.in_place = ["some" in inspect.signature(a.forward).parameters for a in self.augmentations]
        self.thresholds = (torch.tensor(weights).double().cumsum(0) / sum(weights))[:-1].tolist()

    def forward(self, batch: GraphBatch, random: SampleRandom | None = None) -> GraphBatch:
        """Augment every graph by the one that it drew."""
        random = draws(batch, random)
        drawn = random.uniform(1).squeeze(1)
        choice = torch.zeros_like(drawn, dtype=torch.int64)
        for threshold in self.thresholds:
            choice += drawn >= threshold
        everything = torch.arange(batch.num_graphs, device=batch.device)
        parts, members = [], []
        for i, augmentation in enumerate(self.augmentations):
            chosen = choice == i
            graphs = everything if self.in_place[i] else chosen.nonzero().squeeze(1)
            rows = random.expand(graphs, torch.full_like(graphs, i))
            if self.in_place[i]:
                batch = augmentation(batch, rows, chosen)
            else:
                parts.append(augmentation(batch[graphs], rows))
                members.append(graphs)
        if not parts:
            return batch
        if any(self.in_place):  # else none is left, of which edges may lack what the others gave theirs
            in_place = torch.tensor(self.in_place, device=batch.device)[choice]
            members.append(in_place.nonzero().squeeze(1))
            parts.append(batch[members[-1]])
        return GraphBatch.concatenate(parts)[torch.cat(members).argsort()]


class EdgeDrop(nn.Module):
    """Drop each edge with probability ``p``.

    Args:
        p: probability.
        undirected: drop u → v and v → u together.
    """

    def __init__(self, *, p: float = 0.2, undirected: bool = False) -> None:
        super().__init__()
        self.p, self.undirected = check_probability("p", p), undirected

    def forward(
        self, batch: GraphBatch, random: SampleRandom | None = None, some: Tensor | None = None
    ) -> GraphBatch:
        """Drop edges."""
        dropped = edge_draws(batch, draws(batch, random), self.undirected).bernoulli(self.p)
        return batch.edge_subgraph(~within(some, batch.graph_of_edge, dropped))


class EdgeAdd(nn.Module):
    """Each edge adds with probability ``p`` a new one between two random nodes of its graph.

    The new edge has the features of the edge that added it. Self-loops and edges that are there
    already are not added, so that dense graphs gain less.

    Args:
        p: probability; ``p`` times as many edges are tried as a graph has.
        undirected: add v → u with u → v; each pair of edges then tries one pair.
    """

    def __init__(self, *, p: float = 0.2, undirected: bool = False) -> None:
        super().__init__()
        self.p, self.undirected = check_probability("p", p), undirected

    def forward(self, batch: GraphBatch, random: SampleRandom | None = None) -> GraphBatch:
        """Add edges."""
        drawn = edge_draws(batch, draws(batch, random), self.undirected)
        adds = drawn.bernoulli(self.p)
        if self.undirected:
            adds &= batch.src < batch.dst
        graph = batch.graph_of_edge
        size, first = batch.nodes_per_graph[graph], batch.ptr[graph]
        ends = drawn.uniform(2)
        u, step = (ends[:, 0] * size).long(), 1 + (ends[:, 1] * (size - 1)).long()
        parent = (adds & (size > 1)).nonzero().squeeze(1)
        src, dst = (first + u)[parent], (first + (u + step) % size.clamp(min=1))[parent]
        if self.undirected:
            src, dst, parent = torch.cat([src, dst]), torch.cat([dst, src]), parent.repeat(2)
        new = _unseen(src * batch.num_nodes + dst, batch.src * batch.num_nodes + batch.dst)
        parent = torch.cat([torch.arange(batch.num_edges, device=batch.device), parent[new]])
        features = {k: _take(getattr(batch, k), parent) for k in ("edge_attr", "edge_weight", "edge_type")}
        return batch.with_edges(
            torch.cat([batch.src, src[new]]), torch.cat([batch.dst, dst[new]]), **features
        )


def _take(values: Tensor | None, index: Tensor) -> Tensor | None:
    return None if values is None else values[index]


def _unseen(keys: Tensor, present: Tensor) -> Tensor:
    """Where each key that is not in ``present`` occurs first, ascending."""
    ordered, order = keys.sort(stable=True)
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return (order[first & ~torch.isin(ordered, present)]).sort().values


class NodeDrop(nn.Module):
    """Drop each node with probability ``p``, with its edges; the last node of a graph stays.

    Args:
        p: probability.
        remove: take the nodes out. False leaves them in place without edges and with ``x`` zero, so that
            the nodes of two views correspond.
    """

    def __init__(self, *, p: float = 0.2, remove: bool = True) -> None:
        super().__init__()
        self.p, self.remove = check_probability("p", p), remove

    def forward(
        self, batch: GraphBatch, random: SampleRandom | None = None, some: Tensor | None = None
    ) -> GraphBatch:
        """Drop nodes."""
        drawn = node_draws(batch, draws(batch, random)).uniform()
        highest = drawn.new_full((batch.num_graphs,), -1)
        highest = highest.scatter_reduce(0, batch.graph_of_node, drawn, "amax")
        dropped = (drawn < self.p) & (drawn != highest.index_select(0, batch.graph_of_node))
        return restrict(batch, ~within(some, batch.graph_of_node, dropped), remove=self.remove)


def restrict(batch: GraphBatch, keep: Tensor, *, remove: bool) -> GraphBatch:
    """The nodes where ``keep`` is true; the others taken out, or left isolated with ``x`` zero."""
    if remove:
        return batch.node_subgraph(keep)
    inside = batch.edge_subgraph(keep[batch.src] & keep[batch.dst])
    return inside.with_features(x=batch.x * keep.unsqueeze(1))


class FeatureMask(nn.Module):
    """Zero each dimension of ``x`` with probability ``p``, for all nodes of a graph (GRACE, 2006.04131).

    Args:
        p: probability.
    """

    def __init__(self, *, p: float = 0.2) -> None:
        super().__init__()
        self.p = check_probability("p", p)

    def forward(
        self, batch: GraphBatch, random: SampleRandom | None = None, some: Tensor | None = None
    ) -> GraphBatch:
        """Mask dimensions; ValueError for categories."""
        dropped = draws(batch, random).bernoulli(self.p, require_float(batch).shape[1])
        return mask_dimensions(batch, ~(dropped if some is None else dropped & some.unsqueeze(1)))


def mask_dimensions(batch: GraphBatch, keep: Tensor) -> GraphBatch:
    """Zero ``x`` where ``keep``, ``(G, F)`` bool, is false for the node's graph."""
    rows = keep if batch.num_graphs == 1 else keep[batch.graph_of_node]
    return batch.with_features(x=batch.x * rows)


def require_float(batch: GraphBatch) -> Any:
    """``batch.x``, dense or sparse; ValueError where it holds categories."""
    if not batch.x.is_floating_point():
        raise ValueError(
            f"x holds categories ({batch.x.dtype}), expected floats; AttributeMask masks categories"
        )
    return batch.x


class FeatureDropout(nn.Module):
    """Dropout: set each entry of ``x`` to zero with probability ``p`` and scale the rest by 1/(1−p).

    Args:
        p: probability, less than 1.
    """

    def __init__(self, *, p: float = 0.2) -> None:
        super().__init__()
        self.p = check_probability("p", p)
        if p == 1:
            raise ValueError("p is 1, expected less: nothing would be left to scale")

    def forward(self, batch: GraphBatch, random: SampleRandom | None = None) -> GraphBatch:
        """Drop entries; ValueError for categories."""
        x = require_float(batch)
        if not isinstance(x, Tensor):
            raise ValueError("x is sparse: FeatureDropout would draw for its zeros; use FeatureMask")
        width = x.shape[1]
        dropped = node_draws(batch, draws(batch, random)).bernoulli(self.p, width)
        return batch.with_features(x=batch.x * ~dropped / (1 - self.p))


class AttributeMask(nn.Module):
    """Replace the features of each node with probability ``p`` by a mask (Hu et al. 2020, arXiv 1905.12265).

    Args:
        p: probability.
        value: what is written; category 0 is kept for it in ``GraphBatch.from_smiles``.
        mask_edges: write it to the ``edge_attr`` of the masked nodes' edges too, which tell of their ends.
    """

    def __init__(self, *, p: float = 0.15, value: float = 0.0, mask_edges: bool = False) -> None:
        super().__init__()
        self.p, self.value, self.mask_edges = check_probability("p", p), value, mask_edges

    def forward(
        self, batch: GraphBatch, random: SampleRandom | None = None, some: Tensor | None = None
    ) -> GraphBatch:
        """Mask nodes."""
        masked = node_draws(batch, draws(batch, random)).bernoulli(self.p)
        return self.mask(batch, within(some, batch.graph_of_node, masked))

    def mask(self, batch: GraphBatch, masked: Tensor) -> GraphBatch:
        """Mask nodes where ``masked``, ``(N,)`` bool, is true; ValueError for a value that is no category."""
        if not batch.x.is_floating_point() and (self.value < 0 or self.value % 1):
            raise ValueError(f"value is {self.value}, expected the number of a category, which x holds")
        x = batch.x.masked_fill(masked.unsqueeze(1), self.value)
        if not self.mask_edges or batch.edge_attr is None:
            return batch.with_features(x=x)
        ends = masked[batch.src] | masked[batch.dst]
        return batch.with_features(x=x, edge_attr=batch.edge_attr.masked_fill(ends.unsqueeze(1), self.value))
