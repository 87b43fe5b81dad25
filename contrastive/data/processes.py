"""Work in other processes, which may hang or crash without taking the run with them."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from contrastive.errors import ContrastiveError

_POLL = 0.5  # seconds between two looks at workers that say nothing
_PATIENCE = 10  # times the limit, by the clock: a process that waits for a core is no process that hangs


class Failure(str):
    """Why there is no result for an item."""


def num_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def guarded_map(
    function: Callable[[Any], Any],
    items: Sequence[Any],
    *,
    num_workers: int,
    time_limit: float,
    chunk_size: int = 256,
) -> Iterator[tuple[int, list[Any]]]:
    """Call ``function(item)`` in worker processes and yield the results, a chunk at a time, as they come.

    A worker that spends longer than ``time_limit`` on one item is killed, also where it hangs in native code
    that no signal handler could interrupt. It is the processor's time, so that other work on the machine does
    not decide what is left out; by the clock an item may take ten times as long. An item whose worker was
    killed or crashed gives a `Failure`; the others of its chunk are done by the next worker.

    Args:
        function: called in the workers; it should catch what it expects.
        items: what it is called with.
        num_workers: processes.
        time_limit: seconds of the processor that an item may take; of the clock where the system does not
            tell (all but Linux).
        chunk_size: items a worker takes at a time.

    Yields:
        The place of a chunk's first item, and a result or `Failure` for each of its items.

    Raises:
        ContrastiveError: a worker crashed before it had begun with an item.
    """
    starts = deque(range(0, len(items), chunk_size))
    workers = [_Worker(function) for _ in range(max(1, min(num_workers, len(starts))))]
    try:
        for worker in workers:
            worker.assign(starts, items, chunk_size)
        while busy := {worker.pipe: worker for worker in workers if worker.start is not None}:
            for pipe in wait(list(busy), timeout=_POLL):
                worker = busy[pipe]  # type: ignore[index]
                start, results = worker.receive()
                if results is not None:
                    yield start, results
                    worker.assign(starts, items, chunk_size)
            for worker in busy.values():
                worker.check(time_limit)
    finally:
        for worker in workers:
            worker.stop()


class _Worker:
    """A process, the chunk that it has, and how far it is with it."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function
        self.start: int | None = None  # of the chunk in hand; None while idle
        self.chunk: list[Any] = []
        self.failures: dict[int, Failure] = {}
        self._spawn()

    def _spawn(self) -> None:
        # Forked where that exists: a new interpreter would take seconds to import torch.
        methods = multiprocessing.get_all_start_methods()
        context: Any = multiprocessing.get_context("fork" if "fork" in methods else "spawn")
        self.pipe, theirs = context.Pipe()
        self.place = context.RawValue("q", -1)  # the item that the process is at, which outlives a crash
        self.process = context.Process(target=_serve, args=(self.function, theirs, self.place), daemon=True)
        self.process.start()
        theirs.close()
        self.killed = False
        self._look(-1)

    def assign(self, starts: deque[int], items: Sequence[Any], chunk_size: int) -> None:
        self.start = starts.popleft() if starts else None
        if self.start is not None:
            self.chunk, self.failures = list(items[self.start : self.start + chunk_size]), {}
            self._send()

    def _send(self) -> None:
        self._look(-1)
        self.place.value = -1
        self.pipe.send([(i, item) for i, item in enumerate(self.chunk) if i not in self.failures])

    def receive(self) -> tuple[int, list[Any] | None]:
        """The chunk's results; None where the process died, and the chunk goes to another one."""
        assert self.start is not None
        try:
            results = self.pipe.recv()
        except (EOFError, OSError):
            self._replace()
            return self.start, None
        done = iter(results)
        return self.start, [
            self.failures[i] if i in self.failures else next(done) for i in range(len(self.chunk))
        ]

    def _replace(self) -> None:
        self.process.join()
        reason = "took too long" if self.killed else f"crashed with exit code {self.process.exitcode}"
        if self.place.value < 0:  # the next would too
            raise ContrastiveError(
                f"a worker process {reason} before its first item; where processes are spawned, as on macOS, "
                'a script needs its calls below if __name__ == "__main__"'
            )
        self.failures[self.place.value] = Failure(reason)
        self.pipe.close()
        self._spawn()
        self._send()

    def check(self, time_limit: float) -> None:
        """Kill the process if it has been at one item for too long."""
        if self.start is None or self.killed:
            return
        if self.place.value != self.seen:
            self._look(self.place.value)
        elif self.seen >= 0 and self._is_late(time_limit):
            self.killed = True
            self.process.kill()

    def _look(self, place: int) -> None:
        """Note the item that the process is at, and from when on."""
        self.seen, self.since, self.spent = place, time.monotonic(), _processor_seconds(self.process.pid)

    def _is_late(self, time_limit: float) -> bool:
        by_clock, spent = time.monotonic() - self.since, _processor_seconds(self.process.pid)
        if self.spent is None or spent is None:
            return by_clock > time_limit
        return spent - self.spent > time_limit or by_clock > _PATIENCE * time_limit

    def stop(self) -> None:
        self.pipe.close()
        self.process.kill()
        self.process.join()


def _processor_seconds(pid: int) -> float | None:
    """What a process has spent so far, as Linux tells; None elsewhere, or where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _serve(function: Callable[[Any], Any], pipe: Any, place: Any) -> None:
    """The worker: results for every chunk that arrives, until the other end is closed."""
    while True:
        try:
            chunk = pipe.recv()
        except (EOFError, KeyboardInterrupt):
            return
        results = []
        for i, item in chunk:
            place.value = i
            results.append(function(item))
        pipe.send(results)
