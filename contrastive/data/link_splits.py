"""Splits of links: what is held out is held out in both directions, with its negatives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from contrastive.data.link_table import Links, contains
from contrastive.errors import ContrastiveError

SplitKind = Literal["links", "pairs", "nodes"]
MAX_ROUNDS = 200  # of drawing again what was a link


class HeldOut(NamedTuple):
    """Links to predict, each with a pair that is no link of its relation.

    Attributes:
        positive: ``(M, 3)`` int64 links.
        negative: ``(M, 3)`` int64; row i has the relation of positive i. No two are equal.
    """

    positive: Tensor
    negative: Tensor


@dataclass(frozen=True, eq=False)
class LinkSplit:
    """Links parted into training, validation and test, and what training must not see.

    Attributes:
        links: all of them.
        train: ``(M, 3)`` int64, undirected links once.
        val: chooses hyper-parameters and the epoch.
        test: is scored once.
        hidden_triples: sorted int64 keys of the triples that training must not score: held-out links and
            held-out negatives alike.
        hidden_pairs: sorted int64 keys, u·N + v in both directions, of pairs that it must not score in any
            relation.
        hidden_nodes: ``(N,)`` bool, nodes that it must not score at all.
    """

    links: Links
    train: Tensor
    val: HeldOut
    test: HeldOut
    hidden_triples: Tensor
    hidden_pairs: Tensor
    hidden_nodes: Tensor

    @property
    def held_out(self) -> Tensor:
        """The links of validation and test, ``(M, 3)``, without their negatives."""
        return torch.cat([self.val.positive, self.test.positive])

    def is_hidden(self, triples: Tensor) -> Tensor:
        """Whether training must not score triples ``(…, 3)``."""
        head, _, tail = triples.unbind(-1)
        hidden = self.hidden_nodes[head] | self.hidden_nodes[tail]
        hidden |= contains(self.hidden_pairs, head * self.links.num_nodes + tail)
        return hidden | contains(self.hidden_triples, self.links.keys(triples))


def split_links(
    links: Links,
    kind: SplitKind = "links",
    *,
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    seed: int = 0,
) -> LinkSplit:
    """Part links into training, validation and test.

    Undirected links are whole: no part has the reverse of another's. Held-out negatives, one a held-out
    link, are drawn uniformly from the pairs that are no link of the relation, of the ends' types, and are
    hidden from training exactly as held-out links are: a model that has seen the test negatives as negatives
    looks far better than it is.

    Args:
        links: with undirected ones once.
        kind: ``links``, the same share of every relation (Zitnik et al. 2018); ``pairs``, a pair of nodes is
            in one part with all its relations, and the held-out negatives are of no training pair; ``nodes``,
            a held-out link has an end of which training sees no link, and so has its negative.
        val_fraction: share of the links, or of pairs or nodes.
        test_fraction: share of the links, or of pairs or nodes.
        seed: of the draws.

    Raises:
        ContrastiveError: fractions that leave nothing for training, a part that would be empty, or a relation
            with too few pairs that are not linked.
    """
    if not (val_fraction >= 0 and test_fraction >= 0 and val_fraction + test_fraction < 1):
        raise ContrastiveError(
            f"val_fraction is {val_fraction} and test_fraction {test_fraction}; expected 0 or more, and less "
            "than 1 together, for training has the rest"
        )
    generator = torch.Generator().manual_seed(seed)
    fractions = torch.tensor([val_fraction, test_fraction])
    part, allowed, hidden_nodes = _PARTS[kind](links, fractions, generator)
    sizes = part.bincount(minlength=3).tolist()
    if min(sizes) == 0:
        raise ContrastiveError(
            f"{len(part)} links split by {kind} give {sizes[0]} for training, {sizes[1]} for validation and "
            f"{sizes[2]} for test; raise val_fraction and test_fraction, or give more links"
        )
    taken = links.keys(links.triples)
    held = []
    for number in (1, 2):
        positive = links.triples[part == number]
        negative = _negatives(links, positive, taken, generator, partial(allowed, number))
        taken = torch.cat([taken, links.keys(negative)]).sort()[0]
        held.append(HeldOut(positive, negative))
    triples, pairs = _hidden(links, kind, held)
    val, test = held
    return LinkSplit(links, links.triples[part == 0], val, test, triples, pairs, hidden_nodes)


Allowed = Callable[[int, Tensor], Tensor]  # (part, triples): which can be held-out negatives of the part


def _by_link(links: Links, fractions: Tensor, generator: torch.Generator) -> tuple[Tensor, Allowed, Tensor]:
    """The same share of every relation, rounded down and one at least where there are three links."""
    relation = links.triples[:, 1]
    order = torch.rand(len(relation), generator=generator).argsort(stable=True)
    order = order[relation[order].argsort(stable=True)]  # relation by relation, within it at random
    counts = relation.bincount(minlength=links.num_relations)
    starts = counts.cumsum(0) - counts
    place = torch.arange(len(relation)) - starts[relation[order]]
    sizes = (counts.unsqueeze(1) * fractions.double() + 1e-9).floor().long()
    sizes = torch.where((counts >= 3).unsqueeze(1), sizes.clamp(min=1), 0)[relation[order]]
    part = torch.empty_like(relation)
    part[order] = (place < sizes.sum(1)).long() + ((place >= sizes[:, 0]) & (place < sizes.sum(1))).long()
    return part, lambda number, drawn: torch.ones(len(drawn), dtype=torch.bool), _no_node(links)


def _by_pair(links: Links, fractions: Tensor, generator: torch.Generator) -> tuple[Tensor, Allowed, Tensor]:
    """Pairs whole; else that a pair has other links in training would tell that it has this one."""
    pairs, place = _pair_keys(links, links.triples).unique(return_inverse=True)
    part_of_pair = _draw_parts(len(pairs), fractions, generator)
    training = pairs[part_of_pair == 0]

    def allowed(number: int, drawn: Tensor) -> Tensor:
        return ~contains(training, _pair_keys(links, drawn))

    return part_of_pair[place], allowed, _no_node(links)


def _by_node(links: Links, fractions: Tensor, generator: torch.Generator) -> tuple[Tensor, Allowed, Tensor]:
    """Nodes whole: a link is of the latest part of its two ends."""
    nodes = links.triples[:, [0, 2]].unique()
    part_of_node = torch.zeros(links.num_nodes, dtype=torch.int64)
    part_of_node[nodes] = _draw_parts(len(nodes), fractions, generator)

    def part_of(triples: Tensor) -> Tensor:
        return torch.maximum(part_of_node[triples[:, 0]], part_of_node[triples[:, 2]])

    return part_of(links.triples), lambda number, drawn: part_of(drawn) == number, part_of_node > 0


def _no_node(links: Links) -> Tensor:
    return torch.zeros(links.num_nodes, dtype=torch.bool)


_PARTS = {"links": _by_link, "pairs": _by_pair, "nodes": _by_node}


def _draw_parts(size: int, fractions: Tensor, generator: torch.Generator) -> Tensor:
    """``(size,)`` int64: 1 for validation, 2 for test, 0 for training."""
    val, test = (fractions.double() * size).round().long().tolist()
    part = torch.zeros(size, dtype=torch.int64)
    order = torch.randperm(size, generator=generator)
    part[order[:val]] = 1
    part[order[val : val + test]] = 2
    return part


def _pair_keys(links: Links, triples: Tensor) -> Tensor:
    """One int64 a pair of nodes, whatever its direction."""
    low, high = torch.minimum(triples[:, 0], triples[:, 2]), torch.maximum(triples[:, 0], triples[:, 2])
    return low * links.num_nodes + high


def _negatives(
    links: Links,
    positive: Tensor,
    taken: Tensor,
    generator: torch.Generator,
    allowed: Callable[[Tensor], Tensor],
) -> Tensor:
    """A pair a positive that is no link of its relation, drawn again until it is new.

    Args:
        links: all links.
        positive: ``(M, 3)``.
        taken: sorted keys of what must not be drawn.
        generator: of the draws.
        allowed: which triples can be drawn.
    """
    negative = positive.clone()
    missing = torch.arange(len(positive))
    drawn_before = taken[:0]
    for _ in range(MAX_ROUNDS):
        if not len(missing):
            return negative
        drawn = _draw_ends(links, positive[missing, 1], generator)
        keys = links.keys(drawn)
        possible = ((drawn[:, 0] != drawn[:, 2]) & links.fits(drawn) & allowed(drawn)).nonzero()[:, 0]
        own = keys[possible]
        good = possible[~(contains(taken, own) | contains(drawn_before, own))]
        ordered, place = keys[good].sort(stable=True)
        new = torch.ones_like(ordered, dtype=torch.bool)
        new[1:] = ordered[1:] != ordered[:-1]
        found = good[place[new]]  # of equal draws one counts
        negative[missing[found]] = drawn[found]
        drawn_before = torch.cat([drawn_before, keys[found]]).sort()[0]
        still = torch.ones_like(missing, dtype=torch.bool)
        still[found] = False
        missing = missing[still]
    relation = int(positive[missing[0], 1])
    raise ContrastiveError(
        f"relation {links.titles[relation]} has too few pairs that are not linked to draw one for each of "
        f"its held-out links; leave it out, or lower val_fraction and test_fraction"
    )


def _draw_ends(links: Links, relation: Tensor, generator: torch.Generator) -> Tensor:
    """Canonical triples of the given relations ``(M,)`` with uniform ends of the right types."""
    columns = []
    for pools in links.pools:
        sizes = torch.tensor([len(pool) for pool in pools])
        starts = sizes.cumsum(0) - sizes
        draw = torch.rand(len(relation), generator=generator, dtype=torch.float64)
        place = starts[relation] + (draw * sizes[relation]).long()
        columns.append(torch.cat(pools)[place])
    return links.canonical(torch.stack([columns[0], relation, columns[1]], dim=1))


def _hidden(links: Links, kind: SplitKind, held: list[HeldOut]) -> tuple[Tensor, Tensor]:
    """Sorted keys of the triples, and of the pairs, that training must not score."""
    everything = torch.cat([part for pair in held for part in pair])
    none = torch.empty(0, dtype=torch.int64)
    if kind == "pairs":
        head, _, tail = everything.T
        pairs = torch.cat([head * links.num_nodes + tail, tail * links.num_nodes + head])
        return none, pairs.unique()
    return (links.keys(everything).unique() if kind == "links" else none), none
