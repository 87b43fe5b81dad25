"""What a process is set up with before torch is imported: its encoding, how its threads wait, its memory."""

from __future__ import annotations

import ctypes
import locale
import os
import sys

# of <malloc.h>
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MALLOC_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def start_in_utf8() -> None:
    """Start Python again in its UTF-8 mode where the locale has another encoding.

    All our files are UTF-8, configurations as well as tables and cards, and Python would read and write them
    as the locale has it. Where the user has set ``PYTHONUTF8`` it stays.
    """
    known = locale.getpreferredencoding(False).lower().replace("-", "") == "utf8"
    if known or os.name != "posix" or "PYTHONUTF8" in os.environ:
        return
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def set_up_process() -> None:
    """Have threads spin briefly and freed memory stay with the process; what the user has set stays."""
    # GNU's threads else spin for milliseconds where they wait for one that another program keeps from its
    # core, and small networks then take a third longer, or several times as long.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    if not any(name in os.environ for name in _MALLOC_SETTINGS):
        keep_freed_memory()


def keep_freed_memory() -> bool:
    """Have GNU's malloc serve blocks below 32 MiB again instead of giving them to the system.

    A step allocates the same tensors as the one before. Left alone, malloc returns those at the end of its
    heap, and the system hands them out anew page by page, zeroed, which takes up to a third of a small
    network's step. Blocks of 32 MiB, the most that all versions take, and more are given back once they are
    free; 1 GiB stays free at the end of the heap at most.

    Returns:
        Whether malloc took the settings; other systems' has none.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another libc; Windows has no library None
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, 2**25) and mallopt(_M_TRIM_THRESHOLD, 2**30))
