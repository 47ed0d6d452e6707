"""The algebra of small heads keeps to one thread, and leaves the rest of the process alone."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from rewrites.small_heads import blas_threads, refine_classifier
from rewrites.small_heads.ridge import Ridge
from rewrites.small_heads.sufficient_statistics import Matrix


def of_blas() -> set[int]:
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


@pytest.mark.parametrize(
    ("limits", "inside"),
    [
        (blas_threads.one, 1),
        (lambda: blas_threads.suited_to(60_000), 1),
        (lambda: blas_threads.suited_to(100_000_000), 2),
    ],
    ids=["one", "a small head", "a large head"],
)
def test_threads_of_the_blas(
    limits: Callable[[], AbstractContextManager[Any]], inside: int
) -> None:
    with threadpool_limits(2, user_api="blas"):
        if of_blas() != {2}:
            pytest.skip("this BLAS does not let its threads be set")
        with limits():
            assert of_blas() == {inside}
        assert of_blas() == {2}


def test_a_refinement_has_one_thread_whatever_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[int]] = []

    def look(*_: object) -> int:
        seen.append(of_blas())
        return 0

    monkeypatch.setattr(refine_classifier, "_best_steps", look)
    random = np.random.default_rng(0)
    features, targets = random.standard_normal((30, 4)), random.standard_normal((30, 3))
    ridge, prior = Ridge(Matrix(features)), np.zeros((3, 4))
    with threadpool_limits(2, user_api="blas"):
        assert refine_classifier.refine(ridge, targets, prior, ridge.fit(targets, prior)) is None
    assert seen == [{1}]
