"""The neural graph fingerprint (Duvenaud et al. 2015, arXiv 1509.09292)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from encoders.feature_encoder import FeatureEncoder, Linear
from encoders.graph_batch import GraphBatch
from encoders.message_passing import aggregate, aggregate_edges
from encoders.molecules import categories
from encoders.readout import Readout


class NeuralFingerprint(nn.Module):
    r"""A differentiable circular fingerprint: each atom of each radius softly sets one position.

    hˡ_v = relu(W_{l deg(v)} (hˡ⁻¹_v + Σ_u (hˡ⁻¹_u + U e_uv)) + b); f = Σ_l Σ_v softmax(W_l hˡ_v), l = 0 … L.
    The paper's activation is tanh or relu.

    Args:
        node_features: the width of float ``x``, or the categories of each integer column; ``atoms`` is what
            ``GraphBatch.from_smiles`` gives.
        edge_features: the same for ``edge_attr``; ``bonds`` is what ``from_smiles`` gives; None ignores it.
        num_hidden: width of h.
        num_layers: L, the radius.
        num_features: length of the fingerprint.
        max_degree: atoms with more neighbours share the matrix of this degree.
    """

    takes_graphs = True

    def __init__(
        self,
        *,
        node_features: int | list[int] | Literal["atoms"] = "atoms",
        edge_features: int | list[int] | Literal["bonds"] | None = "bonds",
        num_hidden: int = 128,
        num_layers: int = 3,
        num_features: int = 512,
        max_degree: int = 5,
    ) -> None:
        super().__init__()
        self.num_features, self.num_layers, self.max_degree = num_features, num_layers, max_degree
        self.embed = FeatureEncoder(categories(node_features), num_hidden)
        self.edge = None if edge_features is None else FeatureEncoder(categories(edge_features), num_hidden)
        count = num_layers * (max_degree + 1)
        self.hidden = nn.ModuleList(Linear(num_hidden, num_hidden) for _ in range(count))
        self.write = nn.ModuleList(Linear(num_hidden, num_features) for _ in range(num_layers + 1))
        self.readout = Readout("sum")

    def forward(self, batch: GraphBatch) -> Tensor:
        """Fingerprints of the graphs, ``(num_graphs, num_features)``."""
        return self.readout(batch, self.nodes(batch))

    def nodes(self, batch: GraphBatch) -> Tensor:
        """What each node writes, ``(num_nodes, num_features)``, summed over the radii."""
        h = self.embed(batch.x)
        bonds: Tensor | float = 0.0
        if self.edge is not None:
            if batch.edge_attr is None:
                raise ValueError(
                    "the fingerprint needs edge_attr and the batch's is None; set edge_features to null"
                )
            bonds = aggregate_edges(batch.adjacency, self.edge(batch.edge_attr))
        written = torch.softmax(self.write[0](h), dim=1)
        for i in range(self.num_layers):
            h = torch.relu(self._by_degree(i, batch, h + aggregate(batch.adjacency, h) + bonds))
            written = written + torch.softmax(self.write[i + 1](h), dim=1)
        return written

    def _by_degree(self, layer: int, batch: GraphBatch, h: Tensor) -> Tensor:
        degree = batch.adjacency.degree.clamp(max=self.max_degree)
        out = torch.zeros_like(h)
        for d in range(self.max_degree + 1):
            nodes = (degree == d).nonzero().squeeze(1)
            mapped = self.hidden[layer * (self.max_degree + 1) + d](h[nodes])
            out = out.index_put((nodes,), mapped.to(out.dtype))  # shorter under autocast
        return out
