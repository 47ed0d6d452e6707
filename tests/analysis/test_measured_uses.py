"""Connections and MACs measured, not restated: one weight is moved, and the outputs that move are
counted; products are counted in a plain loop."""

from __future__ import annotations

import itertools
from math import prod

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

import onnxshare
from tests.builders import Array, conv, info, model, node, only, random_array, tensor


def measured_connections(built: onnx.ModelProto, data: Array, **fixed: Array) -> int:
    """Move every element of every weight in turn, and count the output elements that change.

    All values are generic (none is zero, no two equal) and nothing is padded, so an output that
    uses a weight moves with it, and no other does.
    """
    weights = {
        weight.name: numpy_helper.to_array(weight).astype(np.float64)
        for weight in built.graph.initializer
    }
    wide = with_weights_as_inputs(built)
    evaluator = ReferenceEvaluator(wide)
    feed: dict[str, Array] = {"x": data.astype(np.float64), **weights, **fixed}

    def outputs() -> Array:
        result, *_ = evaluator.run(None, feed)
        return np.asarray(result)

    before, moved = outputs(), 0
    for weight in weights.values():
        for index in np.ndindex(*weight.shape):
            kept = weight[index]
            weight[index] = kept + 0.125
            moved += int((outputs() != before).sum())
            weight[index] = kept
    return moved


