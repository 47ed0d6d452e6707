"""What happens after the first round: other sizes, scales, evidence inside, double precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxshare.comparison import double_precision
from onnxshare.comparison.compare import compare
from onnxshare.comparison.inner_tensors import before_the_end
from onnxshare.comparison.results import Comparison
from onnxshare.graph.random_operators import random_tensors
from onnxshare.runtime.limits import RunLimits
from onnxshare.samples.random_samples import Guess, open_sizes
from onnxshare.samples.samples import Samples, random_samples
from tests.builders import model, node

Array = np.ndarray[Any, np.dtype[Any]]
RANDOM = np.random.default_rng(0)
W = RANDOM.standard_normal((16, 8)).astype(np.float32)
X = RANDOM.standard_normal((24, 16)).astype(np.float32)
ORDER = np.random.default_rng(1).permutation(16)
HERE = RunLimits(in_process=True)


def against(a: onnx.ModelProto, b: onnx.ModelProto, **options: Any) -> Comparison:
    return compare(a, b, provider="cpu", run_limits=HERE, **options)


def linear(
    end: list[onnx.NodeProto], weight: Array = W, bias: float = 0.0, *, permuted: bool = False
) -> onnx.ModelProto:
    """x · w + b and what `end` makes of it; `permuted` sums in another order, under other names."""
    stored = {"w": weight, "b": np.full(8, bias, np.float32)}
    nodes = [node("Gemm", "x w b", "h")]
    if permuted:
        stored |= {"w": weight[ORDER], "order": ORDER}
        nodes = [node("Gather", "x order", "z", axis=1), node("Gemm", "z w b", "other")]
        end = [onnx.NodeProto.FromString(item.SerializeToString()) for item in end]
        end[0].input[0] = "other"
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in stored.items()]
    proto = model([*nodes, *end], {"x": ["n", 16]}, ["y"], tensors)
    kinds = {
        "ArgMax": TensorProto.INT64,
        "Cast": end[-1].attribute[0].i if end[-1].attribute else 0,
    }
    proto.graph.output[0].type.tensor_type.elem_type = kinds.get(end[-1].op_type, TensorProto.FLOAT)
    return proto


SWAPPED = W[:, [1, 0, *range(2, 8)]]

ENDS: dict[str, tuple[list[onnx.NodeProto], float]] = {
    "lone relu, dead": ([node("Relu", "h", "y")], -1e3),
    "argmax": ([node("ArgMax", "h", "y", axis=1)], 0.0),
    "softmax, argmax, cast": (
        [
            node("Softmax", "h", "s", axis=1),
            node("ArgMax", "s", "i", axis=1),
            node("Cast", "i", "y", to=TensorProto.INT32),
        ],
        0.0,
    ),
}


@pytest.mark.parametrize("name", list(ENDS))
def test_outputs_that_hide_are_judged_by_what_goes_into_them(name: str) -> None:
    end, bias = ENDS[name]
    samples = Samples({"x": X})
    right = against(linear(end, bias=bias), linear(end, bias=bias, permuted=True), samples=samples)
    assert right.verdict == "equivalent", right.reason
    assert [row.name for row in right.outputs if row.internal] == ["h"]
    wrong = linear(end, SWAPPED, bias, permuted=True)
    spoilt = against(linear(end, bias=bias), wrong, samples=samples)
    assert not spoilt.passed, spoilt.reason


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({}, True),
        ({"axis": 0}, False),
        ({"keepdims": 0}, False),
    ],
    ids=["same", "axis", "keepdims"],
)
def test_ends_must_be_the_same(change: dict[str, int], found: bool) -> None:
    a = linear([node("ArgMax", "h", "y", axis=1)])
    b = linear([node("ArgMax", "h", "y", **{"axis": 1, **change})], permuted=True)
    assert before_the_end(a, b) == ({"y": ("h", "other")} if found else {})


def test_operands_of_the_end_must_be_the_same() -> None:
    def clipped(top: float) -> onnx.ModelProto:
        proto = linear([node("Clip", "h low top", "y")])
        for name, value in (("low", 0.0), ("top", top)):
            stored = np.array(value, np.float32)
            proto.graph.initializer.append(numpy_helper.from_array(stored, name))
        return proto

    assert before_the_end(clipped(6), clipped(6)) == {"y": ("h", "h")}
    assert before_the_end(clipped(6), clipped(7)) == {}


def test_a_wrong_pair_speaks_neither_for_nor_against() -> None:
    """The same ends, but the tensors before them are not each other's: shifted by a constant that
    the softmax takes off again. The outputs agree, and that is what counts."""
    end = [node("Softmax", "h", "y", axis=1)]
    result = against(linear(end), linear(end, bias=5.0, permuted=True), samples=Samples({"x": X}))
    assert result.verdict == "equivalent", result.reason


def drawn(kind: str, *, both: bool = True) -> onnx.ModelProto:
    """`noisy` depends on a random operator; `plain` does not."""
    nodes = {
        "RandomNormalLike": [node("RandomNormalLike", "x", "r")],
        "RandomUniform": [node("RandomUniform", "", "r", shape=[16])],
        "Bernoulli": [node("Sigmoid", "x", "p"), node("Bernoulli", "p", "r")],
        "Dropout": [node("Dropout", "x ratio yes", "r")],
        "Dropout at rest": [node("Dropout", "x ratio no", "r")],
    }[kind]
    if kind == "RandomUniform":
        del nodes[0].input[:]
    nodes += [node("Add", "x r", "noisy"), node("MatMul", "x w", "plain")]
    stored = [
        numpy_helper.from_array(W, "w"),
        numpy_helper.from_array(np.array(0.5, np.float32), "ratio"),
        numpy_helper.from_array(np.array(True), "yes"),
        numpy_helper.from_array(np.array(False), "no"),
    ]
    return model(nodes, {"x": ["n", 16]}, ["noisy", "plain"] if both else ["noisy"], stored)


def renamed(proto: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    copy.graph.node[0].name = "another name"
    return copy


@pytest.mark.parametrize("kind", ["RandomNormalLike", "RandomUniform", "Bernoulli", "Dropout"])
def test_random_outputs_are_left_out_and_said(kind: str) -> None:
    a = drawn(kind)
    result = against(a, renamed(a), samples=Samples({"x": X}))
    assert result.verdict == "identical", result.reason
    assert "left out, because they are random: 'noisy' (" in result.reason
    assert [row.name for row in result.outputs] == ["plain"]
    wrong = renamed(a)
    wrong.graph.initializer[0].CopyFrom(numpy_helper.from_array(SWAPPED, "w"))
    spoilt = against(a, wrong, samples=Samples({"x": X}))
    assert spoilt.verdict == "different"
    assert spoilt.first_divergence is not None
    assert spoilt.first_divergence.tensor == "plain"
    alone = drawn(kind, both=False)
    nothing = against(alone, renamed(alone), samples=Samples({"x": X}))
    assert nothing.verdict == "inconclusive"
    assert "every output is random" in nothing.reason


def test_dropout_at_rest_is_not_random() -> None:
    assert random_tensors(drawn("Dropout at rest")) == {}


def test_random_operators_in_subgraphs_and_functions() -> None:
    inner = helper.make_graph(
        [node("RandomNormalLike", "x", "inside")],
        "g",
        [],
        [helper.make_empty_tensor_value_info("inside")],
    )
    branch = node("If", "c", "y", then_branch=inner, else_branch=inner)
    assert random_tensors(model([branch], {"x": [1], "c": []}, ["y"])) == {"y": "RandomNormalLike"}
    body = [helper.make_node("Bernoulli", ["a"], ["b"])]
    function = helper.make_function(
        "mine", "Coin", ["a"], ["b"], body, [helper.make_opsetid("", 17)]
    )
    call = helper.make_node("Coin", ["x"], ["y"], domain="mine")
    proto = model([call], {"x": [1]}, ["y"], functions=[function], domains=["mine"])
    assert random_tensors(proto) == {"y": "Bernoulli"}


@pytest.mark.parametrize("end", ["Sigmoid", "Tanh"])
def test_ties_that_rounding_breaks_are_judged_by_the_values_before_them(end: str) -> None:
    weight = np.random.default_rng(2).standard_normal((512, 300)).astype(np.float32)

    def best(*sizes: int, factor: float = 1.0) -> onnx.ModelProto:
        """The best of saturated values, of sums in so many pieces."""
        parts = np.split(weight * np.float32(factor), np.cumsum(sizes)[:-1])
        stored = {f"w{i}": part for i, part in enumerate(parts)}
        stored["sizes"] = np.array(sizes)
        names = range(len(sizes))
        nodes = [node("Split", "x sizes", " ".join(f"x{i}" for i in names), axis=1)]
        nodes += [node("MatMul", f"x{i} w{i}", f"m{i}") for i in names]
        nodes += [node("Sum", " ".join(f"m{i}" for i in names), "h"), node(end, "h", "s")]
        nodes.append(node("ArgMax", "s", "y", axis=1))
        tensors = [numpy_helper.from_array(value, name) for name, value in stored.items()]
        proto = model(nodes, {"x": ["n", 512]}, ["y"], tensors)
        proto.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
        return proto

    a = best(512)
    found = against(a, best(100, 156, 256))
    assert found.passed, found.reason
    assert "which rounding before it explains" in found.reason
    wrong = against(a, best(100, 156, 256, factor=1.001))
    assert wrong.verdict.value == "different", wrong.reason


def test_random_inputs_are_scaled_until_the_outputs_live() -> None:
    """Made-up inputs are lost beside a large bias, and larger ones are not (double precision is
    switched off here)."""
    end = [node("Identity", "h", "y")]
    a, b = linear(end, bias=1e8), linear(end, bias=1e8, permuted=True)
    result = against(a, b, budget=0)
    assert result.passed, result.reason
    assert "times" in result.origin
    assert against(a, linear(end, SWAPPED, 1e8, permuted=True), budget=0).verdict == "different"


def test_what_is_rounding_beside_large_samples_is_an_error_beside_small_ones() -> None:
    values = X.copy()
    values[::2] *= np.float32(1e5)
    end = [node("Identity", "h", "y")]
    a, samples = linear(end, bias=1e-2), Samples({"x": values})
    right = against(a, linear(end, bias=1e-2, permuted=True), samples=samples)
    assert right.verdict == "equivalent", right.reason
    wrong = against(a, linear(end, bias=2e-2, permuted=True), samples=samples)
    assert wrong.verdict == "different", wrong.reason
    assert wrong.reason.startswith("on the 12 smallest samples, ")


def fc_after_pooling(side: int) -> onnx.ModelProto:
    """Says that its sizes are open, and has an FC for one of them only."""
    weight = np.random.default_rng(3).standard_normal((3 * side * side // 4, 4)) / side
    nodes = [
        node("MaxPool", "x", "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", "p", "f"),
        node("MatMul", "f w", "y"),
    ]
    stored = [numpy_helper.from_array(weight.astype(np.float32), "w")]
    return model(nodes, {"x": ["n", 3, "h", "w"]}, ["y"], stored)


@pytest.mark.parametrize("side", [28, 32, 64, 224])
def test_usual_sizes_are_tried_where_open_ones_are_not_open(side: int) -> None:
    a = fc_after_pooling(side)
    result = against(a, renamed(a), count=8)
    assert result.verdict == "identical", result.reason
    assert "other sizes" not in result.reason


def pooled(whole: bool) -> onnx.ModelProto:
    """The mean over all positions, or over the 64 × 64 that one size has."""
    pool = node("GlobalAveragePool", "x", "y")
    if not whole:
        pool = node("AveragePool", "x", "y", kernel_shape=[64, 64], strides=[64, 64])
    return model([pool], {"x": ["n", 3, "h", "w"]}, ["y"])


def test_what_agrees_at_one_size_only_is_different() -> None:
    result = against(pooled(True), pooled(False), count=8)
    assert result.verdict == "different"
    assert result.reason.startswith("at other sizes (96 for images")
    a = pooled(True)
    result = against(a, renamed(a), count=8)
    assert result.reason.endswith("the same at other sizes")


def test_b_must_run_where_a_does() -> None:
    """A Reshape to fixed sizes takes no other ones."""
    shape = numpy_helper.from_array(np.array([-1, 3, 64, 64]), "shape")
    nodes = [node("Reshape", "x shape", "r"), node("GlobalAveragePool", "r", "y")]
    fixed = model(nodes, {"x": ["n", 3, "h", "w"]}, ["y"], [shape])
    fixed.graph.node[0].input[1] = "shape"
    narrow = model(
        [node("Sub", "x z", "r"), node("GlobalAveragePool", "r", "y")],
        {"x": ["n", 3, "h", "w"]},
        ["y"],
        [numpy_helper.from_array(np.zeros((3, 64, 64), np.float32), "z")],
    )
    result = against(pooled(True), narrow, count=8)
    assert result.verdict == "different"
    assert "and B does not" in result.reason


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (["n", 3, 8, 8], False),
        (["n", 3, "h", "w"], True),
        (["n", None], True),
        (["n"], False),
        ([1, 5], False),
    ],
)
def test_open_sizes(shape: list[int | str | None], expected: bool) -> None:
    assert open_sizes(model([node("Identity", "x", "y")], {"x": shape}, ["y"])) is expected


def test_other_guesses() -> None:
    proto = pooled(True)
    assert random_samples(proto, 2, guess=Guess(side=40)).arrays["x"].shape == (2, 3, 40, 40)


def test_masks_end_in_zeros_and_are_never_empty() -> None:
    proto = model(
        [node("Identity", "attention_mask", "y")],
        [helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["n", "s"])],
        ["y"],
    )
    mask = random_samples(proto, 50, guess=Guess(length=10)).arrays["attention_mask"]
    assert (mask[:, 0] == 1).all()
    assert (np.diff(mask, axis=1) <= 0).all()
    assert len({int(row.sum()) for row in mask}) > 3


def test_double_precision_decides_what_single_cannot_see() -> None:
    end = [node("Identity", "h", "y")]
    samples = Samples({"x": X})
    a, b = linear(end, bias=1e6), linear(end, bias=1e6, permuted=True)
    assert against(a, b, samples=samples, budget=0).verdict == "inconclusive"
    result = against(a, b, samples=samples)
    assert result.verdict == "equivalent", result.reason
    assert result.reason.startswith("in double precision, on 6 samples")
    wrong = W.copy()
    wrong[:, 2] *= 1.01
    result = against(a, linear(end, wrong, 1e6, permuted=True), samples=samples)
    assert result.verdict == "different"


def test_double_precision_is_not_asked_of_shorter_types_and_large_models(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    end = [node("Cast", "h", "s", to=TensorProto.FLOAT16), node("Cast", "s", "y", to=1)]
    a, b = linear(end, bias=1e3), linear(end, bias=1e3, permuted=True)
    result = against(a, b, samples=Samples({"x": X / 100}))
    assert "double" not in result.reason
    end = [node("Identity", "h", "y")]
    a, b = linear(end, bias=1e6), linear(end, bias=1e6, permuted=True)
    monkeypatch.setattr(double_precision, "_RATE", 100.0)  # so slow that 128 MACs are too many
    assert against(a, b, samples=Samples({"x": X})).verdict == "inconclusive"


def test_a_cheaper_type_in_b_is_no_rounding_of_a() -> None:
    """B computes in half precision and agrees in double: that must not pass."""
    a = linear([node("Identity", "h", "y")])
    b = linear([node("Cast", "h", "s", to=TensorProto.FLOAT16), node("Cast", "s", "y", to=1)])
    result = against(a, b, samples=Samples({"x": X}))
    assert result.verdict == "different", result.reason
