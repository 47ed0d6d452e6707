"""The same graph without the rounding of its QuantizeLinear nodes, where steps hide nothing.

Per tensor and in float32, with the limits lo and hi of the integer type:

    QuantizeLinear:    q = clip(x / scale + zero, lo, hi)    (not rounded)
    DequantizeLinear:  x = (q - zero) · scale

and constants behind DequantizeLinear are dequantised beforehand, each number as the node would.
Scales, zero points and saturation stay where they are, so that one that is lost still shows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxshare.io.tensors import Array

#: What the names of new tensors start with.
_OWN = "onnxshare.unrounded/"

_LINEAR = ("QuantizeLinear", "DequantizeLinear")


def quantises(proto: onnx.ModelProto) -> bool:
    """Whether a main graph holds QuantizeLinear or DequantizeLinear."""
    return any(node.op_type in _LINEAR for node in proto.graph.node)


def without_rounding(proto: onnx.ModelProto) -> onnx.ModelProto | None:
    """A copy that computes in float32 between what were its steps.

    The model must be whole (no external tensors).

    Returns:
        The copy, or None where a scale is no float32 constant, or one per channel of data, and
        for a model with local functions.
    """
    if proto.functions:
        return None
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    graph = copy.graph
    stored = _stored(graph)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        made = [node] if node.op_type not in _LINEAR else _linear(node, stored, graph)
        if made is None:
            return None
        nodes += made
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]  # the types of what was between steps have changed
    return copy


def same_steps(a: onnx.ModelProto, b: onnx.ModelProto) -> bool:
    """Whether two models round data as often and to the same steps; both must be whole."""
    return _roundings(a.graph) == _roundings(b.graph)


def _roundings(graph: onnx.GraphProto) -> Counter[tuple[bytes, ...]]:
    stored = _stored(graph)
    return Counter(
        tuple(
            numpy_helper.to_array(stored[name]).tobytes() if name in stored else name.encode()
            for name in node.input[1:]
        )
        for node in graph.node
        if node.op_type == "QuantizeLinear"
    )


def _stored(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            found.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
    return found


def _linear(
    node: onnx.NodeProto, stored: Mapping[str, onnx.TensorProto], graph: onnx.GraphProto
) -> list[onnx.NodeProto] | None:
    """What takes a node's place: nothing where it dequantises a constant."""
    operands = [stored.get(name) for name in node.input[1:] if name]
    if any(tensor is None for tensor in operands) or not operands:
        return None
    scale, *zeros = (numpy_helper.to_array(tensor) for tensor in operands if tensor is not None)
    zero = zeros[0] if zeros else np.zeros(scale.shape, np.uint8)
    attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    if scale.dtype != np.float32 or zero.dtype.kind not in "iu" or attributes.get("block_size"):
        return None
    if node.op_type == "DequantizeLinear" and node.input[0] in stored:
        values = numpy_helper.to_array(stored[node.input[0]])
        axis = int(attributes.get("axis", 1))
        graph.initializer.append(
            numpy_helper.from_array(_dequantised(values, scale, zero, axis), node.output[0])
        )
        return []
    if scale.size != 1 or attributes.get("output_dtype", 0) not in (0, TensorProto.FLOAT):
        return None
    limits = np.iinfo(zero.dtype)
    names = []
    for word, value in (("s", scale), ("z", zero), ("lo", limits.min), ("hi", limits.max)):
        name = f"{_OWN}{node.output[0]}/{word}"
        array = np.asarray(value, np.float32).reshape(())
        graph.initializer.append(numpy_helper.from_array(array, name))
        names.append(name)
    return _steps(node, names)


def _steps(node: onnx.NodeProto, names: list[str]) -> list[onnx.NodeProto]:
    scale, zero, low, high = names
    if node.op_type == "DequantizeLinear":
        chain = [("Sub", zero), ("Mul", scale)]
    else:
        chain = [("Div", scale), ("Add", zero), ("Max", low), ("Min", high)]
    made, data = [], node.input[0]
    for number, (op_type, operand) in enumerate(chain, 1):
        result = node.output[0] if number == len(chain) else f"{_OWN}{node.output[0]}/{number}"
        made.append(helper.make_node(op_type, [data, operand], [result]))
        data = result
    return made


def _dequantised(values: Array, scale: Array, zero: Array, axis: int) -> Array:
    if scale.size > 1:
        shape = [1] * values.ndim
        shape[axis] = -1
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    else:
        scale, zero = scale.reshape(()), zero.reshape(())
    wide = values.astype(np.int64) - zero.astype(np.int64)
    return np.asarray(wide.astype(np.float32) * scale)