def with_weights_as_inputs(built: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose weights are fed, so that they can be moved."""
    wide = onnx.ModelProto()
    wide.CopyFrom(built)
    del wide.graph.initializer[:]
    for weight in built.graph.initializer:
        wide.graph.input.append(
            onnx.helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims)
        )
    return wide


def assert_measured(built: onnx.ModelProto, op_type: str, *sizes: int) -> None:
    facts = only(onnxshare.inspect(built), op_type)
    assert facts.params > 0
    assert facts.connections == measured_connections(built, random_array(*sizes, seed=3))


few = st.integers(1, 3)
SMALL = settings(max_examples=12, deadline=None)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[onnx.ModelProto, tuple[int, ...]]:
    rank = draw(st.sampled_from([1, 2, 2, 3]))
    group = draw(st.sampled_from([1, 1, 2]))
    channels, filters = draw(st.integers(1, 2)) * group, draw(st.integers(1, 2)) * group
    kernel = [draw(st.integers(1, 2 if rank > 1 else 3)) for _ in range(rank)]
    strides = [draw(st.integers(1, 2)) for _ in range(rank)]
    dilations = [draw(st.integers(1, 2)) for _ in range(rank)]
    sizes = [
        dilation * (k - 1) + 1 + draw(st.integers(0, 2))
        for k, dilation in zip(kernel, dilations, strict=True)
    ]
    built = conv(
        [1, channels, *sizes],
        (filters, channels // group, *kernel),
        bias=draw(st.booleans()),
        group=group,
        strides=strides,
        dilations=dilations,
    )
    return built, (1, channels, *sizes)


@SMALL
@given(convolutions())
def test_conv(case: tuple[onnx.ModelProto, tuple[int, ...]]) -> None:
    built, sizes = case
    assert_measured(built, "Conv", *sizes)


@SMALL
@given(few, few, few, st.booleans(), st.booleans())
def test_gemm(rows: int, inputs: int, outputs: int, by_output: bool, bias: bool) -> None:
    """A fixed batch is counted per sample, the measurement over all rows."""
    weights = [tensor("w", *((outputs, inputs) if by_output else (inputs, outputs)))]
    if bias:
        weights.append(tensor("b", outputs, seed=9))
    built = model(
        [node("Gemm", "x w b" if bias else "x w", "y", transB=int(by_output))],
        {"x": [rows, inputs]},
        ["y"],
        weights,
    )
    facts = only(onnxshare.inspect(built), "Gemm")
    measured = measured_connections(built, random_array(rows, inputs, seed=3))
    assert measured % rows == 0
    assert facts.connections == measured // rows


@pytest.mark.parametrize(
    ("left", "right", "before"),
    [
        pytest.param((1, 4), (4, 3), False, id="rows"),
        pytest.param((1, 5, 4), (4, 3), False, id="sequence"),
        pytest.param((4, 1), (3, 4), True, id="weight left"),
        pytest.param((1, 3, 1, 4), (3, 4, 2), False, id="matrix per position"),
        pytest.param((1, 2, 3, 4), (2, 4, 2), False, id="matrix per head"),
    ],
)
def test_matmul(left: tuple[int, ...], right: tuple[int, ...], before: bool) -> None:
    built = model(
        [node("MatMul", "w x" if before else "x w", "y")],
        {"x": list(left)},
        ["y"],
        [tensor("w", *right)],
    )
    assert_measured(built, "MatMul", *left)


@pytest.mark.parametrize(
    ("op_type", "sizes", "weights"),
    [
        pytest.param("Add", (1, 3, 4), [(3, 1)], id="Add per channel"),
        pytest.param("Mul", (1, 3, 4), [(3, 4)], id="Mul per element"),
        pytest.param("Add", (1, 1, 4), [(3, 1)], id="Add that broadcasts the data"),
        pytest.param("LayerNormalization", (1, 3, 4), [(4,), (4,)], id="LayerNormalization"),
        pytest.param("InstanceNormalization", (1, 3, 4), [(3,), (3,)], id="InstanceNormalization"),
        pytest.param("ConvTranspose", (1, 2, 3), [(2, 3, 2), (3,)], id="ConvTranspose"),
    ],
)
def test_others(op_type: str, sizes: tuple[int, ...], weights: list[tuple[int, ...]]) -> None:
    names = [f"w{position}" for position in range(len(weights))]
    attributes = {"strides": [2]} if op_type == "ConvTranspose" else {}
    built = model(
        [node(op_type, " ".join(["x", *names]), "y", **attributes)],
        {"x": list(sizes)},
        ["y"],
        [tensor(name, *shape) for name, shape in zip(names, weights, strict=True)],
    )
    assert_measured(built, op_type, *sizes)


@pytest.mark.parametrize("slopes", [(3, 1), (3, 4), (1,)])
def test_prelu(slopes: tuple[int, ...]) -> None:
    """A slope works only where its input is negative: an input and its opposite use all."""
    built = model(
        [node("PRelu", "x w", "y")], {"x": [1, 3, 4]}, ["y"], [tensor("w", *slopes, seed=4)]
    )
    data = random_array(1, 3, 4, seed=3)
    measured = measured_connections(built, data) + measured_connections(built, -data)
    assert only(onnxshare.inspect(built), "PRelu").connections == measured


def test_batch_normalization() -> None:
    """Scale and shift are moved; the running statistics are no parameters."""
    built = model(
        [node("BatchNormalization", "x s b m v", "y")],
        [info(name, dims) for name, dims in {"x": [1, 3, 4], "m": [3], "v": [3]}.items()],
        ["y"],
        [tensor("s", 3, seed=4), tensor("b", 3, seed=5)],
    )
    moved = measured_connections(
        built, random_array(1, 3, 4, seed=6), m=random_array(3, seed=7), v=np.ones(3)
    )
    facts = only(onnxshare.inspect(built), "BatchNormalization")
    assert (facts.params, facts.connections) == (6, moved)


# MACs: a plain loop that counts.


def counted_macs(
    channels: int, filters: int, group: int, kernel: list[int], output: list[int]
) -> int:
    """One for every product that a convolution adds up."""
    count = 0
    for _position in itertools.product(*(range(size) for size in output)):
        for out_channel in range(filters):
            first = out_channel // (filters // group) * (channels // group)
            for _in_channel in range(first, first + channels // group):
                for _tap in itertools.product(*(range(size) for size in kernel)):
                    count += 1
    return count


@SMALL
@given(convolutions())
def test_macs_of_conv(case: tuple[onnx.ModelProto, tuple[int, ...]]) -> None:
    built, sizes = case
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in built.graph.node[0].attribute}
    (weight, *_) = (list(tensor.dims) for tensor in built.graph.initializer)
    data = random_array(*sizes)
    (result,) = ReferenceEvaluator(built).run(None, {"x": data})
    facts = only(onnxshare.inspect(built), "Conv")
    output = list(np.asarray(result).shape[2:])
    assert facts.macs == counted_macs(sizes[1], weight[0], attributes["group"], weight[2:], output)
    assert facts.unshared_params == facts.macs
    assert facts.dense_params == prod(sizes) * weight[0] * prod(output)
