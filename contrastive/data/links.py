"""Typed links as a data module: read, split, and asked about in queries."""

from __future__ import annotations

import hashlib
import json
import logging
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from contrastive.data.epochs import EpochLoader
from contrastive.data.link_evidence import Evidence, EvidenceKind
from contrastive.data.link_features import read_features
from contrastive.data.link_files import read_links
from contrastive.data.link_queries import (
    Corruption,
    LinkPasses,
    QueryKind,
    Sampling,
    TailQueries,
    TripleQueries,
)
from contrastive.data.link_splits import LinkSplit, SplitKind, split_links
from contrastive.data.link_table import Links, contains, keep_relations, places, shortened
from contrastive.data.nodes import Passes
from contrastive.errors import ContrastiveError
from encoders.graph_batch import GraphBatch
from encoders.links import LinkGraph

log = logging.getLogger("contrastive")


class LinkData(LightningDataModule):
    """Typed links to predict, in queries for training and held-out parts for evaluation.

    Set ``files`` to what ``read_links`` gave, and it is not read again.

    Args:
        source: a .csv or .tsv of ``head, relation, tail``, or several; or a folder of Decagon's files
            (``bio-decagon-combo.csv.gz`` and, for the context, ``-ppi`` and ``-targets``).
        context: files of known links that are not predicted, which an R-GCN sees.
        columns: other names of the columns, see ``contrastive.data.link_files.read_links``.
        types: types of heads and tails of the source, as ``[user, item]``; a context has them in columns.
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
        features: a .npz with ``names`` (nodes) and ``h``, a row a name, see `read_features`.
        seed: of split, order and corruptions; ``pretrain`` takes it from ``seed_everything``.
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
        self.reading: dict[str, Any] = dict(
            columns=columns, types=types, undirected=undirected, min_value=min_value
        )
        self.min_links, self.split_kind = min_links, split
        self.fractions = dict(val_fraction=val_fraction, test_fraction=test_fraction)
        self.kind, self.batch_size, self.epoch_fraction = queries, batch_size, epoch_fraction
        self.negatives: dict[str, Any] = dict(
            num_negatives=num_negatives, sampling=sampling, corruption=corruption, filtered=filtered
        )
        self.evidence_kind, self.ridge, self.seed = evidence, ridge, seed
        self.files: tuple[Links, Links] | None = None
        self.split: LinkSplit | None = None
        self.fingerprint: Tensor | None = None
        self.graph: LinkGraph | None = None
        self._queries: TailQueries | TripleQueries | None = None

    def setup(self, stage: str | None = None) -> None:
        """Read and split the links."""
        if self.split is not None:
            return
        if self.files is None:
            source, context = decagon_files(self.source, self.context)
            self.files = read_links(source, context=context, **self.reading)
        links, known = keep_relations(self.files[0], self.min_links), self.files[1]
        self.split = split_links(links, self.split_kind, **self.fractions, seed=self.seed)
        self.fingerprint = fingerprint(self.split, known)
        if self.split_kind == "links":
            _tell_of_both_directions(links, self.source)
        tell_of_held_out(self.split, "the context", known, known.triples)
        _tell_of_loops(self.split)
        features = None if self.features_file is None else read_features(self.features_file, links)
        self.graph = LinkGraph(
            links.num_nodes, links.num_relations, partial(typed_edges, self.split, known), features
        )

    @cached_property
    def evidence(self) -> Evidence | None:
        """What the training links say of triples, made when first asked for; None where it is not used."""
        if self.evidence_kind == "none":
            return None
        assert self.split is not None
        return Evidence(self.split.links, self.split.train, kind=self.evidence_kind, ridge=self.ridge)

    @property
    def num_samples(self) -> int:
        """Training links, which a resume compares with those of its checkpoint."""
        assert self.split is not None
        return len(self.split.train)

    def train_dataloader(self) -> DataLoader:
        """Batches of queries."""
        assert self.split is not None and self.trainer is not None
        if self._queries is None:
            self._queries = (
                TailQueries(self.split)
                if self.kind == "tails"
                else TripleQueries(self.split, **self.negatives, evidence=self.evidence, seed=self.seed)
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
        return EpochLoader(passes, self.trainer, batch_size=1, sampler=Passes(steps))


def fingerprint(split: LinkSplit, known: Links) -> Tensor:
    """SHA-256, ``(32,)`` uint8, of what a model's rows stand for and which links are in which part.

    A model knows nodes and relations by their places, which are those of the file's rows: the same links in
    another order are other nodes, and links that are added move others from the training part to the test's.
    """
    digest = hashlib.sha256()
    for links in (split.links, known):
        digest.update(json.dumps([links.nodes, links.node_types, links.relations]).encode())
        for numbers in (links.node_type, links.undirected, links.triples):
            digest.update(numbers.contiguous().numpy().data)
    for part in (split.train, *split.val, *split.test):
        digest.update(part.contiguous().numpy().data)
    return torch.tensor(list(digest.digest()), dtype=torch.uint8)


def _tell_of_both_directions(links: Links, source: str | list[str]) -> None:
    """Warn of relations all of whose links are there in both directions, so that a split parts the two."""
    names = [name for name, share in zip(links.relations, links.reversed_share.tolist()) if share == 1]
    if names:
        log.warning(
            "%s has every link of %s in both directions, so that training sees the reverse of a test link: "
            "set data.init_args.undirected to true, or data.init_args.split to pairs",
            source,
            shortened(names),
        )


def tell_of_held_out(split: LinkSplit, whose: str, others: Links, triples: Tensor) -> None:
    """Warn of held-out links that other links have too, by the names of ends and relation.

    Args:
        split: of the links to predict.
        whose: the others, for the message.
        others: their nodes and relations.
        triples: ``(M, 3)`` int64, those of the others that the model learns from.
    """
    if not len(triples):
        return
    links = split.links
    node = places(links.typed_nodes, others.typed_nodes)
    relation = places(links.relations, others.relations)
    shown = torch.stack([node[triples[:, 0]], relation[triples[:, 1]], node[triples[:, 2]]], dim=1)
    keys = links.keys(shown[(shown >= 0).all(dim=1)]).unique()
    held_out = split.held_out
    count = int(contains(keys, links.keys(held_out)).sum())
    if count:
        log.warning(
            "%s has %d of the %d held-out links, under the same names: what is evaluated may know them",
            whose,
            count,
            len(held_out),
        )


def _tell_of_loops(split: LinkSplit) -> None:
    """Warn of held-out links of a node to itself, which no negative and no other candidate is."""
    held_out = split.held_out
    count = int((held_out[:, 0] == held_out[:, 2]).sum())
    if count:
        log.warning(
            "%d of the %d held-out links are of a node to itself, and their negatives are not, which alone "
            "tells them apart; leave such rows out",
            count,
            len(held_out),
        )


def decagon_files(source: str | list[str], context: list[str] | None) -> tuple[list[str], list[str]]:
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
