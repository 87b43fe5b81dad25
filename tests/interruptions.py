"""Callbacks that the tests of resuming put into a run: one ends it at a step, one writes down its losses."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from pytorch_lightning import Callback


class SignalAt(Callback):
    """Send this very process a signal, in the midst of a step: gradients are there, the weights are old.

    Args:
        step: optimizer steps that are done by then.
        name: of the signal.
        rank: the process that gets it; None for all.
    """

    def __init__(self, step: int, name: str = "SIGKILL", rank: int | None = None) -> None:
        self.step, self.name, self.rank = step, name, rank

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step == self.step and self.rank in (None, trainer.global_rank):
            os.kill(os.getpid(), getattr(signal, self.name))


class Losses(Callback):
    """Append every step's samples and loss, in all its bits, to a file a process."""

    def __init__(self, file: str) -> None:
        self.file = file

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        line = f"{trainer.global_step} {batch.index.tolist()} {outputs['loss'].item().hex()}\n"
        with Path(f"{self.file}-{trainer.global_rank}").open("a") as file:
            file.write(line)
