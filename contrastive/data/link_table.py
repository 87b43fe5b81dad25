"""Typed links between typed nodes, and selections of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from contrastive.errors import ContrastiveError


@dataclass(frozen=True, eq=False)
class Links:
    """Typed links between typed nodes.

    An undirected link is held once, with head < tail.

    Attributes:
        nodes: N names, unique within a type.
        node_type: ``(N,)`` int64 into ``node_types``.
        node_types: names of the types.
        relations: R names.
        titles: R names for people; the relation's own where the file gives none.
        undirected: ``(R,)`` bool.
        triples: ``(M, 3)`` int64 of head, relation, tail; unique, ordered by relation, head, tail.
    """

    nodes: list[str]
    node_type: Tensor
    node_types: list[str]
    relations: list[str]
    titles: list[str]
    undirected: Tensor
    triples: Tensor

    @property
    def num_nodes(self) -> int:
        """N."""
        return len(self.nodes)

    @property
    def num_relations(self) -> int:
        """R."""
        return len(self.relations)

    @property
    def typed_nodes(self) -> list[tuple[str, str]]:
        """(type, name) of every node."""
        return [(self.node_types[t], name) for t, name in zip(self.node_type.tolist(), self.nodes)]

    def keys(self, triples: Tensor) -> Tensor:
        """One int64 a triple ``(…, 3)``, the same for both directions of an undirected link."""
        head, relation, tail = self.canonical(triples).unbind(-1)
        return (relation * self.num_nodes + head) * self.num_nodes + tail

    def canonical(self, triples: Tensor) -> Tensor:
        """Triples ``(…, 3)`` with head < tail where the relation is undirected."""
        head, relation, tail = triples.unbind(-1)
        turned = self.undirected[relation] & (head > tail)
        return torch.stack([torch.where(turned, tail, head), relation, torch.where(turned, head, tail)], -1)

    def both_directions(self, triples: Tensor) -> Tensor:
        """The triples, and behind them the undirected ones turned round."""
        return torch.cat([triples, triples[self.undirected[triples[:, 1]]].flip(1)])

    @cached_property
    def type_pairs(self) -> Tensor:
        """``(R, T, T)`` bool: the types of head and tail that a relation's links have."""
        head, relation, tail = self.both_directions(self.triples).unbind(1)
        found = torch.zeros(self.num_relations, len(self.node_types), len(self.node_types), dtype=torch.bool)
        found[relation, self.node_type[head], self.node_type[tail]] = True
        return found

    @cached_property
    def reversed_share(self) -> Tensor:
        """``(R,)`` float, of each relation's links between two nodes those whose reverse is a link too.

        NaN where it says nothing: of an undirected relation, and where no node is a head and a tail.
        """
        head, relation, tail = self.triples.unbind(1)
        between = ~self.undirected[relation] & (head != tail)
        head, relation, tail = self.triples[between].unbind(1)
        n = self.num_nodes
        heads = (relation * n + head).unique_consecutive()
        comparable = relation[contains(heads, relation * n + tail)]
        pairs = ((relation * n + head.minimum(tail)) * n + head.maximum(tail)).sort()[0]
        twice = pairs[1:][pairs[1:] == pairs[:-1]] // n**2  # the relations of links that are there both ways
        count, meet, both = (
            rows.bincount(minlength=self.num_relations) for rows in (relation, comparable, twice)
        )
        return torch.where(meet > 0, 2 * both / count, torch.nan)

    def fits(self, triples: Tensor) -> Tensor:
        """Whether triples ``(…, 3)`` have ends of types that links of their relation have."""
        head, relation, tail = triples.unbind(-1)
        return self.type_pairs[relation, self.node_type[head], self.node_type[tail]]

    @cached_property
    def pools(self) -> tuple[list[Tensor], list[Tensor]]:
        """For each relation, the nodes that can be heads, and tails, of its links: those of the ends' types
        that occur in any link, ascending."""
        seen = torch.zeros(self.num_nodes, dtype=torch.bool)
        seen[self.triples[:, [0, 2]].flatten()] = True
        of_types: dict[tuple[bool, ...], Tensor] = {}  # relations between the same types share a pool
        pools: tuple[list[Tensor], list[Tensor]] = ([], [])
        for pool, other in zip(pools, (2, 1)):
            for types in self.type_pairs.any(other).tolist():
                key = tuple(types)
                if key not in of_types:
                    of_types[key] = (seen & torch.tensor(types)[self.node_type]).nonzero()[:, 0]
                pool.append(of_types[key])
        return pools


def with_triples(links: Links, triples: Tensor) -> Links:
    """The same nodes and relations with other links, each once, in order."""
    keys = links.keys(triples).unique()
    n = links.num_nodes
    ordered = torch.stack([keys // n % n, keys // (n * n), keys % n], dim=1)
    return replace(links, triples=ordered)


def keep_relations(links: Links, min_links: int) -> Links:
    """The relations with at least ``min_links`` links, renumbered; all nodes stay.

    Raises:
        ContrastiveError: none has so many.
    """
    counts = links.triples[:, 1].bincount(minlength=links.num_relations)
    if counts.max() < min_links:
        raise ContrastiveError(
            f"no relation has {min_links} links, the largest has {int(counts.max())}; lower min_links"
        )
    return select_relations(links, counts >= min_links)


def select_relations(links: Links, keep: Tensor) -> Links:
    """The relations where ``keep`` (``(R,)`` bool) is true, renumbered, and all nodes."""
    kept = keep.nonzero()[:, 0]
    number = torch.full((links.num_relations,), -1)
    number[kept] = torch.arange(len(kept))
    triples = links.triples.clone()
    triples[:, 1] = number[triples[:, 1]]
    names, titles = ([values[i] for i in kept.tolist()] for values in (links.relations, links.titles))
    return replace(
        links,
        relations=names,
        titles=titles,
        undirected=links.undirected[kept],
        triples=triples[triples[:, 1] >= 0],
    )


def shortened(names: Sequence[str]) -> str:
    """The first names of many, for messages."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more relations" if len(names) > 3 else "")


def places(names: Sequence[Any], others: Sequence[Any]) -> Tensor:
    """``(len(others),)`` int64: where each of the others is among the names, -1 where it is not."""
    place = {name: i for i, name in enumerate(names)}
    return torch.tensor([place.get(name, -1) for name in others], dtype=torch.int64)


def contains(ordered: Tensor, keys: Tensor) -> Tensor:
    """Whether each key is among the ``ordered`` ones."""
    if not len(ordered):
        return torch.zeros_like(keys, dtype=torch.bool)
    place = torch.searchsorted(ordered, keys).clamp_(max=len(ordered) - 1)
    return ordered[place] == keys
