"""Comparisons of models without inputs, without outputs, and of values that are no numbers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxshare.comparison.compare import compare
from onnxshare.comparison.results import Comparison
from onnxshare.errors import SamplesError
from onnxshare.runtime.limits import RunLimits
from onnxshare.samples.samples import Samples
from tests.builders import node

info = helper.make_tensor_value_info
X = info("x", TensorProto.FLOAT, ["n", 3])
Y = info("y", TensorProto.FLOAT, ["n", 3])


def made(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    **stored: float | list[float],
) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.array(v, np.float32), k) for k, v in stored.items()]
    graph = helper.make_graph(nodes, "odd", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def against(a: onnx.ModelProto, b: onnx.ModelProto, samples: Samples | None = None) -> Comparison:
    b.graph.node[0].name = "another"  # else the files are the same
    return compare(a, b, provider="cpu", run_limits=RunLimits(in_process=True), samples=samples)


@pytest.mark.parametrize(("other", "verdict"), [(2.0, "identical"), (2.5, "different")])
def test_models_without_inputs_need_one_run(other: float, verdict: str) -> None:
    nodes = [node("Add", "v w", "y")]
    y = info("y", TensorProto.FLOAT, [2])
    a, b = (made(nodes, [], [y], v=[1.0, 2.0], w=[value, 3.0]) for value in (2.0, other))
    found = against(a, b)
    assert found.verdict == verdict, found.reason
    assert found.passed == ("the models have no inputs" in found.reason)


def test_models_without_outputs_have_nothing_to_compare() -> None:
    a, b = (made([node("Relu", "x", "y")], [X], []) for _ in range(2))
    found = against(a, b)
    assert (found.verdict, found.passed) == ("not run", False)
    assert "no outputs" in found.reason


def test_a_dead_output_beside_a_living_one_is_no_evidence() -> None:
    nodes = [node("Mul", "x zero", "dead"), node("Relu", "x", "y")]
    outputs = [info("dead", TensorProto.FLOAT, ["n", 3]), Y]
    a = made(nodes, [X], outputs, zero=0.0)
    other = made([node("Sub", "x x", "dead"), node("Relu", "x", "y")], [X], outputs)
    found = against(a, other)
    assert found.verdict == "inconclusive", found.reason
    assert "'dead' barely changes" in found.reason
    assert against(a, a).verdict == "identical"  # the same graph is the same function


def test_equal_strings_prove_little_and_others_are_different() -> None:
    y = info("y", TensorProto.STRING, ["n", 3])
    cast = node("Cast", "x", "y", to=TensorProto.STRING)
    longer = [node("Identity", "x", "h"), node("Cast", "h", "y", to=TensorProto.STRING)]
    found = against(made([cast], [X], [y]), made(longer, [X], [y]))
    assert found.verdict == "inconclusive"
    assert "'y' holds no floating-point values" in found.reason
    other = [node("Neg", "x", "z"), node("Cast", "z", "y", to=TensorProto.STRING)]
    assert against(made([cast], [X], [y]), made(other, [X], [y])).verdict == "different"


@pytest.mark.parametrize(
    ("kind", "words"), [(TensorProto.STRING, "strings"), (TensorProto.COMPLEX64, "complex64")]
)
def test_inputs_that_cannot_be_made_up(kind: int, words: str) -> None:
    x, y = info("x", kind, ["n", 3]), info("y", kind, ["n", 3])
    a, b = (made([node("Identity", "x", "y")], [x], [y]) for _ in range(2))
    with pytest.raises(SamplesError, match=f"input 'x' holds {words}"):
        against(a, b)


def test_a_batch_of_none_is_not_run_and_the_size_is_told() -> None:
    x, y = info("x", TensorProto.FLOAT, [0, 3]), info("y", TensorProto.FLOAT, [0, 3])
    a, b = (made([node("Relu", "x", "y")], [x], [y]) for _ in range(2))
    found = against(a, b)
    assert found.verdict == "not run"
    assert "indices: index: 0 Got: 1 Expected: 0" in found.reason


@pytest.mark.parametrize("shape", [[], None], ids=["declared", "unknown"])
@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "identical"), (1.01, "different")])
def test_an_output_for_each_run_is_run_sample_by_sample(
    shape: list[int] | None, factor: float, verdict: str
) -> None:
    nodes = [node("Mul", "x factor", "z"), node("ReduceSum", "z", "y", keepdims=0)]
    y = info("y", TensorProto.FLOAT, shape)
    a, b = (made(nodes, [X], [y], factor=value) for value in (1.0, factor))
    found = against(a, b)
    assert found.verdict == verdict, found.reason
    assert found.samples == 32


@pytest.mark.parametrize("places", ["same", "others"])
def test_nan_must_be_in_the_same_places(places: str) -> None:
    """A square root of what is negative, of x and of -x."""
    a = made([node("Sqrt", "x", "y")], [X], [Y])
    b = made([node("Neg", "x", "z"), node("Sqrt", "z", "y")], [X], [Y])
    values = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)
    other = made([node("Sqrt", "x", "y")], [X], [Y]) if places == "same" else b
    found = against(a, other, Samples({"x": values}))
    assert found.passed == (places == "same"), found.reason
    assert places == "same" or "NaN" in found.reason
