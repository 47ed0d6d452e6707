"""Small heads through ONNX Runtime: where a method can be exact it is, in every form of head."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxshare
from onnxshare import RewriteResult
from onnxshare.comparison import rounding_noise
from onnxshare.errors import SamplesError, UsageError
from onnxshare.runtime.latency import Latency
from onnxshare.runtime.limits import RunLimits
from onnxshare.runtime.session_pair import Sessions
from onnxshare.samples.samples import Samples
from onnxshare.support.progress import logging
from rewrites.base import Options
from rewrites.proof import prove
from rewrites.small_heads import certificate, replace_head, search
from rewrites.small_heads.sample_split import split
from rewrites.small_heads.search_result import Search
from tests.rewrites.checking import assert_same_results, dtype_of, feeds, inputs, interface, run
from tests.rewrites.forms import C, H, K, Net, W
from tests.rewrites.test_fc_to_gap import EXACT

Array = np.ndarray[Any, np.dtype[Any]]


def samples_for(model: onnx.ModelProto, count: int = 120, seed: int = 6) -> Samples:
    random = np.random.default_rng(seed)
    arrays = {}
    for item in inputs(model):
        shape = [dim.dim_value or 1 for dim in item.type.tensor_type.shape.dim][1:]
        arrays[item.name] = random.standard_normal((count, *shape)).astype(dtype_of(item))
    return Samples(arrays, None, "a test", False)


def small(model: onnx.ModelProto, method: str, count: int = 120, **options: Any) -> RewriteResult:
    return onnxshare.rewrite(
        model,
        ["fc-to-gap"],
        method=method,
        samples=samples_for(model, count),
        provider="cpu",
        run_limits=RunLimits(in_process=True),
        **options,
    )


@pytest.mark.parametrize("method", ["mask:2", "grid:3", "depthwise"])
@pytest.mark.parametrize("build", EXACT)
def test_weights_that_are_constant_over_space_fit_any_weighting(
    build: Callable[[bool], onnx.ModelProto], method: str
) -> None:
    model = build(False)
    result = small(model, method)
    assert result.changes, result.sites
    onnx.checker.check_model(result.model, full_check=True)
    for batch in (1, 3):
        assert_same_results(model, result.model, feeds(model, batch), spread=64.0)


def test_of_a_large_head_errors_are_only_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not where they begin, nor with which weights rounding would be as large: both take long."""
    moved: list[None] = []

    def counted(*given: Any) -> Any:
        moved.append(None)
        return move(*given)

    move = rounding_noise._moved_weights
    monkeypatch.setattr(rounding_noise, "_moved_weights", counted)
    found = []
    for limit in (prove._HEAVY, 0):
        monkeypatch.setattr(prove, "_HEAVY", limit)
        found.append((small(planted(3), "mask:2").validation, len(moved)))
    (plain, first), (large, second) = found
    assert plain is not None
    assert large is not None
    assert first
    assert second == first
    assert plain.first_divergence is not None
    assert large.first_divergence is None
    assert (plain.verdict, large.verdict) == ("approximate", "approximate")
    assert [(row.name, row.max_abs, row.rmse) for row in plain.outputs] == [
        (row.name, row.max_abs, row.rmse) for row in large.outputs
    ]
    assert plain.reason == large.reason


def planted(rank: int, *, opset: int = 17, sizes: tuple[int, ...] = (H, W)) -> onnx.ModelProto:
    """One FC whose weight is V·A with A of so many masks."""
    net = Net(opset=opset, ir=4 if opset < 12 else 8)
    positions = int(np.prod(sizes))
    masks, mix = net.random(rank, positions), net.random(5 * C, rank)
    flat = net.node("Flatten", net.trunk(*sizes))
    weight = (mix @ masks).reshape(5, C * positions)
    net.rows(net.node("Gemm", flat, net.stored(weight), net.weight(5), transB=1), 5)
    return net.model()


