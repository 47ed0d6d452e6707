"""Work in processes of its own: crashes and hangs cost one item."""

from __future__ import annotations

import os
import time

import pytest

from onnxshare.support.process_pool import CRASHED, TOO_LONG, run_apart


def work(item: int) -> tuple[int, str]:
    if item == 3:
        os._exit(1)
    if item == 5:
        time.sleep(600)
    return item, "done"


def lost(item: int, why: str) -> tuple[int, str]:
    return item, why


@pytest.mark.isolated
def test_what_crashes_or_hangs_costs_itself_alone() -> None:
    found = dict(run_apart(work, range(9), 2, lost, seconds=5))
    assert found == {**dict.fromkeys(range(9), "done"), 3: CRASHED, 5: TOO_LONG}


@pytest.mark.isolated
def test_nothing_is_left_when_nobody_wants_more() -> None:
    import multiprocessing

    before = set(multiprocessing.active_children())
    results = run_apart(work, iter([0, 1, 5, 5]), 2, lost)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert set(multiprocessing.active_children()) <= before
