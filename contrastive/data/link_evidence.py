"""What the training links say about a triple, in closed form: no step of training, and each link left out."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from contrastive.data.link_table import Links, contains
from contrastive.errors import ContrastiveError
from encoders.adjacency import Adjacency
from encoders.message_passing import aggregate

EvidenceKind = Literal["none", "ends", "all"]
NUM_FEATURES = {"none": 0, "ends": 6, "all": 8}
MAX_NODES = 8000  # the node's similarities are a dense matrix, and its inverse is taken


class Evidence:
    """Features of any triple from the training links, as if the triple itself were not among them.

    EASE (Steck 2019, arXiv 1905.03375) is the linear autoencoder of a binary matrix X with a diagonal of
    zeros, in closed form: B = I − P/diag(P), P = (XᵀWX + λI)⁻¹; row x says x·B_j of column j, without x_j.
    Here it is taken of the typed graph in its ways of being a matrix:

    - rows (relation, head) over tails, and for directed links rows (relation, tail) over heads: whom else
      the head has this relation with. W is 1/√(links of the row), which keeps hubs from ruling.
    - rows (head, tail) over relations: which other relations the pair has.

    With them go the logarithms of how many links the pair, and each end in this relation and in all, has.
    Where a relation is undirected the features of both ends are sorted, so that both directions agree. λ is
    ``ridge`` times the mean diagonal of XᵀWX.

    Args:
        links: nodes and relations.
        train: ``(M, 3)`` int64 training links, undirected ones once.
        kind: ``all``, or ``ends`` without what is known of the pair, for the prediction of unseen pairs.
        ridge: > 0.

    Raises:
        ContrastiveError: the links are between more than 8,000 nodes.
    """

    def __init__(
        self, links: Links, train: Tensor, *, kind: EvidenceKind = "all", ridge: float = 0.05
    ) -> None:
        self.links, self.kind = links, kind
        self.num_features = NUM_FEATURES[kind]
        both = links.both_directions(train)
        self.used = both[:, [0, 2]].unique()
        if len(self.used) > MAX_NODES:
            raise ContrastiveError(
                f"evidence is for links between {MAX_NODES} nodes at most and these are between "
                f"{len(self.used)}; set data.init_args.evidence to none"
            )
        self.place = torch.zeros(links.num_nodes, dtype=torch.int64)  # unused nodes have no link to count
        self.place[self.used] = torch.arange(len(self.used))
        self.is_used = torch.zeros(links.num_nodes, dtype=torch.bool)
        self.is_used[self.used] = True
        self.keys = links.keys(train).sort()[0]
        self.forward = _Side(both, self.place, len(self.used), links.num_relations, ridge)
        self.backward = (
            self.forward
            if bool(links.undirected.all())
            else _Side(both.flip(1), self.place, len(self.used), links.num_relations, ridge)
        )
        self.degree = torch.stack([both[:, c].bincount(minlength=links.num_nodes) for c in (0, 2)])
        if kind == "all":
            self._relations_of_pairs(train, ridge)

    def _relations_of_pairs(self, train: Tensor, ridge: float) -> None:
        n, r = self.links.num_nodes, self.links.num_relations
        head, relation, tail = self.links.canonical(train).unbind(1)
        self.pairs, row = (head * n + tail).unique(return_inverse=True)
        order = row.argsort(stable=True)
        self.relations_of_pair = row.bincount()
        weights = _ease(row.numpy(), relation.numpy(), (len(self.pairs), r), ridge, None)
        edges = Adjacency(relation[order], row[order], r, len(self.pairs))
        self.pair_scores = aggregate(edges, weights).half()  # (pairs, R): halves the largest tensor here

    def __call__(self, triples: Tensor) -> Tensor:
        """``(…, 3)`` int64 triples to ``(…, F)`` float32 features, a relation at a time."""
        flat = self.links.canonical(triples.reshape(-1, 3))
        out = torch.empty(len(flat), self.num_features)
        order = flat[:, 1].argsort(stable=True)
        relations, counts = flat[order, 1].unique_consecutive(return_counts=True)
        for relation, rows in zip(relations.tolist(), order.split(counts.tolist())):
            out[rows] = self._of_relation(relation, flat[rows])
        return out.view(*triples.shape[:-1], self.num_features)

    def _of_relation(self, relation: int, triples: Tensor) -> Tensor:
        head, tail = triples[:, 0], triples[:, 2]
        h, t = self.place[head], self.place[tail]
        own = contains(self.keys, self.links.keys(triples)).float()
        known = (self.is_used[head] & self.is_used[tail]).float()
        undirected = bool(self.links.undirected[relation])
        forward, heads = self.forward.relation(relation)
        backward, tails = (forward, heads) if undirected else self.backward.relation(relation)
        ends = [
            torch.stack([forward[h, t], backward[t, h]], 1) * known.unsqueeze(1),
            (torch.stack([heads[h], tails[t]], 1) * known.unsqueeze(1) - own.unsqueeze(1))
            .clamp(min=0)
            .log1p(),
            (torch.stack([self.degree[0][head], self.degree[1][tail]], 1) - own.unsqueeze(1)).log1p(),
        ]
        if undirected:
            ends = [part.sort(dim=1)[0] for part in ends]
        if self.kind == "all":
            ends.append(self._of_pair(head, relation, tail, own))
        return torch.cat(ends, dim=1)

    def _of_pair(self, head: Tensor, relation: int, tail: Tensor, own: Tensor) -> Tensor:
        keys = head * self.links.num_nodes + tail
        place = torch.searchsorted(self.pairs, keys).clamp_(max=len(self.pairs) - 1)
        known = (self.pairs[place] == keys).float()
        count = (self.relations_of_pair[place] * known - own).log1p()
        return torch.stack([self.pair_scores[place, relation].float() * known, count], dim=1)


class _Side:
    """One way of seeing the typed links as rows: (relation, first node) over the nodes at the other end."""

    def __init__(self, both: Tensor, place: Tensor, size: int, num_relations: int, ridge: float) -> None:
        row = both[:, 1] * size + place[both[:, 0]]
        order = row.argsort(stable=True)
        self.size = size
        self.row, self.column = row[order], place[both[order, 2]]
        self.starts = torch.searchsorted(self.row, torch.arange(num_relations + 1) * size).tolist()
        links = self.row.bincount(minlength=num_relations * size)
        weight = links.clamp(min=1).double().rsqrt().numpy()
        shape = (num_relations * size, size)
        self.weights = _ease(self.row.numpy(), self.column.numpy(), shape, ridge, weight)

    def relation(self, relation: int) -> tuple[Tensor, Tensor]:
        """Scores ``(size, size)`` of a relation, and the links ``(size,)`` of each of its rows."""
        part = slice(self.starts[relation], self.starts[relation + 1])
        rows = self.row[part] - relation * self.size
        edges = Adjacency(self.column[part], rows, self.size, self.size)
        return aggregate(edges, self.weights), edges.degree.float()


def _ease(
    row: np.ndarray, column: np.ndarray, shape: tuple[int, int], ridge: float, weight: np.ndarray | None
) -> Tensor:
    """B ``(C, C)`` float32 of a binary matrix given by its entries, with rows weighted by ``weight``."""
    values = np.ones(len(row)) if weight is None else np.sqrt(weight[row])
    matrix = sparse.csr_matrix((values, (row, column)), shape=shape)
    gram = (matrix.T @ matrix).toarray()
    gram[np.diag_indices_from(gram)] += ridge * max(float(gram.trace()) / len(gram), 1e-12)
    inverse = np.linalg.inv(gram)
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return torch.from_numpy(weights.astype(np.float32))
