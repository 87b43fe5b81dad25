"""Networks that score links: features of every node, a decoder, and evidence where there is any."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from encoders.graph_batch import GraphBatch
from encoders.relational import RGCN


@dataclass(frozen=True, eq=False)
class LinkGraph:
    """What an encoder of nodes is built for.

    Attributes:
        num_nodes: N.
        num_relations: R, of the links to predict.
        make_edges: builds the known links, those to predict and those of the context, as a graph of N nodes
            with ``edge_type``, and says how many types there are; only some encoders want it.
        features: ``(N, F)`` float of every node, zero where a node has none; or None.
    """

    num_nodes: int
    num_relations: int
    make_edges: Callable[[], tuple[GraphBatch, int]]
    features: Tensor | None = None


class NodeTable(nn.Module):
    """A free vector a node, the features' linear map, or the sum of both.

    Args:
        graph: the nodes.
        num_features: D.
        free: whether every node has a vector of its own; a node that training sees no link of has then
            nothing but chance in it, so give false for unseen nodes.
        num_hidden: width of a hidden layer between features and vector; None maps them linearly.

    Raises:
        ValueError: neither free vectors nor features.
    """

    def __init__(
        self, graph: LinkGraph, *, num_features: int = 256, free: bool = True, num_hidden: int | None = None
    ) -> None:
        super().__init__()
        if not free and graph.features is None:
            raise ValueError("free is false and there are no features; give data.init_args.features")
        self.num_features = num_features
        self.free = nn.Parameter(0.3 * torch.randn(graph.num_nodes, num_features)) if free else None
        self.map: nn.Module | None = None
        if graph.features is not None:
            self.register_buffer("features", graph.features)
            self.map = _mlp(graph.features.shape[1], num_hidden, num_features)

    def forward(self) -> Tensor:
        """Features of all nodes, ``(N, D)``."""
        parts = [] if self.free is None else [self.free]
        parts += [] if self.map is None else [self.map(self.features)]
        return parts[0] + parts[1] if len(parts) == 2 else parts[0]


def _mlp(width: int, num_hidden: int | None, num_features: int) -> nn.Module:
    if num_hidden is None:
        return nn.Linear(width, num_features)
    layers = (nn.Linear(width, num_hidden), nn.ReLU(), nn.Dropout(0.2), nn.Linear(num_hidden, num_features))
    return nn.Sequential(*layers)


class RelationalNodes(nn.Module):
    """R-GCN over the typed graph of known links and context (arXiv 1703.06103, 1802.00543).

    h⁰ is a `NodeTable`; hˡ = ReLU(RGCN(hˡ⁻¹)), the last without ReLU; the result is h⁰ + hᴸ.

    Args:
        graph: nodes and edges.
        num_features: D, of every layer.
        num_layers: L.
        num_bases: of the relations' matrices.
        free: see `NodeTable`.
    """

    def __init__(
        self,
        graph: LinkGraph,
        *,
        num_features: int = 64,
        num_layers: int = 2,
        num_bases: int = 4,
        free: bool = True,
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.nodes = NodeTable(graph, num_features=num_features, free=free)
        self.edges, num_types = graph.make_edges()
        self.layers = nn.ModuleList(
            RGCN(num_features, num_features, num_relations=num_types, num_bases=num_bases)
            for _ in range(num_layers)
        )

    def forward(self) -> Tensor:
        """Features of all nodes, ``(N, D)``."""
        start = h = self.nodes()
        if self.edges.device != h.device:
            self.edges = self.edges.to(h.device)
        for i, layer in enumerate(self.layers):
            h = layer(self.edges.adjacency, h if i == 0 else h.relu())
        return start + h


class EvidenceHead(nn.Module):
    """A score of what training knows about a triple: an MLP of its features and of the relation.

    Args:
        num_evidence: F.
        num_relations: R.
        num_hidden: width of the two hidden layers.
        num_relation: width of a relation's own vector.
    """

    def __init__(
        self, num_evidence: int, num_relations: int, *, num_hidden: int = 48, num_relation: int = 8
    ) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(num_evidence, affine=False, momentum=None)  # None: the mean of all batches
        self.relation = nn.Embedding(num_relations, num_relation)
        self.layers = nn.Sequential(
            nn.Linear(num_evidence + num_relation, num_hidden),
            nn.SiLU(),
            nn.Linear(num_hidden, num_hidden),
            nn.SiLU(),
            nn.Linear(num_hidden, 1),
        )

    def forward(self, evidence: Tensor, relation: Tensor) -> Tensor:
        """Scores ``(…,)`` of evidence ``(…, F)`` and relations ``(…,)`` int64."""
        flat = self.norm(evidence.flatten(0, -2)).view_as(evidence)
        return self.layers(torch.cat([flat, self.relation(relation)], dim=-1)).squeeze(-1)


class LinkModel(nn.Module):
    """score(u, r, v) = decoder(h_u, r, h_v) + b_r + b_u + b_v, and the evidence's score where there is any.

    σ(score) is a probability where it is trained with the binary cross-entropy.

    Args:
        graph: what is predicted on.
        encoder: called with the graph, gives the module of the nodes' features.
        decoder: called with D and R.
        num_evidence: F of the evidence features; 0 for none.
        dropout: of the nodes' features, the same for all pairs of a step.
    """

    def __init__(
        self,
        graph: LinkGraph,
        encoder: Callable[[LinkGraph], nn.Module],
        decoder: Callable[[int, int], nn.Module],
        *,
        num_evidence: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.encoder = encoder(graph)
        self.decoder = decoder(self.encoder.num_features, graph.num_relations)  # type: ignore[arg-type]
        self.relation_bias = nn.Parameter(torch.zeros(graph.num_relations))
        self.node_bias = nn.Parameter(torch.zeros(graph.num_nodes))
        self.evidence = EvidenceHead(num_evidence, graph.num_relations) if num_evidence else None
        self.dropout = nn.Dropout(dropout)
        # a node without links of its own in training keeps no bias either
        table = getattr(self.encoder, "nodes", self.encoder)
        self.node_bias.requires_grad_(getattr(table, "free", True) is not None)

    def nodes(self) -> Tensor:
        """Features of all nodes, ``(N, D)``, after dropout."""
        return self.dropout(self.encoder())

    def triples(self, h: Tensor, triples: Tensor, evidence: Tensor | None = None) -> Tensor:
        """Scores ``(…,)`` of triples ``(…, 3)`` with the nodes' features ``(N, D)``."""
        head, relation, tail = triples.reshape(-1, 3).unbind(1)
        score = self.decoder(h[head], relation, h[tail])
        score = score + self.relation_bias[relation] + self.node_bias[head] + self.node_bias[tail]
        score = score.view(triples.shape[:-1])
        return score if self.evidence is None else score + self.evidence(evidence, triples[..., 1])

    def tails(self, h: Tensor, head: Tensor, relation: Tensor, tail: Tensor) -> Tensor:
        """Scores ``(Q, K)`` of Q heads and relations against K tails, without evidence."""
        score = self.decoder.tails(h[head], relation, h[tail])  # type: ignore[operator]
        return (
            score + (self.relation_bias[relation] + self.node_bias[head]).unsqueeze(1) + self.node_bias[tail]
        )
