"""What the tests of resuming put into a run: callbacks that end it or write it down, and a method."""

from __future__ import annotations

import copy
import ctypes
import multiprocessing
import os
import resource
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback
from torch import nn
from torch.nn import functional as F

from contrastive.losses import queue_info_nce
from contrastive.module import ContrastiveModule


class Queued(ContrastiveModule):
    """A user's own method, with what MoCo keeps (arXiv 1911.05722): an averaged encoder, a queue of keys."""

    def __init__(self, encoder: nn.Module, views: list[nn.Module], **options: Any) -> None:
        super().__init__(encoder, views, **options)
        self.averaged = copy.deepcopy(nn.Sequential(self.encoder, self.projector)).requires_grad_(False)
        self.register_buffer("queue", torch.eye(64))

    def step(self, batch):
        first, second = self.augment(batch)
        h = self.encoder(first)
        q = self.projector(h)
        for slow, fast in zip(
            self.averaged.parameters(), [*self.encoder.parameters(), *self.projector.parameters()]
        ):
            slow.lerp_(fast.detach(), 0.1)
        with torch.no_grad():
            k = self.averaged(second)
        loss = queue_info_nce(q, k, self.queue)
        self.queue = torch.cat([F.normalize(k), self.queue])[: len(self.queue)]
        return {"loss": loss, "h": h.detach(), "z": q.detach()}


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


class RaiseAt(Callback):
    """Raise an error of the user's own in one process.

    Args:
        step: optimizer steps that are done by then.
        rank: the process.
    """

    def __init__(self, step: int, rank: int) -> None:
        self.step, self.rank = step, rank

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step == self.step and self.rank == trainer.global_rank:
            raise ArithmeticError("a fault of the user's own")


class Connections(Callback):
    """Write down every address that this process asks for, but for those of this machine.

    Args:
        file: a line an address.
    """

    def __init__(self, file: str) -> None:
        Path(file).touch()

        def note(event, args):
            if event in ("socket.connect", "socket.getaddrinfo"):
                address = args[1] if event == "socket.connect" else args
                host = address[0] if isinstance(address, tuple) else "localhost"  # a path is a socket here
                if host not in ("localhost", "127.0.0.1", "::1", None):
                    with Path(file).open("a") as stream:
                        stream.write(f"{host} {os.environ.get('WANDB_ERROR_REPORTING')}\n")

        sys.addaudithook(note)

    def on_train_end(self, trainer, pl_module):
        socket.getaddrinfo(
            "192.0.2.1", 1, flags=socket.AI_NUMERICHOST
        )  # asks nobody, and shows that all is seen


class Losses(Callback):
    """Append every step's samples and loss, in all its bits, to a file a process."""

    def __init__(self, file: str) -> None:
        self.file = file

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        line = f"{trainer.global_step} {batch.index.tolist()} {outputs['loss'].item().hex()}\n"
        with Path(f"{self.file}-{trainer.global_rank}").open("a") as file:
            file.write(line)


class LittleMemory(Callback):
    """Allow the process no more memory than it has at a step, but for a little."""

    def __init__(self, step: int, megabytes: int = 20) -> None:
        self.step, self.megabytes = step, megabytes
        ctypes.CDLL(None).mallopt(-3, 2**20)  # M_MMAP_THRESHOLD: what is freed goes back to the system

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (size + self.megabytes * 2**20, resource.RLIM_INFINITY))


class KillWorker(Callback):
    """Kill a data worker, as the system does when memory runs out."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
