"""The same graph in a longer float type, where the rounding of a shorter one hides nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from onnxshare.inputs import Samples

#: Types of so few digits that their rounding looks like a wrong weight.
HALF = frozenset((TensorProto.FLOAT16, TensorProto.BFLOAT16))

#: Attributes that name an element type.
_TYPE_ATTRIBUTES = frozenset(("to", "dtype", "output_dtype", "stash_type"))


def computes_in_half(proto: onnx.ModelProto) -> bool:
    """Whether a model takes or gives half precision, or stores weights in it."""
    values = [*proto.graph.input, *proto.graph.output]
    return any(value.type.tensor_type.elem_type in HALF for value in values) or any(
        tensor.data_type in HALF for tensor in proto.graph.initializer
    )


def widen(
    proto: onnx.ModelProto, kinds: frozenset[int] = HALF, to: int = TensorProto.FLOAT
) -> onnx.ModelProto | None:
    """A copy that computes in another type what the model computes in shorter ones.

    Every stored number keeps its value. The model must be whole (no external tensors).

    Args:
        proto: the model.
        kinds: the types that are replaced.
        to: the longer type that takes their place.

    Returns:
        The copy, or None for a model with local functions or sparse tensors.
    """
    if proto.functions:
        return None
    wide = onnx.ModelProto()
    wide.CopyFrom(proto)
    return wide if _widen_graph(wide.graph, kinds, to) else None


def widen_samples(samples: Samples) -> Samples:
    """The same samples with half precision as float32."""
    arrays = {  # half precision is for small samples: all are read at once
        name: array.astype(np.float32) if array.dtype.itemsize == 2 and _is_half(array) else array
        for name, array in samples.arrays.items()
    }
    return replace(samples, arrays=arrays)


def _is_half(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> bool:
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


def _widen_graph(graph: onnx.GraphProto, kinds: frozenset[int], to: int) -> bool:
    if graph.sparse_initializer:
        return False
    for tensor in graph.initializer:
        _widen_tensor(tensor, kinds, to)
    for value in [*graph.input, *graph.output, *graph.value_info]:
        if value.type.tensor_type.elem_type in kinds:
            value.type.tensor_type.elem_type = to
    return all(_widen_attribute(item, kinds, to) for node in graph.node for item in node.attribute)


def _widen_attribute(attribute: onnx.AttributeProto, kinds: frozenset[int], to: int) -> bool:
    if attribute.name in _TYPE_ATTRIBUTES and attribute.i in kinds:
        attribute.i = to
    if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
        return False
    for tensor in [*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors]:
        _widen_tensor(tensor, kinds, to)
    graphs = [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]
    return all(_widen_graph(graph, kinds, to) for graph in graphs)


def _widen_tensor(tensor: onnx.TensorProto, kinds: frozenset[int], to: int) -> None:
    if tensor.data_type in kinds:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(to)
        values = numpy_helper.to_array(tensor).astype(dtype)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
