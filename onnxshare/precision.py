"""The same graph in another float type: a longer one, where the rounding of a shorter one hides
nothing, or float32, for which ONNX Runtime has a kernel of every operator."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from onnxshare.io.tensors import Array
from onnxshare.samples.samples import Samples

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
