"""Queries of links for training: corrupted triples, or a head and a relation against every tail."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from augmentations.random import hash64
from contrastive.data import Batch
from contrastive.data.link_evidence import Evidence
from contrastive.data.link_splits import LinkSplit
from contrastive.data.link_table import Links, contains

QueryKind = Literal["tails", "triples"]
Sampling = Literal["uniform", "degree"]
Corruption = Literal["end", "both"]
ROUNDS = 8  # of drawing a negative again; what is still no negative then does not count


class LinkQueries(NamedTuple):
    """Queries with their candidates; a candidate that is neither positive nor negative does not count.

    Attributes:
        positive: ``(Q, K)`` bool, training links.
        negative: ``(Q, K)`` bool.
        triples: ``(Q, K, 3)`` int64 candidates, the first the link; None where a query is (head, relation).
        head: ``(Q,)`` int64, or None.
        relation: ``(Q,)`` int64, or None.
        tail: ``(K,)`` int64, the tails that all queries share, or None.
        evidence: ``(Q, K, F)`` float, of the triples, or None.
    """

    positive: Tensor
    negative: Tensor
    triples: Tensor | None = None
    head: Tensor | None = None
    relation: Tensor | None = None
    tail: Tensor | None = None
    evidence: Tensor | None = None


class TailQueries:
    """(head, relation) against every node that can be a tail: one matrix product scores them all.

    Every (head, relation) that has a training link is a query; an undirected link makes two. Held-out links
    and held-out negatives are hidden alike: neither positive nor negative.
    """

    def __init__(self, split: LinkSplit) -> None:
        links = split.links
        self.split, n = split, links.num_nodes
        self.tail = torch.cat(links.pools[1]).unique()
        place = torch.full((n,), -1)
        place[self.tail] = torch.arange(len(self.tail))
        self.place, width = place, len(self.tail)
        train, hidden = (
            links.both_directions(t) for t in (split.train, _triples_of(links, split.hidden_triples))
        )
        self.rows, self.hidden = (
            _Rows(((t[:, 1] * n + t[:, 0]) * width + place[t[:, 2]]).sort()[0], width)
            for t in (train, hidden)
        )
        head, tail = split.hidden_pairs // n, place[split.hidden_pairs % n]
        self.hidden_pairs = _Rows((head * width + tail)[tail >= 0].sort()[0], width)
        self.queries = (self.rows.keys // width).unique_consecutive()
        self.several_types = len(links.node_type[self.tail].unique()) > 1

    def __len__(self) -> int:
        return len(self.queries)

    def batch(self, rows: Tensor, generator: torch.Generator) -> LinkQueries:
        """The queries with the given numbers."""
        query, links = self.queries[rows], self.split.links
        relation, head = query // links.num_nodes, query % links.num_nodes
        positive = self.rows.mask(query)
        hidden = self.hidden.mask(query) | self.hidden_pairs.mask(head) | self.split.hidden_nodes[self.tail]
        if self.several_types:
            hidden |= ~links.type_pairs[relation, links.node_type[head]][:, links.node_type[self.tail]]
        own = self.place[head]
        hidden[torch.arange(len(head))[own >= 0], own[own >= 0]] = True  # nothing is linked to itself
        return LinkQueries(positive, ~(positive | hidden), head=head, relation=relation, tail=self.tail)


class TripleQueries:
    """A training link against corruptions of it, that is, with another head or another tail.

    Args:
        split: the links.
        num_negatives: corruptions of a link; with ``end`` every second one has another tail, the others
            another head.
        sampling: nodes are drawn uniformly, or by degree to the power ¾ (Mikolov et al. 2013, arXiv
            1310.4546).
        corruption: one ``end``, or ``both``.
        filtered: whether a corruption that is a training link does not count.
        evidence: of every triple. The corruptions are then drawn once, not every epoch, with their evidence.
        seed: of the corruptions that are drawn once.
    """

    def __init__(
        self,
        split: LinkSplit,
        *,
        num_negatives: int,
        sampling: Sampling,
        corruption: Corruption,
        filtered: bool,
        evidence: Evidence | None,
        seed: int,
    ) -> None:
        self.split, self.num_negatives, self.filtered = split, num_negatives, filtered
        self.corruption = corruption
        links = split.links
        self.keys = links.keys(split.train).sort()[0]
        degree = links.both_directions(split.train)
        self.pools = [
            _Pools(
                pools, degree[:, column].bincount(minlength=links.num_nodes) if sampling == "degree" else None
            )
            for pools, column in zip(links.pools, (0, 2))
        ]
        self.fixed: tuple[Tensor, Tensor] | None = None
        if evidence is not None:
            triples, negative = self._corrupt(split.train, torch.Generator().manual_seed(seed))
            self.fixed = triples.int(), negative
            self.evidence = torch.cat([evidence(part).half() for part in triples.split(2**19)])

    def __len__(self) -> int:
        return len(self.split.train)

    def batch(self, rows: Tensor, generator: torch.Generator) -> LinkQueries:
        """The links with the given numbers, and their corruptions."""
        evidence = None
        if self.fixed is None:
            triples, negative = self._corrupt(self.split.train[rows], generator)
        else:
            triples, negative = self.fixed[0][rows].long(), self.fixed[1][rows]
            evidence = self.evidence[rows].float()
        positive = torch.zeros_like(negative)
        positive[:, 0] = True
        return LinkQueries(positive, negative, triples=triples, evidence=evidence)

    def _corrupt(self, links: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """``(Q, 1 + K, 3)`` triples, and which are negatives."""
        triples = links.unsqueeze(1).repeat(1, 1 + self.num_negatives, 1)
        negative = torch.zeros(triples.shape[:2], dtype=torch.bool)
        missing = torch.ones_like(negative)
        missing[:, 0] = False
        for _ in range(ROUNDS):
            row, column = missing.nonzero(as_tuple=True)
            if not len(row):
                break
            drawn = links[row]
            for side, pools in zip((0, 2), self.pools):
                replaced = column % 2 == side // 2 if self.corruption == "end" else column > 0
                drawn[replaced, side] = pools.draw(drawn[replaced, 1], generator)
            good = (drawn[:, 0] != drawn[:, 2]) & ~self.split.is_hidden(drawn)
            good &= self.split.links.fits(drawn)
            if self.filtered:
                good &= ~contains(self.keys, self.split.links.keys(drawn))
            triples[row[good], column[good]] = drawn[good]
            missing[row[good], column[good]] = False
            negative[row[good], column[good]] = True
        return triples, negative


class _Pools:
    """Nodes to draw from, a pool a relation."""

    def __init__(self, pools: list[Tensor], degree: Tensor | None) -> None:
        self.nodes, self.sizes = torch.cat(pools), torch.tensor([len(pool) for pool in pools])
        self.starts = self.sizes.cumsum(0) - self.sizes
        self.mass: Tensor | None = None
        if degree is not None:
            weight = degree[self.nodes].double() ** 0.75
            self.mass = torch.cat([weight.new_zeros(1), weight.cumsum(0)])

    def draw(self, relation: Tensor, generator: torch.Generator) -> Tensor:
        """A node for each relation ``(M,)``."""
        u = torch.rand(len(relation), generator=generator, dtype=torch.float64)
        start, size = self.starts[relation], self.sizes[relation]
        if self.mass is None:
            return self.nodes[start + (u * size).long()]
        low, high = self.mass[start], self.mass[start + size]
        place = torch.searchsorted(self.mass, low + u * (high - low), right=True) - 1
        return self.nodes[torch.minimum(torch.maximum(place, start), start + size - 1)]


class _Rows:
    """A sparse bool matrix as sorted keys, row · width + column."""

    def __init__(self, keys: Tensor, width: int) -> None:
        self.keys, self.width = keys, width

    def mask(self, rows: Tensor) -> Tensor:
        """Some rows, dense: ``(Q, width)`` bool."""
        out = torch.zeros(len(rows), self.width, dtype=torch.bool)
        if not len(self.keys):
            return out
        first = torch.searchsorted(self.keys, rows * self.width)
        counts = torch.searchsorted(self.keys, (rows + 1) * self.width) - first
        row = torch.arange(len(rows)).repeat_interleave(counts)
        offsets = torch.arange(len(row)) - (counts.cumsum(0) - counts)[row]
        out[row, self.keys[first[row] + offsets] % self.width] = True
        return out


def _triples_of(links: Links, keys: Tensor) -> Tensor:
    """The triples that `Links.keys` made these keys of."""
    n = links.num_nodes
    return torch.stack([keys // n % n, keys // (n * n), keys % n], dim=1)


class LinkPasses(Dataset):
    """Pass p over the queries: a batch of an order, and of negatives, that follow from (seed, p) alone."""

    def __init__(
        self,
        queries: TailQueries | TripleQueries,
        *,
        batch_size: int,
        steps: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.queries, self.batch_size, self.steps, self.seed = queries, batch_size, steps, seed
        self.rank, self.world_size = rank, world_size
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))

    def __len__(self) -> int:
        return 2**62  # the sampler says which passes make an epoch

    def __getitems__(self, passes: list[int]) -> Batch:
        (number,) = passes
        epoch, step = divmod(number, self.steps)
        if self._order[0] != epoch:
            generator = torch.Generator().manual_seed(int(hash64(torch.tensor(self.seed)) ^ epoch))
            self._order = epoch, torch.randperm(len(self.queries), generator=generator)
        start = (step * self.world_size + self.rank) * self.batch_size
        rows = self._order[1][start : start + self.batch_size]
        seed = int(hash64(torch.tensor(self.seed + 1)) ^ (number * self.world_size + self.rank))
        return Batch(self.queries.batch(rows, torch.Generator().manual_seed(seed)), None, rows)
