"""Graph diffusion: edges between all nodes that are near (GDC, Gasteiger et al. 2019, arXiv 1911.05485)."""

from __future__ import annotations

import math
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from augmentations.random import SampleRandom
from encoders.graph_batch import GraphBatch

_COLUMNS = 1024  # of S at a time: a graph of 20,000 nodes takes 80 MB, not 1.6 GB

# Nothing is drawn, so a batch that is seen again, as in training on one graph, is diffused once.
_SEEN: WeakKeyDictionary[GraphBatch, dict[tuple, tuple[object, GraphBatch]]] = WeakKeyDictionary()


class _Diffusion(nn.Module):
    """S = Σ_k θ_k Tᵏ, T = D^{-1/2} (A + I) D^{-1/2}, cut to its large entries, which weigh the new edges."""

    def __init__(self, coefficients: list[float], top_k: int | None, threshold: float) -> None:
        super().__init__()
        self.coefficients, self.top_k, self.threshold = coefficients, top_k, threshold
        self._key = (tuple(coefficients), top_k, threshold)

    def forward(self, batch: GraphBatch, random: SampleRandom | None = None) -> GraphBatch:
        """Replace the edges by those of S; edge features and types are lost."""
        seen = _SEEN.setdefault(batch, {})
        if self._key not in seen or seen[self._key][0] is not batch.adjacency:  # of tensors assigned since
            with torch.inference_mode(False):  # for training too, which saves no tensor that inference made
                seen[self._key] = batch.adjacency, self._diffuse(batch)
        return seen[self._key][1]

    def _diffuse(self, batch: GraphBatch) -> GraphBatch:
        place = torch.arange(batch.num_nodes, device=batch.device) - batch.ptr[batch.graph_of_node]
        size = int(batch.nodes_per_graph.max()) if batch.num_graphs else 0
        rows, columns, values = [place[:0]], [place[:0]], [place[:0].float()]
        for first in range(0, size, _COLUMNS):
            block = self._columns(batch, place, first, min(_COLUMNS, size - first))
            row, column = (block > self.threshold).nonzero().unbind(1)
            rows.append(row)
            columns.append(column + first)
            values.append(block[row, column])
        dst, weight = torch.cat(rows), torch.cat(values)
        src = batch.ptr[batch.graph_of_node[dst]] + torch.cat(columns)
        if self.top_k is not None:
            kept = _largest(dst, weight, self.top_k)
            src, dst, weight = src[kept], dst[kept], weight[kept]
        return batch.with_edges(src, dst, edge_weight=weight)

    def _columns(self, batch: GraphBatch, place: Tensor, first: int, count: int) -> Tensor:
        """S between v and the node ``first`` + j of its graph, at ``[v, j]``: all graphs side by side."""
        degree = batch.sum_neighbours(torch.ones_like(place).float()[:, None]) + 1
        power = (place.unsqueeze(1) == first + torch.arange(count, device=batch.device)).float()
        result = self.coefficients[0] * power
        for coefficient in self.coefficients[1:]:
            scaled = power * degree.rsqrt()
            power = (batch.sum_neighbours(scaled) + scaled) * degree.rsqrt()
            result += coefficient * power
        return result


def _largest(group: Tensor, values: Tensor, count: int) -> Tensor:
    """The places of the ``count`` largest values of each group."""
    order = values.argsort(descending=True, stable=True)
    order = order[group[order].argsort(stable=True)]
    ordered = group[order]
    rank = torch.arange(len(order), device=order.device) - torch.searchsorted(ordered, ordered)
    return order[rank < count]


class PPRDiffusion(_Diffusion):
    """Personalised PageRank: θ_k = α (1−α)ᵏ, until the rest is below 10⁻⁴. For undirected graphs.

    Args:
        alpha: probability of going back to the start.
        top_k: the edges kept into each node; None keeps all above the threshold.
        threshold: entries of S that are not above it are left out.
    """

    def __init__(self, *, alpha: float = 0.15, top_k: int | None = None, threshold: float = 1e-3) -> None:
        if not 0 < alpha < 1:
            raise ValueError(f"alpha is {alpha}, expected a probability in (0, 1)")
        steps = math.ceil(math.log(1e-4) / math.log(1 - alpha))
        super().__init__([alpha * (1 - alpha) ** k for k in range(steps)], top_k, threshold)


class HeatDiffusion(_Diffusion):
    """Heat kernel: θ_k = e^{−t} tᵏ/k!, until the rest is below 10⁻⁴. For undirected graphs.

    Args:
        t: time, up to 700, beyond which e^{−t} is no number.
        top_k: the edges kept into each node; None keeps all above the threshold.
        threshold: entries of S that are not above it are left out.
    """

    def __init__(self, *, t: float = 5.0, top_k: int | None = None, threshold: float = 1e-3) -> None:
        if not 0 < t <= 700:
            raise ValueError(f"t is {t}, expected a positive time, up to 700")
        coefficients = [math.exp(-t)]
        while sum(coefficients) < 1 - 1e-4:
            coefficients.append(coefficients[-1] * t / len(coefficients))
        super().__init__(coefficients, top_k, threshold)
