"""Checkpoints from which a killed run goes on exactly: written whole, and checked before they are used."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from contrastive.callbacks import OnlineKNN
from contrastive.errors import ContrastiveError
from contrastive.features import LAST, sha256
from contrastive.report import write_json, write_whole
from contrastive.signals import Signals, Stopped, requeue

BEST = LAST.with_name("best.ckpt")


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint beside its place, then the record of its size and SHA-256, then moves it there."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint that is whole or not there.

        Raises:
            ContrastiveError: the disk is full or cannot be written to; what was there before remains.
        """
        path = Path(path)

        def write(part: Path) -> None:
            with part.open("wb") as file:
                stream = _Hashed(file)
                torch.save(checkpoint, stream)  # type: ignore[arg-type]
                file.flush()
                os.fsync(file.fileno())
            record = dict(size=part.stat().st_size, sha256=stream.digest.hexdigest())
            _write_record(path, record | {"step": checkpoint["global_step"], "saved": time.time()})

        advice = "the checkpoint before it is whole: make room, then go on with --ckpt_path last"
        write_whole(path, write, advice=advice)


def system_error(error: BaseException) -> str | None:
    """What the system said, such as "No space left on device", somewhere in a chain of errors."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OSError) and link.strerror:
            return link.strerror
        link = link.__cause__ or link.__context__
    return None


class _Hashed:
    """A binary file whose SHA-256 is known when it is written."""

    def __init__(self, file: Any) -> None:
        self.file, self.digest = file, hashlib.sha256()

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def _record_of(path: Path) -> Path:
    return path.with_suffix(".json")


def _write_record(path: Path, record: dict[str, Any]) -> None:
    write_json(_record_of(path), record)


def _records(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The checkpoints of a folder with their records, the one that was saved last first."""
    found = [(path, json.loads(_record_of(path).read_text())) for path in _recorded(folder)]
    return sorted(found, key=lambda item: item[1]["saved"], reverse=True)


def _recorded(folder: Path) -> list[Path]:
    paths = (path.with_suffix(".ckpt") for path in folder.glob("step-*.json"))
    return [path for path in paths if path.exists()]


def verify(path: Path) -> None:
    """Compare a checkpoint with its record, where there is one.

    Raises:
        ContrastiveError: it is not the file that was written; the message says how.
    """
    path = path.resolve()
    if not _record_of(path).exists():
        return
    record = json.loads(_record_of(path).read_text())
    if path.stat().st_size != record["size"]:
        raise ContrastiveError(
            f"{path} is damaged: it has {path.stat().st_size:,} bytes of {record['size']:,}"
        )
    if sha256(path) != record["sha256"]:
        raise ContrastiveError(f"{path} is damaged: its SHA-256 is not the one that was written down")


def newest(run_dir: Path) -> Path:
    """The newest checkpoint of a run that is whole; those that are not are named and passed over.

    Raises:
        ContrastiveError: there is none.
    """
    recorded = [path for path, _ in _records(run_dir / LAST.parent)]
    last = run_dir / LAST  # of a run that kept no records
    for path in recorded or ([last] if last.exists() else []):
        try:
            verify(path)
            return path
        except ContrastiveError as error:
            print(f"{error}; the checkpoint before it is used", flush=True)
    raise ContrastiveError(f"there is no checkpoint in {run_dir / LAST.parent} to resume from")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without its tensors' data, as weights alone: no code in it runs.

    Raises:
        ContrastiveError: it cannot be read.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a damaged pickle can fail in any way
        raise ContrastiveError(f"{path} cannot be read ({type(error).__name__}: {error})") from error


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
        over = epoch == trainer.max_epochs or trainer.fit_loop.done or trainer.should_stop
        if epoch % self.every_n_epochs == 0 or over or stop:
            self.save(trainer)
        if stop and not over:
            self._stop(trainer, stop)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what an exact resume needs besides weights and optimizer."""
        set_position(checkpoint, trainer)
        checkpoint["world_size"] = trainer.world_size
        checkpoint["num_samples"] = _num_samples(trainer)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse data of another size.

        Raises:
            ContrastiveError: samples were added or removed since the checkpoint.
        """
        before, now = checkpoint.get("num_samples"), _num_samples(trainer)
        if before is not None and before != now:
            raise ContrastiveError(
                f"the data holds {now:,} samples for pretraining, and held {before:,} when the checkpoint "
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
        if knn and knn.latest and knn.latest[0] == trainer.global_step and _record_of(path).exists():
            _, name, value = knn.latest
            record = json.loads(_record_of(path).read_text())
            score = -value if name == "knn_rmse" else value  # the higher the better
            _write_record(path, record | {name: value, "score": score})
        _point(folder / LAST.name, path)
        records = _records(folder)
        judged = [(record["score"], path) for path, record in records if "score" in record]
        keep = {path for path, _ in records[: self.keep_last]}
        if judged:
            best = max(judged, key=lambda item: item[0])[1]
            _point(folder / BEST.name, best)
            keep.add(best)
        for old, _ in records:
            if old not in keep:
                old.unlink()
                _record_of(old).unlink()

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
        if received == signal.SIGUSR1 and "SLURM_JOB_ID" in os.environ and trainer.is_global_zero:
            message += f"; {requeue()}"
        raise Stopped(message, received)


def _num_samples(trainer: Trainer) -> int | None:
    train: Any = getattr(trainer.datamodule, "train", None)  # type: ignore[attr-defined]
    return len(train) if hasattr(train, "__len__") else None


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
