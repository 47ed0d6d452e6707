"""Promises of approximate models: made from what was measured, kept or broken by new samples."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import onnxshare
from onnxshare.comparison.promise import PROMISE_KEY, Fit, Promise, declared, hold, make
from onnxshare.comparison.results import Comparison, OutputComparison, Verdict


def comparison(*rows: OutputComparison) -> Comparison:
    return Comparison(Verdict.DIFFERENT, "", "CPU", rows, samples=250, origin="a.npz")


def test_a_promise_of_classes_is_the_lower_bound_of_the_worst_output() -> None:
    rows = (
        OutputComparison("a", argmax_agreement=0.9, confidence_low=0.86),
        OutputComparison("b", argmax_agreement=0.8, confidence_low=0.75),
        OutputComparison("inner", internal=True, argmax_agreement=0.1, confidence_low=0.05),
    )
    promise, words = make(comparison(*rows), "fc-to-gap", {"fitted_on": 750})
    assert (promise["agreement"], promise["agreement_low"]) == (0.8, 0.75)
    assert promise["fitted_on"] == 750
    assert "'b'" in words
    assert "80.0%" in words


def test_a_promise_without_classes_is_the_signal_over_the_error_less_a_decibel() -> None:
    promise, _ = make(comparison(OutputComparison("y", sqnr_centred_db=12.5)), "fc-to-gap", {})
    assert promise["sqnr_low"] == 11.5


BOTH = (
    OutputComparison("class", argmax_agreement=0.9, confidence_low=0.86, sqnr_centred_db=3.0),
    OutputComparison("value", argmax_agreement=0.2, confidence_low=0.15, sqnr_centred_db=26.5),
)
ASKED: Fit = {"keep": 0.8, "max_error": 0.05, "classes": ["class"], "values": ["value"]}


def test_classes_and_values_are_promised_each_of_its_own_outputs() -> None:
    """26.5 dB are an error of 4.7 %; the largest value names no class, nor is a score a value."""
    promise, words = make(comparison(*BOTH), "fc-to-gap", ASKED)
    assert promise["agreement_low"] == 0.8
    assert promise["sqnr_low"] == pytest.approx(-20 * math.log10(0.05))
    assert "'class' names the same class on 90.0%" in words
    assert "error of 'value' is 4.7%" in words
    assert "promised: agreement ≥ 80.0 % and relative error ≤ 5.0 % with 95 %" in words
    proto = onnx.ModelProto()
    helper.set_model_props(proto, {PROMISE_KEY: json.dumps(promise)})
    read = declared(proto)
    assert read is not None
    assert (read.classes, read.values) == (("class",), ("value",))
    assert hold(BOTH, read)[0]
    assert "value" in hold([BOTH[0], replace(BOTH[1], sqnr_centred_db=26.0)], read)[1]
    for kind, less in (("class", {"argmax_agreement": 0.79}), ("value", {"sqnr_centred_db": 26.0})):
        rows = [replace(row, **less) if row.name == kind else row for row in BOTH]  # type: ignore[arg-type]
        assert not hold(rows, read)[0]


def test_what_was_asked_for_and_not_measured_is_not_promised() -> None:
    _, words = make(comparison(*BOTH), "fc-to-gap", {**ASKED, "keep": 0.9, "max_error": 0.01})
    assert "promised" not in words


@pytest.mark.parametrize(
    ("promise", "row", "kept"),
    [
        pytest.param(Promise("r", 0.75), OutputComparison("y", argmax_agreement=0.75), True),
        pytest.param(Promise("r", 0.75), OutputComparison("y", argmax_agreement=0.7499), False),
        pytest.param(Promise("r", 0.75), OutputComparison("y", sqnr_centred_db=90.0), False),
        pytest.param(Promise("r", None, 11.5), OutputComparison("y", sqnr_centred_db=11.5), True),
        pytest.param(Promise("r", None, 11.5), OutputComparison("y", sqnr_centred_db=11.4), False),
        pytest.param(Promise("r", None, 11.5), OutputComparison("y", argmax_agreement=1.0), False),
    ],
)
def test_a_promise_is_kept_or_not(promise: Promise, row: OutputComparison, kept: bool) -> None:
    assert hold([row], promise)[0] is kept


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no JSON",
        "[]",
        "{}",
        '{"agreement_low": "much"}',
        '{"agreement_low": 1.5}',
        '{"agreement_low": -0.1}',
        '{"agreement_low": 1.5, "sqnr_low": 3}',
    ],
)
def test_what_is_no_promise_is_none(text: str) -> None:
    proto = onnx.ModelProto()
    entry = proto.metadata_props.add()
    entry.key, entry.value = PROMISE_KEY, text
    assert declared(proto) is None


def regressor(seed: int = 0) -> onnx.ModelProto:
    """A convolution, a ReLU and one FC with a single output far from zero."""
    rng = np.random.default_rng(seed)
    weights = {
        "kernel": rng.normal(size=(4, 1, 3, 3)),
        "weight": rng.normal(size=(1, 4 * 6 * 6)) + 0.5,
        "bias": np.full(1, 1000.0),
    }
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["map"]),
        helper.make_node("Relu", ["map"], ["alive"]),
        helper.make_node("Flatten", ["alive"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight", "bias"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "regressor",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()],
    )
    return helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)])


def edited(proto: onnx.ModelProto, edit: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    edit(copy)
    return copy


def rename(proto: onnx.ModelProto, old: str, new: str) -> None:
    """Another name for a weight, other initializers first, another producer."""
    for tensor in proto.graph.initializer:
        tensor.name = new if tensor.name == old else tensor.name
    for node in proto.graph.node:
        node.name = f"renamed_{node.output[0]}"
        for place, name in enumerate(node.input):
            node.input[place] = new if name == old else name
    proto.graph.initializer.append(proto.graph.initializer[0])
    del proto.graph.initializer[0]
    proto.producer_name = "another"


def strangers(
    model: onnx.ModelProto, small: onnx.ModelProto
) -> dict[str, tuple[onnx.ModelProto, onnx.ModelProto, str]]:
    """Pairs that a promise was not made for, and what is said of it."""

    def no_digest(proto: onnx.ModelProto) -> None:
        (entry,) = (e for e in proto.metadata_props if e.key == PROMISE_KEY)
        known = json.loads(entry.value)
        del known["original"]
        entry.value = json.dumps(known)

    def spoil(proto: onnx.ModelProto) -> None:
        kernel = next(t for t in proto.graph.initializer if t.name == "kernel")
        kernel.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(kernel) * 1.001, "kernel"))

    return {
        "another original": (regressor(seed=5), small, "B carries was made for another pair"),
        "a corrupted approximation": (model, edited(small, spoil), "made for another pair"),
        "the promise of A": (small, regressor(seed=5), "A carries was made for another pair"),
        "no digest": (model, edited(small, no_digest), "does not say for which models"),
    }


def outputs(proto: onnx.ModelProto, x: NDArray[np.float32]) -> NDArray[np.float64]:
    import onnxruntime

    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, {"x": x})[0], np.float64)


def test_a_regressor_promises_and_keeps_its_signal_over_its_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for name, count in (("fit.npz", 200), ("new.npz", 400)):
        np.savez(tmp_path / name, x=rng.normal(size=(count, 1, 8, 8)).astype(np.float32))
    model = regressor()
    result = onnxshare.rewrite(model, ["fc-to-gap"], approximate=True, samples=tmp_path / "fit.npz")
    assert result.passed
    (entry,) = (e for e in result.model.metadata_props if e.key == PROMISE_KEY)
    promised = json.loads(entry.value)
    new = onnxshare.compare(model, result.model, samples=tmp_path / "new.npz")
    with np.load(tmp_path / "new.npz") as file:
        a, b = outputs(model, file["x"]), outputs(result.model, file["x"])
    ratio = 10 * math.log10(((a - np.mean(a)) ** 2).sum() / ((a - b) ** 2).sum())
    assert new.outputs[0].sqnr_centred_db == pytest.approx(ratio, abs=0.01)
    # The constant of 1,000 hides nothing: uncentred, the error would be tiny beside it.
    assert new.outputs[0].sqnr_db is not None
    assert new.outputs[0].sqnr_db > ratio + 20
    assert (new.verdict == "approximate") is (ratio >= promised["sqnr_low"])
    for case, (a_model, b_model, words) in strangers(model, result.model).items():
        found = onnxshare.compare(a_model, b_model, samples=tmp_path / "fit.npz")
        assert found.verdict == "different", case
        assert words in found.reason, case
    renamed = edited(result.model, lambda proto: rename(proto, "kernel", "other"))
    found = onnxshare.compare(model, renamed, samples=tmp_path / "fit.npz")
    assert found.verdict == "approximate", found.reason
    assert onnxshare.compare(model, result.model).verdict == "inconclusive"
