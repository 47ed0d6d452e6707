"""The algebra of small heads keeps to one thread, and leaves the rest of the process alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import onnxshare
from onnxshare.runtime.limits import RunLimits
from rewrites.refusal import Refusal
from rewrites.small_heads import blas_threads, replace_head, search

MODELS = Path(__file__).parents[3] / "models"


def of_blas() -> set[int]:
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


@pytest.fixture
def _two_threads() -> Any:
    with threadpool_limits(2, user_api="blas"):
        if of_blas() != {2}:
            pytest.skip("this BLAS does not let its threads be set")
        yield
        assert of_blas() == {2}


@pytest.mark.usefixtures("_two_threads")
def test_threads_of_the_blas() -> None:
    with blas_threads.one():
        assert of_blas() == {1}


@pytest.mark.usefixtures("_two_threads")
@pytest.mark.parametrize(
    ("module", "function", "method"),
    [(search.CrossValidation, "run", "auto"), (replace_head, "fit_head", "collapse+gap")],
    ids=["a search", "a fit"],
)
def test_no_sum_depends_on_the_number_of_cores(
    module: Any, function: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With two threads, sums are added up in another order, and the last digits differ."""
    seen: list[set[int]] = []

    def look(*_: object) -> None:
        seen.append(of_blas())
        raise Refusal("seen")

    monkeypatch.setattr(module, function, look)
    onnxshare.rewrite(
        MODELS / "lenet5.onnx",
        ["fc-to-gap"],
        method=method,
        keep=0.5,
        samples=MODELS / "calibration.npz",
        provider="cpu",
        run_limits=RunLimits(in_process=True),
        validate=False,
    )
    assert seen
    assert set(map(frozenset, seen)) == {frozenset({1})}
