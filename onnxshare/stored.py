"""A constant tensor as a model stores it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from math import prod

import onnx
from onnx import TensorProto, helper


@dataclass(frozen=True)
class Stored:
    """A constant tensor as the model stores it.

    Attributes:
        key: unique within the model.
        name: the tensor's name.
        dtype: a TensorProto data type.
        shape: its dims.
        tensor: its payload; None for a sparse one or one that a ConstantOfShape node makes.
        fill: the one-element tensor that fills it, for ConstantOfShape.
        sparse: whether it is stored as a sparse tensor.
    """

    key: str
    name: str
    dtype: int
    shape: tuple[int, ...]
    tensor: onnx.TensorProto | None = field(default=None, repr=False)
    fill: onnx.TensorProto | None = field(default=None, repr=False)
    sparse: bool = False

    @cached_property
    def elements(self) -> int:
        """The number of elements."""
        return prod(self.shape)


def from_constant_node(node: onnx.NodeProto, key: str, name: str) -> Stored | None:
    """The tensor that a Constant node holds, in whichever of its attributes."""
    for attribute in node.attribute:
        if attribute.name == "value":
            tensor = attribute.t
            return Stored(key, name, tensor.data_type, tuple(tensor.dims), tensor)
        if attribute.name == "sparse_value":
            sparse = attribute.sparse_tensor
            return Stored(key, name, sparse.values.data_type, tuple(sparse.dims), sparse=True)
        made = _from_constant_attribute(attribute)
        if made is not None:
            return Stored(key, name, made.data_type, tuple(made.dims), made)
    return None


def _from_constant_attribute(attribute: onnx.AttributeProto) -> onnx.TensorProto | None:
    if attribute.name == "value_float":
        return helper.make_tensor("", TensorProto.FLOAT, (), [attribute.f])
    if attribute.name == "value_int":
        return helper.make_tensor("", TensorProto.INT64, (), [attribute.i])
    if attribute.name == "value_floats":
        values = list(attribute.floats)
        return helper.make_tensor("", TensorProto.FLOAT, (len(values),), values)
    if attribute.name == "value_ints":
        numbers = list(attribute.ints)
        return helper.make_tensor("", TensorProto.INT64, (len(numbers),), numbers)
    if attribute.name == "value_string":
        return TensorProto(data_type=TensorProto.STRING, string_data=[attribute.s])
    if attribute.name == "value_strings":
        texts = list(attribute.strings)
        return TensorProto(data_type=TensorProto.STRING, dims=[len(texts)], string_data=texts)
    return None
