"""Workers that hang or crash, for real."""

import os
import time

from hypothesis import given, settings
from hypothesis import strategies as st

from contrastive.data.processes import Failure, guarded_map


def _act(item):
    if item == "hang":
        time.sleep(60)
    if item == "crash":
        os._exit(11)
    return item.upper()


def _results(items, **options):
    options = {"num_workers": 2, "time_limit": 1.0, "chunk_size": 4} | options
    results = [None] * len(items)
    for start, chunk in guarded_map(_act, items, **options):
        results[start : start + len(chunk)] = chunk
    return results


def test_one_that_hangs_and_one_that_crashes_cost_nobody_else():
    items = ["a", "hang", "b", "c", "d", "crash", "crash", "e", "f"]
    results = _results(items)
    assert [r for r in results if not isinstance(r, Failure)] == ["A", "B", "C", "D", "E", "F"]
    assert "took too long" in results[1] and results[5] == results[6] == "crashed with exit code 11"


def test_a_hang_ends_after_its_limit_and_no_process_is_left():
    begin = time.monotonic()
    _results(["hang"], time_limit=0.5)
    assert time.monotonic() - begin < 10  # it would sleep for 60
    import multiprocessing

    assert not multiprocessing.active_children()


@settings(max_examples=15, deadline=None)
@given(items=st.lists(st.text(max_size=3), max_size=20), chunk=st.integers(1, 7), workers=st.integers(1, 3))
def test_every_item_gets_its_own_result(items, chunk, workers):
    assert _results(items, chunk_size=chunk, num_workers=workers) == [item.upper() for item in items]
