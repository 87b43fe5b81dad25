"""Queries of links for training: corrupted triples, or a head and a relation against every tail."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from augmentations.random import hash64
from contrastive.data import Batch
from contrastive.data.link_evidence import Evidence, EvidenceKind
from contrastive.data.link_files import Links, keep_relations, read_links
from contrastive.data.link_splits import LinkSplit, SplitKind, contains, split_links
from contrastive.data.loading import as_is
from contrastive.data.nodes import Passes
from contrastive.errors import ContrastiveError
from encoders.graph_batch import GraphBatch
from encoders.links import LinkGraph

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
        self.tail_type = torch.stack(
            [links.node_type[pool[0]] for pool in links.pools[1]]
        )  # of each relation

    def __len__(self) -> int:
        return len(self.queries)

    def batch(self, rows: Tensor, generator: torch.Generator) -> LinkQueries:
        """The queries with the given numbers."""
        query, links = self.queries[rows], self.split.links
        relation, head = query // links.num_nodes, query % links.num_nodes
        positive = self.rows.mask(query)
        hidden = self.hidden.mask(query) | self.hidden_pairs.mask(head) | self.split.hidden_nodes[self.tail]
        if bool((self.tail_type != self.tail_type[0]).any()):
            hidden |= links.node_type[self.tail] != self.tail_type[relation].unsqueeze(1)
        own = self.place[head]
        hidden[torch.arange(len(head))[own >= 0], own[own >= 0]] = True  # nothing is linked to itself
        return LinkQueries(positive, ~(positive | hidden), head=head, relation=relation, tail=self.tail)


class TripleQueries:
    """A training link against corruptions of it, that is, with another head or another tail.

    Args:
        split: the links.
        num_negatives: corruptions a link; with ``end`` the tail of every second one is replaced, else the head.
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


