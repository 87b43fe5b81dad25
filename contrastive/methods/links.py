"""Typed link prediction: a query's links against its other candidates."""

from __future__ import annotations

import logging
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn

from contrastive.building import build_data, build_module
from contrastive.callbacks import is_last_epoch
from contrastive.data import Batch
from contrastive.data.link_evidence import NUM_FEATURES, Evidence
from contrastive.data.link_queries import LinkQueries
from contrastive.data.link_splits import HeldOut
from contrastive.data.link_table import places, shortened
from contrastive.data.links import LinkData, tell_of_held_out
from contrastive.errors import ContrastiveError
from contrastive.evaluation.links import by_relation, summary
from contrastive.features import evaluating
from contrastive.link_losses import LinkBCE
from contrastive.module import key_draws
from contrastive.optimizers import ScheduleCallable, built, decay_groups, scheduled
from contrastive.saved import CONFIG, checkpoint_of, read_state, run_config
from encoders.decoders import DistMult
from encoders.links import LinkGraph, LinkModel, NodeTable

log = logging.getLogger("contrastive")

CHUNK = 2**16  # triples scored at a time


class LinkPrediction(LightningModule):
    """Score (head, relation, tail) so that links stand out, as side effects of two drugs (arXiv 1802.00543).

    What is built depends on the data, so encoder and decoder are given without their sizes. After every
    epoch the medians over relations of AUROC, AUPRC and AP@50 of the validation part are logged, with the
    seconds and the peak memory.

    Args:
        encoder: called with the graph, gives the features of the nodes; by default a free vector a node.
        decoder: called with the width of the features and the number of relations.
        loss: called as ``loss(scores, positive, negative)``, all ``(Q, K)``; LinkBCE where none is given.
        optimizer: called with the parameter groups, biases and norms without weight decay; None is AdamW
            at torch's rate of 1e-3.
        warmup_epochs: epochs in which the learning rate rises from 0; then it falls along a cosine.
        schedule: called with the optimizer, gives another schedule of torch's, which counts steps.
        dropout: of the nodes' features.
        validate_every_n_epochs: how often; the last epoch always.
        seed: of the initial weights and of dropout; ``pretrain`` takes it from ``seed_everything``.
    """

    fingerprint: Tensor  # of the links that it is built for

    def __init__(
        self,
        encoder: Callable[[LinkGraph], nn.Module] = NodeTable,
        decoder: Callable[[int, int], nn.Module] = DistMult,
        *,
        loss: nn.Module | None = None,
        optimizer: OptimizerCallable | None = None,
        warmup_epochs: float = 0.2,
        schedule: ScheduleCallable | None = None,
        dropout: float = 0.0,
        validate_every_n_epochs: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.make_encoder, self.make_decoder = encoder, decoder
        self.loss = loss or LinkBCE()
        self.optimizer = optimizer or torch.optim.AdamW
        self.warmup_epochs, self.schedule = warmup_epochs, schedule
        self.dropout, self.seed = dropout, seed
        self.validate_every_n_epochs = validate_every_n_epochs
        self.model: LinkModel | None = None
        self.started_from: str | None = None
        self._started = time.perf_counter()
        self._validation: tuple[Tensor, Tensor] | None = None

    def start_from(self, path: str) -> None:
        """Give the free vectors, once they are made, the features of a run of link prediction.

        Nodes are known by type and name; those that the run has not start at random.
        """
        self.started_from = path

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the weights of other links, whose rows stand for other nodes and whose parts are others.

        Raises:
            ContrastiveError: the links are not those that the checkpoint's model was trained on.
        """
        theirs = checkpoint["state_dict"].setdefault("fingerprint", self.fingerprint)  # older ones have none
        if not torch.equal(theirs.cpu(), self.fingerprint.cpu()):
            raise ContrastiveError(
                "the links are not those that the model was trained on, or not in their order, so that nodes "
                "and held-out links would be mixed up; give the files, their split and the seed as they were"
            )

    def configure_model(self) -> None:
        """Build the model for the data, once these are read."""
        data: LinkData = self.trainer.datamodule  # type: ignore[attr-defined]
        is_new = self.model is None
        self.build(data)
        if is_new and self.trainer.is_global_zero:
            _tell_if_symmetric(self, data)

    def build(self, data: LinkData) -> None:
        """Build the model for data that are set up."""
        if self.model is None:
            assert data.graph is not None
            self.register_buffer("fingerprint", data.fingerprint)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                self.model = LinkModel(
                    data.graph,
                    self.make_encoder,
                    self.make_decoder,
                    num_evidence=NUM_FEATURES[data.evidence_kind],
                    dropout=self.dropout,
                )
            if self.started_from is not None:
                _start_free_vectors(self, data, self.started_from)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Key what dropout draws by (seed, epoch, batch, process)."""
        key_draws(self, batch_idx)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss ``()`` of a batch of queries."""
        queries: LinkQueries = batch.input
        loss = self.loss(self.score(queries), queries.positive, queries.negative)
        self.log("loss", loss, prog_bar=True, batch_size=len(batch.index), sync_dist=True)
        return loss

    def score(self, queries: LinkQueries) -> Tensor:
        """Scores ``(Q, K)`` of a query's candidates."""
        assert self.model is not None
        h = self.model.nodes()
        if queries.triples is not None:
            return self.model.triples(h, queries.triples, queries.evidence)
        return self.model.tails(h, queries.head, queries.relation, queries.tail)  # type: ignore[arg-type]

    def on_train_epoch_start(self) -> None:
        """Start the epoch's clock."""
        self._started = time.perf_counter()

    def on_train_epoch_end(self) -> None:
        """Log the epoch's cost and, when it is due, the validation part's medians."""
        seconds = time.perf_counter() - self._started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        values = {"epoch_seconds": seconds, "peak_gib": peak}
        epoch = self.current_epoch + 1
        if epoch % self.validate_every_n_epochs == 0 or is_last_epoch(self.trainer):
            values |= {f"val_{name}": value for name, value in self.validate_links().items()}
            shown = ", ".join(f"{name} {value:.3f}" for name, value in values.items() if "mean" not in name)
            self.print(f"epoch {epoch}: {shown}", flush=True)
        self.log_dict({name: float(value) for name, value in values.items()}, rank_zero_only=True)

    def validate_links(self) -> dict[str, float]:
        """Means and medians over relations of the validation part's metrics."""
        data: LinkData = self.trainer.datamodule  # type: ignore[attr-defined]
        assert data.split is not None
        if self._validation is None and data.evidence is not None:
            self._validation = tuple(data.evidence(part).half() for part in data.split.val)  # type: ignore[assignment]
        return summary(evaluate_held_out(self, data.split.val, self._validation))

    def configure_optimizers(self) -> Any:
        """Build the optimizer and a schedule that moves every step."""
        optimizer = built("model.optimizer", self.optimizer, decay_groups(self))
        return scheduled(optimizer, self.trainer, self.warmup_epochs, self.schedule)


def _tell_if_symmetric(module: LinkPrediction, data: LinkData) -> None:
    """Warn where the score of u→v is that of v→u, and the data has most links in one direction alone."""
    decoder = module.model.decoder  # type: ignore[union-attr]
    if not getattr(decoder, "symmetric", False) or data.evidence_kind != "none":
        return
    links = data.split.links  # type: ignore[union-attr]
    one_way = [name for name, share in zip(links.relations, links.reversed_share.tolist()) if share < 0.5]
    if one_way:
        log.warning(
            "%s scores u→v and v→u alike, but links of %s mostly have one direction: take ComplEx, SimplE, "
            "DEDICOM or Bilinear, not symmetric, or set data.init_args.undirected to true if they mean both",
            type(decoder).__name__,
            shortened(one_way),
        )


@torch.inference_mode()
def node_features(module: LinkPrediction) -> Tensor:
    """Features of all nodes, ``(N, D)``, without dropout."""
    assert module.model is not None
    with evaluating(module.model):
        return module.model.nodes().detach()  # a table gives its parameter itself


@torch.inference_mode()
def score_triples(
    module: LinkPrediction,
    triples: Tensor,
    evidence: Evidence | Tensor | None = None,
    h: Tensor | None = None,
) -> Tensor:
    """Scores ``(M,)`` float32 on the CPU of triples ``(M, 3)``.

    Args:
        module: with its model built.
        triples: on the CPU.
        evidence: what makes it, or that of these triples ``(M, F)``; None where the model takes none.
        h: what `node_features` gave, for many calls: an R-GCN encodes the whole graph for it.

    Raises:
        ContrastiveError: a score is no number; no rank would be worse than its own, and its MRR 1.
    """
    model = module.model
    assert model is not None
    h = node_features(module) if h is None else h
    known = evidence(triples) if isinstance(evidence, Evidence) else evidence
    parts = []
    with evaluating(model):
        for rows in torch.arange(len(triples)).split(CHUNK):
            own = None if known is None else known[rows].float().to(h.device)
            parts.append(model.triples(h, triples[rows].to(h.device), own).float().cpu())
    scores = torch.cat(parts) if parts else torch.empty(0)
    if scores.isnan().any():
        raise ContrastiveError(
            "the model scores links as nan: its weights are too large or no numbers; lower the learning rate"
        )
    return scores


def evaluate_held_out(
    module: LinkPrediction, held_out: HeldOut, evidence: Any = None
) -> dict[str, np.ndarray]:
    """AUROC, AUPRC and AP@50 of every relation, ``(R,)`` each.

    Args:
        module: with its model built.
        held_out: links and as many others.
        evidence: an ``Evidence``, or that of both parts, or None.
    """
    known = evidence if isinstance(evidence, tuple) else (evidence, evidence)
    scores = [score_triples(module, part, own) for part, own in zip(held_out, known)]
    relation = held_out.positive[:, 1].repeat(2).numpy()
    truth = np.arange(len(relation)) < len(held_out.positive)
    assert module.model is not None
    return by_relation(
        relation, truth, torch.cat(scores).numpy(), num_relations=len(module.model.relation_bias)
    )


def is_link_run(run: str | Path) -> bool:
    """Whether a run folder is one of link prediction, by what its configuration names."""
    file = Path(run) / CONFIG
    if not file.is_file():
        return False
    model = run_config(Path(run)).get("model") or {}
    return model.get("class_path") == f"{LinkPrediction.__module__}.{LinkPrediction.__name__}"


def open_links(run: str | Path, *, source: str | None = None) -> tuple[LinkPrediction, LinkData]:
    """A trained link model and its data, read and split as they were.

    Raises:
        ContrastiveError: no run of link prediction, or weights of other links.
    """
    config = run_config(Path(run))
    module = build_module(config.get("model") or {})
    if not isinstance(module, LinkPrediction):
        raise ContrastiveError(f"{run} is no run of link prediction, but of {type(module).__name__}")
    data = build_data(config)
    if not isinstance(data, LinkData):
        raise ContrastiveError(f"{run} has no links to predict, but a {type(data).__name__}")
    if source is not None:
        data.source = source
    data.setup()
    module.build(data)
    state = read_state(checkpoint_of(Path(run)))[1]
    try:
        module.on_load_checkpoint({"state_dict": state})
        module.load_state_dict(state)
    except (ContrastiveError, RuntimeError) as error:
        raise ContrastiveError(f"the weights of {run} do not fit {data.source}: {error}") from error
    return module.eval(), data


def _start_free_vectors(module: LinkPrediction, data: LinkData, run: str) -> None:
    """Give the free vectors of nodes the features that a run has for the nodes of their type and name."""
    nodes = getattr(module.model.encoder, "nodes", module.model.encoder)  # type: ignore[union-attr]
    other, theirs = open_links(run)
    assert theirs.split is not None and data.split is not None
    h = node_features(other)
    free = getattr(nodes, "free", None)
    if free is None or free.shape[1] != h.shape[1]:
        own = "no free vectors" if free is None else f"free vectors of {free.shape[1]} features"
        raise ContrastiveError(f"{run} has {h.shape[1]} features a node and {type(nodes).__name__} has {own}")
    rows = places(theirs.split.links.typed_nodes, data.split.links.typed_nodes)
    found = rows >= 0
    if not found.any():
        raise ContrastiveError(
            f"{run} has no node of {data.source}; its nodes are called like "
            f"{', '.join(theirs.split.links.nodes[:3])}"
        )
    tell_of_held_out(data.split, f"the training part of {run}", theirs.split.links, theirs.split.train)
    with torch.no_grad():
        free[found] = h[rows[found]]
    print(f"{int(found.sum())} of {len(rows)} nodes start from {run}", flush=True)
