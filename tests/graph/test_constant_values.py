"""Constant folding, against ONNX's reference implementation and ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from onnxshare.graph.constant_values import Values
from onnxshare.graph.index import Graph
from onnxshare.graph.numpy_operators import MAX_COMPUTED, OPERATORS
from onnxshare.io.load import load
from tests.builders import Array, constant, info, model, node, random_array, run, tensor


def folded(built: onnx.ModelProto, name: str = "y") -> Array | None:
    graph = Graph(load(built))
    return Values(graph).get(graph.main, name)


def of_constants(
    op_type: str, operands: Sequence[Any], *, opset: int = 21, **attributes: Any
) -> onnx.ModelProto:
    names = [f"c{position}" for position in range(len(operands))]
    weights = [numpy_helper.from_array(a, n) for a, n in zip(operands, names, strict=True)]
    return model(
        [node(op_type, " ".join(names), "y", **attributes)],
        {},
        ["y"],
        weights,
        opset=opset,
        ir_version=10,
    )


def integers(*values: int) -> Array:
    return np.array(values, np.int64)


def float32(values: object) -> Array:
    return np.array(values, np.float32)


def int8(values: object) -> Array:
    return np.array(values, np.int8)


def uint8(values: object) -> Array:
    return np.array(values, np.uint8)


#: Name → operator, operands and attributes.
Cases = dict[str, tuple[str, list[Any], dict[str, Any]]]

GRID = np.arange(24, dtype=np.int64).reshape(2, 3, 4)
SIGNED = np.array([-7, -3, 3, 7], np.int64)

#: operator → operands and attributes, one row per form that exporters write.
CASES: Cases = {
    "Identity": ("Identity", [GRID], {}),
    "Cast to float": ("Cast", [GRID], {"to": TensorProto.FLOAT}),
    "Cast to integer": ("Cast", [np.array([-1.7, 1.7], np.float32)], {"to": TensorProto.INT32}),
    "Cast to Boolean": ("Cast", [integers(0, 2)], {"to": TensorProto.BOOL}),
    "Reshape": ("Reshape", [GRID, integers(4, 6)], {}),
    "Reshape, 0 and -1": ("Reshape", [GRID, integers(0, -1)], {}),
    "Reshape, -1 first": ("Reshape", [GRID, integers(-1, 3, 4)], {}),
    "Reshape to nothing": ("Reshape", [GRID[:1, :1, :1], np.array([], np.int64)], {}),
    "Reshape, allowzero": ("Reshape", [GRID[:0], integers(0, 7)], {"allowzero": 1}),
    "Flatten": ("Flatten", [GRID], {}),
    "Flatten, axis 0": ("Flatten", [GRID], {"axis": 0}),
    "Flatten, axis 3": ("Flatten", [GRID], {"axis": 3}),
    "Flatten, axis -1": ("Flatten", [GRID], {"axis": -1}),
    "Squeeze all": ("Squeeze", [GRID[:, None, :, None]], {}),
    "Squeeze, axes": ("Squeeze", [GRID[:, None, :, None], integers(-2)], {}),
    "Unsqueeze": ("Unsqueeze", [GRID, integers(0, 3)], {}),
    "Unsqueeze, negative": ("Unsqueeze", [GRID, integers(-1)], {}),
    "Unsqueeze, order of axes": ("Unsqueeze", [GRID, integers(2, 0)], {}),
    "Transpose": ("Transpose", [GRID], {}),
    "Transpose, perm": ("Transpose", [GRID], {"perm": [1, 2, 0]}),
    "Slice": ("Slice", [GRID, integers(1), integers(3), integers(2)], {}),
    "Slice, no axes": ("Slice", [GRID, integers(0, 1), integers(1, 3)], {}),
    "Slice, far end": ("Slice", [GRID, integers(1), integers(2**62), integers(1)], {}),
    "Slice, negative": ("Slice", [GRID, integers(-2), integers(-1), integers(-1)], {}),
    "Slice, step": ("Slice", [GRID, integers(0), integers(4), integers(2), integers(2)], {}),
    "Slice, backwards": (
        "Slice", [GRID, integers(-1), integers(-(2**62)), integers(1), integers(-1)], {}
    ),
    "Slice, backwards to 0": (
        "Slice", [GRID, integers(3), integers(0), integers(2), integers(-1)], {}
    ),
    "Slice, start before the first": (
        "Slice", [GRID, integers(-9), integers(2), integers(2)], {}
    ),
    "Gather": ("Gather", [GRID, integers(1)], {}),
    "Gather, one": ("Gather", [integers(5, 6, 7), np.array(2, np.int64)], {}),
    "Gather, negative": ("Gather", [GRID, integers(-1, 0)], {"axis": 2}),
    "Concat": ("Concat", [integers(1, 2), integers(3)], {"axis": 0}),
    "Concat, axis -1": ("Concat", [GRID, GRID], {"axis": -1}),
    "Range": ("Range", [np.array(n, np.int64) for n in (2, 11, 3)], {}),
    "Range, down": ("Range", [np.array(n, np.int64) for n in (5, -2, -2)], {}),
    "Range, empty": ("Range", [np.array(n, np.int64) for n in (5, 2, 1)], {}),
    "ConstantOfShape": ("ConstantOfShape", [integers(2, 3)], {}),
    "Expand": ("Expand", [integers(1, 2, 3), integers(2, 3)], {}),
    "Expand, 1 keeps": ("Expand", [GRID, integers(1, 1, 1)], {}),
    "Add": ("Add", [GRID, integers(1, 2, 3, 4)], {}),
    "Sub": ("Sub", [GRID, GRID[:1]], {}),
    "Mul": ("Mul", [GRID, SIGNED], {}),
    "Div, towards zero": ("Div", [SIGNED, integers(2, 2, -2, -2)], {}),
    "Div, floats": ("Div", [float32([1, 2]), float32([3, -4])], {}),
    "Equal": ("Equal", [SIGNED, integers(3)], {}),
    "Greater": ("Greater", [SIGNED, integers(3)], {}),
    "Less": ("Less", [SIGNED, integers(3)], {}),
    "Min": ("Min", [SIGNED, integers(0), integers(5)], {}),
    "Max": ("Max", [SIGNED, integers(0)], {}),
    "Neg": ("Neg", [SIGNED], {}),
    "Abs": ("Abs", [SIGNED], {}),
    "Sqrt": ("Sqrt", [float32([4, 2])], {}),
    "Floor": ("Floor", [float32([-1.5, 1.5])], {}),
    "Ceil": ("Ceil", [float32([-1.5, 1.5])], {}),
    "Not": ("Not", [np.array([True, False])], {}),
    "ReduceProd": ("ReduceProd", [integers(2, 3, 4)], {"keepdims": 0}),
    "ReduceProd, keepdims": ("ReduceProd", [integers(2, 3, 4)], {}),
    "ReduceProd, axis 0": ("ReduceProd", [integers(2, 3, 4), integers(0)], {"keepdims": 0}),
    "Where": ("Where", [np.array([True, False, True, False]), SIGNED, GRID], {}),
    "DequantizeLinear": (
        "DequantizeLinear", [int8([[-128, 127]]), float32(0.5), int8(3)], {}
    ),
    "DequantizeLinear, no zero point": (
        "DequantizeLinear", [uint8([[0, 255]]), float32(0.5)], {}
    ),
    "DequantizeLinear, per axis": (
        "DequantizeLinear",
        [int8([[1, 2], [3, 4]]), float32([0.5, 2]), int8([0, 1])],
        {"axis": 0},
    ),
    "DequantizeLinear, in blocks": (
        "DequantizeLinear",
        [int8([[1], [2], [3], [4]]), float32([[0.5], [2]]), int8([[0], [1]])],
        {"axis": 0, "block_size": 2},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_operators_agree_with_the_reference(name: str) -> None:
    op_type, operands, attributes = CASES[name]
    built = of_constants(op_type, operands, **attributes)
    wanted, *_ = ReferenceEvaluator(built).run(None, {})
    wanted = np.asarray(wanted)
    got = folded(built)
    assert got is not None
    assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
    np.testing.assert_array_equal(got, wanted)


def test_every_operator_has_a_case() -> None:
    # These are tried in tests/shapes/test_computed_sizes.py.
    elsewhere = {"ArrayFeatureExtractor", "Optional", "OptionalGetElement"}
    assert {op_type for op_type, _, _ in CASES.values()} == set(OPERATORS) - elsewhere


OLD = {
    "Squeeze": of_constants("Squeeze", [GRID[:, None]], opset=11, axes=[1]),
    "Unsqueeze": of_constants("Unsqueeze", [GRID], opset=11, axes=[0, 2]),
    "Slice": of_constants("Slice", [GRID], opset=9, starts=[1], ends=[9], axes=[2]),
    "ReduceProd": of_constants("ReduceProd", [integers(2, 3)], opset=11, axes=[0], keepdims=0),
}


@pytest.mark.parametrize("name", OLD)
def test_axes_as_attributes(name: str) -> None:
    got = folded(OLD[name])
    (wanted,) = run(OLD[name])
    assert got is not None
    np.testing.assert_array_equal(got, wanted)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(-7, 7),
    st.integers(-7, 7),
    st.sampled_from([-3, -2, -1, 1, 2, 3]),
)
def test_slices_of_any_kind(size: int, start: int, end: int, step: int) -> None:
    data = np.arange(size, dtype=np.int64)
    operands = [data, integers(start), integers(end), integers(0), integers(step)]
    built = of_constants("Slice", operands)
    got = folded(built)
    (wanted,) = run(built)
    assert got is not None
    np.testing.assert_array_equal(got, wanted)


BAD: Cases = {
    "sizes that do not fit": ("Reshape", [GRID, integers(5, 5)], {}),
    "two -1": ("Reshape", [GRID, integers(-1, -1)], {}),
    "axis beyond": ("Transpose", [GRID], {"perm": [0, 1, 5]}),
    "squeeze of a size": ("Squeeze", [GRID, integers(1)], {}),
    "index beyond": ("Gather", [GRID, integers(99)], {}),
    "step of 0": ("Range", [np.array(n, np.int64) for n in (0, 5, 0)], {}),
    "operands that do not fit": ("Add", [GRID, integers(1, 2, 3)], {}),
    "concat of ranks": ("Concat", [GRID, integers(1)], {"axis": 0}),
}


@pytest.mark.parametrize("name", BAD)
def test_operands_that_do_not_fit_have_no_value(name: str) -> None:
    op_type, operands, attributes = BAD[name]
    assert folded(of_constants(op_type, operands, **attributes)) is None


# Bounds: a small file must not make a large tensor.

LONG = np.arange(MAX_COMPUTED // 2, dtype=np.int64)
LARGE: Cases = {
    "Add of a row and a column": ("Add", [LONG[:, None], LONG[None]], {}),
    "Where over three axes": (
        "Where", [np.ones((900, 1, 1), np.bool_), LONG[:900, None], LONG[:900]], {}
    ),
    "Max over many axes": ("Max", [LONG[:900].reshape(-1, *[1] * axis) for axis in range(3)], {}),
    "Gather of one row often": ("Gather", [LONG[None], np.zeros(30_000, np.int64)], {}),
    "ConstantOfShape": ("ConstantOfShape", [integers(10**6, 10**6)], {}),
    "Range": ("Range", [np.array(n, np.int64) for n in (0, 10**12, 1)], {}),
    "Range, down": ("Range", [np.array(n, np.int64) for n in (0, -(10**12), -1)], {}),
    "Expand": ("Expand", [integers(1), integers(10**6, 10**6)], {}),
}  # fmt: skip


@pytest.mark.parametrize("name", LARGE)
def test_what_would_be_large_is_not_computed(name: str) -> None:
    op_type, operands, attributes = LARGE[name]
    assert folded(of_constants(op_type, operands, **attributes)) is None


def test_layout_is_followed_at_any_size() -> None:
    """Weights are larger than shapes: what only rearranges has no bound."""
    data = np.zeros((3, MAX_COMPUTED), np.float32)
    got = folded(of_constants("Transpose", [data]))
    assert got is not None
    assert got.shape == (MAX_COMPUTED, 3)


@pytest.mark.parametrize(
    ("size", "value"),
    [
        pytest.param([2, 3], constant("", [7], np.int64), id="integers"),
        pytest.param([0, 3], constant("", [7.5], np.float32), id="empty"),
        pytest.param([], constant("", [0.5], np.float32), id="scalar"),
        pytest.param([2], None, id="zeros"),
    ],
)
def test_constant_of_shape(size: list[int], value: onnx.TensorProto | None) -> None:
    built = of_constants("ConstantOfShape", [np.array(size, np.int64)])
    if value is not None:
        built.graph.node[0].attribute.append(helper.make_attribute("value", value))
    (wanted,) = run(built)
    got = folded(built)
    assert got is not None
    assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
    np.testing.assert_array_equal(got, wanted)


def test_constant_of_a_computed_shape() -> None:
    """How an expanded normalization makes a list of ones as long as a rank."""
    built = model(
        [
            node("Shape", "x", "s"),
            node("Shape", "s", "rank"),
            node("ConstantOfShape", "rank", "y", value=constant("", [1])),
        ],
        {"x": [2, 3, 5]},
        ["y"],
    )
    (wanted,) = run(built, x=random_array(2, 3, 5))
    graph = Graph(load(built))
    shapes = {("", "x"): (2, 3, 5), ("", "s"): (3,)}
    assert Values(graph, shapes).integers(graph.main, "y") == wanted.tolist() == [1, 1, 1]


CONSTANTS: dict[str, dict[str, Any]] = {
    "value": {"value": tensor("", 2, 3)},
    "value_float": {"value_float": 0.5},
    "value_floats": {"value_floats": [0.5, 1.5]},
    "value_int": {"value_int": 3},
    "value_ints": {"value_ints": [3, 4]},
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_constant_nodes(name: str) -> None:
    built = model([node("Constant", "", "y", **CONSTANTS[name])], {}, ["y"])
    (wanted,) = run(built)
    got = folded(built)
    assert got is not None
    assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
    np.testing.assert_array_equal(got, wanted)


def test_a_sparse_constant_has_no_values_here() -> None:
    """Better none than zeros in the place of what it holds."""
    sparse = helper.make_sparse_tensor(constant("s", [5.0], np.float32), constant("", [4]), [2, 3])
    as_node = model([node("Constant", "", "y", sparse_value=sparse)], {}, ["y"])
    assert folded(as_node) is None
    as_initializer = model([node("Relu", "s", "y")], {}, ["y"])
    as_initializer.graph.sparse_initializer.append(sparse)
    assert folded(as_initializer, "s") is None


def test_what_depends_on_an_input_has_no_value() -> None:
    built = model(
        [node("Add", "x one", "h"), node("Shape", "x", "s"), node("Add", "s two", "y")],
        [info("x", [1, 4], TensorProto.INT64)],
        ["y", "h"],
        [constant("one", [1]), constant("two", [2])],
    )
    graph = Graph(load(built))
    assert Values(graph).get(graph.main, "h") is None
    assert Values(graph).get(graph.main, "y") is None  # and the shape was not told
    told = Values(graph, {("", "x"): (1, 4)})
    assert told.integers(graph.main, "y") == [3, 6]
    assert told.get(graph.main, "h") is None


@pytest.mark.parametrize(
    ("attributes", "wanted"),
    [
        pytest.param({}, [2, 3, 5, 7], id="all"),
        pytest.param({"start": 1}, [3, 5, 7], id="start"),
        pytest.param({"start": -2}, [5, 7], id="negative start"),
        pytest.param({"start": 1, "end": 3}, [3, 5], id="both"),
        pytest.param({"end": -1}, [2, 3, 5], id="negative end"),
        pytest.param({"start": 9}, [], id="beyond"),
    ],
)
def test_shape(attributes: dict[str, int], wanted: list[int]) -> None:
    built = model([node("Shape", "x", "y", **attributes)], {"x": [2, 3, 5, 7]}, ["y"])
    (result,) = run(built, x=random_array(2, 3, 5, 7))
    assert result.tolist() == wanted
    graph = Graph(load(built))
    assert Values(graph, {("", "x"): (2, 3, 5, 7)}).integers(graph.main, "y") == wanted