@pytest.mark.parametrize(
    ("rank", "opset", "sizes"),
    [
        pytest.param(1, 17, (H, W), id="one mask"),
        pytest.param(2, 17, (H, W), id="two masks"),
        pytest.param(2, 7, (H, W), id="opset 7"),
        pytest.param(3, 17, (6,), id="1-D"),
        pytest.param(3, 17, (2, 3, 2), id="3-D"),
    ],
)
def test_planted_masks_are_found(rank: int, opset: int, sizes: tuple[int, ...]) -> None:
    model = planted(rank, opset=opset, sizes=sizes)
    for method, exact in ((f"mask:{rank}", True), ("mask:1", rank == 1)):
        result = small(model, method)
        assert result.changes
        fit = result.changes[0].fit
        assert fit is not None
        assert (fit["left_out_error"] < 1e-9) is exact
        if exact:
            assert_same_results(model, result.model, feeds(model, 3), spread=64.0)
            site = result.changes[0].site
            positions = int(np.prod(sizes))
            assert site.params_after == rank * positions + 5 * C * rank + 5


def two_layers(activation: str = "Relu", opset: int = 17) -> onnx.ModelProto:
    net = Net(opset=opset, ir=4 if opset < 12 else 8)
    x = net.node(activation, net.gemm(net.flat(), K, 20))
    net.rows(net.gemm(x, 20, 4), 4)
    return net.model()


OPERATORS = {
    "gap": ["GlobalAveragePool", "Flatten", "Gemm", "Relu", "Gemm"],
    "grid:2": ["AveragePool", "Flatten", "Gemm", "Relu", "Gemm"],
    "grid:3": ["AveragePool", "Flatten", "Gemm", "Relu", "Gemm"],
    "mask:2": ["Reshape", "MatMul", "Flatten", "Gemm", "Relu", "Gemm"],
    "depthwise": ["Conv", "Flatten", "Gemm", "Relu", "Gemm"],
    "collapse": ["Flatten", "Gemm"],
    "collapse+gap": ["GlobalAveragePool", "Flatten", "Gemm"],
    "collapse+mask:3": ["Reshape", "MatMul", "Flatten", "Gemm"],
    "collapse+depthwise": ["Conv", "Flatten", "Gemm"],
    "stack:3": ["Flatten", "Gemm", "Gemm", "Relu", "Gemm"],
    "stack:2+mask:4": ["Reshape", "MatMul", "Flatten", "Gemm", "Gemm", "Relu", "Gemm"],
    "mlp:5+separable:3": ["Conv", "Conv", "Flatten", "Gemm", "Relu", "Gemm"],
    "exact": ["Conv", "Relu", "Conv", "Flatten"],
}


@pytest.mark.parametrize("method", OPERATORS)
def test_operators_batch_and_counts(method: str) -> None:
    """The operators are those of the table, the batch stays free, and the counts add up."""
    model = two_layers()
    result = small(model, method)
    assert [node.op_type for node in result.model.graph.node][2:] == OPERATORS[method]
    assert interface(result.model) == interface(model)
    onnx.checker.check_model(result.model, full_check=True)
    for batch in (1, 2, 5):
        assert run(result.model, feeds(model, batch))[0].shape == (batch, 4)
    [change] = result.changes
    saved = change.site.params_before - (change.site.params_after or 0)
    assert result.before.params - result.after.params == saved
    if method != "exact":
        assert result.passed
        assert result.validation is not None
        assert result.validation.verdict == "approximate"


def test_before_gemm_could_do_without_a_bias_none_is_made_up() -> None:
    """It would be counted as parameters that the fit does not have."""
    result = small(two_layers(opset=9), "stack:3+mask:4")
    operators = ["Reshape", "MatMul", "Flatten", "MatMul", "Gemm", "Relu", "Gemm"]
    assert [node.op_type for node in result.model.graph.node][2:] == operators
    onnx.checker.check_model(result.model, full_check=True)
    [change] = result.changes
    saved = change.site.params_before - (change.site.params_after or 0)
    assert result.before.params - result.after.params == saved


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("method", ["collapse+mask:10", "stack:6+mask:10", "mask:10", "collapse"])
def test_fits_beat_the_mean(method: str, seed: int) -> None:
    """On samples that the fit has not seen, and in proportion to what the model leaves over."""
    model = two_layers()
    result = small(model, method)
    given = dict(samples_for(model, 300, seed + 50).arrays)
    wanted, found = run(model, given)[0], run(result.model, given)[0]
    variance = ((wanted - wanted.mean(axis=0)) ** 2).sum()
    assert ((found - wanted) ** 2).sum() < 0.5 * variance


