"""Random networks: the uses of every weight and the products of every layer, measured node by node.

A weight is moved, and the output elements of its node that change are counted; products are counted
in plain loops over what the node reads. Only sizes come from running the network.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

import onnxshare
from tests.analysis.test_measured_uses import measured_connections
from tests.builders import Array, info, model, node, only, random_array, tensor

MEASURED = settings(max_examples=15, deadline=None)


#: How far a kernel of 2 reaches that is dilated by 2.
LARGEST_REACH = 3


@dataclass
class Net:
    """A network while it is built: nodes and weights, and how the data's axes go."""

    rank: int
    channels: int
    sizes: list[int]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: dict[str, onnx.TensorProto] = field(default_factory=dict)
    data: str = "x"

    def weight(self, *shape: int) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = tensor(name, *shape, seed=len(self.weights))
        return name

    def add(self, op_type: str, *weights: str, **attributes: Any) -> None:
        result = f"t{len(self.nodes)}"
        self.nodes.append(node(op_type, " ".join([self.data, *weights]), result, **attributes))
        self.data = result


def convolve(draw: st.DrawFn, net: Net) -> None:
    """A convolution of any stride, dilation, padding and grouping; perhaps once more, tied."""
    group = draw(st.sampled_from([1, net.channels]))
    filters = group * draw(st.integers(1, 2))
    kernel = [draw(st.integers(1, 2)) for _ in range(net.rank)]
    strides = [draw(st.integers(1, 2)) for _ in range(net.rank)]
    dilations = [draw(st.integers(1, 2)) for _ in range(net.rank)]
    pads = [draw(st.integers(0, 1)) for _ in range(2 * net.rank)]
    attributes = {"group": group, "strides": strides, "dilations": dilations, "pads": pads}
    weights = [net.weight(filters, net.channels // group, *kernel)]
    if draw(st.booleans()):
        weights.append(net.weight(filters))
    again = filters == net.channels and draw(st.booleans())
    for time in range(2 if again else 1):
        if time and min(net.sizes) < LARGEST_REACH:
            break
        net.add("Conv", *weights, **attributes)
        net.sizes = [
            (size + pads[axis] + pads[net.rank + axis] - dilations[axis] * (kernel[axis] - 1) - 1)
            // strides[axis]
            + 1
            for axis, size in enumerate(net.sizes)
        ]
    net.channels = filters


def transpose(draw: st.DrawFn, net: Net) -> None:
    """A transposed convolution, not cut at its edges."""
    filters, kernel = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    stride = draw(st.integers(1, 2))
    weights = [net.weight(net.channels, filters, *[kernel] * net.rank)]
    if draw(st.booleans()):
        weights.append(net.weight(filters))
    net.add("ConvTranspose", *weights, strides=[stride] * net.rank)
    net.sizes = [(size - 1) * stride + kernel for size in net.sizes]
    net.channels = filters


def normalize(draw: st.DrawFn, net: Net) -> None:
    """A batch normalization, its statistics apart."""
    scale, shift = net.weight(net.channels), net.weight(net.channels)
    net.add("BatchNormalization", scale, shift, f"mean{net.channels}", f"one{net.channels}")


def activate(draw: st.DrawFn, net: Net) -> None:
    net.add("LeakyRelu", alpha=0.5)


def pool(draw: st.DrawFn, net: Net) -> None:
    net.add("AveragePool", kernel_shape=[2] * net.rank, pads=[1] * net.rank + [0] * net.rank)
    # one more row at the start, one less at the end


LAYERS = (convolve, transpose, normalize, activate, pool)


def statistics() -> dict[str, onnx.TensorProto]:
    made = {}
    for channels in range(1, 9):
        ones = np.ones(channels, np.float32)
        made[f"mean{channels}"] = numpy_helper.from_array(ones / 8, f"mean{channels}")
        made[f"one{channels}"] = numpy_helper.from_array(ones, f"one{channels}")
    return made


@st.composite
def networks(draw: st.DrawFn) -> onnx.ModelProto:
    """Two to four layers, an FC over the flattened map; perhaps two branches with one set of
    weights, whose difference is the result."""
    rank = draw(st.integers(1, 2))
    channels = draw(st.integers(1, 2))
    sizes = [draw(st.integers(4, 6)) for _ in range(rank)]
    net = Net(rank, channels, list(sizes))
    for layer in draw(st.lists(st.sampled_from(LAYERS), min_size=2, max_size=4)):
        fits = net.channels <= 4 and min(net.sizes) >= LARGEST_REACH
        if fits or layer in (normalize, activate):
            layer(draw, net)
    features, outputs = net.channels * prod(net.sizes), 2
    net.add("Flatten")
    net.add("Gemm", net.weight(features, outputs), net.weight(outputs))
    inputs = {"x": [1, channels, *sizes]}
    nodes, result = net.nodes, net.data
    if draw(st.booleans()):
        nodes, result = siamese(nodes, result)
        inputs["z"] = inputs["x"]
    read = {name for item in nodes for name in item.input}
    stored = [t for t in [*net.weights.values(), *statistics().values()] if t.name in read]
    return model(nodes, inputs, [result], stored)


def siamese(nodes: list[onnx.NodeProto], result: str) -> tuple[list[onnx.NodeProto], str]:
    """The same layers once more for a second input, and the difference of both results."""
    made = {output for item in nodes for output in item.output} | {"x"}
    head_maps = []
    for item in nodes:
        head_map = onnx.NodeProto()
        head_map.CopyFrom(item)
        head_map.name += "'"
        names = [
            "z" if name == "x" else f"{name}'" if name in made else name for name in item.input
        ]
        head_map.input[:] = names
        head_map.output[:] = [f"{name}'" for name in item.output]
        head_maps.append(head_map)
    return [*nodes, *head_maps, node("Sub", f"{result} {result}'", "difference")], "difference"


def read_sizes(built: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors, from a run of the reference implementation."""
    wide = onnx.ModelProto()
    wide.CopyFrom(built)
    names = [output for item in built.graph.node for output in item.output]
    del wide.graph.output[:]
    wide.graph.output.extend(info(name, None) for name in names)
    feed = {
        item.name: random_array(*(d.dim_value for d in item.type.tensor_type.shape.dim))
        for item in built.graph.input
    }
    results = ReferenceEvaluator(wide).run(None, feed)
    shapes = {name: np.asarray(r).shape for name, r in zip(names, results, strict=True)}
    return shapes | {name: array.shape for name, array in feed.items()}


def alone(
    item: onnx.NodeProto, sizes: dict[str, tuple[int, ...]], stored: dict[str, onnx.TensorProto]
) -> tuple[onnx.ModelProto, Array, dict[str, Array]]:
    """A node as a model of its own, data for it, and what it reads that is no parameter. Padding is
    real data here: zeros would hide the uses at the edges."""
    single = onnx.NodeProto()
    single.CopyFrom(item)
    single.input[0] = "x"
    shape = list(sizes[item.input[0]])
    for attribute in single.attribute:
        if attribute.name == "pads" and item.op_type == "Conv":
            rank = len(shape) - 2
            for axis in range(rank):
                shape[2 + axis] += attribute.ints[axis] + attribute.ints[rank + axis]
            attribute.ints[:] = [0] * (2 * rank)
    names = list(item.input[1:3])
    fixed = {name: numpy_helper.to_array(stored[name]) for name in item.input[3:]}
    inputs = [info("x", shape), *(info(name, array.shape) for name, array in fixed.items())]
    built = model([single], inputs, [item.output[0]], [stored[name] for name in names])
    return built, random_array(*shape, seed=8), {n: a.astype(np.float64) for n, a in fixed.items()}


def products(item: onnx.NodeProto, sizes: dict[str, tuple[int, ...]], weight: list[int]) -> int:
    """The products that a layer adds up, counted one by one."""
    data, result = sizes[item.input[0]], sizes[item.output[0]]
    group = next((a.i for a in item.attribute if a.name == "group"), 1)
    count = 0
    if item.op_type == "Conv":
        for _ in itertools.product(*map(range, result[2:])):
            for filter_ in range(weight[0]):
                first = filter_ // (weight[0] // group) * weight[1]
                count += sum(prod(weight[2:]) for _ in range(first, first + weight[1]))
    elif item.op_type == "ConvTranspose":
        for _ in itertools.product(*map(range, data[2:])):
            for _channel in range(data[1]):
                count += sum(prod(weight[2:]) for _ in range(weight[1]))
    elif item.op_type == "Gemm":
        count = sum(1 for _ in itertools.product(range(data[1]), range(result[1])))
    return count


@MEASURED
@given(networks())
def test_random_networks(built: onnx.ModelProto) -> None:
    report = onnxshare.inspect(built)
    stored = {item.name: item for item in built.graph.initializer}
    sizes = read_sizes(built)
    by_weight = dict.fromkeys(stored, 0)
    macs = 0
    for item, facts in zip(built.graph.node, report.nodes, strict=True):
        assert facts.outputs[0].shape == sizes[item.output[0]]
        names = [name for name in item.input if name in stored]
        if not names:
            assert (facts.params, facts.connections, facts.macs) == (0, 0, 0)
            continue
        single, data, fixed = alone(item, sizes, stored)
        moved = {name: measured_uses(single, data, name, **fixed) for name in item.input[1:3]}
        assert facts.connections == sum(moved.values()), item
        counted = products(item, sizes, list(stored[names[0]].dims))
        assert facts.macs == counted, item
        macs += counted
        for name, uses in moved.items():
            by_weight[name] += uses
    assert report.totals.macs == macs
    used = {weight.name: weight.connections for weight in report.weights}
    assert used == {name: uses for name, uses in by_weight.items() if name in used}
    params = sum(prod(item.dims) for name, item in stored.items() if name.startswith("w"))
    assert report.totals.params == params
    assert report.totals.connections == sum(by_weight.values())


def measured_uses(single: onnx.ModelProto, data: Array, name: str, **fixed: Array) -> int:
    """The uses of one weight of a node: the others are fed, and stay as they are."""
    copy = onnx.ModelProto()
    copy.CopyFrom(single)
    for item in list(copy.graph.initializer):
        if item.name != name:
            fixed[item.name] = numpy_helper.to_array(item).astype(np.float64)
            copy.graph.input.append(info(item.name, item.dims))
            copy.graph.initializer.remove(item)
    return measured_connections(copy, data, **fixed)


# Recurrent cells: step by step, because a moved weight moves all later steps too.

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


@pytest.mark.parametrize("op_type", GATES)
@settings(max_examples=4, deadline=None)
@given(st.integers(1, 2), st.integers(1, 2), st.integers(1, 3), st.booleans())
def test_recurrent_cells(op_type: str, features: int, units: int, steps: int, bias: bool) -> None:
    """Each step is run alone from a state of its own; its uses are added up."""
    gates = GATES[op_type]
    stored = [
        tensor("w", 1, gates * units, features, seed=1),
        tensor("r", 1, gates * units, units, seed=2),
        *([tensor("b", 1, 2 * gates * units, seed=3)] if bias else []),
    ]
    attributes = {"hidden_size": units}
    if op_type == "GRU":
        attributes["linear_before_reset"] = 1  # else a reset gate reaches all units
    names = "x w r b" if bias else "x w r"
    cell = model(
        [node(op_type, names, "y", **attributes)], {"x": [steps, 1, features]}, ["y"], stored
    )
    facts = only(onnxshare.inspect(cell), op_type)
    states = {"RNN": "h", "GRU": "h", "LSTM": "h c"}[op_type]
    step = model(
        [node(op_type, f"x w r {'b' if bias else '_'} _ {states}", "y", **attributes)],
        [info("x", [1, 1, features]), *(info(name, [1, 1, units]) for name in states.split())],
        ["y"],
        stored,
    )
    moved = 0
    for number in range(steps):
        state = {
            name: random_array(1, 1, units, seed=20 + number).astype(np.float64)
            for name in states.split()
        }
        moved += measured_connections(step, random_array(1, 1, features, seed=number), **state)
    assert facts.connections == moved
    # Each gate of each unit adds one product per feature and per unit, at each step.
    counted = sum(
        features + units for _ in itertools.product(range(steps), range(gates), range(units))
    )
    assert facts.macs == counted
