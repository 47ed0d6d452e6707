"""The search: folds are only left out where they cannot matter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxshare.inputs import read_samples
from onnxshare.io.load import load
from onnxshare.runtime.run_limits import RunLimits
from rewrites.base import study
from rewrites.certify import Target, estimate
from rewrites.chain import Chain, chain_of
from rewrites.head_data import HeadData, collect
from rewrites.methods import parse
from rewrites.run import _features
from rewrites.search import cross_validate

Head = tuple[Chain, HeadData]


@pytest.fixture(scope="module")
def head() -> Head:
    models = Path(__file__).parents[2] / "models"
    model = load(models / "lenet5.onnx")
    subject = study(model)
    chain = chain_of(subject, subject.heads[0])
    samples = read_samples(models / "calibration.npz", model.skeleton, limit=150)
    features = _features(model, samples, "cpu", RunLimits(in_process=True))
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
    whole = cross_validate(chain, data, parse(method), leaves)
    early = cross_validate(chain, data, parse(method), leaves, target=target)
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
    gap = cross_validate(chain, data, parse("gap"), leaves, target=Target(keep=0.99))
    assert len(gap.heads) == 1
    assert len(gap.samples) == data.count // 5
