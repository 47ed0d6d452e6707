from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxshare.comparison.compare import compare
from onnxshare.comparison.function_digest import function_digest
from onnxshare.comparison.target import agreement_lower_bound
from onnxshare.comparison.tensor_statistics import Tally, split_channels
from onnxshare.errors import ModelFileError, RuntimeFailure, SamplesError, UsageError
from onnxshare.io.load import load
from onnxshare.runtime import provider_probe
from onnxshare.runtime.provider_probe import Probe
from onnxshare.samples.samples import Samples

Array = np.ndarray[Any, np.dtype[Any]]
FEATURES, CLASSES = 48, 10
RANDOM = np.random.default_rng(0)
WEIGHT = RANDOM.standard_normal((FEATURES, CLASSES)).astype(np.float32)
BIAS = RANDOM.standard_normal(CLASSES).astype(np.float32)
X = RANDOM.standard_normal((40, FEATURES)).astype(np.float32)


def linear(
    weight: Array = WEIGHT,
    bias: Array = BIAS,
    *,
    order: Array | None = None,
    after: Sequence[onnx.NodeProto] = (),
    kind: int = TensorProto.FLOAT,
    batch: int | str = "n",
) -> onnx.ModelProto:
    """A linear layer; with `order` its columns are permuted, and its inputs to match."""
    stored = {"w": weight, "b": bias}
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["h"])]
    if order is not None:
        stored = {"w": weight[order], "b": bias, "order": order}
        nodes = [
            helper.make_node("Gather", ["x", "order"], ["z"], axis=1),
            helper.make_node("MatMul", ["z", "w"], ["m"]),
            helper.make_node("Add", ["m", "b"], ["h"]),
        ]
    nodes += after or [helper.make_node("Identity", ["h"], ["y"])]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "linear",
        [info("x", TensorProto.FLOAT, [batch, FEATURES])],
        [info("y", kind, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


ORDER = np.random.default_rng(1).permutation(FEATURES)


def test_the_same_bytes_are_identical_without_a_run() -> None:
    result = compare(linear(), linear(), provider="cpu")
    assert (result.verdict, result.passed, result.outputs) == ("identical", True, ())


def test_equal_results_of_other_bytes_are_identical_if_they_move() -> None:
    renamed = linear()
    renamed.graph.node[0].name = "another name"
    assert compare(linear(), renamed, provider="cpu").verdict == "identical"
    still = linear(weight=WEIGHT * 0)
    renamed = linear(weight=WEIGHT * 0)
    renamed.graph.node[0].name = "another name"
    result = compare(still, renamed, provider="cpu")
    assert (result.verdict, result.passed) == ("identical", True)
    assert "the same nodes and weights" in result.reason
    result = compare(still, linear(weight=WEIGHT * 0, order=ORDER), provider="cpu")
    assert (result.verdict, result.passed) == ("inconclusive", False)
    assert "pass other samples" in result.reason


def test_errors_are_told_by_channel_or_group_of_channels() -> None:
    """300 channels in 256 groups: 300 · 5 / 256 = 5.9 and 300 · 6 / 256 = 7.03: 5, 6 are one."""
    info = helper.make_tensor_value_info
    pair = []
    for slip in (0.0, 0.5):
        bias = np.zeros(300, np.float32)
        bias[6] = slip
        graph = helper.make_graph(
            [helper.make_node("Add", ["x", "b"], ["y"])], "wide",
            [info("x", TensorProto.FLOAT, ["n", 300])], [info("y", TensorProto.FLOAT, ["n", 300])],
            [numpy_helper.from_array(bias, "b")],
        )  # fmt: skip
        pair.append(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        )
    found = compare(*pair, provider="cpu")
    errors = found.outputs[0].channel_errors
    assert len(errors) == 256
    assert [at for at, error in enumerate(errors) if error > 1] == [5]
    assert errors[5] == found.outputs[0].worst


def test_another_order_of_sums_is_equivalent_and_the_figures_are_right() -> None:
    a, b = linear(), linear(order=ORDER)
    before = a.SerializeToString(), b.SerializeToString()
    result = compare(a, b, samples=Samples({"x": X}, None, "mine"), provider="cpu")
    assert (a.SerializeToString(), b.SerializeToString()) == before
    assert result.verdict == "equivalent", result.reason
    assert (result.provider, result.samples, result.origin) == ("CPU", 40, "mine")
    (row,) = result.outputs
    exact = X.astype(np.float64) @ WEIGHT.astype(np.float64) + BIAS
    scale = np.abs(exact).max()
    # Two float32 sums of 49 terms are each within 49·2⁻²⁴ of the sum of magnitudes.
    assert 0 < (row.max_abs or 0) < 2 * 49 * 2**-24 * (np.abs(X) @ np.abs(WEIGHT)).max()
    assert row.max_rel == pytest.approx((row.max_abs or 0) / scale, rel=1e-5)
    assert (row.live, row.argmax_agreement) == (1.0, 1.0)
    assert row.confidence_low == pytest.approx(0.05 ** (1 / 40))


def test_the_figures_of_a_known_difference() -> None:
    shift = np.linspace(0.1, 1.0, CLASSES).astype(np.float32)
    result = compare(linear(), linear(bias=BIAS + shift), samples=Samples({"x": X}), provider="cpu")
    (row,) = result.outputs
    a = X.astype(np.float64) @ WEIGHT + BIAS
    b = a + shift
    power = (shift.astype(np.float64) ** 2).sum() * len(X)
    assert result.verdict == "different"
    assert "output 'y' differs by" in result.reason
    assert row.max_abs == pytest.approx(1.0, rel=1e-5)
    assert row.rmse == pytest.approx(math.sqrt(power / a.size), rel=1e-5)
    assert row.sqnr_db == pytest.approx(10 * math.log10((a**2).sum() / power), rel=1e-5)
    cosine = (a * b).sum() / math.sqrt((a**2).sum() * (b**2).sum())
    assert row.cosine == pytest.approx(cosine, rel=1e-6)
    assert row.argmax_agreement == (a.argmax(1) == b.argmax(1)).mean()
    fives = [np.sort(np.argsort(scores, axis=1)[:, -5:], axis=1) for scores in (a, b)]
    agree = int((fives[0] == fives[1]).all(axis=1).sum())
    assert 0 < agree < len(X)
    assert row.top5_agreement == agree / len(X)
    assert row.top5_confidence_low == agreement_lower_bound(agree, len(X))
    assert row.worst_channel is not None
    assert row.worst_channel > 0  # the first has the smallest shift


def test_accuracy_of_both_where_labels_are_given() -> None:
    labels = (X @ WEIGHT + BIAS).argmax(axis=1)
    labels[:10] = (labels[:10] + 1) % CLASSES
    wrong = linear(weight=WEIGHT[:, ::-1].copy())
    result = compare(linear(), wrong, samples=Samples({"x": X}, labels), provider="cpu")
    right = ((X @ WEIGHT[:, ::-1] + BIAS).argmax(axis=1) == labels).mean()
    assert result.accuracy == {"a": 0.75, "b": right}


def test_the_json_contract() -> None:
    data = compare(linear(), linear(order=ORDER), provider="cpu", seed=4, count=9).to_dict()
    assert json.loads(json.dumps(data)) == data
    contract = "verdict provider outputs samples seed latency first_divergence reason accuracy"
    assert set(contract.split()) <= set(data)
    assert (data["samples"], data["seed"], data["latency"]) == (9, 4, None)
    row = "name max_abs max_rel rmse sqnr_db cosine tolerance argmax_agreement confidence_low live"
    assert set(row.split()) <= set(data["outputs"][0])


def test_one_sample_shows_nothing() -> None:
    result = compare(linear(), linear(order=ORDER), samples=Samples({"x": X[:1]}), provider="cpu")
    assert result.verdict == "inconclusive"
    assert "one sample cannot show whether it moves" in result.reason


def test_samples_far_larger_than_those_the_noise_was_measured_on() -> None:
    values = np.concatenate([X, X * 1e4, X])
    samples = Samples({"x": values})
    assert compare(linear(), linear(order=ORDER), samples=samples, provider="cpu").passed
    scaled = WEIGHT.copy()
    scaled[:, 3] *= 1.01
    wrong = compare(linear(), linear(scaled), samples=samples, provider="cpu")
    assert wrong.verdict == "different"


def test_a_fixed_batch_against_a_dynamic_one() -> None:
    fixed, dynamic = linear(batch=16), linear(order=ORDER)
    samples = Samples({"x": X})
    assert compare(fixed, dynamic, samples=samples, provider="cpu").verdict == "equivalent"
    found = compare(dynamic, fixed, provider="cpu")
    assert found.verdict == "different"
    assert found.reason.startswith("A runs a batch of 1, and B takes batches of 16 only; at that")
    at = compare(dynamic, fixed, provider="cpu", input_shapes={"x": (16, 48)})
    assert at.verdict == "equivalent", at.reason
    assert "input_shapes={'x': (16, 48)}" in found.reason


def pooled(*sizes: int | str, ceil: int = 0) -> onnx.ModelProto:
    info = helper.make_tensor_value_info
    node = helper.make_node(
        "AveragePool", ["x"], ["y"], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=ceil
    )
    ends = [info("x", 1, ["n", 2, *sizes])], [info("y", 1, None)]
    graph = helper.make_graph([node], "pooled", *ends)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


@pytest.mark.parametrize(
    ("sizes", "passed"),
    [
        ({}, False),
        ({"dims": {"h": 8, "w": 6}}, True),
        ({"dims": {"h": 8, "w": 7}}, False),
        ({"input_shapes": {"x": [4, 2, 8, 6]}}, True),
        ({"input_shapes": {"": [None, 2, 8, 6]}}, True),
    ],
)
def test_sizes_that_are_asked_for(sizes: dict[str, Any], passed: bool) -> None:
    """Windows beyond the edge are another function at odd sizes alone."""
    found = compare(pooled("h", "w"), pooled("h", "w", ceil=1), provider="cpu", **sizes)
    assert found.passed is passed, found.reason


def test_sizes_that_neither_has_are_a_usage_error() -> None:
    with pytest.raises(UsageError, match="width"):
        compare(pooled("h", "w"), pooled("h", "w", ceil=1), provider="cpu", dims={"width": 8})
    shapes = {"x": [1, 2, 8, 8]}
    with pytest.raises(UsageError, match="fixes it at 6"):
        compare(pooled(8, 6), pooled("h", "w", ceil=1), provider="cpu", input_shapes=shapes)


def test_sizes_that_b_fixes() -> None:
    found = compare(pooled("h", "w"), pooled(8, 6, ceil=1), provider="cpu")
    assert found.passed
    assert found.reason.endswith("; B fixes sizes that A leaves open, and ran at these")


def test_other_inputs_or_outputs_are_not_compared() -> None:
    other = linear()
    other.graph.output[0].name = other.graph.node[-1].output[0] = "z"
    result = compare(linear(), other, provider="cpu")
    assert (result.verdict, result.passed) == ("not run", False)
    assert result.reason.startswith("A's outputs are 'y', B's are 'z': say with map_input")


def test_a_shape_that_differs_only_at_run_time() -> None:
    turned = linear(after=[helper.make_node("Transpose", ["h"], ["y"], perm=[1, 0])])
    result = compare(linear(), turned, samples=Samples({"x": X}), provider="cpu")
    assert result.verdict == "different"
    assert "has shape 32×10 in A" in result.reason


@pytest.mark.parametrize("letter", ["A", "B"])
def test_a_model_that_does_not_run(letter: str) -> None:
    broken = linear(after=[helper.make_node("NoSuchOperator", ["h"], ["y"])])
    pair = (broken, linear()) if letter == "A" else (linear(), broken)
    result = compare(*pair, provider="cpu")
    assert (result.verdict, result.passed) == ("not run", False)
    assert result.reason.startswith(f"model {letter}: ONNX Runtime cannot load it:")
    assert "\n" not in result.reason


def test_nan_and_infinity_must_be_in_the_same_places() -> None:
    log = [helper.make_node("Log", ["h"], ["y"])]  # NaN wherever h is negative
    a, b = linear(after=log), linear(order=ORDER, after=log)
    samples = Samples({"x": X})
    assert compare(a, b, samples=samples, provider="cpu").verdict == "equivalent"
    absolute = [helper.make_node("Abs", ["h"], ["p"]), helper.make_node("Log", ["p"], ["y"])]
    result = compare(a, linear(after=absolute), samples=samples, provider="cpu")
    assert result.verdict == "different"
    assert "NaN or infinite values in other places" in result.reason


def argmax(weight: Array = WEIGHT, order: Array | None = None) -> onnx.ModelProto:
    node = helper.make_node("ArgMax", ["h"], ["y"], axis=1, keepdims=0)
    return linear(weight, after=[node], order=order, kind=TensorProto.INT64)


def test_integer_outputs_are_equal_or_not_and_judged_by_what_goes_into_them() -> None:
    samples = Samples({"x": X})
    right = argmax(order=ORDER)
    alone = compare(argmax(), right, samples=samples, provider="cpu")
    assert alone.verdict == "equivalent", alone.reason
    assert [(row.name, row.internal) for row in alone.outputs] == [("y", False), ("h", True)]
    row = alone.outputs[0]
    assert (row.max_abs, row.max_rel, row.rmse, row.tolerance, row.cosine) == (0, 0, 0, None, None)
    assert row.live == 1  # the one class is not the same on all samples
    seen = compare(argmax(), right, samples=samples, provider="cpu", tensors=["h"])
    assert seen.verdict == "equivalent", seen.reason
    swapped = argmax(WEIGHT[:, ::-1].copy())
    wrong = compare(argmax(), swapped, samples=samples, provider="cpu")
    assert wrong.verdict == "different"
    assert "int64 values" in wrong.reason


def embedding(table: Array, *, halves: bool = False) -> onnx.ModelProto:
    """Rows of a table, summed over the sequence; in two halves the sums run in another order."""
    node = helper.make_node
    nodes = [node("Gather", ["table", "ids"], ["rows"])]
    if halves:
        nodes += [
            node("Split", ["rows"], ["p", "q"], axis=1),
            node("Add", ["p", "q"], ["s"]),
            node("ReduceSum", ["s", "axes"], ["y"], keepdims=0),
        ]
    else:
        nodes.append(node("ReduceSum", ["rows", "axes"], ["y"], keepdims=0))
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "embedding",
        [info("ids", TensorProto.INT64, ["n", 32])],
        [info("y", TensorProto.FLOAT, ["n", 6])],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array([1]), "axes")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def test_models_with_integer_inputs() -> None:
    table = RANDOM.standard_normal((20, 6)).astype(np.float32)
    assert compare(embedding(table), embedding(table, halves=True), provider="cpu").passed
    scaled = table.copy()
    scaled[:, 2] *= np.float32(1.01)
    assert compare(embedding(table), embedding(scaled), provider="cpu").verdict == "different"


PROMISE = {"rewrite": "fc-to-gap", "agreement": 0.95, "agreement_low": 0.9, "samples": 1000}


def shifted(share: float, promise: dict[str, Any] | None) -> tuple[onnx.ModelProto, Samples]:
    """A model that gives another class on this share of the samples.

    The first feature is 1 on those samples only, and its weights turn the scores round.
    """
    values = X.copy()
    values[:, 0] = np.arange(len(X)) < round(share * len(X))
    weight, base = WEIGHT.copy(), WEIGHT.copy()
    base[0] = 0
    weight[0] = 0
    weight[0, 0] = 1e4
    best = (values @ base + BIAS).argmax(axis=1)
    values = values[np.argsort(best == 0, kind="stable")]  # class 0 must not be right already
    values[:, 0] = np.arange(len(X)) < round(share * len(X))
    model = linear(weight)
    if promise:
        promise = promise | {"original": function_digest(load(exact_model()))}
        promise["approximation"] = function_digest(load(model))
        helper.set_model_props(model, {"onnxshare.approximate": json.dumps(promise)})
    return model, Samples({"x": values}, None, "test.npz")


def exact_model() -> onnx.ModelProto:
    weight = WEIGHT.copy()
    weight[0] = 0
    return linear(weight)


@pytest.mark.parametrize(("share", "verdict"), [(0.05, "approximate"), (0.25, "different")])
def test_an_approximation_is_held_to_its_promise(share: float, verdict: str) -> None:
    model, samples = shifted(share, PROMISE)
    result = compare(exact_model(), model, samples=samples, provider="cpu")
    assert result.verdict == verdict, result.reason
    assert result.outputs[0].argmax_agreement == pytest.approx(1 - share)
    assert "fc-to-gap" in result.reason
    turned = compare(model, exact_model(), samples=samples, provider="cpu")
    assert turned.verdict == verdict


def test_random_samples_say_nothing_about_an_approximation() -> None:
    model, samples = shifted(0.05, PROMISE)
    result = compare(exact_model(), model, provider="cpu")
    assert result.verdict == "inconclusive"
    assert "pass samples" in result.reason
    made_up = Samples(samples.arrays, None, "random", random=True)
    assert compare(exact_model(), model, samples=made_up, provider="cpu").verdict == "inconclusive"


@pytest.mark.parametrize("promise", [None, {"agreement_low": 2}, {"agreement_low": "x"}, {}])
def test_without_a_valid_promise_a_difference_is_a_difference(
    promise: dict[str, Any] | None,
) -> None:
    model, samples = shifted(0.05, promise)
    assert compare(exact_model(), model, samples=samples, provider="cpu").verdict == "different"


def test_two_models_with_the_same_promise_do_not_approximate_each_other() -> None:
    model, samples = shifted(0.05, PROMISE)
    original = exact_model()
    original.metadata_props.extend(model.metadata_props)
    assert compare(original, model, samples=samples, provider="cpu").verdict == "different"


def test_arguments_that_name_nothing(tmp_path: Path) -> None:
    a, b = linear(), linear(order=ORDER)
    with pytest.raises(UsageError, match="model A computes no tensor called 'm'"):
        compare(a, b, tensors=["m"], provider="cpu")
    with pytest.raises(ModelFileError):
        compare(tmp_path / "missing.onnx", b)
    with pytest.raises(SamplesError):
        compare(a, b, samples=tmp_path / "missing.npz", provider="cpu")
    with pytest.raises(UsageError):
        compare(a, b, provider="nonsense")


def test_cuda_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = Probe("no NVIDIA driver")
    monkeypatch.setattr(provider_probe, "probe", lambda known, place: missing)
    monkeypatch.setattr(provider_probe, "is_installed", lambda known: known.title == "CUDA")
    with pytest.raises(RuntimeFailure, match="no NVIDIA driver"):
        compare(linear(), linear(order=ORDER), provider="cuda")
    assert compare(linear(), linear(), provider="auto").provider == "CPU: no NVIDIA driver"


@pytest.mark.parametrize("trials", [1, 2, 10, 59, 1000])
def test_the_lower_bound_when_all_agree(trials: int) -> None:
    # P(all agree) = pⁿ = 5 %.
    assert agreement_lower_bound(trials, trials) == pytest.approx(0.05 ** (1 / trials))


@pytest.mark.parametrize(("hits", "trials"), [(1, 1000), (9, 10), (50, 100), (1990, 2000)])
def test_the_lower_bound_is_where_the_tail_holds_five_percent(hits: int, trials: int) -> None:
    p = agreement_lower_bound(hits, trials)
    assert p is not None
    below = (
        sum(math.comb(trials, k) * p**k * (1 - p) ** (trials - k) for k in range(hits))
        if (hits < trials / 2)
        else None
    )
    tail = (
        1 - below
        if below is not None
        else math.fsum(
            math.exp(
                math.log(math.comb(trials, k)) + k * math.log(p) + (trials - k) * math.log1p(-p)
            )
            for k in range(hits, trials + 1)
        )
    )
    assert tail == pytest.approx(0.05, rel=1e-6)


def test_the_lower_bound_at_the_ends() -> None:
    assert agreement_lower_bound(0, 10) == 0.0
    assert agreement_lower_bound(0, 0) is None
    # Published: 9 of 10, one-sided 95 %: 0.606.
    assert agreement_lower_bound(9, 10) == pytest.approx(0.606, abs=5e-4)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((5,), (5, 1, 1)),
        ((5, 7), (5, 7, 1)),
        ((5, 7, 3), (5, 21, 1)),
        ((2, 7, 100_000), (2, 7, 100_000)),
        ((5, 7, 3, 2), (5, 7, 6)),
    ],
)
def test_channels(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert split_channels(np.zeros(shape, np.float32)).shape == expected


def test_a_tally_does_not_depend_on_the_batches() -> None:
    random = np.random.default_rng(2)
    a = random.standard_normal((50, 8)).astype(np.float32)
    b = a + random.standard_normal((50, 8)).astype(np.float32) / 100
    whole, parts = Tally("y"), Tally("y")
    whole.add(a, b)
    for start in range(0, 50, 7):
        parts.add(a[start : start + 7], b[start : start + 7])
    assert parts.figures() == pytest.approx(whole.figures())
    np.testing.assert_array_equal(parts.error, np.abs(a.astype(float) - b).max(axis=0))
    np.testing.assert_array_equal(parts.worst_row, np.abs(a.astype(float) - b).argmax(axis=0))
    np.testing.assert_allclose(parts.movement, np.ptp(a.astype(float), axis=0) / 2)
    assert parts.agree == (a.argmax(1) == b.argmax(1)).sum()


def test_a_type_without_a_kernel_is_said_with_the_way_out() -> None:
    """ONNX Runtime's CPU has no convolution in double precision."""
    kernel = numpy_helper.from_array(np.ones((1, 1, 3), np.float64), "w")
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    values = [helper.make_tensor_value_info(n, TensorProto.DOUBLE, ["n", 1, 5]) for n in ("x", "y")]
    values[1].type.tensor_type.shape.dim[2].dim_value = 3
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [kernel])
    a = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    b = onnx.ModelProto()
    b.CopyFrom(a)
    b.producer_name = "another"
    found = compare(a, b, provider="cpu")
    assert found.verdict == "not run"
    assert (found.failed_model, found.missing_kernel) == ("A", "Conv")
    assert found.reason.startswith("model A: ")
    assert "Conv" in found.reason
    assert "choose another provider, or give the models in float32" in found.reason


