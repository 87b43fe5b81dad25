"""Drops that spare what is central (GCA, Zhu et al. 2021, arXiv 2010.14945)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from augmentations.graph import mask_dimensions, require_float
from augmentations.graph_draws import check_probability, draws, edge_draws
from augmentations.random import SampleRandom
from encoders.graph_batch import GraphBatch

Centrality = Literal["degree", "eigenvector", "pagerank"]


def centrality(batch: GraphBatch, name: Centrality) -> Tensor:
    """φ_v of every node within its graph, ``(N,)`` float32, positive.

    - ``degree``: edges into v
    - ``eigenvector``: the leading eigenvector of each graph's A, of length 1, by 100 power
      iterations on A + I
    - ``pagerank``: damping 0.85, each graph summing to 1, by 50 power iterations

    Edge weights count in the last two.
    """
    if name == "degree":
        return batch.adjacency.degree.float()
    graph, size = batch.graph_of_node, batch.nodes_per_graph.float()
    if name == "eigenvector":
        phi = torch.ones(batch.num_nodes, 1, dtype=torch.float32, device=batch.device)
        for _ in range(100):
            phi = phi + batch.sum_neighbours(phi)
            squares = _sum_graphs(batch, phi.square()).sqrt()
            phi = phi / squares[graph]
        return phi.squeeze(1)
    if name != "pagerank":
        raise ValueError(f"centrality {name!r}: expected degree, eigenvector or pagerank")
    weight = batch.edge_weight
    if weight is None:
        weight = torch.ones(batch.num_edges, dtype=torch.float32, device=batch.device)
    leaving = weight.new_zeros(batch.num_nodes).index_add(0, batch.src, weight).unsqueeze(1)
    uniform = (1 / size)[graph].unsqueeze(1)
    phi = uniform
    for _ in range(50):
        dangling = _sum_graphs(batch, phi * (leaving == 0))[graph]
        received = batch.sum_neighbours(phi / leaving.masked_fill(leaving == 0, 1))
        phi = 0.85 * (received + dangling * uniform) + 0.15 * uniform
    return phi.squeeze(1)


def _sum_graphs(batch: GraphBatch, values: Tensor) -> Tensor:
    out = values.new_zeros(batch.num_graphs, values.shape[1])
    return out.index_add(0, batch.graph_of_node, values)


def _sum_columns(batch: GraphBatch, x: Any) -> Tensor:
    """Σ_v |x_v| over each graph, ``(G, F)``, of sparse features."""
    place = batch.graph_of_node[x.row] * x.width + x.column
    sums = x.value.new_zeros(batch.num_graphs * x.width)
    return sums.index_add_(0, place, x.value.abs()).view(batch.num_graphs, x.width)


def _drop_probability(scores: Tensor, group: Tensor, num_groups: int, p: float, threshold: float) -> Tensor:
    """min(p (s_max − s)/(s_max − s̄), threshold), maximum and mean over the entries of the same group."""
    highest = scores.new_full((num_groups,), -torch.inf).scatter_reduce(0, group, scores, "amax")
    count = torch.bincount(group, minlength=num_groups).clamp(min=1)
    mean = scores.new_zeros(num_groups).index_add(0, group, scores) / count
    spread = (highest - mean)[group]
    # Where all scores are equal the formula is 0/0; every entry then is average and has probability p.
    share = torch.where(spread > 1e-6, (highest[group] - scores) / spread.clamp(min=1e-6), 1.0)
    return (p * share).clamp(max=threshold)


class AdaptiveEdgeDrop(nn.Module):
    """Drop edges, those into central nodes less: P = min(p (s_max − s)/(s_max − s̄), threshold), s = log φ_v.

    Args:
        p: mean probability over a graph's edges, before the threshold.
        centrality: φ, ``degree``, ``eigenvector`` or ``pagerank``.
        threshold: largest probability.
        undirected: drop u → v and v → u together, with s_uv = (log φ_u + log φ_v)/2, as the authors' code
            has it; the paper has log((φ_u + φ_v)/2).
    """

    def __init__(
        self,
        *,
        p: float = 0.3,
        centrality: Centrality = "degree",
        threshold: float = 0.7,
        undirected: bool = False,
    ) -> None:
        super().__init__()
        self.p, self.threshold = check_probability("p", p), check_probability("threshold", threshold)
        self.centrality, self.undirected = centrality, undirected

    def forward(self, batch: GraphBatch, random: SampleRandom | None = None) -> GraphBatch:
        """Drop edges."""
        drawn = edge_draws(batch, draws(batch, random), self.undirected).uniform(1).squeeze(1)
        return batch.edge_subgraph(drawn >= self.probabilities(batch))

    def probabilities(self, batch: GraphBatch) -> Tensor:
        """``(E,)`` float32: the probability of dropping each edge."""
        phi = centrality(batch, self.centrality).clamp(min=1e-12).log()
        scores = (phi[batch.src] + phi[batch.dst]) / 2 if self.undirected else phi[batch.dst]
        return _drop_probability(scores, batch.graph_of_edge, batch.num_graphs, self.p, self.threshold)


class AdaptiveFeatureMask(nn.Module):
    """Mask dimensions of ``x``, those of central nodes less: s_i = log Σ_v |x_vi| φ_v, P as for edges.

    A dimension that is zero throughout a graph takes no part.

    Args:
        p: mean probability over the dimensions, before the threshold.
        centrality: φ, ``degree``, ``eigenvector`` or ``pagerank``.
        threshold: largest probability.
    """

    def __init__(self, *, p: float = 0.3, centrality: Centrality = "degree", threshold: float = 0.7) -> None:
        super().__init__()
        self.p, self.threshold = check_probability("p", p), check_probability("threshold", threshold)
        self.centrality = centrality

    def forward(self, batch: GraphBatch, random: SampleRandom | None = None) -> GraphBatch:
        """Mask dimensions; ValueError for categories."""
        drawn = draws(batch, random).uniform(require_float(batch).shape[1])
        return mask_dimensions(batch, drawn >= self.probabilities(batch))

    def probabilities(self, batch: GraphBatch) -> Tensor:
        """``(G, F)`` float32: the probability of masking each dimension in each graph."""
        phi = centrality(batch, self.centrality).unsqueeze(1)
        x = require_float(batch)
        if isinstance(x, Tensor):
            weights = _sum_graphs(batch, x.float().abs() * phi)
        else:
            weights = _sum_columns(batch, x * phi)
        graph, dimension = (weights > 0).nonzero().unbind(1)
        scores = weights[graph, dimension].log()
        drop = _drop_probability(scores, graph, batch.num_graphs, self.p, self.threshold)
        return torch.zeros_like(weights).index_put((graph, dimension), drop)
