"""Layers with a formula of their own: GCN, personalised propagation, GAT, GATv2, PNA."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from encoders.adjacency import Adjacency, exporting
from encoders.feature_encoder import FeatureEncoder, Linear
from encoders.graph_layers import Features, reduce_messages, scale, split
from encoders.message_passing import aggregate, edge_softmax, gather_dst, gather_src
from encoders.sparse_features import SparseFeatures, linear


class GCN(nn.Module):
    r"""h'_v = W (Σ_{u→v} w_uv h_u / √(d_u d_v) + h_v / d_v) + b, d = 1 + Σ w.

    Kipf and Welling 2017, arXiv 1609.02907.

    d_u counts the edges out of u, d_v those into v, so that a directed graph is scaled by rows and
    columns; in an undirected one they are equal and this is the paper's. Weights are not negative: where they
    bring d to 0 or less its root is NaN.

    Args:
        num_in: width of h.
        num_out: width of h'.
    """

    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__()
        self.linear = Linear(num_in, num_out, bias=False)
        self.bias = nn.Parameter(torch.zeros(num_out))
        nn.init.xavier_uniform_(self.linear.weight)

    def forward(self, adjacency: Adjacency, x: Tensor | SparseFeatures) -> Tensor:
        """One convolution over a square adjacency."""
        # the narrower of h and W h is aggregated; sparse features never are
        if isinstance(x, Tensor) and self.linear.out_features > self.linear.in_features:
            return linear(_normalised_sum(adjacency, x), self.linear.weight, self.bias)
        return _normalised_sum(adjacency, linear(x, self.linear.weight)) + self.bias


class Propagation(nn.Module):
    r"""h⁽ᵏ⁾_v = (1 − α) (Σ_{u→v} w_uv h⁽ᵏ⁻¹⁾_u / √(d_u d_v) + h⁽ᵏ⁻¹⁾_v / d_v) + α h_v, up to h⁽ᴷ⁾.

    Personalised PageRank by K steps of its power iteration, with the degrees of `GCN` (Gasteiger et al. 2019,
    arXiv 1810.05997). There is nothing to learn in it.

    Args:
        num_steps: K ≥ 0; 0 leaves h as it is.
        teleport: α in (0, 1], the share of a node's own features.
    """

    def __init__(self, num_steps: int, *, teleport: float) -> None:
        super().__init__()
        if num_steps < 0 or not 0 < teleport <= 1:
            raise ValueError(
                f"expected propagation ≥ 0 steps and 0 < teleport ≤ 1, not {num_steps} and {teleport}"
            )
        self.num_steps, self.teleport = num_steps, teleport

    def forward(self, adjacency: Adjacency, h: Tensor) -> Tensor:
        """Propagate over a square adjacency."""
        own = self.teleport * h
        for _ in range(self.num_steps):
            h = (1 - self.teleport) * _normalised_sum(adjacency, h) + own
        return h


def _normalised_sum(adjacency: Adjacency, h: Tensor) -> Tensor:
    """Σ_{u→v} w_uv h_u / √(d_u d_v) + h_v / d_v: one product over the edges and a loop at each node."""
    dtype = torch.promote_types(h.dtype, torch.float32)
    out_scale, in_scale = (d.to(dtype).rsqrt() for d in _degrees(adjacency))
    if exporting():  # the number of edges and loops together is no symbol that a program has
        scaled = h * out_scale.unsqueeze(1)
        return (aggregate(adjacency, scaled, "sum", adjacency.weight) + scaled) * in_scale.unsqueeze(1)
    edges, order = adjacency.with_loops
    weight = out_scale[edges.src] * in_scale[edges.dst]
    if adjacency.weight is not None:
        weight = weight * torch.cat([adjacency.weight, torch.ones_like(out_scale)])[order]
    return aggregate(edges, h, "sum", weight)


def _degrees(adjacency: Adjacency) -> tuple[Tensor, Tensor]:
    """1 + the weight out of every source, 1 + the weight into every destination."""
    if adjacency.weight is None:
        return adjacency.out_degree + 1, adjacency.degree + 1
    ones = adjacency.weight.new_ones(adjacency.num_src)
    into = adjacency.weight.new_ones(adjacency.num_dst).index_add(0, adjacency.dst, adjacency.weight)
    return ones.index_add(0, adjacency.src, adjacency.weight), into


class GAT(nn.Module):
    r"""h'_v = ‖_k Σ_u α_uv W h_u + b, α = softmax_u(LeakyReLU(a_sᵀ W h_u + a_dᵀ W h_v)).

    Veličković et al. 2018, arXiv 1710.10903. No self-loops are added. A node without neighbours gets b.

    Args:
        num_in: width of h.
        num_out: width of h', the heads side by side; divisible by ``num_heads``.
        num_heads: K.
        slope: of LeakyReLU.
    """

    def __init__(self, num_in: int, num_out: int, *, num_heads: int = 4, slope: float = 0.2) -> None:
        super().__init__()
        self.num_heads, self.slope = num_heads, slope
        self.linear = Linear(num_in, _divisible(num_out, num_heads), bias=False)
        self.source_score = nn.Parameter(torch.empty(num_heads, num_out // num_heads))
        self.target_score = nn.Parameter(torch.empty(num_heads, num_out // num_heads))
        self.bias = nn.Parameter(torch.zeros(num_out))
        for weight in (self.linear.weight, self.source_score, self.target_score):
            nn.init.xavier_normal_(weight)

    def forward(self, adjacency: Adjacency, x: Features) -> Tensor:
        """One round of attention."""
        source, target = (self.linear(h).unflatten(1, (self.num_heads, -1)) for h in split(x))
        scores = gather_src(adjacency, (source * self.source_score).sum(-1))
        scores = scores + gather_dst(adjacency, (target * self.target_score).sum(-1))
        attention = edge_softmax(adjacency, leaky_relu(scores, self.slope))
        return aggregate(adjacency, source, "sum", scale(attention, adjacency.weight)).flatten(1) + self.bias


class GATv2(nn.Module):
    r"""h'_v = ‖_k Σ_u α_uv W_s h_u + b, α = softmax_u(aᵀ LeakyReLU(W_s h_u + W_d h_v + W_e e_uv)).

    Brody et al. 2022, arXiv 2105.14491. No self-loops are added.

    Args:
        num_in: width of h.
        num_out: width of h', the heads side by side; divisible by ``num_heads``.
        num_heads: K.
        slope: of LeakyReLU.
        edge_features: the width of float edge features or the categories of each column; None ignores them.
    """

    def __init__(
        self,
        num_in: int,
        num_out: int,
        *,
        num_heads: int = 4,
        slope: float = 0.2,
        edge_features: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.num_heads, self.slope = num_heads, slope
        self.source = Linear(num_in, _divisible(num_out, num_heads))
        self.target = Linear(num_in, num_out)
        self.edge = None if edge_features is None else FeatureEncoder(edge_features, num_out)
        self.score = nn.Parameter(torch.empty(num_heads, num_out // num_heads))
        self.bias = nn.Parameter(torch.zeros(num_out))
        for weight in (self.source.weight, self.target.weight, self.score):
            nn.init.xavier_normal_(weight)

    def forward(self, adjacency: Adjacency, x: Features) -> Tensor:
        """One round of attention."""
        source, target = self.source(split(x)[0]), self.target(split(x)[1])
        keys = gather_src(adjacency, source) + gather_dst(adjacency, target)
        if self.edge is not None:
            keys = keys + self.edge(_required(adjacency.attr, "edge_attr"))
        keys = leaky_relu(keys, self.slope).unflatten(1, (self.num_heads, -1))
        attention = edge_softmax(adjacency, (keys * self.score).sum(-1))
        values = source.unflatten(1, (self.num_heads, -1))
        return aggregate(adjacency, values, "sum", scale(attention, adjacency.weight)).flatten(1) + self.bias


def _divisible(num_out: int, num_heads: int) -> int:
    if num_out % num_heads:
        raise ValueError(
            f"num_out = {num_out} is not divisible by num_heads = {num_heads}; choose a multiple"
        )
    return num_out


def _required(values: Tensor | None, name: str) -> Tensor:
    if values is None:
        raise ValueError(
            f"the layer needs {name} and the batch's {name} is None; give it, or choose another layer"
        )
    return values


class PNA(nn.Module):
    r"""h'_v = U [h_v ‖ s(d_v) · agg{ M [h_u ‖ h_v ‖ e_uv] }] for every scaler s and aggregator.

    Corso et al. 2020, arXiv 2004.05718. s(d) ∈ 1, log(d+1)/δ, δ/log(d+1). M is linear, so M [h_u ‖ h_v] =
    M₁ h_u + M₂ h_v and the second term moves out of the aggregators: no message is held edge by edge
    unless edges have features. Edge weights have no place in it and are refused.

    Args:
        num_in: width of h.
        num_out: width of h'.
        aggregators: of ``mean``, ``max``, ``min``, ``std``.
        delta: mean of log(d + 1) over the training nodes, d ≈ 2.1 for molecules.
        edge_features: the width of float edge features or the categories of each column; None ignores them.
    """

    def __init__(
        self,
        num_in: int,
        num_out: int,
        *,
        aggregators: Sequence[str] = ("mean", "max", "min", "std"),
        delta: float = 1.1,
        edge_features: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.aggregators, self.delta = list(aggregators), delta
        if wrong := set(self.aggregators) - {"mean", "max", "min", "std"}:
            raise ValueError(f"aggregators has {sorted(wrong)}, expected names of mean, max, min and std")
        self.source = Linear(num_in, num_in, bias=False)
        self.target = Linear(num_in, num_in)
        self.edge = None if edge_features is None else FeatureEncoder(edge_features, num_in)
        self.combine = Linear((3 * len(self.aggregators) + 1) * num_in, num_out)

    def forward(self, adjacency: Adjacency, x: Features) -> Tensor:
        """One round of messages."""
        if adjacency.weight is not None:
            raise ValueError("PNA takes no edge weights; drop edge_weight, or choose another layer")
        source, target = self.source(split(x)[0]), split(x)[1]
        reached = (adjacency.degree > 0).unsqueeze(1)
        shift = self.target(target) * reached  # a node without neighbours has no messages: 0, not the bias
        results = self._aggregate(adjacency, source)
        shifted = [r if name == "std" else r + shift for name, r in zip(self.aggregators, results)]
        m = torch.cat(shifted, dim=1) * reached
        degree = adjacency.degree.clamp(min=1).to(torch.promote_types(m.dtype, torch.float32)).unsqueeze(1)
        amplify = ((degree + 1).log() / self.delta).to(m.dtype)
        return self.combine(torch.cat([target, m, m * amplify, m / amplify], dim=1))

    def _aggregate(self, adjacency: Adjacency, source: Tensor) -> list[Tensor]:
        messages = None
        if self.edge is not None:
            messages = gather_src(adjacency, source) + self.edge(_required(adjacency.attr, "edge_attr"))
        return [reduce_messages(adjacency, source, messages, name) for name in self.aggregators]
