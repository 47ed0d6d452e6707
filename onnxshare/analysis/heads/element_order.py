"""Follows elements, not operator names: which element of a feature map ends up in which column.

An array that holds at each place the index of its own element is sent through the layout nodes
between a feature map and an FC. What arrives says in which order the columns stand, whether rows
mix samples, and whether elements are missing: whatever operators the exporter chose.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from onnxshare.graph.constant_values import Values
from onnxshare.graph.index import Graph, Node, Scope
from onnxshare.graph.operator_traits import operators_where, traits_of
from onnxshare.graph.rearrangement import rearrange
from onnxshare.io.tensors import Array

#: Maps larger than this, over all FCs that read them, are not followed: the arrays of indices would
#: take gigabytes.
MAX_ELEMENTS = 2**24

#: The most layout and element-wise nodes between a feature map and an FC; real heads have a few.
#: Without a bound, many FCs after one long chain would cost the product of both.
MAX_STEPS = 256

#: Element-wise operators that compute with constants, one for each element.
WITH_CONSTANT = operators_where(lambda traits: traits.arithmetic) | {"PRelu"}

#: How many products of scales a dynamic scale may be away from the DynamicQuantizeLinear.
_SCALES = 4


def moves(node: Node) -> bool:
    """Whether a node may change the order or the shape of the elements of its data. What makes
    another map of one, such as DepthToSpace, is no such node."""
    traits = traits_of(node)
    return traits.moves and traits.carries


def joins(node: Node) -> bool:
    """Whether a node puts tensors side by side."""
    return node.standard and node.op_type == "Concat"


def elementwise(node: Node) -> bool:
    """Whether a node works on each element on its own (its constants aside)."""
    if not traits_of(node).elementwise or node.domain == "ai.onnx.ml":
        return node.standard and node.op_type == "DynamicQuantizeLinear"
    return not (node.op_type.endswith("Dropout") and trains(node))


def dynamic_scale(graph: Graph, scope: Scope, name: str) -> bool:
    """Whether a tensor is the scale of dynamically quantized data, perhaps times stored scales:
    computed, but one number for the whole tensor, or one per output."""
    for _ in range(_SCALES):
        node = scope.producers.get(name)
        if node is None or not node.standard:
            return False
        if node.op_type == "DynamicQuantizeLinear":
            return name in node.outputs[1:2]
        varying = [item for item in node.inputs if item and graph.source(scope, item) is None]
        if node.op_type != "Mul" or len(varying) != 1:
            return False
        name = varying[0]
    return False


def trains(node: Node) -> bool:
    """Whether a Dropout or BatchNormalization may run in training mode."""
    if node.op_type == "BatchNormalization":
        return bool(node.attribute("training_mode", 0)) or len([o for o in node.outputs if o]) > 1
    return bool(node.input(4 if "Bias" in node.op_type else 2))


def data_input(graph: Graph, node: Node) -> str | None:
    """The one input of a layout or element-wise node that is not constant; None if there is
    none, or several."""
    if traits_of(node).data == (0,):
        name = node.inputs[0]
        return name if graph.source(node.scope, name) is None else None
    varying = [name for name in node.inputs if name and graph.source(node.scope, name) is None]
    if len(varying) == 2 and node.op_type == "Mul":
        varying = [name for name in varying if not dynamic_scale(graph, node.scope, name)]
    return varying[0] if len(varying) == 1 else None


#: Since this opset their operands broadcast by themselves.
_BROADCASTS = 7

#: The most nodes of a function that is written out in parts, such as x · Sigmoid(x).
_MOST_PARTS = 16


def operands(graph: Graph, node: Node) -> tuple[str, str] | None:
    """The two inputs of an element-wise node of which neither is constant; None if it is none."""
    arithmetic = node.standard and traits_of(node).arithmetic
    if not arithmetic or graph.opset < _BROADCASTS:
        return None
    if len(node.inputs) != 2 or any(graph.source(node.scope, n) is not None for n in node.inputs):
        return None
    return node.inputs[0], node.inputs[1]


def _function(graph: Graph, scope: Scope, last: Node) -> tuple[str, list[Node]] | None:
    """An element-wise function of one tensor that is written out in parts: that tensor, and its
    nodes from the last to the first."""
    pair = operands(graph, last)
    if pair is None:
        return None
    nodes, waiting = [last], set(pair)
    while len(waiting) > 1:
        makers = [scope.producers.get(name) for name in waiting]
        known = [maker for maker in makers if maker is not None]
        node = max(known, key=lambda item: item.position, default=None)
        if node is None or len(nodes) == _MOST_PARTS or not elementwise(node):
            return None
        before = operands(graph, node) or (data_input(graph, node),)
        # One number per feature or per tensor makes no function of an element.
        if node.op_type == "BatchNormalization" or traits_of(node).quantized:
            return None
        if len(node.outputs) > 1:
            return None
        nodes.append(node)
        waiting.discard(node.outputs[0])
        waiting.update(name for name in before if name is not None)
        if None in before:
            return None
    return waiting.pop(), nodes


@dataclass(frozen=True)
class Path:
    """The layout and element-wise nodes from a tensor, which no step of a head makes, to an FC, in
    order of computation."""

    base: str
    nodes: tuple[Node, ...]


def back(graph: Graph, scope: Scope, name: str) -> Path:
    """Walk back from a tensor through layout and element-wise nodes; not at all where there are
    more than `MAX_STEPS`."""
    nodes: list[Node] = []
    start = name
    while True:
        if len(nodes) > MAX_STEPS:
            return Path(start, ())
        node = scope.producers.get(name)
        if node is None or not (moves(node) or elementwise(node)) or name != node.outputs[0]:
            break
        before, steps = data_input(graph, node), [node]
        if before is None:
            written_out = _function(graph, scope, node)
            if written_out is None:
                break
            before, steps = written_out
        if scope.home(before) is not scope:
            break
        nodes += steps
        name = before
    return Path(name, tuple(reversed(nodes)))


def index_of(sizes: tuple[int, ...]) -> Array:
    """An array of these sizes that holds at each place the index of its own element."""
    return np.arange(prod(sizes), dtype=np.int64).reshape(sizes)


def follow(path: tuple[Node, ...], index: Array, values: Values) -> Array | None:
    """Send an index through the nodes of a path; None where one of them cannot be followed."""
    for node in path:
        if not moves(node):
            continue
        moved = rearrange(node, index, values)
        if moved is None:
            return None
        index = moved
    return index


def column_order(index: Array, sizes: tuple[int, ...]) -> Array | str:
    """For each column of an index into a map `[N, C, spatial…]` of these sizes its index within the
    sample, where each row holds exactly one sample, all of it, in one and the same order; else the
    reason why rows are not samples."""
    samples, features = sizes[0], prod(sizes[1:])
    if index.shape[0] != samples:
        return (
            f"the map has {samples} samples along axis 0 and the FC {index.shape[0]} rows: "
            "axis 0 is not a batch, or each row is a window"
        )
    if index.shape[1] != features:
        return f"the FC reads {index.shape[1]} of the map's {features} values per sample"
    first: Array = index[0]
    if samples > 1 and not np.array_equal(
        index, first[None, :] + np.arange(samples)[:, None] * features
    ):
        return "a row of the FC mixes samples: axis 0 is not a batch"
    if not np.array_equal(np.sort(first), np.arange(features)):
        return "some values of the map are missing or repeated"
    return first


def layout_name(order: Array, sizes: tuple[int, ...]) -> str:
    """NCHW, NHWC (or their forms in other ranks), or permuted: the order of the columns."""
    channels, spatial = sizes[1], sizes[2:]
    if np.array_equal(order, np.arange(order.size)):
        return "NC" + _AXES.get(len(spatial), "…")
    last = np.moveaxis(index_of((channels, *spatial)), 0, -1).reshape(-1)
    if np.array_equal(order, last):
        return "N" + _AXES.get(len(spatial), "…") + "C"
    return "permuted"


_AXES = {1: "W", 2: "HW", 3: "DHW"}