class LinkData(LightningDataModule):
    """Typed links to predict, in queries for training and held-out parts for evaluation.

    Set ``files`` to what ``read_links`` gave, and it is not read again.

    Args:
        source: a .csv or .tsv of ``head, relation, tail``, or several; or a folder of Decagon's files
            (``bio-decagon-combo.csv.gz`` and, for the context, ``-ppi`` and ``-targets``).
        context: files of known links that are not predicted, which an R-GCN sees.
        columns: other names of the columns, see ``contrastive.data.link_files.read_links``.
        types: types of heads and tails, as ``[user, item]``.
        undirected: whether (u, r, v) says (v, r, u); by default only for Decagon's drugs and proteins.
        min_value: rows with a smaller ``value`` are no links.
        min_links: relations with fewer links are left out.
        split: ``links``, ``pairs`` or ``nodes``; see ``contrastive.data.link_splits.split_links``.
        val_fraction: of the links, pairs or nodes.
        test_fraction: of the links, pairs or nodes.
        queries: ``tails``, a head and a relation against all tails at once, or ``triples``, links against
            corruptions of them.
        batch_size: queries a process takes a step.
        epoch_fraction: share of the queries that counts as an epoch.
        num_negatives: corruptions of a link, for ``triples``.
        sampling: of the corruptions, ``uniform`` or by ``degree`` to the power ¾.
        corruption: replace one ``end``, or ``both``.
        filtered: whether a corruption that is a training link does not count.
        evidence: features of triples from the training links in closed form, see
            ``contrastive.data.link_evidence.Evidence``: ``none``, ``ends`` or ``all``. For ``triples``.
        ridge: of the evidence.
        features: a .npz with ``names`` (nodes) and ``h``, one row a name, for the encoder.
        seed: of split, order and corruptions; taken from ``seed_everything``.
    """

    val = None  # no labelled samples for the online kNN

    def __init__(
        self,
        source: str | list[str],
        *,
        context: list[str] | None = None,
        columns: dict[str, str] | None = None,
        types: list[str] | None = None,
        undirected: bool | None = None,
        min_value: float | None = None,
        min_links: int = 1,
        split: SplitKind = "links",
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        queries: QueryKind = "tails",
        batch_size: int = 1024,
        epoch_fraction: float = 1.0,
        num_negatives: int = 2,
        sampling: Sampling = "uniform",
        corruption: Corruption = "end",
        filtered: bool = True,
        evidence: EvidenceKind = "none",
        ridge: float = 0.05,
        features: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if evidence != "none" and queries != "triples":
            raise ValueError("evidence is made for triples: set queries to triples")
        if evidence == "all" and split == "pairs":
            raise ValueError("an unseen pair has no evidence of its own: set evidence to ends")
        self.source, self.context, self.features_file = source, context, features
        self.reading = dict(columns=columns, types=types, undirected=undirected, min_value=min_value)
        self.min_links, self.split_kind = min_links, split
        self.fractions = dict(val_fraction=val_fraction, test_fraction=test_fraction)
        self.kind, self.batch_size, self.epoch_fraction = queries, batch_size, epoch_fraction
        self.negatives = dict(
            num_negatives=num_negatives, sampling=sampling, corruption=corruption, filtered=filtered
        )
        self.evidence_kind, self.ridge, self.seed = evidence, ridge, seed
        self.files: tuple[Links, Links] | None = None
        self.split: LinkSplit | None = None
        self.evidence: Evidence | None = None
        self.graph: LinkGraph | None = None
        self._queries: TailQueries | TripleQueries | None = None

    def setup(self, stage: str | None = None) -> None:
        """Read and split the links."""
        if self.split is not None:
            return
        if self.files is None:
            source, context = _decagon(self.source, self.context)
            self.files = read_links(source, context=context, **self.reading)  # type: ignore[arg-type]
        links, known = keep_relations(self.files[0], self.min_links), self.files[1]
        self.split = split_links(links, self.split_kind, **self.fractions, seed=self.seed)
        if self.evidence_kind != "none":
            self.evidence = Evidence(links, self.split.train, kind=self.evidence_kind, ridge=self.ridge)
        features = None if self.features_file is None else read_features(self.features_file, links)
        self.graph = LinkGraph(
            links.num_nodes, links.num_relations, partial(typed_edges, self.split, known), features
        )

    def train_dataloader(self) -> DataLoader:
        """Batches of queries."""
        assert self.split is not None and self.trainer is not None
        if self._queries is None:
            self._queries = (
                TailQueries(self.split)
                if self.kind == "tails"
                else TripleQueries(self.split, **self.negatives, evidence=self.evidence, seed=self.seed)  # type: ignore[arg-type]
            )
        share = self.batch_size * self.trainer.world_size
        steps = int(len(self._queries) * self.epoch_fraction) // share
        if steps < 1:
            raise ContrastiveError(
                f"{self.source} leaves {len(self._queries)} queries for training, fewer than one batch of "
                f"{self.batch_size} on {self.trainer.world_size} process(es); lower data.init_args.batch_size"
            )
        passes = LinkPasses(
            self._queries,
            batch_size=self.batch_size,
            steps=steps,
            seed=self.seed,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )
        return DataLoader(passes, batch_size=1, sampler=Passes(steps), collate_fn=as_is)


def read_features(file: str | Path, links: Links) -> Tensor:
    """Features of the nodes by name, ``(N, F)`` float32 with the mean 0 and the deviation 1 over those named.

    Nodes that the file does not name get zeros.

    Args:
        file: a .npz with ``names`` ``(M,)`` and ``h`` ``(M, F)``.
        links: the nodes.

    Raises:
        ContrastiveError: no such file, no such arrays, or no node named.
    """
    try:
        with np.load(Path(file).expanduser(), allow_pickle=False) as arrays:
            names, h = arrays["names"].astype(str).tolist(), torch.from_numpy(arrays["h"]).float()
    except (OSError, ValueError, KeyError) as error:
        raise ContrastiveError(f"{file} is no .npz with names (M,) and h (M, F) of nodes: {error}") from error
    place = {name: i for i, name in enumerate(names)}
    rows = torch.tensor([place.get(name, -1) for name in links.nodes])
    found = rows >= 0
    if len(names) != len(h) or not found.any():
        raise ContrastiveError(f"{file} has {len(h)} rows for {len(names)} names, of which none is a node")
    out = torch.zeros(links.num_nodes, h.shape[1])
    own = h[rows[found]]
    out[found] = (own - own.mean(dim=0)) / own.std(dim=0).clamp(min=1e-6)
    return out


def _decagon(source: str | list[str], context: list[str] | None) -> tuple[list[str], list[str]]:
    """A folder of Decagon's files is its drug pairs, with proteins and targets for the context."""
    sources = [source] if isinstance(source, str) else source
    folder = Path(sources[0]).expanduser()
    if len(sources) > 1 or not folder.is_dir():
        return sources, context or []
    found = {
        name: str(file)
        for name in ("combo", "ppi", "targets")
        for file in sorted(folder.glob(f"bio-decagon-{name}.csv*"))
    }
    if "combo" not in found:
        raise ContrastiveError(
            f"{folder} holds no bio-decagon-combo.csv.gz; give that folder, or a .csv of links"
        )
    rest = [found[name] for name in ("ppi", "targets") if name in found]
    return [found["combo"]], rest if context is None else context


def typed_edges(split: LinkSplit, known: Links) -> tuple[GraphBatch, int]:
    """Training links and context as a graph, and its number of edge types.

    A directed link is there a second time, as an edge of its relation's inverse.
    """
    parts, first = [], 0
    for links, triples in ((split.links, split.train), (known, known.triples)):
        inverse = triples[~links.undirected[triples[:, 1]]].flip(1) + torch.tensor(
            [0, links.num_relations, 0]
        )
        parts += [part + torch.tensor([0, first, 0]) for part in (links.both_directions(triples), inverse)]
        first += 2 * links.num_relations
    edges = torch.cat(parts)
    found, kinds = edges[:, 1].unique(return_inverse=True)
    nodes = torch.arange(split.links.num_nodes)
    empty = nodes.new_empty(0)
    bare = GraphBatch(
        src=empty,
        dst=empty,
        x=nodes.unsqueeze(1),
        ptr=torch.tensor([0, len(nodes)]),
        node_type=split.links.node_type,
    )
    return bare.with_edges(edges[:, 0], edges[:, 2], edge_type=kinds), len(found)
