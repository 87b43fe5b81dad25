"""Layers of message passing: h_v ← COMBINE(h_v, AGGREGATE{h_u : u → v}).

Every layer is called ``layer(adjacency, x)`` with ``x`` the ``(N, num_in)`` features of the nodes, or a pair
``(x_src, x_dst)`` where sources and destinations are two sets of nodes, and returns
``(num_dst, num_out)``. Edge weights, features and types come with the adjacency.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from encoders.adjacency import Adjacency
from encoders.feature_encoder import FeatureEncoder, Linear
from encoders.message_passing import aggregate, aggregate_edges, edge_softmax, gather_dst, gather_src
from encoders.sparse_features import in_few_sizes

Features = Tensor | tuple[Tensor, Tensor]
Aggregator = Literal["sum", "mean", "max", "min", "std", "attention", "mlp"]
Combine = Literal["linear", "mlp", "gru"]


def split(x: Features) -> tuple[Tensor, Tensor]:
    """The features of sources and destinations."""
    return x if isinstance(x, tuple) else (x, x)


def mlp(num_in: int, num_hidden: int, num_out: int) -> nn.Sequential:
    """W₂ relu(W₁ x + b₁) + b₂."""
    return _MLP(Linear(num_in, num_hidden), nn.ReLU(inplace=True), Linear(num_hidden, num_out))


class _MLP(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return in_few_sizes(super().forward, x)


class Aggregate(nn.Module):
    r"""m_v = AGGREGATE{ m_uv : u → v }, several aggregators side by side.

    m_uv = h_u, or relu(h_u + W e_uv) with edge features (GINE), times the edge's weight where there is one.

    - ``sum``, ``mean``, ``max``, ``min``; ``std`` = √(mean(m²) − mean(m)²)
    - ``attention``: Σ a_uv m_uv, a = softmax_u(aᵀ LeakyReLU(W_s m_uv + W_d h_v))
    - ``mlp``: MLP(Σ MLP(m_uv)), which can learn any function of the multiset (Zaheer et al. 2017,
      arXiv 1703.06114)

    Args:
        num_features: F.
        aggregators: one or several; their results are concatenated.
        edge_features: the width of float edge features or the categories of each column; None ignores them.

    Shape: ``(num_src, F)``, ``(num_dst, F)`` → ``(num_dst, F · len(aggregators))``.
    """

    def __init__(
        self,
        num_features: int,
        aggregators: Aggregator | Sequence[Aggregator] = "sum",
        *,
        edge_features: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.aggregators = [aggregators] if isinstance(aggregators, str) else list(aggregators)
        self.num_out = num_features * len(self.aggregators)
        self.edge = None if edge_features is None else FeatureEncoder(edge_features, num_features)
        learned: dict[str, nn.Module] = {}
        for name in self.aggregators:
            if name == "attention":
                learned[name] = _AttentionSum(num_features)
            elif name == "mlp":
                learned[name] = _MLPSum(num_features)
            elif name not in ("sum", "mean", "max", "min", "std"):
                raise ValueError(f"aggregator {name!r}: expected sum, mean, max, min, std, attention or mlp")
        self.learned = nn.ModuleDict(learned)

    def forward(self, adjacency: Adjacency, x: Features) -> Tensor:
        """Aggregate the sources' features at the destinations."""
        source, target = split(x)
        messages = self._messages(adjacency, source)
        results = [
            self.learned[name](adjacency, source, target, messages)
            if name in self.learned
            else reduce_messages(adjacency, source, messages, name)
            for name in self.aggregators
        ]
        return results[0] if len(results) == 1 else torch.cat(results, dim=1)

    def _messages(self, adjacency: Adjacency, source: Tensor) -> Tensor | None:
        """Messages edge by edge, where the fused kernels cannot make them."""
        if self.edge is None:
            fused = adjacency.weight is None or {"sum", "mean"}.issuperset(self.aggregators)
            return None if fused else scale(gather_src(adjacency, source), adjacency.weight)
        if adjacency.attr is None:
            raise ValueError("the layer expects edge features and the batch's edge_attr is None")
        edge = self.edge(adjacency.attr)
        # in mixed precision edges stay float32: nodes are made so before they are many
        wide = source.to(torch.promote_types(source.dtype, edge.dtype))
        return scale(torch.relu_(gather_src(adjacency, wide) + edge), adjacency.weight)


def reduce_messages(adjacency: Adjacency, source: Tensor, messages: Tensor | None, name: str) -> Tensor:
    """Reduce ``(E, F)`` messages, or if None the ``(num_src, F)`` sources, at the destinations."""
    if name == "std":
        mean = reduce_messages(adjacency, source, messages, "mean")
        squares = reduce_messages(adjacency, source**2, None if messages is None else messages**2, "mean")
        variance = squares - mean**2
        return torch.where(
            variance > 1e-5, variance.clamp(min=1e-5).sqrt(), 0
        )  # the root is infinitely steep at 0
    if messages is None:
        return aggregate(adjacency, source, name, adjacency.weight)  # type: ignore[arg-type]
    return aggregate_edges(adjacency, messages, name)  # type: ignore[arg-type]


