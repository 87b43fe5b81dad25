"""Checkpoints from which a run that was ended goes on exactly: when they are made, and what is in them."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.strategies import Strategy
from torch.optim import Optimizer

from contrastive.callbacks import OnlineKNN, is_last_epoch
from contrastive.checkpoint_files import read_record, record_of, records, write_record
from contrastive.errors import ContrastiveError
from contrastive.saved import LAST
from contrastive.signals import Signals, Stopped, requeue

BEST = LAST.with_name("best.ckpt")


class Checkpoints(Checkpoint):
    """Save the run in ``checkpoints/``: at every epoch's end, and within an epoch where that is asked for.

    ``last.ckpt`` points to the newest, and ``best.ckpt`` to the one with the best online kNN accuracy, where
    there are labels. SIGTERM, SIGINT and SIGUSR1 save after the step that they come in, and end the run.

    Args:
        every_n_steps: save every so many steps; None waits for the epoch's end.
        every_n_minutes: save when so many minutes have passed; None does not look at the clock.
        every_n_epochs: save at the end of every so many epochs, and of the last.
        keep_last: the newest so many stay, 2 or more so that one can be damaged; the best one always does.
    """

    def __init__(
        self,
        *,
        every_n_steps: int | None = None,
        every_n_minutes: float | None = None,
        every_n_epochs: int = 1,
        keep_last: int = 2,
    ) -> None:
        if keep_last < 1 or every_n_epochs < 1 or (every_n_steps or 1) < 1:
            raise ValueError("keep_last, every_n_epochs and every_n_steps are at least 1")
        self.every_n_steps, self.every_n_minutes = every_n_steps, every_n_minutes
        self.every_n_epochs, self.keep_last = every_n_epochs, keep_last
        self.signals = Signals()
        self._clock, self._saved_step = time.monotonic(), -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on signals wait for the end of a step."""
        self.signals.training = True
        self._saved_step, self._clock = trainer.global_step, time.monotonic()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Save the step before where it is time, and stop where a signal came in any process.

        At the end of that step its numbers were not logged yet, and a resumed run would miss them.
        """
        if batch_idx % trainer.accumulate_grad_batches:
            return  # gradients under way are not in a checkpoint
        stop = self._stop_asked(trainer)
        if stop or self._is_due(trainer):
            self.save(trainer)
        if stop:
            self._stop(trainer, stop)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, after the other callbacks have evaluated the epoch."""
        epoch = trainer.current_epoch + 1
        stop = self._stop_asked(trainer)
        over = is_last_epoch(trainer)
        if epoch % self.every_n_epochs == 0 or over or stop:
            self.save(trainer)
        if stop and not over:
            self._stop(trainer, stop)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what an exact resume needs besides weights and optimizer."""
        set_position(checkpoint, trainer)
        number_parameters(checkpoint, trainer, pl_module)
        checkpoint["world_size"] = trainer.world_size
        checkpoint.update({f"num_{what}": number for what, number in _sizes(trainer).items()})

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse data of another size.

        Raises:
            ContrastiveError: samples or shards were added or removed since the checkpoint.
        """
        for what, now in _sizes(trainer).items():
            before = checkpoint.get(f"num_{what}")
            if before is not None and before != now:
                raise ContrastiveError(
                    f"the data holds {now:,} {what} for pretraining, and held {before:,} when the checkpoint "
                    "was written: a resumed run would see others. Restore the data, or start a new run"
                )

    def save(self, trainer: Trainer) -> None:
        """Write a checkpoint of this step, unless there is one."""
        if self._saved_step == trainer.global_step:
            return
        folder = Path(trainer.default_root_dir) / LAST.parent
        path = folder / f"step-{trainer.global_step}.ckpt"
        trainer.save_checkpoint(path)
        self._saved_step, self._clock = trainer.global_step, time.monotonic()
        if trainer.is_global_zero:
            self._tidy(trainer, folder, path)

    def _tidy(self, trainer: Trainer, folder: Path, path: Path) -> None:
        """Point ``last`` and ``best`` to their checkpoints and remove those that are neither."""
        knn = next((c for c in trainer.callbacks if isinstance(c, OnlineKNN)), None)  # type: ignore[attr-defined]
        record = read_record(path)
        if knn and knn.latest and knn.latest[0] == trainer.global_step and record:
            _, name, value = knn.latest
            score = -value if name == "knn_rmse" else value  # the higher the better
            write_record(path, record | {name: value, "score": score})
        _point(folder / LAST.name, path)
        found = records(folder)
        judged = [(known["score"], path) for path, known in found if "score" in known]
        keep = {path for path, _ in found[: self.keep_last]}
        if judged:
            best = max(judged, key=lambda item: item[0])[1]
            _point(folder / BEST.name, best)
            keep.add(best)
        for old, _ in found:
            if old not in keep:
                old.unlink()
                record_of(old).unlink()
        for part in folder.glob("step-*.part"):  # of a process that was killed as it wrote
            part.unlink()

    def _is_due(self, trainer: Trainer) -> bool:
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0:
            return True
        if self.every_n_minutes is None:
            return False
        late = time.monotonic() - self._clock >= 60 * self.every_n_minutes
        return trainer.strategy.broadcast(late)  # clocks differ, and all processes must save together

    def _stop_asked(self, trainer: Trainer) -> signal.Signals | None:
        """The signal that any process has received."""
        number = torch.tensor(self.signals.received or 0, device=trainer.strategy.root_device)
        highest = int(trainer.strategy.reduce(number, reduce_op="max"))
        return signal.Signals(highest) if highest else None

    def _stop(self, trainer: Trainer, received: signal.Signals) -> None:
        step = trainer.global_step
        path = Path(trainer.default_root_dir) / LAST.with_name(f"step-{step}.ckpt")
        message = f"stopped by {received.name} after step {step}; go on with --ckpt_path last ({path})"
        if received.name == "SIGUSR1" and "SLURM_JOB_ID" in os.environ and trainer.is_global_zero:
            message += f"; {requeue()}"
        raise Stopped(message, received)


