"""Clocks and memory that the benchmarks share."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch


def clock() -> float:
    """Processor seconds of one thread, which other work hardly moves; wall time of several."""
    return time.thread_time() if torch.get_num_threads() == 1 else time.perf_counter()


def peak_bytes(run: Callable[[], object]) -> int:
    """Peak memory of this process while it runs, above what it held before (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _status("VmRSS")
    run()
    return _status("VmHWM") - before


def _status(key: str) -> int:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(key))
    return int(line.split()[1]) * 1024
