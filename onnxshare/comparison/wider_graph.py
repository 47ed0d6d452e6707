"""The same graph in another float type, and perhaps without the rounding of quantization.

In a longer type the rounding of a shorter one hides nothing; in float32 ONNX Runtime has a kernel
of every operator. Quantization rounds by far more. Without that, and with the limits lo and hi of
the integer type:

    QuantizeLinear:    q = clip(x / scale + zero, lo, hi)    (not rounded)
    DequantizeLinear:  x = (q - zero) · scale

and constants behind DequantizeLinear are dequantized beforehand. Scales, zero points and saturation
stay where they are, so that one that is lost still shows.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
from google.protobuf.message import Message
from onnx import TensorProto, helper, numpy_helper

from onnxshare.comparison.rounding_noise import EPSILON
from onnxshare.graph.constant_values import Values
from onnxshare.graph.index import Graph, Node
from onnxshare.io.load import load
from onnxshare.io.node_reader import all_nodes, refill
from onnxshare.io.tensors import Array
from onnxshare.samples.samples import Samples

#: Types of so few digits that their rounding looks like a wrong weight.
HALF = frozenset((TensorProto.FLOAT16, TensorProto.BFLOAT16))

#: What the names of new tensors start with.
_OWN = "onnxshare.unrounded/"

_LINEAR = ("QuantizeLinear", "DequantizeLinear")

#: Attributes that name an element type.
_TYPE_ATTRIBUTES = frozenset(("to", "dtype", "output_dtype", "stash_type"))


def wider_graph(
    proto: onnx.ModelProto, to: int = TensorProto.FLOAT, *, rounding: bool = True
) -> onnx.ModelProto | None:
    """A copy that computes in one float type what a whole model (no external tensors) computes in
    any.

    In a longer type every stored number keeps its value; in a shorter one it is rounded. Without
    `rounding` that of the QuantizeLinear nodes of the main graph is taken out. None where a number
    is too large or too small for the type; without rounding also where a scale is not constant, or
    data has one per channel.
    """
    wide = onnx.ModelProto()
    if rounding:
        wide.CopyFrom(proto)
    elif not _without_rounding(Graph(load(proto)), wide):
        return None
    return wide if _retype(wide, to) else None


def wider_samples(samples: Samples, to: int = TensorProto.FLOAT) -> Samples:
    """The same samples with every float type as this one; all are read at once."""
    dtype = helper.tensor_dtype_to_np_dtype(to)
    arrays = {
        name: array.astype(dtype) if _is_float(array) else array
        for name, array in samples.arrays.items()
    }
    return replace(samples, arrays=arrays)


def _is_float(array: Array) -> bool:
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


def float_types(proto: onnx.ModelProto) -> set[int]:
    """The float types that a model takes, gives, or stores weights in."""
    values = (*proto.graph.input, *proto.graph.output)
    kinds = {value.type.tensor_type.elem_type for value in values}
    kinds.update(tensor.data_type for tensor in proto.graph.initializer)
    return kinds & EPSILON.keys()


def short_types(proto: onnx.ModelProto) -> set[int]:
    """The types of half precision that a model takes, gives, stores, or rounds to."""
    inner = (node for function in proto.functions for node in function.node)
    named = {
        item.i
        for node in all_nodes((*proto.graph.node, *inner))
        for item in node.attribute
        if item.name in _TYPE_ATTRIBUTES
    }
    return (float_types(proto) | named) & HALF


def quantizes(proto: onnx.ModelProto) -> bool:
    """Whether a main graph holds QuantizeLinear or DequantizeLinear."""
    return any(node.op_type in _LINEAR for node in proto.graph.node)


def same_steps(a: onnx.ModelProto, b: onnx.ModelProto) -> bool:
    """Whether two models round data as often and to the same steps; both must be whole."""
    return _steps(Graph(load(a))) == _steps(Graph(load(b)))


def _steps(graph: Graph) -> Counter[tuple[str, ...]]:
    values = Values(graph)
    found: Counter[tuple[str, ...]] = Counter()
    for node in graph.main.nodes:
        if node.op_type == "QuantizeLinear":
            operands = (values.get(graph.main, name) for name in node.inputs[1:])
            found[tuple(str(v) if v is None else f"{v.dtype} {v.tolist()}" for v in operands)] += 1
    return found


def _without_rounding(graph: Graph, result: onnx.ModelProto) -> bool:
    """Copy a model without rounding; False where that cannot be done."""
    result.CopyFrom(graph.proto)
    values, nodes = Values(graph), []
    for node in graph.main.nodes:
        stored = values.get(graph.main, node.outputs[0]) if node.op_type in _LINEAR else None
        if stored is not None:
            result.graph.initializer.append(numpy_helper.from_array(stored, node.outputs[0]))
        elif node.op_type not in _LINEAR:
            nodes.append(node.proto)
        elif (operands := _operands(node, values)) is not None:
            nodes += _unrounded(node, operands, result.graph)
        else:
            return False
    refill(result.graph.node, nodes)
    del result.graph.value_info[:]  # the types of what was between steps have changed
    return True


def _operands(node: Node, values: Values) -> list[tuple[str, Array]] | None:
    """What follows a data input, one operation each; None where it is not one known number."""
    given = [values.get(node.scope, name) for name in node.inputs[1:] if name]
    scale = given[0] if given else None
    zero = given[1] if len(given) > 1 else np.uint8(0)
    if scale is None or zero is None or scale.size != 1 or zero.dtype.kind not in "iu":
        return None
    if not _is_float(scale) or node.attribute("output_dtype", 0) not in (0, *EPSILON):
        return None
    if node.op_type == "DequantizeLinear":
        return [("Sub", np.asarray(zero)), ("Mul", scale)]
    limits = np.iinfo(zero.dtype)
    low, high = np.asarray(limits.min), np.asarray(limits.max)
    return [("Div", scale), ("Add", np.asarray(zero)), ("Max", low), ("Min", high)]


def _unrounded(
    node: Node, operands: list[tuple[str, Array]], graph: onnx.GraphProto
) -> list[onnx.NodeProto]:
    """The nodes that take a node's place."""
    made, data = [], node.inputs[0]
    for number, (op_type, value) in enumerate(operands, 1):
        name = f"{_OWN}{node.outputs[0]}/{number}"
        operand = np.asarray(value, np.float32).reshape(())
        graph.initializer.append(numpy_helper.from_array(operand, f"{name} by"))
        result = node.outputs[0] if number == len(operands) else name
        made.append(helper.make_node(op_type, [data, f"{name} by"], [result]))
        data = result
    return made


def _retype(message: Message, to: int) -> bool:
    """Give every float tensor in a message a type, and what names such a type the new one; False
    where a number does not fit."""
    if isinstance(message, TensorProto):
        return _retype_tensor(message, to)
    if isinstance(message, onnx.TypeProto.Tensor) and message.elem_type in EPSILON:
        message.elem_type = to
    if isinstance(message, onnx.AttributeProto) and message.i in EPSILON:
        message.i = to if message.name in _TYPE_ATTRIBUTES else message.i
    fields = (value for field, value in message.ListFields() if field.message_type is not None)
    return all(
        _retype(part, to)
        for value in fields
        for part in ([value] if isinstance(value, Message) else value)
    )


def _retype_tensor(tensor: onnx.TensorProto, to: int) -> bool:
    if tensor.data_type not in EPSILON or tensor.data_type == to:
        return True
    old = numpy_helper.to_array(tensor)
    with np.errstate(over="ignore"):
        new = old.astype(helper.tensor_dtype_to_np_dtype(to))
    tensor.CopyFrom(numpy_helper.from_array(new, tensor.name))
    same = (np.isfinite(new) == np.isfinite(old)) & ((new == 0) == (old == 0))
    return bool(same.all())
