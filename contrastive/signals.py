"""Signals that end a run: noted when they come, acted upon between two steps, where a checkpoint is exact."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.util import Finalize
from types import FrameType
from typing import Any

from contrastive.errors import ContrastiveError

WATCHED = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]


class Stopped(ContrastiveError):
    """A signal ended the run.

    Attributes:
        status: the command's exit status, 128 + the signal's number, as a shell has it.
    """

    def __init__(self, message: str, number: signal.Signals) -> None:
        super().__init__(message)
        self.status = 128 + number


class Signals:
    """A block in which SIGINT, SIGTERM and SIGUSR1 are noted; a second one acts as it would without.

    Lightning's own handlers take part in a collective inside the handler, where the other processes need not
    be. These only set ``received``; whoever trains asks for it between steps.

    Attributes:
        received: the signal, or None.
        training: while it is false there is nothing to save, and a signal raises `Stopped` at once.
    """

    received: signal.Signals | None = None
    training = False

    def __enter__(self) -> Signals:
        self.received, self.training, self._before = None, False, {}
        if threading.current_thread() is threading.main_thread():  # elsewhere Python refuses handlers
            self._before = {number: signal.signal(number, self._note) for number in WATCHED}
        return self

    def __exit__(self, *error: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.received = signal.Signals(number)
        if not self.training:
            raise Stopped(f"stopped by {self.received.name} before the first step", self.received)


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """A block that SIGTERM leaves as an exception does, so that no part of a file stays; a second one kills.

    Processes that are started inside die of it as they would without.
    """
    process = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        if os.getpid() != process:
            signal.raise_signal(number)
        sys.exit(128 + number)

    # elsewhere than in the main thread Python refuses handlers
    ours = threading.current_thread() is threading.main_thread()
    ours = ours and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def requeue() -> str:
    """Have SLURM start the job again; return what came of it, as a sentence."""
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    if shutil.which("scontrol") is None:
        return f"scontrol was not found: requeue job {job} yourself"
    done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60)
    return (
        f"SLURM job {job} was requeued" if done.returncode == 0 else f"scontrol said: {done.stderr.strip()}"
    )


def ignore_in_worker(_: int) -> None:
    """Keep a data worker alive through a signal to the whole process group; its process ends it later.

    The first SIGTERM may be the group's; the second one is the loader's own, which wants the worker gone. At
    the process's exit there is one alone, and then no end to wait for: see `end_workers_at_exit`.
    """
    for number in WATCHED:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: signal.signal(number, signal.SIG_DFL))


def end_workers_at_exit() -> None:
    """Have this process kill at its exit what data workers are left, as those of an iterator still held."""
    Finalize(None, _kill_workers, exitpriority=0)


def _kill_workers() -> None:
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would report them as lost
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()
