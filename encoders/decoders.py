"""Decoders of links: from two nodes' features and a relation to a score.

All but the MLP are a product of a query, made of head and relation, with a key, made of the tail: one matrix
product scores a query against every node.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Decoder(nn.Module):
    """score(h, r, t) = query(h, r) · key(t).

    Attributes:
        symmetric: whether score(h, r, t) = score(t, r, h).
    """

    symmetric = False

    def query(self, head: Tensor, relation: Tensor) -> Tensor:
        """``(Q, K)`` of the heads ``(Q, D)`` and relations ``(Q,)`` int64."""
        raise NotImplementedError

    def key(self, tail: Tensor) -> Tensor:
        """``(N, K)`` of the tails ``(N, D)``."""
        return tail

    def forward(self, head: Tensor, relation: Tensor, tail: Tensor) -> Tensor:
        """Scores ``(M,)`` of M triples: heads ``(M, D)``, relations ``(M,)`` int64, tails ``(M, D)``."""
        return (self.query(head, relation) * self.key(tail)).sum(dim=1)

    def tails(self, head: Tensor, relation: Tensor, tail: Tensor) -> Tensor:
        """Scores ``(Q, N)`` of Q queries against N tails."""
        return self.query(head, relation) @ self.key(tail).T


class Dot(Decoder):
    """h · t, whatever the relation.

    Args:
        num_features: D, width of the nodes' features.
        num_relations: R.
    """

    symmetric = True

    def __init__(self, num_features: int, num_relations: int) -> None:
        super().__init__()

    def query(self, head: Tensor, relation: Tensor) -> Tensor:
        """The head itself."""
        return head


class Bilinear(Decoder):
    """hᵀ M_r t, RESCAL (Nickel et al. 2011); ``symmetric`` takes (M_r + M_rᵀ)/2 for M_r.

    Args:
        num_features: D.
        num_relations: R.
        symmetric: whether score(h, r, t) = score(t, r, h).
    """

    def __init__(self, num_features: int, num_relations: int, *, symmetric: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_relations, num_features, num_features) / num_features)
        self.symmetric = symmetric

    def query(self, head: Tensor, relation: Tensor) -> Tensor:
        """hᵀ M_r, a relation at a time: no (Q, D, D) tensor is made."""
        order = relation.argsort()
        found, counts = relation[order].unique_consecutive(return_counts=True)
        parts = []
        for r, rows in zip(found.tolist(), order.split(counts.tolist())):
            matrix = self.weight[r]
            matrix = (matrix + matrix.T) / 2 if self.symmetric else matrix
            parts.append(head[rows] @ matrix)
        return torch.cat(parts)[order.argsort()] if parts else head


class DistMult(Decoder):
    """Σ_k h_k r_k t_k, symmetric (Yang et al. 2015, arXiv 1412.6575).

    Args:
        num_features: D.
        num_relations: R.
    """

    symmetric = True

    def __init__(self, num_features: int, num_relations: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_relations, num_features) * num_features**-0.5)

    def query(self, head: Tensor, relation: Tensor) -> Tensor:
        """h ∘ r."""
        return head * self.weight[relation]


class DEDICOM(Decoder):
    """hᵀ D_r R D_r t: diagonals D_r a relation, one matrix R for all (Decagon's, arXiv 1802.00543).

    Args:
        num_features: D.
        num_relations: number of relations.
        symmetric: whether score(h, r, t) = score(t, r, h): (R + Rᵀ)/2 stands for R.
    """

    def __init__(self, num_features: int, num_relations: int, *, symmetric: bool = False) -> None:
        super().__init__()
        self.diagonal = nn.Parameter(1 + 0.1 * torch.randn(num_relations, num_features))
        self.weight = nn.Parameter(torch.randn(num_features, num_features) / num_features)
        self.symmetric = symmetric

    def query(self, head: Tensor, relation: Tensor) -> Tensor:
        """hᵀ D_r R D_r."""
        diagonal = self.diagonal[relation]
        weight = (self.weight + self.weight.T) / 2 if self.symmetric else self.weight
        return ((head * diagonal) @ weight) * diagonal


class _OfHalves(Decoder):
    """A decoder that takes features as two halves, with one weight for both where it is symmetric."""

    def __init__(self, num_features: int, num_relations: int, *, symmetric: bool = False) -> None:
        super().__init__()
        if num_features % 2:
            raise ValueError(f"{type(self).__name__} needs an even number of features, got {num_features}")
        width = num_features // 2 if symmetric else num_features
        self.weight = nn.Parameter(torch.randn(num_relations, width) * num_features**-0.5)
        self.symmetric = symmetric


class SimplE(_OfHalves):
    """(h_H · r · t_T + t_H · r′ · h_T)/2 (Kazemi and Poole 2018, arXiv 1802.04868).

    A node's features are two halves, what it is as a head (H) and as a tail (T); r′ is the inverse of r.
    ``symmetric`` takes r for r′, and the score is that of both directions.

    Args:
        num_features: D, even.
        num_relations: R.
        symmetric: whether score(h, r, t) = score(t, r, h).
    """

    def query(self, head: Tensor, relation: Tensor) -> Tensor:
        """[r′ ∘ h_T, r ∘ h_H]/2, whose partner is [t_H, t_T]."""
        weight = self.weight[relation] / 2
        forward, inverse = (weight, weight) if self.symmetric else weight.chunk(2, dim=1)
        as_head, as_tail = head.chunk(2, dim=1)
        return torch.cat([inverse * as_tail, forward * as_head], dim=1)


class ComplEx(_OfHalves):
    """Re Σ_k h_k r_k conj(t_k) of complex vectors (Trouillon et al. 2016, arXiv 1606.06357).

    A node's features are real parts, then imaginary ones. ``symmetric`` takes real r, with which it is a
    DistMult of twice the width.

    Args:
        num_features: D, even.
        num_relations: R.
        symmetric: whether score(h, r, t) = score(t, r, h).
    """

    def query(self, head: Tensor, relation: Tensor) -> Tensor:
        """Real and imaginary part of h r."""
        real, imaginary = head.chunk(2, dim=1)
        weight = self.weight[relation]
        if self.symmetric:
            return torch.cat([real * weight, imaginary * weight], dim=1)
        a, b = weight.chunk(2, dim=1)
        return torch.cat([real * a - imaginary * b, real * b + imaginary * a], dim=1)


class MLPDecoder(nn.Module):
    """w · ReLU(A [h ∘ t, |h − t|] + relation's embedding) for ``symmetric``, else of [h, t].

    Args:
        num_features: D.
        num_relations: R.
        num_hidden: width of the hidden layer.
        symmetric: whether score(h, r, t) = score(t, r, h).
    """

    def __init__(
        self, num_features: int, num_relations: int, *, num_hidden: int = 128, symmetric: bool = False
    ) -> None:
        super().__init__()
        self.pair = nn.Linear(2 * num_features, num_hidden)
        self.relation = nn.Parameter(torch.randn(num_relations, num_hidden) * 0.1)
        self.out = nn.Linear(num_hidden, 1)
        self.symmetric = symmetric

    def forward(self, head: Tensor, relation: Tensor, tail: Tensor) -> Tensor:
        """Scores ``(M,)`` of M triples: heads ``(M, D)``, relations ``(M,)`` int64, tails ``(M, D)``."""
        pair = [head * tail, (head - tail).abs()] if self.symmetric else [head, tail]
        hidden = self.pair(torch.cat(pair, dim=-1)) + self.relation[relation]
        return self.out(hidden.relu()).squeeze(-1)

    def tails(self, head: Tensor, relation: Tensor, tail: Tensor) -> Tensor:
        """Scores ``(Q, N)`` of Q queries against N tails, some queries at a time."""
        step = max(1, 2**22 // max(1, len(tail) * self.pair.in_features))
        parts = []
        for h, r in zip(head.split(step), relation.split(step)):
            every = (len(h), len(tail), tail.shape[1])
            parts.append(self(h.unsqueeze(1).expand(every), r.unsqueeze(1), tail.expand(every)))
        return torch.cat(parts)
