"""Peak memory of activations: small graphs whose live tensors are listed by hand."""

from __future__ import annotations

from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

import onnxshare
from tests.builders import info, model, node, tensor

F32 = 4


def chain() -> onnx.ModelProto:
    return model([node("Relu", "x", "a"), node("Abs", "a", "y")], {"x": ["n", 10]}, ["y"])


def shortcut() -> onnx.ModelProto:
    """x is read again at the end, so it lives all the while."""
    return model(
        [node("Relu", "x", "a"), node("Abs", "a", "b"), node("Add", "x b", "y")],
        {"x": ["n", 10]},
        ["y"],
    )


def narrow_middle() -> onnx.ModelProto:
    """10 → 40 → 2: the weights are no activations."""
    return model(
        [node("MatMul", "x w", "a"), node("MatMul", "a v", "y")],
        {"x": ["n", 10]},
        ["y"],
        [tensor("w", 10, 40), tensor("v", 40, 2)],
    )


def half() -> onnx.ModelProto:
    return model([node("Cast", "x", "y", to=TensorProto.FLOAT16)], [info("x", ["n", 10])], ["y"])


def unused_result() -> onnx.ModelProto:
    return model([node("Relu", "x", "dead"), node("Abs", "x", "y")], {"x": ["n", 10]}, ["y"])


def early_output() -> onnx.ModelProto:
    """`a` is an output that is read too: it lives to the end, with b and y."""
    return model(
        [node("Relu", "x", "a"), node("Abs", "a", "b"), node("Neg", "b", "y")],
        {"x": ["n", 10]},
        ["a", "y"],
    )


def turned_weight() -> onnx.ModelProto:
    """4 → 3 with a matrix that is stored transposed."""
    return model(
        [node("Transpose", "w", "t", perm=[1, 0]), node("MatMul", "x t", "y")],
        {"x": ["n", 4]},
        ["y"],
        [tensor("w", 3, 4)],
    )


@pytest.mark.parametrize(
    ("built", "peak"),
    [
        pytest.param(chain(), (10 + 10) * F32, id="two at a time"),
        pytest.param(shortcut(), (10 + 10 + 10) * F32, id="shortcut"),
        pytest.param(narrow_middle(), (10 + 40) * F32, id="weights left out"),
        pytest.param(early_output(), (10 + 10 + 10) * F32, id="an output that is read too"),
        pytest.param(turned_weight(), (4 + 3) * F32, id="a weight behind a layout node"),
        pytest.param(half(), 10 * F32 + 10 * 2, id="by type"),
        pytest.param(unused_result(), (10 + 10) * F32, id="a result nobody reads"),
    ],
)
def test_peak(built: onnx.ModelProto, peak: int) -> None:
    assert onnxshare.inspect(built).totals.peak_activation_bytes == peak


@pytest.mark.parametrize(
    ("built", "at"),
    [
        pytest.param(shortcut(), "Abs:b", id="the first of equals"),
        pytest.param(narrow_middle(), "MatMul:a", id="the widest"),
    ],
)
def test_where(built: onnx.ModelProto, at: str) -> None:
    assert onnxshare.inspect(built).totals.peak_activation_node == at


def captured() -> onnx.ModelProto:
    """`a` is read only inside the If, so it lives until the If has run."""
    branches: dict[str, Any] = {
        name: helper.make_graph([node(op, "a", out)], name, [], [info(out, [1, 10])])
        for name, op, out in (("then_branch", "Relu", "t"), ("else_branch", "Abs", "e"))
    }
    return model(
        [
            node("Sin", "x", "a"),
            node("Cos", "x", "b"),
            helper.make_node("If", ["c"], ["z"], name="if", **branches),
            node("Add", "b z", "y"),
        ],
        [info("x", ["n", 10]), info("c", [], TensorProto.BOOL)],
        ["y"],
    )


def test_read_inside_a_subgraph() -> None:
    """While Cos runs: x, a, b and the condition; while If runs: a, b, z and the condition."""
    totals = onnxshare.inspect(captured()).totals
    assert totals.peak_activation_bytes == 3 * 10 * F32 + 1
    assert totals.peak_activation_node == "Cos:b"


def test_a_tensor_without_batch_is_whole() -> None:
    """Axis 0 of x is 4 rows; the 3 numbers beside it are no rows of theirs."""
    built = model(
        [node("Relu", "x", "a"), node("ReduceMax", "a", "m", keepdims=0), node("Add", "a m", "y")],
        {"x": [4, 10]},
        ["y"],
    )
    assert onnxshare.inspect(built).totals.peak_activation_bytes == (10 + 1 + 10) * F32


def test_peak_is_per_sample() -> None:
    built = chain()
    built.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 8
    assert onnxshare.inspect(built).totals.peak_activation_bytes == 20 * F32
