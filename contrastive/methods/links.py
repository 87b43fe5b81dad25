"""Typed link prediction: a query's links against its other candidates."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn

from contrastive.data import Batch
from contrastive.data.link_evidence import Evidence
from contrastive.data.link_queries import LinkQueries
from contrastive.data.link_splits import HeldOut
from contrastive.data.links import LinkData
from contrastive.evaluation.links import by_relation, summary
from contrastive.link_losses import LinkBCE
from contrastive.optimizers import decay_groups, scheduled
from encoders.decoders import DistMult
from encoders.links import LinkGraph, LinkModel, NodeTable

CHUNK = 2**16  # triples scored at a time


class LinkPrediction(LightningModule):
    """Score (head, relation, tail) so that links stand out: the lecture's polypharmacy (arXiv 1802.00543).

    What is built depends on the data, so encoder and decoder are given without their sizes. After every
    epoch the medians over relations of AUROC, AUPRC and AP@50 of the validation part are logged, with the
    seconds and the peak memory.

    Args:
        encoder: called with the graph, gives the features of the nodes; by default a free vector a node.
        decoder: called with the width of the features and the number of relations.
        loss: called as ``loss(scores, positive, negative)``, all ``(Q, K)``.
        optimizer: called with the parameter groups, biases and norms without weight decay; None is AdamW.
        warmup_epochs: epochs in which the learning rate rises from 0; then it falls along a cosine.
        dropout: of the nodes' features.
        validate_every_n_epochs: how often; the last epoch always.
        seed: of the initial weights; taken from ``seed_everything``.
    """

    def __init__(
        self,
        encoder: Callable[[LinkGraph], nn.Module] = NodeTable,
        decoder: Callable[[int, int], nn.Module] = DistMult,
        *,
        loss: nn.Module | None = None,
        optimizer: OptimizerCallable | None = None,
        warmup_epochs: float = 0.2,
        dropout: float = 0.0,
        validate_every_n_epochs: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.make_encoder, self.make_decoder = encoder, decoder
        self.loss = loss or LinkBCE()
        self.optimizer = optimizer or torch.optim.AdamW
        self.warmup_epochs, self.dropout, self.seed = warmup_epochs, dropout, seed
        self.validate_every_n_epochs = validate_every_n_epochs
        self.model: LinkModel | None = None
        self._started = time.perf_counter()
        self._validation: tuple[Tensor, Tensor] | None = None

    def configure_model(self) -> None:
        """Build the model for the data, once these are read."""
        self.build(self.trainer.datamodule)  # type: ignore[attr-defined]

    def build(self, data: LinkData) -> None:
        """Build the model for data that are set up."""
        if self.model is None:
            assert data.graph is not None
            num_evidence = data.evidence.num_features if data.evidence else 0
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                self.model = LinkModel(
                    data.graph,
                    self.make_encoder,
                    self.make_decoder,
                    num_evidence=num_evidence,
                    dropout=self.dropout,
                )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss ``()`` of a batch of queries."""
        queries: LinkQueries = batch.input
        loss = self.loss(self.score(queries), queries.positive, queries.negative)
        self.log("loss", loss, prog_bar=True, batch_size=len(batch.index))
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
        if epoch % self.validate_every_n_epochs == 0 or epoch == self.trainer.max_epochs:
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
        optimizer = self.optimizer(decay_groups(self))
        return scheduled(optimizer, self.trainer, self.warmup_epochs)


@torch.inference_mode()
def score_triples(
    module: LinkPrediction, triples: Tensor, evidence: Evidence | Tensor | None = None
) -> Tensor:
    """Scores ``(M,)`` float32 on the CPU of triples ``(M, 3)``.

    Args:
        module: with its model built.
        triples: on the CPU.
        evidence: what makes it, or that of these triples ``(M, F)``; None where the model takes none.
    """
    model = module.model
    assert model is not None
    training = model.training
    model.eval()
    h = model.nodes()
    known = evidence(triples) if isinstance(evidence, Evidence) else evidence
    parts = []
    for rows in torch.arange(len(triples)).split(CHUNK):
        own = None if known is None else known[rows].float().to(h.device)
        parts.append(model.triples(h, triples[rows].to(h.device), own).float().cpu())
    model.train(training)
    return torch.cat(parts) if parts else torch.empty(0)


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
