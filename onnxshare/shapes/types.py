"""The element type and shape of a tensor, each different one made once.

A graph of thousands of tensors has a few dozen types. Equal ones are one object, which costs
nothing to keep and little to compare; and types that are still serialized are compared by their
bytes, so that most need not be parsed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from math import prod
from typing import Any

import onnx

from onnxshare.io.node_reader import symbol

#: A shape as reported: known sizes, names of symbolic ones, None where nothing is known.
Shape = tuple[int | str | None, ...]


@dataclass(frozen=True, eq=False, slots=True)
class TensorType:
    """What is known of a tensor. Compared by identity: a table makes each only once.

    Attributes:
        dtype: a TensorProto data type; None if unknown.
        shape: known sizes, names of symbolic ones, None for unknown ones; None without a rank.
        sizes: the shape if every size is known.
        shown: the shape without the names that inference invented.
        elements: the types of the tensors of a sequence, where they are known.
    """

    dtype: int | None
    shape: Shape | None
    sizes: tuple[int, ...] | None
    shown: Shape | None
    elements: tuple[TensorType, ...] | None = None


#: Of a tensor of which nothing is known, and of an input that is left out.
NOTHING, ABSENT = TensorType(None, None, None, None), TensorType(None, None, None, None)


#: How onnx's inference names sizes that it cannot know.
_MADE_UP = re.compile(r"unk__\d+")


def shown(shape: Shape, symbols: Collection[str] = ()) -> Shape:
    """A shape in which sizes that inference named are None; `symbols` are the model's own."""
    return tuple(
        None if isinstance(size, str) and size not in symbols and _MADE_UP.fullmatch(size) else size
        for size in shape
    )


class TypeTable:
    """Hands out types, equal ones as one object; `symbols` are the names that the model gives to
    sizes."""

    def __init__(self, symbols: Collection[str] = ()) -> None:
        self._symbols = symbols
        self._read: dict[bytes, TensorType | None] = {}
        #: The types that were handed out.
        self.made: dict[tuple[int | None, Shape | None], TensorType] = {(None, None): NOTHING}

    def of(self, serialized: bytes) -> TensorType | None:
        """The type that a serialized TypeProto says, of an optional that of what it may hold; None
        for a sequence or a map."""
        if serialized not in self._read:
            self._read[serialized] = self._parse(onnx.TypeProto.FromString(serialized))
        return self._read[serialized]

    def make(self, dtype: int | None, shape: Shape | None) -> TensorType:
        """The type of these parts."""
        found = self.made.get((dtype, shape))
        if found is None:
            sizes = None
            if shape is not None and all(isinstance(size, int) for size in shape):
                sizes = tuple(size for size in shape if isinstance(size, int))
            found = self.made[dtype, shape] = TensorType(
                dtype, shape, sizes, sizes or (shape and shown(shape, self._symbols))
            )
        return found

    def sequence(self, elements: Iterable[tuple[Shape, int]]) -> TensorType:
        """The type of a sequence of tensors of these shapes and types."""
        parts = tuple(self.make(dtype, shape) for shape, dtype in elements)
        return TensorType(None, None, None, None, parts)

    def _parse(self, proto: onnx.TypeProto) -> TensorType | None:
        if proto.HasField("optional_type"):
            return self._parse(proto.optional_type.elem_type)
        if not proto.HasField("tensor_type"):
            return None
        tensor_type = proto.tensor_type
        shape = None
        if tensor_type.HasField("shape"):
            shape = tuple(_size(dim) for dim in tensor_type.shape.dim)
        return self.make(tensor_type.elem_type or None, shape)


def _size(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    if dim.HasField("dim_value"):
        return dim.dim_value if dim.dim_value >= 0 else None
    return symbol(dim) or None


#: Fields of GraphProto and ValueInfoProto (onnx/onnx.proto).
_VALUES = {"input": 11, "output": 12, "value_info": 13}
_NAME, _TYPE = 1, 2

#: From so many tensors on it pays to make messages of our own.
_MANY = 1000


def named_types(graph: onnx.GraphProto) -> list[tuple[str, bytes]]:
    """Name and serialized TypeProto of inputs, inner tensors and outputs; b"" without a type."""
    if len(graph.value_info) < _MANY:
        values = chain(graph.input, graph.value_info, graph.output)
        return [(value.name, value.type.SerializeToString()) for value in values]
    shallow = _shallow().FromString(graph.SerializeToString())
    return [(v.name, v.type) for v in chain(shallow.input, shallow.value_info, shallow.output)]


@cache
def _shallow() -> type[Any]:
    """A message that reads a GraphProto's tensors, with their types as bytes, in half the time."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kind = descriptor_pb2.FieldDescriptorProto
    one, many = kind.LABEL_OPTIONAL, kind.LABEL_REPEATED
    file = descriptor_pb2.FileDescriptorProto(name="onnxshare/shallow.proto", package="onnxshare")
    value = file.message_type.add(name="Value")
    value.field.add(name="name", number=_NAME, type=kind.TYPE_STRING, label=one)
    value.field.add(name="type", number=_TYPE, type=kind.TYPE_BYTES, label=one)
    graph = file.message_type.add(name="Graph")
    for name, number in _VALUES.items():
        graph.field.add(
            name=name,
            number=number,
            type=kind.TYPE_MESSAGE,
            label=many,
            type_name=".onnxshare.Value",
        )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found: type[Any] = message_factory.GetMessageClass(
        pool.FindMessageTypeByName("onnxshare.Graph")
    )
    return found


def holds_rows(sizes: Sequence[int], batch: int) -> bool:
    """Whether a multiple of so many samples is among the leading axes: axis 0, axis 1 where it is
    the one after time, axis 2 of what a recurrent cell makes (steps, directions, batch, size)."""
    leading = sizes[: max(1, len(sizes) - 1)][: 3 if len(sizes) == 4 and sizes[1] < 3 else 2]
    return any(size % batch == 0 for size in leading)


def per_sample(sizes: Sequence[int], batch: int) -> int:
    """Elements of a tensor that belong to one of so many samples."""
    count = prod(sizes)
    return count // batch if sizes and holds_rows(sizes, batch) else count
