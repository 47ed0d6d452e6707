"""Graphs without the rounding of QuantizeLinear: near the original, and exact where nothing is."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxshare.comparison.wider_graph import quantizes, same_steps, wider_graph
from tests.rewrites.checking import run


def model(zero: Any, scale: float = 0.25, weight_axis: int = 0) -> onnx.ModelProto:
    """Data through steps, times a weight of 8 bits with a scale per row or column."""
    random: Any = np.random.default_rng(1)
    weight = random.integers(-128, 128, (4, 3), dtype=np.int8)
    size = weight.shape[weight_axis]
    tensors = {
        "s": np.float32(scale),
        "z": zero,
        "w": weight,
        "ws": random.uniform(0.01, 0.1, size).astype(np.float32),
        "wz": random.integers(-3, 4, size, dtype=np.int8),
    }
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
            helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["f"], axis=weight_axis),
            helper.make_node("MatMul", ["d", "f"], ["y"]),
        ],
        "steps",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()],
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


ZEROS = [np.int8(0), np.int8(-5), np.uint8(128), np.uint8(0)]


@pytest.mark.parametrize("zero", ZEROS, ids=[f"{z.dtype} {z}" for z in ZEROS])
@pytest.mark.parametrize("axis", [0, 1])
def test_on_the_steps_nothing_changes(zero: Any, axis: int) -> None:
    """Multiples of the scale within the limits are not rounded, and beyond them they are cut."""
    given = model(zero, weight_axis=axis)
    smooth = wider_graph(given, rounding=False)
    assert smooth is not None
    assert quantizes(given)
    assert not quantizes(smooth)
    onnx.checker.check_model(smooth, full_check=True)
    steps = np.random.default_rng(2).integers(-400, 400, (16, 4))
    x = (steps * 0.25).astype(np.float32)
    for a, b in zip(run(given, {"x": x}), run(smooth, {"x": x}), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-6, atol=1e-5)


def test_between_the_steps_it_moves() -> None:
    given = model(np.int8(0), scale=1.0)
    smooth = wider_graph(given, rounding=False)
    assert smooth is not None
    x = np.full((1, 4), 0.25, np.float32)
    assert not run(given, {"x": x})[0].any()
    assert np.abs(run(smooth, {"x": x})[0]).max() > 0


def test_other_steps_are_told_apart() -> None:
    given = model(np.int8(0))
    assert same_steps(given, given)
    assert not same_steps(given, model(np.int8(1)))
    assert not same_steps(given, model(np.uint8(0)))  # other limits
    assert not same_steps(given, model(np.int8(0), scale=0.5))
    fewer = model(np.int8(0))
    del fewer.graph.node[:2]
    fewer.graph.node[1].input[0] = "x"
    assert not same_steps(given, fewer)
