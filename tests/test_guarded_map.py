"""Work in other processes: what takes too long, and what only waits."""

import os
import time
from pathlib import Path

import pytest

from contrastive.data.processes import Failure, guarded_map
from contrastive.errors import ContrastiveError


def work(item):
    """Sleep so many seconds, loop for ever, end the process, or double a number."""
    kind, value = item
    if kind == "sleep":
        time.sleep(value)
    while kind == "loop":
        pass
    if kind == "end":
        os._exit(value)
    return 2 * value


def results(items, **options):
    found = {}
    for start, chunk in guarded_map(work, items, num_workers=2, chunk_size=2, **options):
        found |= dict(enumerate(chunk, start))
    return [found[i] for i in range(len(items))]


def test_an_item_that_hangs_or_ends_its_process_is_left_out_and_no_other():
    items = [("number", 1), ("loop", 0), ("number", 3), ("end", 7), ("number", 5)]
    found = results(items, time_limit=1.0)
    assert found == [2, "took too long", 6, "crashed with exit code 7", 10]
    assert [isinstance(result, Failure) for result in found] == [False, True, False, True, False]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the system does not tell processor time")
def test_a_process_that_waits_is_given_time_and_not_for_ever():
    """As one does that gets no core on a busy machine."""
    assert results([("sleep", 2), ("number", 1)], time_limit=1.0) == [4, 2]
    assert results([("sleep", 600), ("number", 1)], time_limit=0.2) == ["took too long", 2]


class Unreadable:
    """Ends the process that is given it, as does one that cannot import what it needs."""

    def __reduce__(self):
        return os._exit, (3,)


def test_a_process_that_ends_before_its_first_item_is_not_started_for_ever():
    with pytest.raises(ContrastiveError, match="crashed with exit code 3 before its first item"):
        results([Unreadable(), Unreadable(), Unreadable()], time_limit=1.0)
