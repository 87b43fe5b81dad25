"""READOUT: from the features of the nodes to one row a graph."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from encoders.graph_batch import GraphBatch
from encoders.graph_layers import Linear, mlp
from encoders.message_passing import aggregate_edges, edge_softmax, gather_dst

ReadoutName = Literal["sum", "mean", "max", "attention", "set2set", "virtual_node"]


class Readout(nn.Module):
    """Σ_v h_v, the mean or the maximum over each graph; zeros for a graph without nodes.

    Args:
        reduce: ``sum``, ``mean`` or ``max``.

    Shape: ``(N, F)`` → ``(G, F)``.
    """

    def __init__(self, reduce: Literal["sum", "mean", "max"] = "sum") -> None:
        super().__init__()
        self.reduce = reduce

    def forward(self, batch: GraphBatch, h: Tensor) -> Tensor:
        """Reduce ``h`` over the nodes of each graph."""
        return aggregate_edges(batch.membership, h, self.reduce)


class AttentionReadout(nn.Module):
    """Σ_v a_v h_v, a = softmax_v(wᵀ h_v + b) over each graph (Li et al. 2016, arXiv 1511.05493).

    Args:
        num_features: F.

    Shape: ``(N, F)`` → ``(G, F)``.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.gate = Linear(num_features, 1)

    def forward(self, batch: GraphBatch, h: Tensor) -> Tensor:
        """Weigh ``h`` over the nodes of each graph."""
        attention = edge_softmax(batch.membership, self.gate(h))
        return aggregate_edges(batch.membership, attention * h)


class Set2Set(nn.Module):
    """[q ‖ Σ_v a_v h_v] after some steps of q = LSTM([q ‖ Σ a h]), a = softmax_v(qᵀ h_v).

    Vinyals et al. 2016, arXiv 1511.06391.

    Args:
        num_features: F.
        num_steps: of attention.

    Shape: ``(N, F)`` → ``(G, 2F)``.
    """

    def __init__(self, num_features: int, *, num_steps: int = 3) -> None:
        super().__init__()
        self.num_steps = num_steps
        self.lstm = nn.LSTMCell(2 * num_features, num_features)

    def forward(self, batch: GraphBatch, h: Tensor) -> Tensor:
        """Read the nodes of each graph ``num_steps`` times."""
        query = cell = h.new_zeros(batch.num_graphs, h.shape[1])
        result = h.new_zeros(batch.num_graphs, 2 * h.shape[1])
        for _ in range(self.num_steps):
            query, cell = self.lstm(result, (query, cell))
            scores = (gather_dst(batch.membership, query) * h).sum(1, keepdim=True)
            read = aggregate_edges(batch.membership, edge_softmax(batch.membership, scores) * h)
            result = torch.cat([query, read], dim=1)
        return result


class VirtualNode(nn.Module):
    """A node joined to every node of its graph: g ← g + MLP(g + Σ_v h_v), h_v ← h_v + g (Gilmer et al. 2017).

    arXiv 1704.01212. No batch norm inside, so that a batch of one graph trains too.

    Args:
        num_features: F.

    Shape: g ``(G, F)``, h ``(N, F)``.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.mlp = mlp(num_features, 2 * num_features, num_features)

    def spread(self, batch: GraphBatch, g: Tensor, h: Tensor) -> Tensor:
        """h_v + g for the nodes of each graph."""
        return h + gather_dst(batch.membership, g)

    def collect(self, batch: GraphBatch, g: Tensor, h: Tensor) -> Tensor:
        """The virtual nodes after reading their graphs."""
        return g + self.mlp(g + aggregate_edges(batch.membership, h))


def make_readout(name: ReadoutName, num_features: int) -> tuple[nn.Module, int]:
    """The readout called ``name`` and the width of what it returns; a virtual node is its own readout."""
    if name == "attention":
        return AttentionReadout(num_features), num_features
    if name == "set2set":
        return Set2Set(num_features), 2 * num_features
    if name in ("sum", "mean", "max"):
        return Readout(name), num_features  # type: ignore[arg-type]
    if name == "virtual_node":
        return nn.Identity(), num_features
    raise ValueError(f"readout {name!r}: expected sum, mean, max, attention, set2set or virtual_node")