def several(kind: str) -> onnx.ModelProto:
    net = Net()
    flat = net.flat()
    if kind == "two FCs on one map":
        net.rows(net.gemm(flat, K, 4), 4)
        net.rows(net.node("Tanh", net.gemm(flat, K, 1)), 1)
    elif kind == "two outputs of one hidden layer":
        x = net.node("Relu", net.gemm(flat, K, 20))
        net.rows(net.node("Softmax", net.gemm(x, 20, 4)), 4)
        net.rows(net.gemm(x, 20, 3), 3)
    elif kind == "a hidden layer that is an output":
        x = net.node("Relu", net.gemm(flat, K, 20))
        net.rows(x, 20)
        net.rows(net.gemm(x, 20, 4), 4)
    elif kind == "an extra input":
        x = net.node("Relu", net.gemm(flat, K, 20))
        x = net.node("Add", x, net.input(20))
        net.rows(net.gemm(x, 20, 4), 4)
    elif kind == "an activation with no formula here":
        x = net.node("Erf", net.gemm(flat, K, 20))
        net.rows(net.gemm(x, 20, 4), 4)
    return net.model()


@pytest.mark.parametrize(
    ("kind", "method", "reason"),
    [
        ("two FCs on one map", "collapse+mask:10", None),
        ("two FCs on one map", "stack:2", None),
        ("two FCs on one map", "mlp:5+separable:3", None),
        ("two outputs of one hidden layer", "collapse+mask:10", None),
        ("two outputs of one hidden layer", "mlp:5+separable:3", None),
        ("a hidden layer that is an output", "mlp:5+separable:3", "read elsewhere"),
        ("two outputs of one hidden layer", "stack:6+mask:10", None),
        ("two outputs of one hidden layer", "mask:10", None),
        ("a hidden layer that is an output", "collapse", "read elsewhere"),
        ("a hidden layer that is an output", "stack:3", None),
        ("an extra input", "collapse+mask:10", None),
        ("an extra input", "stack:2", None),
        ("an activation with no formula here", "mask:10", None),
        ("an activation with no formula here", "collapse", None),
        ("an activation with no formula here", "collapse+mask:10", None),
        ("an activation with no formula here", "stack:2", "Erf"),
    ],
)
def test_several_outputs_and_inputs_are_fitted_or_refused(
    kind: str, method: str, reason: str | None
) -> None:
    model = several(kind)
    result = small(model, method)
    if reason is not None:
        assert not result.changes
        assert reason in (result.sites[0].refused or "")
        return
    assert result.changes, result.sites
    assert interface(result.model) == interface(model)
    onnx.checker.check_model(result.model, full_check=True)
    given = dict(samples_for(model, 200, 9).arrays)
    for wanted, found in zip(run(model, given), run(result.model, given), strict=True):
        assert wanted.shape == found.shape
        variance = ((wanted - wanted.mean(axis=0)) ** 2).sum()
        assert ((found - wanted) ** 2).sum() < 0.9 * variance


@pytest.mark.parametrize("dtype", [np.float16])
def test_other_float_types(dtype: Any) -> None:
    net = Net(dtype=dtype)
    net.rows(net.gemm(net.node("Relu", net.gemm(net.flat(), K, 20)), 20, 4), 4)
    model = net.model()
    result = small(model, "stack:3+mask:4")
    assert result.changes
    stored = {t.name: numpy_helper.to_array(t).dtype for t in result.model.graph.initializer}
    assert {d for d in stored.values() if d.kind == "f"} == {np.dtype(dtype)}
    assert np.isfinite(run(result.model, feeds(model, 4))[0]).all()


