"""The same graph without the rounding of its QuantizeLinear nodes, where steps hide nothing.

Per tensor and in float32, with the limits lo and hi of the integer type:

    QuantizeLinear:    q = clip(x / scale + zero, lo, hi)    (not rounded)
    DequantizeLinear:  x = (q - zero) · scale

and constants behind DequantizeLinear are dequantised beforehand, each number as the node would.
Scales, zero points and saturation stay where they are, so that one that is lost still shows.

The same graph in another float type: a longer one, where the rounding of a shorter one hides
nothing, or float32, for which ONNX Runtime has a kernel of every operator.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxshare.io.tensors import Array
from onnxshare.samples.samples import Samples

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


#: Types of so few digits that their rounding looks like a wrong weight.
HALF = frozenset((TensorProto.FLOAT16, TensorProto.BFLOAT16))

#: Every float type that is computed in, but float32.
NOT_SINGLE = HALF | {TensorProto.DOUBLE}

#: Attributes that name an element type.
_TYPE_ATTRIBUTES = frozenset(("to", "dtype", "output_dtype", "stash_type"))


def computes_in_half(proto: onnx.ModelProto) -> bool:
    """Whether a model takes or gives half precision, or stores weights in it."""
    return computes_in(proto, HALF)


def computes_in(proto: onnx.ModelProto, kinds: frozenset[int]) -> bool:
    """Whether a model takes or gives one of these types, or stores weights in it."""
    values = [*proto.graph.input, *proto.graph.output]
    return any(value.type.tensor_type.elem_type in kinds for value in values) or any(
        tensor.data_type in kinds for tensor in proto.graph.initializer
    )


def widen(
    proto: onnx.ModelProto, kinds: frozenset[int] = HALF, to: int = TensorProto.FLOAT
) -> onnx.ModelProto | None:
    """A copy that computes in another type what the model computes in some.

    In a longer type every stored number keeps its value; in a shorter one it is rounded. The model
    must be whole (no external tensors).

    Args:
        proto: the model.
        kinds: the types that are replaced.
        to: the type that takes their place.

    Returns:
        The copy, or None for a model with sparse tensors, or where a number is too large or too
        small for the type.
    """
    wide = onnx.ModelProto()
    wide.CopyFrom(proto)
    nodes = [node for function in wide.functions for node in function.node]
    for function in wide.functions:
        _widen_values(function.value_info, kinds, to)
    return wide if _widen_graph(wide.graph, kinds, to) and _widen_nodes(nodes, kinds, to) else None


def in_single(samples: Samples) -> Samples:
    """The same samples with every other float type as float32."""
    arrays = {  # half and double precision are for small samples: all are read at once
        name: array.astype(np.float32) if _is_float(array) else array
        for name, array in samples.arrays.items()
    }
    return replace(samples, arrays=arrays)


def _is_float(array: Array) -> bool:
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


def _widen_graph(graph: onnx.GraphProto, kinds: frozenset[int], to: int) -> bool:
    if graph.sparse_initializer:
        return False
    _widen_values([*graph.input, *graph.output, *graph.value_info], kinds, to)
    stored = all(_widen_tensor(tensor, kinds, to) for tensor in graph.initializer)
    return stored and _widen_nodes(graph.node, kinds, to)


def _widen_values(values: Iterable[onnx.ValueInfoProto], kinds: frozenset[int], to: int) -> None:
    for value in values:
        if value.type.tensor_type.elem_type in kinds:
            value.type.tensor_type.elem_type = to


def _widen_nodes(nodes: Iterable[onnx.NodeProto], kinds: frozenset[int], to: int) -> bool:
    return all(_widen_attribute(item, kinds, to) for node in nodes for item in node.attribute)


def _widen_attribute(attribute: onnx.AttributeProto, kinds: frozenset[int], to: int) -> bool:
    if attribute.name in _TYPE_ATTRIBUTES and attribute.i in kinds:
        attribute.i = to
    if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
        return False
    tensors = [*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors]
    graphs = [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]
    return all(_widen_tensor(tensor, kinds, to) for tensor in tensors) and all(
        _widen_graph(graph, kinds, to) for graph in graphs
    )


def _widen_tensor(tensor: onnx.TensorProto, kinds: frozenset[int], to: int) -> bool:
    """Give a tensor the type; False where its numbers do not fit."""
    if tensor.data_type not in kinds:
        return True
    old = numpy_helper.to_array(tensor)
    with np.errstate(over="ignore"):
        new = old.astype(onnx.helper.tensor_dtype_to_np_dtype(to))
    tensor.CopyFrom(numpy_helper.from_array(new, tensor.name))
    same = (np.isfinite(new) == np.isfinite(old)) & ((new == 0) == (old == 0))
    return bool(same.all())
