"""The weights and biases of FCs as convolutions and smaller FCs need them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from onnxshare.analysis.heads.fully_connected import (
    FullyConnected,
    per_feature,
    stored_bias,
    weight_by_output,
)
from onnxshare.analysis.heads.head import Subject
from onnxshare.graph.constant_values import Values
from onnxshare.graph.index import Node
from onnxshare.io.tensors import Array, release
from rewrites.edits.node_uses import quantized
from rewrites.refusal import Refusal

if TYPE_CHECKING:
    from rewrites.head_as_maps.maps import Columns

#: What Conv and GlobalAveragePool compute in; bfloat16 only since opset 22.
_MAP_TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
_BFLOAT16_OPSET = 22


def check_type(subject: Subject, layer: FullyConnected) -> None:
    """Make sure that maps can be computed in the type of an FC.

    Raises:
        Refusal: they cannot.
    """
    graph = subject.graph
    dtype = subject.probe.shapes.dtype(graph.main, layer.data)
    allowed = dtype in _MAP_TYPES or (
        dtype == TensorProto.BFLOAT16 and graph.opset >= _BFLOAT16_OPSET
    )
    if not allowed:
        name = TensorProto.DataType.Name(dtype or 0).lower()
        raise Refusal(f"Conv does not compute in {name} at opset {graph.opset}")


def quantized_weight(subject: Subject, layer: FullyConnected) -> Node | None:
    """The DequantizeLinear that makes the weight of an FC, or None for a plain weight.

    Raises:
        Refusal: the weight is quantized in a form that cannot be moved as it is stored: scales
            that differ along the inputs or in blocks, a factor next to them, or layout nodes
            after the DequantizeLinear.
    """
    graph = subject.graph
    refusal = Refusal(f"the weight of FC '{layer.node.name}' is quantized")
    producer = graph.main.producer(layer.weight)
    if producer is None or producer.op_type != "DequantizeLinear":
        if quantized(graph, graph.main, layer.weight):
            raise refusal
        return None
    scale = graph.source(graph.main, producer.inputs[1])
    if scale is None or layer.alpha != 1 or producer.attribute("block_size", 0):
        raise refusal
    if scale.elements > 1:
        axis = int(producer.attribute("axis", 1)) % 2
        if axis != (0 if layer.stored_by_output else 1):
            raise Refusal(f"the scales of the weight of FC '{layer.node.name}' are per input")
    values = subject.probe.values.get(graph.main, producer.inputs[0])
    if values is None or values.ndim != 2:
        raise refusal
    return producer


def bias_of(subject: Subject, layer: FullyConnected) -> tuple[str | None, Array | None]:
    """The name of a tensor that holds exactly the bias of an FC as `[out]`, Gemm's beta applied, or
    None; and the values. Two Nones for an FC without bias.

    Raises:
        Refusal: the bias is computed, or is not one number per output.
    """
    name, factor = stored_bias(subject.graph, layer)
    if name is None or factor == 0:
        return None, None
    main = subject.graph.main
    if subject.graph.source(main, name) is None:
        raise Refusal(f"the bias of FC '{layer.node.name}' is computed")
    value = subject.probe.values.get(main, name)
    vector = per_feature(value, layer.out_features)
    rows = subject.probe.shapes.get(main, layer.node.outputs[0])
    if value is None or vector is None or rows is None or value.ndim > len(rows):
        raise Refusal(f"the bias of FC '{layer.node.name}' is not one number per output")
    if factor != 1:
        return None, np.asarray(vector * np.asarray(factor), vector.dtype)
    return (name if value.shape == vector.shape else None), vector


#: Bytes of a weight that are moved at once, and then no longer needed.
_MOVED_AT_ONCE = 2**25


def moved_weight(layer: FullyConnected, values: Values, read: Columns) -> Array:
    """The kernel `[out, C, spatial…]` of the convolution that an FC is, or that those of its
    columns are that read one of several maps: W'[f, c, s] = W[f, k].

    Raises:
        Refusal: the weight's values cannot be had.
    """
    weight = weight_by_output(layer, values)
    if weight is None:
        raise Refusal(f"the weight of FC '{layer.node.name}' cannot be read")
    moved = permuted(weight, read)
    if layer.alpha != 1:
        moved = np.asarray(moved * np.asarray(layer.alpha), weight.dtype)
    return moved.reshape(layer.out_features, *read.part.sizes)


#: Elements of a weight that are looked at together.
_PIECE = 2**22


def weight_pieces(layer: FullyConnected, values: Values, read: Columns) -> Iterator[Array]:
    """The columns of a weight that read one map as `[out, C, positions]`, some outputs at a time,
    bit for bit.

    A piece takes a bounded amount of memory, because a file of no size can ask for large weights.

    Raises:
        Refusal: the weight's values cannot be had.
    """
    weight = weight_by_output(layer, values)
    if weight is None:
        raise Refusal(f"the weight of FC '{layer.node.name}' cannot be read")
    rows = max(1, _PIECE // max(1, weight.shape[1]))
    for start in range(0, len(weight), rows):
        moved = permuted(weight[start : start + rows], read)
        yield moved.reshape(len(moved), read.part.sizes[0], -1)


def permuted(weight: Array, read: Columns) -> Array:
    """Some columns of a matrix `[out, columns]`, each moved to its place, bit for bit."""
    columns, order = read.columns, read.order
    if np.array_equal(order, np.arange(order.size)):
        if columns is None:
            return weight  # stored in the order of the map already: still a view of the file
        first = int(columns[0]) if columns.size else 0
        if np.array_equal(columns, np.arange(first, first + columns.size)):
            return weight[:, first : first + columns.size]
    moved = np.empty((len(weight), order.size), weight.dtype)
    rows = max(1, _MOVED_AT_ONCE // max(1, weight[:1].nbytes))
    for start in range(0, len(weight), rows):
        part = weight[start : start + rows]
        moved[start : start + rows, order] = part if columns is None else part[:, columns]
        release(part)
    return moved
