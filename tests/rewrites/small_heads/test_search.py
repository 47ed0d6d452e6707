"""The search: folds are only left out where they cannot matter."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxshare.io.load import load
from onnxshare.runtime.limits import RunLimits
from onnxshare.samples.samples import read_samples
from rewrites.base import study
from rewrites.refusal import Refusal
from rewrites.run import features_of
from rewrites.small_heads import blas_threads, search
from rewrites.small_heads.certificate import Target, estimate
from rewrites.small_heads.fit_head import fit_head
from rewrites.small_heads.fitted_head import SmallHead
from rewrites.small_heads.head_layers import Chain, chain_of
from rewrites.small_heads.methods import parse
from rewrites.small_heads.search import cross_validate
from rewrites.small_heads.training_data import HeadData, collect

Head = tuple[Chain, HeadData]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As in a search of a small head."""
    with blas_threads.one():
        yield


@pytest.fixture(scope="module")
def head() -> Head:
    models = Path(__file__).parents[3] / "models"
    model = load(models / "lenet5.onnx")
    subject = study(model)
    chain = chain_of(subject, subject.heads[0])
    samples = read_samples(models / "calibration.npz", model.skeleton, limit=150)
    features = features_of(model, samples, "cpu", RunLimits(in_process=True))
    return chain, collect(chain, features, samples.count)


@pytest.mark.parametrize("method", ["gap", "mask:8", "collapse+mask:4", "stack:24+mask:16"])
@pytest.mark.parametrize(
    ("target", "classes"),
    [(Target(keep=0.9), True), (Target(max_error=0.25), False)],
    ids=["classes", "values"],
)
def test_what_is_left_early_could_not_have_reached_the_target(
    head: Head, method: str, target: Target, classes: bool
) -> None:
    chain, data = head
    leaves = frozenset(chain.leaves) if classes else frozenset[int]()
    wanted = {leaf: data.results[leaf] for leaf in chain.leaves}
    whole = cross_validate(replace(data, classes=leaves), parse(method))
    early = cross_validate(replace(data, classes=leaves), parse(method), target=target)
    full = estimate(wanted, whole.outputs, leaves)
    assert whole.samples.tolist() == list(range(data.count))
    if len(early.samples) < data.count:
        assert not full.could_reach(target)
        assert not full.reaches(target)
    for leaf in chain.leaves:  # what was predicted is the same, and of the samples it says
        np.testing.assert_array_equal(early.outputs[leaf], whole.outputs[leaf][early.samples])


def test_folds_are_left_out(head: Head) -> None:
    chain, data = head
    leaves = frozenset(chain.leaves)
    gap = cross_validate(replace(data, classes=leaves), parse("gap"), target=Target(keep=0.99))
    assert len(gap.heads) == 1
    assert len(gap.samples) == data.count // 5


def test_fits_side_by_side_are_those_made_one_by_one(
    head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, data = head
    leaves = frozenset(chain.leaves)
    method = parse("mlp:4+separable:4")
    monkeypatch.setattr(search, "usable_cores", lambda: 1)
    one_by_one = cross_validate(replace(data, classes=leaves), method)
    together = threading.Barrier(3)
    numbers = count()

    def watched(*given: Any, **more: Any) -> SmallHead:
        if next(numbers) < 3:
            together.wait(30)  # until three have come
        return fit_head(*given, **more)

    monkeypatch.setattr(search, "fit_head", watched)
    monkeypatch.setattr(search, "usable_cores", lambda: 3)
    side_by_side = cross_validate(replace(data, classes=leaves), method)
    assert len(side_by_side.heads) == 5
    for leaf in chain.leaves:
        np.testing.assert_array_equal(side_by_side.outputs[leaf], one_by_one.outputs[leaf])


def test_fits_that_wait_are_not_begun_once_the_rest_is_left_out(
    head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, data = head
    begun: list[int] = []

    def watched(*given: Any, **more: Any) -> SmallHead:
        begun.append(threading.get_ident())
        if len(begun) > 1:
            time.sleep(0.5)
        return fit_head(*given, **more)

    monkeypatch.setattr(search, "fit_head", watched)
    monkeypatch.setattr(search, "usable_cores", lambda: 2)
    before = threading.active_count()
    method, target = parse("mlp:2+separable:2"), Target(keep=0.999)
    left = cross_validate(replace(data, classes=frozenset(chain.leaves)), method, target=target)
    assert len(left.heads) == 1
    assert len(begun) == 3
    assert threading.get_ident() not in begun
    assert threading.active_count() == before


def test_a_refusal_ends_fits_side_by_side(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    _, data = head
    monkeypatch.setattr(search, "usable_cores", lambda: 4)
    with pytest.raises(Refusal, match="no smaller"):
        cross_validate(data, parse("mlp:64+separable:4000"))