def in_half(op: str = "Relu", factor: float = 1.0, before: str = "Identity") -> onnx.ModelProto:
    """Two products in half precision; the middle, a factor of one weight of the second, and what
    comes before."""
    random = np.random.default_rng(3)
    first, second = random.standard_normal((16, 32)), random.standard_normal((32, 8))
    second[2, 5] *= factor
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g(float[N,16] x) => (float[N,8] y) '
        f"{{g = {before}(x) h = Cast<to=10>(g) a = MatMul(h, V) r = {op}(a) b = MatMul(r, W) "
        "y = Cast<to=1>(b)}"
    )
    stored = {"V": first.astype(np.float16), "W": second.astype(np.float16)}
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in stored.items())
    return model


@pytest.mark.parametrize(("factor", "passed"), [(1.0, True), (1.01, False), (2.0, False)])
def test_half_precision_is_judged_in_float32(factor: float, passed: bool) -> None:
    """A slope of 0 on the left makes of LeakyRelu a Relu."""
    found = compare(in_half(), in_half("LeakyRelu<alpha=0.0>", factor), provider="cpu")
    assert ("compared in float32" in found.reason) == passed
    assert found.passed is passed, found.reason


@pytest.mark.parametrize(("before", "passed"), [("Cast<to=16>", False), ("Cast<to=11>", True)])
def test_what_rounds_to_fewer_digits_is_not_judged_in_float32(before: str, passed: bool) -> None:
    """bfloat16 has three digits, float64 sixteen."""
    found = compare(in_half(), in_half("LeakyRelu<alpha=0.0>", 1.0, before), provider="cpu")
    assert found.passed is passed, found.reason