def test_auto_on_a_head_that_pooling_equals_needs_no_samples() -> None:
    model = EXACT[0](False)
    result = onnxshare.rewrite(model, ["fc-to-gap"], method="auto", keep=0.99, provider="cpu")
    assert [site.exact for site in result.sites] == [True]
    assert result.passed


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "auto"}, "keep=0.99"),
        ({"method": "mask"}, "no method"),
        ({"method": "mask:0"}, "no method"),
        ({"method": "gap+mask:2"}, "no method"),
        ({"method": "stack:2+collapse"}, "no method"),
        ({"method": "full"}, "no method"),
        ({"method": "mask:2", "keep": 1.5}, "^keep is"),
        ({"keep": 0.0}, "^keep is"),
        ({"max_error": 0.0}, "^max_error is"),
        ({"method": "mask:2", "max_error": -0.1}, "^max_error is"),
        ({"method": "auto", "keep": 0.9, "objective": "speed"}, "objective"),
        ({"method": "auto", "keep": 0.9, "time_limit": 0.0}, "time_limit is"),
        ({"method": "mask:2", "time_limit": 9.0}, "time_limit ends a search"),
        ({"time_limit": 9.0}, "time_limit ends a search"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], words: str) -> None:
    model = two_layers()
    with pytest.raises(UsageError, match=words):
        small(model, **{"method": "", **options})


def test_methods_belong_to_fc_to_gap() -> None:
    with pytest.raises(UsageError, match="'fc-to-gap'"):
        onnxshare.rewrite(two_layers(), ["fc-to-conv"], method="mask:2")


@pytest.mark.parametrize(
    ("count", "keep", "method", "words"),
    [
        (400, 0.99, "auto", "give 598 or more .*, or promise less: .* at most 98.5 %"),
        (300, 0.99, "auto", "takes at least 299 .* search takes 299 more; .* at most 98.0 %"),
        (300, 0.99, "mask:4", "give 307 or more .* at most 98.9 %"),
        (100, 0.95, "auto", "give 118 or more .* at most 94.1 %"),
        (1, 0.99, "auto", "holds 1 sample; .* 299 .* give 598 or more"),
        (1, 0.5, "mask:4", "holds 1 sample; .* give 13 or more"),
        (12, 0.5, "auto", "takes at least 5 .* search takes 8 more; give 13 or more"),
        (7, None, "mask:4", "holds 7 samples, and a fit needs 8"),
        (1, None, "mask:4", "holds 1 sample, and a fit needs 8"),
    ],
)
def test_too_few_samples_say_how_many(
    count: int, keep: float | None, method: str, words: str
) -> None:
    """ceil(ln 0.05 / ln p): 299 for 99 %, 59 for 95 %, 5 for 50 %; eight more for a fit, as many
    more for a search. What n samples could prove is 0.05 to the power of 1/n."""
    with pytest.raises(SamplesError, match=words):
        small(two_layers(), method, count, keep=keep)


@pytest.mark.parametrize(
    ("count", "keep", "method", "parts"),
    [
        (598, 0.99, "auto", (299, 299)),
        (1000, 0.99, "auto", (500, 500)),
        (307, 0.99, "mask:4", (8, 299)),
        (13, 0.5, "auto", (8, 5)),
        (100, None, "mask:4", (75, 25)),
        (8, None, "mask:4", (6, 2)),
    ],
)
def test_samples_are_shared_between_a_fit_and_its_proof(
    count: int, keep: float | None, method: str, parts: tuple[int, int]
) -> None:
    given = Samples({"x": np.arange(count)[:, np.newaxis]})
    fitting, measuring = split(given, Options(True, method=method, keep=keep, seed=3))
    assert fitting is not None
    assert measuring is not None
    rows = [part.arrays["x"][:, 0].tolist() for part in (fitting, measuring)]
    assert tuple(map(len, rows)) == parts
    assert sorted(rows[0] + rows[1]) == list(range(count))


def test_classes_and_values_are_told_apart() -> None:
    softmax = several("two outputs of one hidden layer")
    refused = small(softmax, "mask:4", 200, keep=0.5)
    assert "gives values too" in (refused.sites[0].refused or "")
    both = small(softmax, "collapse", 400, keep=0.3, max_error=0.9)
    assert both.changes, both.sites


