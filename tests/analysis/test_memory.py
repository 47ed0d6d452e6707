"""Peak memory of activations: small graphs whose live tensors are listed by hand."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto

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


@pytest.mark.parametrize(
    ("built", "peak"),
    [
        pytest.param(chain(), (10 + 10) * F32, id="two at a time"),
        pytest.param(shortcut(), (10 + 10 + 10) * F32, id="shortcut"),
        pytest.param(narrow_middle(), (10 + 40) * F32, id="weights left out"),
        pytest.param(half(), 10 * F32 + 10 * 2, id="by type"),
        pytest.param(unused_result(), (10 + 10) * F32, id="a result nobody reads"),
    ],
)
def test_peak(built: onnx.ModelProto, peak: int) -> None:
    assert onnxshare.inspect(built).totals.peak_activation_bytes == peak


def test_peak_is_per_sample() -> None:
    built = chain()
    built.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 8
    assert onnxshare.inspect(built).totals.peak_activation_bytes == 20 * F32
