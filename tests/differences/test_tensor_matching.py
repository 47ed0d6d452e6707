"""`onnxshare.diff`: weights that two models hold in different quantized forms."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxshare
from tests.builders import Array, model, node

CODES = np.random.default_rng(3).integers(-100, 100, (6, 8)).astype(np.int8)
SCALE = np.array(0.125, np.float32)
FLOATS = CODES.astype(np.float32) * SCALE


def net(nodes: list[onnx.NodeProto], **weights: Array) -> onnx.ModelProto:
    given = [numpy_helper.from_array(array, key) for key, array in (weights | {"s": SCALE}).items()]
    return model(nodes, {"x": ["n", 6]}, ["y"], given, opset=21, ir_version=10)


def in_floats(weight: Array = FLOATS, name: str = "w") -> onnx.ModelProto:
    return net([node("MatMul", f"x {name}", "y", name="fc")], **{name: weight})


def dequantized(codes: Array = CODES, zero: int = 0, name: str = "w_quantized") -> onnx.ModelProto:
    nodes = [
        node("DequantizeLinear", f"{name} s z", "d", name="dq"),
        node("MatMul", "x d", "y", name="fc"),
    ]
    return net(nodes, **{name: codes, "z": np.array(zero, codes.dtype)})


def turned() -> onnx.ModelProto:
    nodes = [
        node("DequantizeLinear", "q s", "d", name="dq"),
        node("Gemm", "x d", "y", name="fc", transB=1),
    ]
    return net(nodes, q=np.ascontiguousarray(CODES.T))


def unsigned() -> onnx.ModelProto:
    return dequantized((CODES.astype(np.int16) + 128).astype(np.uint8), 128)


SAME: dict[str, tuple[Callable[[], onnx.ModelProto], Callable[[], onnx.ModelProto], str, str]] = {
    "to 8 bits": (in_floats, dequantized, "w", "w_quantized"),
    "back": (dequantized, in_floats, "w_quantized", "w"),
    "of one name": (in_floats, lambda: dequantized(name="w"), "w", "w"),
    "another zero point": (dequantized, unsigned, "w_quantized", "w_quantized"),
    "transposed": (in_floats, turned, "w", "q"),
    "transposed, back": (turned, in_floats, "q", "w"),
}


@pytest.mark.parametrize("name", SAME)
def test_the_same_once_dequantized(name: str) -> None:
    one, other, before, after = SAME[name]
    found = onnxshare.diff(one(), other()).weights
    (item,) = [item for item in found if item.parameter]
    assert (item.change, item.before, item.after) == ("requantized", before, after)
    assert item.permutation == ((1, 0) if "transposed" in name else None)


def noisy(part: float) -> Array:
    """The floats moved by some part of a step, one way or the other."""
    signs = np.where(np.random.default_rng(8).random(CODES.shape) < 0.5, -1, 1)
    return (FLOATS + part * SCALE * signs).astype(np.float32)


ROUNDED: dict[str, tuple[Callable[[], onnx.ModelProto], str, str]] = {
    "to 8 bits": (dequantized, "w_quantized", "quantized"),
    "of one name": (lambda: dequantized(name="w"), "w", "quantized"),
    "of another zero point": (unsigned, "w_quantized", "quantized"),
    "transposed": (turned, "q", "quantized"),
}


@pytest.mark.parametrize("name", ROUNDED)
def test_the_rounded_form_of_a_weight(name: str) -> None:
    """Each number is 0.4 steps from what its code stands for."""
    other, after, change = ROUNDED[name]
    there = onnxshare.diff(in_floats(noisy(0.4)), other())
    (item,) = [item for item in there.weights if item.parameter]
    assert (item.change, item.before, item.after) == (change, "w", after)
    assert item.permutation == ((1, 0) if name == "transposed" else None)
    assert item.max_abs == pytest.approx(0.4 * SCALE, rel=1e-4)
    assert item.max_rel == pytest.approx(0.4 * SCALE / np.abs(noisy(0.4)).max(), rel=1e-4)
    back = onnxshare.diff(other(), in_floats(noisy(0.4)))
    (item,) = [item for item in back.weights if item.parameter]
    assert (item.change, item.before, item.after) == ("dequantized", after, "w")


@pytest.mark.parametrize(
    "floats",
    [
        pytest.param(noisy(0.6), id="further than half a step"),
        pytest.param(noisy(0.3)[::-1].copy(), id="other rows"),
        pytest.param((FLOATS * np.float32(0.9)).astype(np.float32), id="smaller"),
    ],
)
def test_not_the_same(floats: Array) -> None:
    found = onnxshare.diff(in_floats(floats), dequantized()).weights
    assert {item.change for item in found if item.parameter} == {"added", "removed"}
    found = onnxshare.diff(in_floats(floats), dequantized(name="w")).weights
    assert [item.change for item in found if item.parameter] == ["retyped"]


def test_numbers_below_a_step_say_nothing() -> None:
    """Tensors of zeros are within half a step of whatever is small."""
    small = np.random.default_rng(9).uniform(-0.4, 0.4, CODES.shape).astype(np.float32) * SCALE
    codes = np.zeros_like(CODES)
    codes[0, 0] = 1  # not all alike
    small[0, 0] = SCALE * np.float32(0.9)
    found = onnxshare.diff(in_floats(small), dequantized(codes)).weights
    assert {item.change for item in found if item.parameter} == {"added", "removed"}