def embedding() -> onnx.ModelProto:
    """A head whose values are brought to a length at the end."""
    net = Net()
    x = net.gemm(net.node("Tanh", net.gemm(net.flat(), K, 20)), 20, 4)
    net.rows(net.node("LpNormalization", x, axis=1, p=2), 4)
    return net.model()


def test_an_error_is_promised_of_the_outputs_of_the_model() -> None:
    """Brought to a length, values are further off than the FC's own results were before."""
    model = embedding()
    result = small(model, "auto", 800, max_error=0.5)
    [change] = result.changes
    assert change.search is not None
    assert change.search.chosen != "exact", change.search
    [text] = [e.value for e in result.model.metadata_props if e.key == "onnxshare.approximate"]
    assert json.loads(text)["values"] == [result.model.graph.node[-2].output[0], *_outputs(model)]
    given = dict(samples_for(model, 2000, 12).arrays)
    wanted, found = run(model, given)[0], run(result.model, given)[0]
    variance = ((wanted - wanted.mean(axis=0)) ** 2).sum()
    assert ((found - wanted) ** 2).sum() <= 0.5**2 * variance
    kept = change.search.certificate
    assert kept is not None
    assert kept.error is not None
    ours = dict(samples_for(model, 800).arrays)
    held = np.random.default_rng(0).permutation(800)[:400]
    wanted, found = (
        run(m, {k: v[held] for k, v in ours.items()})[0] for m in (model, result.model)
    )
    variance = ((wanted - wanted.mean(axis=0)) ** 2).sum()
    assert kept.error >= np.sqrt(((found - wanted) ** 2).sum() / variance) * (1 - 1e-4)


def _outputs(model: onnx.ModelProto) -> list[str]:
    return [value.name for value in model.graph.output]


def images(bundled: Path) -> Array:
    return np.asarray(np.load(bundled / "calibration.npz")["image"][:400])


@pytest.fixture(scope="module")
def searched(bundled: Path) -> RewriteResult:
    return onnxshare.rewrite(
        bundled / "lenet5.onnx",
        ["fc-to-gap"],
        method="auto",
        keep=0.65,
        samples=Samples({"image": images(bundled)}),
        provider="cpu",
        run_limits=RunLimits(in_process=True),
    )


def test_search_takes_the_cheapest_that_reaches(searched: RewriteResult) -> None:
    [change] = searched.changes
    found = change.search
    assert found is not None
    reaching = [item for item in found.candidates if item.reaches]
    [chosen] = [item for item in found.candidates if item.chosen]
    assert chosen.method == found.chosen
    assert chosen.params == min(item.params or 0 for item in reaching) == change.site.params_after
    assert found.samples == 200
    for item in found.candidates:
        assert item.estimate is not None
        assert item.estimate.agreement is not None
        assert item.estimate.agreement_low is not None
        if "mlp" in item.method:  # one part was held out
            assert item.estimate.samples == 40
            assert item.reaches == (item.estimate.agreement >= 0.65)
        else:
            assert item.estimate.samples == 200
            assert item.reaches == (item.estimate.agreement_low >= 0.65)


def test_promise_is_certified_on_samples_that_the_search_never_saw(
    searched: RewriteResult, bundled: Path
) -> None:
    found = searched.changes[0].search
    assert found is not None
    assert found.certified
    data = images(bundled)
    held = np.random.default_rng(0).permutation(len(data))[:200]
    original = onnx.load(bundled / "lenet5.onnx")
    same = [
        run(model, {"image": data[held]})[0].argmax(axis=1) for model in (original, searched.model)
    ]
    assert found.certificate is not None
    assert found.certificate.agreement == pytest.approx(float((same[0] == same[1]).mean()))
    [text] = [e.value for e in searched.model.metadata_props if e.key == "onnxshare.approximate"]
    said = json.loads(text)
    assert said["agreement_low"] == 0.65
    assert said["samples"] == 200
    assert said["confidence"] == 0.95
    assert searched.validation is not None
    assert "agreement ≥ 65.0 % with 95 % confidence, 200 samples" in searched.validation.reason


