"""The same graph in a wider type, with and without the rounding of QuantizeLinear."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxshare
from onnxshare.comparison.wider_graph import HALF as HALF_TYPES
from onnxshare.comparison.wider_graph import (
    float_types,
    quantizes,
    same_steps,
    wider_graph,
    wider_samples,
)
from onnxshare.samples.samples import Samples
from tests.rewrites.checking import run
from tests.rewrites.forms import FORMS

HALF = ["half", "half head"]


@pytest.mark.parametrize("name", HALF)
def test_a_wide_model_gives_what_the_half_one_gives_within_its_rounding(name: str) -> None:
    model = FORMS[name].model()
    wide = wider_graph(model)
    assert wide is not None
    assert float_types(model) & HALF_TYPES
    assert not float_types(wide) & HALF_TYPES
    onnx.checker.check_model(wide, full_check=True)
    (value,) = model.graph.input
    sizes = [dim.dim_value or 2 for dim in value.type.tensor_type.shape.dim]
    dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    data = np.random.default_rng(0).standard_normal(sizes).astype(dtype)
    a = run(model, {value.name: data})[0].astype(np.float32)
    b = run(wide, {value.name: data.astype(np.float32)})[0]
    assert b.dtype == np.float32
    # Some tens of half-precision roundings of 2⁻¹¹ each.
    np.testing.assert_allclose(a, b, atol=0.02 * float(np.abs(b).max()))


def test_attributes_and_subgraphs_are_widened_too() -> None:
    half = numpy_helper.from_array(np.array([0.1, 65504.0], np.float16), "h")
    inner = helper.make_graph(
        [helper.make_node("Constant", [], ["i"], value=half)],
        "inner",
        [],
        [helper.make_tensor_value_info("i", TensorProto.FLOAT16, [2])],
    )
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["x"], ["c"], to=TensorProto.FLOAT16),
            helper.make_node("If", ["yes"], ["f"], then_branch=inner, else_branch=inner),
            helper.make_node("Add", ["c", "f"], ["y"]),
        ],
        "outer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, [2])],
        [numpy_helper.from_array(np.array(True), "yes")],
    )
    model = helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)])
    wide = wider_graph(model)
    assert wide is not None
    onnx.checker.check_model(wide, full_check=True)
    x = np.array([1.0, -1.0], np.float32)
    wanted = x + np.array([0.1, 65504.0], np.float16).astype(np.float32)
    np.testing.assert_array_equal(run(wide, {"x": x})[0], wanted)


def test_samples_are_widened_and_others_left() -> None:
    arrays = {"a": np.ones((3, 2), np.float16), "b": np.ones((3, 2), np.int16)}
    wide = wider_samples(Samples(arrays, origin="x"))
    assert {name: array.dtype.name for name, array in wide.arrays.items()} == {
        "a": "float32",
        "b": "int16",
    }
    assert wide.origin == "x"


def test_a_channel_off_by_one_per_cent_in_half_never_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from rewrites.head_as_maps import fc_weights

    right = fc_weights.moved_weight

    def wrong(*args: object) -> np.ndarray[tuple[int, ...], np.dtype[np.float16]]:
        moved = right(*args).copy()  # type: ignore[arg-type]
        moved[:, 1] = (moved[:, 1].astype(np.float32) * 1.01).astype(moved.dtype)
        return moved

    monkeypatch.setattr("rewrites.head_as_maps.kernels.moved_weight", wrong)
    for name in HALF:
        result = onnxshare.rewrite(FORMS[name].model(), ["fc-to-conv"], provider="cpu")
        assert result.changes
        assert not result.passed, name


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