class _AttentionSum(nn.Module):
    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.source = Linear(num_features, num_features)
        self.target = Linear(num_features, num_features, bias=False)
        self.score = Linear(num_features, 1, bias=False)

    def forward(
        self, adjacency: Adjacency, source: Tensor, target: Tensor, messages: Tensor | None
    ) -> Tensor:
        keys = gather_src(adjacency, self.source(source)) if messages is None else self.source(messages)
        queries = gather_dst(adjacency, self.target(target))
        scores = self.score(nn.functional.leaky_relu(keys + queries, 0.2)).squeeze(1)
        attention = edge_softmax(adjacency, scores)
        if messages is not None:
            return aggregate_edges(adjacency, messages * attention.unsqueeze(1))
        return aggregate(adjacency, source, "sum", attention)


def scale(values: Tensor, weight: Tensor | None) -> Tensor:
    """Multiply ``(E, …)`` values by the edges' weights, where there are any; the dtype stays."""
    if weight is None:
        return values
    return values * weight.to(values.dtype).view(-1, *[1] * (values.dim() - 1))


class _MLPSum(nn.Module):
    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.inner = mlp(num_features, num_features, num_features)
        self.outer = mlp(num_features, num_features, num_features)

    def forward(
        self, adjacency: Adjacency, source: Tensor, target: Tensor, messages: Tensor | None
    ) -> Tensor:
        inner = self.inner(source if messages is None else messages)
        return self.outer(reduce_messages(adjacency, inner, None if messages is None else inner, "sum"))


class GraphLayer(nn.Module):
    r"""h'_v = COMBINE(h_v, m_v), m_v = AGGREGATE{ h_u : u → v }.

    - ``linear``: W h_v + W' m_v + b
    - ``mlp``: MLP((1 + ε) h_v + m_v), ε learned from 0; several aggregators are first mapped to
      h's width by W'
    - ``gru``: GRU(input m_v, state h_v), W h_v where the widths differ

    Args:
        num_in: width of h.
        num_out: width of h'.
        aggregate: one of ``sum``, ``mean``, ``max``, ``min``, ``std``, ``attention``, ``mlp``, or several.
        combine: see above.
        edge_features: the width of float edge features or the categories of each column; None ignores them.
        num_hidden: hidden width of the ``mlp``; None takes ``num_out``.
    """

    def __init__(
        self,
        num_in: int,
        num_out: int,
        *,
        aggregate: Aggregator | Sequence[Aggregator] = "sum",
        combine: Combine = "linear",
        edge_features: int | Sequence[int] | None = None,
        num_hidden: int | None = None,
    ) -> None:
        super().__init__()
        self.aggregate = Aggregate(num_in, aggregate, edge_features=edge_features)
        self.combine = combine
        self.sums_neighbours = combine == "mlp" and aggregate == "sum" and edge_features is None
        num_messages = self.aggregate.num_out
        if combine == "linear":
            self.self_linear = Linear(num_in, num_out)
            self.neighbour_linear = Linear(num_messages, num_out, bias=False)
        elif combine == "mlp":
            self.project = nn.Identity() if num_messages == num_in else Linear(num_messages, num_in)
            self.eps = nn.Parameter(torch.zeros(()))
            self.mlp = mlp(num_in, num_hidden or num_out, num_out)
        elif combine == "gru":
            self.state = nn.Identity() if num_in == num_out else Linear(num_in, num_out, bias=False)
            self.gru = nn.GRUCell(num_messages, num_out)
        else:
            raise ValueError(f"combine is {combine!r}, expected linear, mlp or gru")

    def forward(self, adjacency: Adjacency, x: Features) -> Tensor:
        """One round of messages."""
        if self.sums_neighbours and isinstance(x, Tensor):
            return self.mlp(aggregate(adjacency, x, "sum", adjacency.weight, own=1 + self.eps))
        messages, target = self.aggregate(adjacency, x), split(x)[1]
        if self.combine == "linear":
            return self.self_linear(target) + self.neighbour_linear(messages)
        if self.combine == "mlp":
            return self.mlp(torch.addcmul(self.project(messages), target, 1 + self.eps))
        return self.gru(messages, self.state(target))


class GraphSAGE(GraphLayer):
    """h'_v = W h_v + W' mean{h_u} + b (Hamilton et al. 2017, arXiv 1706.02216); without its L2 normalisation.

    Args:
        num_in: width of h.
        num_out: width of h'.
        aggregate: the paper's ``mean``, or another.
    """

    def __init__(self, num_in: int, num_out: int, *, aggregate: Aggregator = "mean") -> None:
        super().__init__(num_in, num_out, aggregate=aggregate, combine="linear")


class GIN(GraphLayer):
    """h'_v = MLP((1 + ε) h_v + Σ h_u) (Xu et al. 2019, arXiv 1810.00826); batch norm is the encoder's.

    Args:
        num_in: width of h.
        num_out: width of h'.
        num_hidden: hidden width of the MLP; None takes ``num_out``.
    """

    def __init__(self, num_in: int, num_out: int, *, num_hidden: int | None = None) -> None:
        super().__init__(num_in, num_out, combine="mlp", num_hidden=num_hidden)


class GINE(GraphLayer):
    """h'_v = MLP((1 + ε) h_v + Σ relu(h_u + W e_uv)) (Hu et al. 2020, arXiv 1905.12265).

    Args:
        num_in: width of h.
        num_out: width of h'.
        edge_features: the width of float edge features, or the categories of each column.
        num_hidden: hidden width of the MLP; None takes ``num_out``.
    """

    def __init__(
        self,
        num_in: int,
        num_out: int,
        *,
        edge_features: int | Sequence[int],
        num_hidden: int | None = None,
    ) -> None:
        super().__init__(num_in, num_out, combine="mlp", edge_features=edge_features, num_hidden=num_hidden)