def test_what_cannot_be_kept_falls_back_to_exact() -> None:
    """Random hidden layers: nothing smaller agrees on 99 % of random inputs, and at opset 12 there
    is no scale per channel."""
    model = two_layers("Tanh", 12)
    result = small(model, "auto", 700, keep=0.99)
    [change] = result.changes
    assert "not compressible within the promise" in change.site.detail
    assert change.site.exact
    assert change.search is not None
    assert change.search.chosen == "exact"
    assert result.validation is not None
    assert result.validation.verdict == "equivalent"
    assert not any(e.key == "onnxshare.approximate" for e in result.model.metadata_props)
    assert_same_results(model, result.model, feeds(model, 3))


def test_a_time_limit_ends_the_search_with_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that goes on by one at each look: the limit is over after so many."""
    clock = iter(range(10**6))
    for module in (certificate, replace_head, search):
        monkeypatch.setattr(module, "monotonic", lambda: next(clock))
    lines: list[str] = []
    with logging(lines.append):
        [change] = small(planted(2), "auto", 400, max_error=0.5, time_limit=18).changes
    found = change.search
    assert found is not None
    tried = [item for item in found.candidates if item.estimate is not None]
    assert 0 < len(tried) < len(found.candidates)
    assert found.too_late > 0
    assert len(lines) == len(found.candidates)
    assert sum("not tried: the time limit was reached" in line for line in lines) == found.too_late
    assert found.certified
    assert f"the time limit left {found.too_late} heads untried" in change.notes
    assert change.fit is not None
    assert (change.fit["fitted_on"], change.fit["certified_on"]) == (200, 200)
    assert any("fitted to 200 samples of" in note for note in change.notes)


def test_values_are_certified_by_their_error() -> None:
    model = planted(2)
    result = small(model, "auto", 400, max_error=0.05)
    [change] = result.changes
    assert change.search is not None
    assert change.search.chosen == "mask:2"
    certificate = change.search.certificate
    assert certificate is not None
    assert certificate.agreement is None
    assert (certificate.error_high or 0.0) <= 0.05


def test_a_given_method_that_breaks_the_promise_is_refused() -> None:
    result = small(two_layers(), "collapse+gap", 700, keep=0.99)
    assert not result.changes
    assert "is not agreement ≥ 99.0 %" in (result.sites[0].refused or "")


def timed(model: onnx.ModelProto, **options: Any) -> Search:
    result = small(model, "auto", 400, max_error=0.05, objective="latency", **options)
    [change] = result.changes
    assert change.search is not None
    return change.search


def test_the_fastest_is_chosen_where_latency_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search is told made-up times: the smallest head that reaches is not the fastest."""
    ratios = iter([0.9, 0.4, 0.8])

    def latencies(sessions: Sessions, samples: Samples, batches: Any, seed: int) -> list[Latency]:
        ratio = next(ratios, 0.9)
        return [Latency(1, 1e-3, ratio * 1e-3, ratio, (ratio, ratio), 500, 1, "faster")]

    monkeypatch.setattr("rewrites.run.latencies", latencies)
    found = timed(planted(2))
    timings = {item.method: item.latency for item in found.candidates if item.reaches}
    assert timings.keys() >= {"mask:2", "mask:4", "mask:8"}
    assert found.chosen == "mask:4"
    assert all(item.latency is None for item in found.candidates if not item.reaches)


def test_candidates_are_timed_in_pairs_with_the_original() -> None:
    found = timed(planted(2))
    assert found.timed_on.startswith("CPU")
    for item in found.candidates:
        assert (item.latency is not None) == item.reaches
        if item.latency is not None:
            assert item.latency.batch == 1
            assert item.latency.pairs >= 100
            assert item.latency.ratio is not None
            assert item.to_dict()["latency"]["pairs"] == item.latency.pairs
    params = small(planted(2), "auto", 400, max_error=0.05).changes[0].search
    assert params is not None
    assert params.timed_on == ""
    assert all(item.latency is None for item in params.candidates)
