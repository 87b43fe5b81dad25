"""What watches a pretraining run: online kNN, collapse meters, a guard against bad losses, progress."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import LearningRateMonitor, RichProgressBar
from torch import Tensor

from contrastive.data import Batch
from contrastive.data.loading import labelled
from contrastive.errors import ContrastiveError
from contrastive.evaluation.knn import knn_accuracy, neighbour_vote
from contrastive.evaluation.metrics import PRIMARY, kind_of, measure
from contrastive.evaluation.quality import alignment, dimension_std, effective_rank, rankme, uniformity
from contrastive.features import evaluating
from contrastive.sharding import is_sharded


class OnlineKNN(Callback):
    """Log ``knn_accuracy``: validation samples classified by their nearest pretraining samples.

    Where samples have several targets it is ``knn_roc_auc``, of values ``knn_rmse``.

    No test sample is read. Without labels nothing is logged.

    Args:
        every_n_epochs: how often; the last epoch is always evaluated. 0 is never.
        k: neighbours.
        max_bank: at most so many pretraining samples, evenly spaced, the same at every epoch.

    Attributes:
        latest: the step of the last evaluation, its metric and the value, or None.
    """

    latest: tuple[int, str, float] | None = None

    def __init__(self, *, every_n_epochs: int = 5, k: int = 20, max_bank: int = 5000) -> None:
        self.every_n_epochs, self.k, self.max_bank = every_n_epochs, k, max_bank

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate the untrained encoder, so that the curve starts where training starts."""
        if trainer.global_step == 0 and self.every_n_epochs:
            self._evaluate(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate after every ``every_n_epochs`` epochs and after the last."""
        epoch = trainer.current_epoch + 1
        if self.every_n_epochs and (epoch % self.every_n_epochs == 0 or is_last_epoch(trainer)):
            self._evaluate(trainer, pl_module)

    @torch.no_grad()
    def _evaluate(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if data.val is None or data.val.labels is None:
            return
        found: Any = None
        if trainer.is_global_zero or is_sharded(pl_module):
            found = self._measure(pl_module, data)
        # to all processes: each has callbacks that watch it, as EarlyStopping does
        name, value = trainer.strategy.broadcast(found)
        trainer.callback_metrics[name] = torch.tensor(value)
        self.latest = trainer.global_step, name, value
        step = max(0, trainer.global_step - 1)  # steps count from 0: that of the last batch
        for logger in trainer.loggers if trainer.is_global_zero else ():
            logger.log_metrics({name: value, "epoch": trainer.current_epoch}, step)

    def _measure(self, module: LightningModule, data: Any) -> tuple[str, float]:
        known = labelled(data.train.labels)
        number = min(self.max_bank, len(known))
        bank = data.train.subset(known[np.arange(number) * len(known) // max(1, number)])
        val = data.val.subset(labelled(data.val.labels))
        h, held_out = (_encoded(module, part) for part in (bank, val))
        return neighbour_metric(h, bank.labels, held_out, val.labels, k=self.k)


def is_last_epoch(trainer: Trainer) -> bool:
    """Whether training ends with the epoch that is at its end, by ``max_epochs`` or by anything else."""
    return trainer.current_epoch + 1 == trainer.max_epochs or trainer.fit_loop.done or trainer.should_stop


def _encoded(module: Any, dataset: Any, batch_size: int = 512) -> Tensor:
    """Features of a data set by the encoder under training, ``(N, num_features)`` on the CPU."""
    h = []
    with evaluating(module.encoder):
        for part in torch.arange(len(dataset)).split(batch_size):
            inputs = dataset.__getitems__(part.tolist()).input.to(module.device)
            h.append(module.encoder(module.preprocess(inputs)).float().cpu())
    return torch.cat(h)


def neighbour_metric(
    bank: Tensor, bank_labels: Tensor, queries: Tensor, labels: Tensor, *, k: int
) -> tuple[str, float]:
    """How well the nearest neighbours predict: ``knn_accuracy``, ``knn_roc_auc`` or ``knn_rmse``.

    Args:
        bank: ``(M, D)`` features.
        bank_labels: ``(M,)`` classes, or ``(M, T)`` float targets with NaN where unknown.
        queries: ``(N, D)`` features.
        labels: their classes or targets.
        k: neighbours.
    """
    if labels.ndim == 1:
        return "knn_accuracy", knn_accuracy(bank, bank_labels, queries, labels, k=k)
    kind = kind_of(torch.cat([bank_labels, labels]).numpy())
    score = neighbour_vote(bank, bank_labels, queries, k=k).numpy()
    return f"knn_{PRIMARY[kind]}", measure(kind, labels.numpy(), score)[PRIMARY[kind]]


class CollapseMeter(Callback):
    """Log how good representations are without labels, in a batch of training: spread, rank, alignment.

    ``z_std`` is the mean standard deviation of a dimension of the normalised projections times √D: 1 where
    they fill the sphere, 0 where they are one point (Chen and He 2020, arXiv 2011.10566). ``h_rank`` is the
    effective rank of the features (Roy and Vetterli 2007), between 1 and ``num_features``, ``h_rankme`` the
    same by RankMe (arXiv 2210.02885). ``z_uniformity`` falls to -4 as projections spread, and
    ``z_alignment``, of two views a sample, to 0 as they agree (Wang and Isola 2020, arXiv 2005.10242).
    With several processes each measures its own samples, and the mean of them is logged.

    Args:
        every_n_steps: how often. 0 is never.
    """

    def __init__(self, *, every_n_steps: int = 50) -> None:
        self.every_n_steps = every_n_steps

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A resumed run was measured at the step that it goes on from."""
        self._measured = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure the batch that was just trained on."""
        step, every = trainer.global_step, self.every_n_steps
        if "z" not in outputs or not every or step % every or step == self._measured:
            return  # it is the same step for all batches of an accumulated one
        self._measured = step
        h, z = outputs["h"], outputs["z"]
        meters = {
            "z_std": dimension_std(z),
            "h_rank": effective_rank(h),
            "h_rankme": rankme(h),
            "z_uniformity": uniformity(z[:4096]),
        }
        if len(z) == 2 * len(batch.index):
            meters["z_alignment"] = alignment(*z.chunk(2))
        values = torch.stack([value.float() for value in meters.values()])
        found = dict(zip(meters, trainer.strategy.reduce(values, reduce_op="mean").tolist()))  # type: ignore[union-attr]
        pl_module.log("z_std", found["z_std"], prog_bar=True, logger=False)
        # not by Lightning, which repeats a value in every later row of the epoch
        for logger in trainer.loggers if trainer.is_global_zero else ():
            logger.log_metrics(found | {"epoch": trainer.current_epoch}, step - 1)


class NonFiniteGuard(Callback):
    """Stop at the first loss that is not finite, before it reaches the weights."""

    _index: Tensor | None = None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Remember which samples the step is about."""
        self._index = batch.index

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Raise ``ContrastiveError`` naming the step and the samples.

        The check waits for the device once a step; a run of days on NaNs costs more.
        """
        if not torch.isfinite(loss):
            samples = self._index.tolist() if self._index is not None else []
            shown = ", ".join(map(str, samples[:8])) + (", …" if len(samples) > 8 else "")
            spoiled = _not_finite(pl_module)
            state = (
                f"{spoiled} is not finite either, by an earlier gradient: no checkpoint since is good"
                if spoiled
                else "the weights are untouched and the last checkpoint is good"
            )
            raise ContrastiveError(
                f"the loss is {loss.item()} at step {trainer.global_step} (epoch {trainer.current_epoch}, "
                f"samples {shown}); {state}. Lower the learning rate, lengthen the warm-up or raise the "
                f"temperature; resume with --ckpt_path {'FILE, an earlier one' if spoiled else 'last'}"
            )


def _not_finite(module: LightningModule) -> str | None:
    """The first weight that has a number that is not finite, of those that this process holds."""
    for name, parameter in module.named_parameters():
        held: Any = parameter.to_local() if hasattr(parameter, "to_local") else parameter
        if not held.isfinite().all():
            return name
    return None


class LearningRates(LearningRateMonitor):
    """The learning rates of every step, once where several batches make it."""

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Log them before the first batch of a step."""
        if batch_idx % trainer.accumulate_grad_batches == 0:
            super().on_train_batch_start(trainer, pl_module, batch, batch_idx)


class Progress(RichProgressBar):
    """A bar an epoch, with the loss and without the number of a version, which a run here does not have."""

    def get_metrics(self, *args: Any) -> dict[str, Any]:
        """What stands beside the bar."""
        metrics = super().get_metrics(*args)
        metrics.pop("v_num", None)
        return metrics

    def _get_train_description(self, current_epoch: int) -> str:
        """Which epoch it is, of how many where there is an end; without one Lightning writes ``/-2``."""
        text = super()._get_train_description(current_epoch)
        return text.replace("/-2", "", 1)