class RecordConfig(Callback):
    """Keep the configuration in every checkpoint, so that a checkpoint alone can be opened again."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the configuration, plain data that loads without running code."""
        checkpoint["config"] = self.config


def has_begun(trainer: Trainer) -> bool:
    """Whether training came to its first step, of which something is to be kept."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return any(isinstance(callback, Checkpoints) and callback.signals.training for callback in callbacks)


def _sizes(trainer: Trainer) -> dict[str, int]:
    """How many samples the data holds, and how many shards, as far as that is known."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    train: Any = getattr(data, "train", None)
    sizes = {"shards": len(train.shards)} if hasattr(train, "shards") else {}
    if hasattr(data, "num_samples"):
        return sizes | {"samples": data.num_samples}
    return sizes | {"samples": len(train)} if hasattr(train, "__len__") else sizes


def _point(link: Path, path: Path) -> None:
    """Make ``link`` a symbolic link to a file beside it, at once and whatever was there."""
    part = link.with_suffix(".part")
    part.unlink(missing_ok=True)
    try:
        part.symlink_to(path.name)
    except OSError:  # a file system without links
        shutil.copyfile(path, part)
    part.replace(link)


def set_position(checkpoint: dict[str, Any], trainer: Trainer) -> None:
    """Write down the trainer's progress as one of two plain states, which Lightning resumes rightly.

    They are: k of an epoch's n batches are done, and: the next epoch has not begun. Lightning saves its
    counters as they stand inside a hook, and takes an epoch that ``max_steps`` cut short for a whole one.
    """
    loop = checkpoint["loops"]["fit_loop"]
    epochs, batches = loop["epoch_progress"], loop["epoch_loop.batch_progress"]
    epoch, done = epochs["current"]["ready"] - 1, batches["current"]["processed"]
    if done >= trainer.num_training_batches:
        epoch, done = epoch + 1, 0
    begun = done > 0
    for progress in (epochs["current"], epochs["total"]):
        progress.update(ready=epoch + begun, started=epoch + begun, processed=epoch, completed=epoch)
    batches["current"].update(ready=done, started=done, processed=done, completed=done)
    total = batches["total"]["processed"]
    batches["total"].update(ready=total, started=total, processed=total, completed=total)
    batches["is_last_batch"] = False
    checkpoint["epoch"] = epoch


def number_parameters(checkpoint: dict[str, Any], trainer: Trainer, module: LightningModule) -> None:
    """Number the parameters in the optimizers' states by their order in the module.

    So `ModelParallelStrategy` writes and reads them. Torch numbers them group by group, and reads either;
    strategies and optimizers that shard states number and read them in ways of their own, and keep theirs.
    """
    if type(trainer.strategy).optimizer_state is not Strategy.optimizer_state:
        return
    places = {parameter: i for i, parameter in enumerate(module.parameters())}
    for optimizer, state in zip(trainer.optimizers, checkpoint["optimizer_states"]):
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        own = type(optimizer).load_state_dict is not Optimizer.load_state_dict
        if own or not all(parameter in places for parameter in parameters):
            continue
        numbers = {i: places[parameter] for i, parameter in enumerate(parameters)}
        state["state"] = {numbers.get(key, key): values for key, values in state["state"].items()}
        for group in state["param_groups"]:
            group["params"] = [numbers[i] for i in group["params"]]
