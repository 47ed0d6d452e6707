"""The search: folds are only left out where they cannot matter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
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
from rewrites.small_heads.fit_head import HeadFitter, expected_params
from rewrites.small_heads.head_layers import Chain, chain_of
from rewrites.small_heads.methods import Method, family, parse
from rewrites.small_heads.search import CrossValidated, CrossValidation
from rewrites.small_heads.search_result import SURE
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
    whole = CrossValidation(replace(data, classes=leaves)).run(parse(method))
    early = CrossValidation(replace(data, classes=leaves)).run(parse(method), target=target)
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
    gap = CrossValidation(replace(data, classes=leaves)).run(parse("gap"), target=Target(keep=0.99))
    assert len(gap.heads) == 1
    assert len(gap.samples) == data.count // 5


def test_what_takes_long_is_fitted_once(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads that are fitted step by step, and any of a large head."""
    chain, data = head
    validation = CrossValidation(replace(data, classes=frozenset(chain.leaves)))
    counts = {}
    for method in ("mlp:4+separable:4", "collapse+gap"):
        counts[method] = len(validation.run(parse(method)).samples)
    assert counts == {"mlp:4+separable:4": data.count // 5, "collapse+gap": data.count}
    monkeypatch.setattr(search, "_LARGE", chain.params)
    assert len(validation.run(parse("collapse+gap")).samples) == data.count // 5


def test_of_a_large_head_nothing_is_tried_beyond_what_is_sure(
    head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sizes grow; after two whose bound reaches the target, larger ones are named, and not tried;
    the head as it is in 8 bits is always tried, first, and is none of the two."""
    chain, data = head
    data = replace(data, classes=frozenset(chain.leaves))
    fitted: list[str] = []
    run = CrossValidation.run

    def watched(self: CrossValidation, method: Method, *rest: Any) -> CrossValidated:
        fitted.append(method.name)
        return run(self, method, *rest)

    monkeypatch.setattr(search, "_LARGE", chain.params)
    monkeypatch.setattr(CrossValidation, "run", watched)
    found = search.search(data, Target(keep=0.5))
    tried = {item.method: item for item in found.candidates if item.estimate is not None}
    bounds = {item.method: item.estimate for item in found.candidates}
    sure = [name for name in fitted if (bound := bounds[name]) and bound.reaches(found.target)]
    assert fitted[0] == sure[0] == "int8"
    assert len(sure) == 3
    assert fitted[-1] == sure[-1]
    sizes = [tried[name].params or 0 for name in fitted[1:] if name in tried]
    assert sizes == sorted(sizes)
    left = [item for item in found.candidates if item.refused == SURE]
    assert left
    assert {item.method for item in left}.isdisjoint(fitted)
    assert found.chosen in sure


def test_the_size_of_a_head_is_known_before_it_is_fitted(head: Head) -> None:
    """At most, as the samples may span fewer directions, and nearly always exactly."""
    chain, data = head
    fitter = HeadFitter(replace(data, classes=frozenset(chain.leaves)), np.arange(data.count))
    exact = 0
    methods = family(3, 10, chain.head.channels, chain.head.spatial)
    closed = [method for method in methods if not method.taught]
    for method in closed:
        small = fitter.fit(method)
        expected = expected_params(chain, method)
        assert small.params <= expected, method.name
        exact += small.params == expected
    assert exact > 0.8 * len(closed)


def test_what_is_predicted_was_not_fitted_to(head: Head) -> None:
    chain, data = head
    method = parse("mlp:4+separable:4")
    found = CrossValidation(replace(data, classes=frozenset(chain.leaves))).run(method)
    maps, results = data.maps.copy(), {p: v.copy() for p, v in data.results.items()}
    maps[found.samples] = 0
    for values in results.values():
        values[found.samples] = 0
    again = CrossValidation(HeadData(chain, maps, results, frozenset(chain.leaves))).run(method)
    for one, other in zip(found.heads, again.heads, strict=True):
        for place, layer in enumerate(one.layers):
            np.testing.assert_array_equal(layer.factors[0], other.layers[place].factors[0])


def test_no_smaller_is_refused(head: Head) -> None:
    with pytest.raises(Refusal, match="no smaller"):
        CrossValidation(head[1]).run(parse("mlp:64+separable:4000"))
