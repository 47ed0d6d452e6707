"""A constant tensor as a model stores it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import prod

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from onnxshare.io.node_reader import TensorRow
from onnxshare.io.tensors import bytes_of
from onnxshare.support.dataclass_tools import made


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
        packed: bytes of a sparse tensor: its values and their indices.
        parts: of one that is cut out of others or joined from them: those, and how many elements
            of each it has.
        elements: the number of elements.
    """

    key: str
    name: str
    dtype: int
    shape: tuple[int, ...]
    tensor: onnx.TensorProto | None = field(default=None, repr=False)
    fill: onnx.TensorProto | None = field(default=None, repr=False)
    sparse: bool = False
    packed: int = 0
    parts: tuple[tuple[Stored, int], ...] = field(default=(), compare=False, repr=False)
    elements: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "elements", prod(self.shape))

    @property
    def sources(self) -> tuple[tuple[Stored, int], ...]:
        """The tensors that hold its elements, and how many of them: itself, or its parts."""
        return self.parts or ((self, self.elements),)

    def part(self, elements: int) -> Stored:
        """So many of its elements, under its name; itself where that is all of them."""
        if elements >= self.elements:
            return self
        packed = self.packed * elements // self.elements
        return replace(self, shape=(elements,), parts=(), packed=packed)

    @property
    def bytes(self) -> int:
        """Bytes in the type it is stored in: narrow types share bytes, a sparse tensor takes what
        its values and indices take, and one that ConstantOfShape makes what it takes when made."""
        return self.packed if self.sparse else bytes_of(self.elements, self.dtype)


def from_tensor(row: TensorRow, key: str, name: str) -> Stored:
    """A dense tensor; the key is unique within the model."""
    tensor, _, dtype, shape, elements = row
    return made(
        Stored,
        {
            "key": key,
            "name": name,
            "dtype": dtype,
            "shape": shape,
            "tensor": tensor,
            "elements": elements,
        },
    )


def from_sparse(sparse: onnx.SparseTensorProto, key: str, name: str) -> Stored:
    """A sparse tensor: a value and, as int64, its index for each element that is not 0."""
    values = sparse.values
    packed = bytes_of(prod(values.dims), values.data_type)
    packed += bytes_of(prod(sparse.indices.dims), TensorProto.INT64)
    return Stored(key, name, values.data_type, tuple(sparse.dims), sparse=True, packed=packed)


def from_constant_node(node: onnx.NodeProto, key: str, name: str) -> Stored | None:
    """The tensor that a Constant node holds, in whichever of its attributes."""
    for attribute in node.attribute:
        if attribute.name == "value":
            tensor = attribute.t
            return Stored(key, name, tensor.data_type, tuple(tensor.dims), tensor)
        if attribute.name == "sparse_value":
            return from_sparse(attribute.sparse_tensor, key, name)
        made = _from_constant_attribute(attribute)
        if made is not None:
            return Stored(key, name, made.data_type, tuple(made.dims), made)
    return None


#: The attributes of Constant that hold numbers: their field, and the type of the tensor.
_NUMBERS = {
    "value_float": ("f", np.float32),
    "value_floats": ("floats", np.float32),
    "value_int": ("i", np.int64),
    "value_ints": ("ints", np.int64),
}


def _from_constant_attribute(attribute: onnx.AttributeProto) -> onnx.TensorProto | None:
    if attribute.name in _NUMBERS:
        field_, dtype = _NUMBERS[attribute.name]
        return numpy_helper.from_array(np.array(getattr(attribute, field_), dtype))
    if attribute.name == "value_string":
        return TensorProto(data_type=TensorProto.STRING, string_data=[attribute.s])
    if attribute.name == "value_strings":
        texts = list(attribute.strings)
        return TensorProto(data_type=TensorProto.STRING, dims=[len(texts)], string_data=texts)
    return None
