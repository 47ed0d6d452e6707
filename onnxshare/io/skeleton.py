"""Reads the structure of a model and leaves large payloads where they are.

The file is walked field by field. A tensor whose payload is large is kept without it: in its
place stands a reference of the same form as external data, which only this reading can resolve
(its location is a random token, so no file can forge one). The cost follows the size of the
graph; the bytes of a payload are touched when somebody asks for them.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxshare.io.wire import BYTES, Field, fields, tagged, varint

Array = np.ndarray[Any, np.dtype[Any]]

#: Payloads up to this size are read with the structure: shapes, scales, small weights.
SMALL = 32 * 1024

# For each kind of message, the fields that may hold tensors (onnx/onnx.proto).
_MODEL, _GRAPH, _NODE, _ATTRIBUTE, _TENSOR, _SPARSE, _TRAINING, _FUNCTION = range(8)
_INNER: dict[int, dict[int, int]] = {
    _MODEL: {7: _GRAPH, 20: _TRAINING, 25: _FUNCTION},
    _GRAPH: {1: _NODE, 5: _TENSOR, 15: _SPARSE},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE},
    _SPARSE: {1: _TENSOR, 2: _TENSOR},
    _TRAINING: {1: _GRAPH, 2: _GRAPH},
    _FUNCTION: {7: _NODE},
}

#: Fields of TensorProto: the payloads, and those that say it is external already.
_RAW_DATA = 9
_PAYLOADS = frozenset((4, 5, 6, 7, _RAW_DATA, 10, 11))
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14

#: Element types whose raw bytes are a NumPy array as they stand.
_PLAIN = frozenset(
    (
        TensorProto.FLOAT,
        TensorProto.DOUBLE,
        TensorProto.FLOAT16,
        TensorProto.BFLOAT16,
        TensorProto.INT8,
        TensorProto.INT16,
        TensorProto.INT32,
        TensorProto.INT64,
        TensorProto.UINT8,
        TensorProto.UINT16,
        TensorProto.UINT32,
        TensorProto.UINT64,
        TensorProto.BOOL,
    )
)

#: Deeper nesting of graphs is refused before a parser's own stack is at risk.
MAX_DEPTH = 100


@dataclass(frozen=True)
class Payload:
    """Where a tensor lies in the file, and where in it its payload.

    Attributes:
        start, end: the whole TensorProto.
        field: the number of the field that holds the payload.
        value, value_end: the payload.
    """

    start: int
    end: int
    field: int
    value: int
    value_end: int


class Payloads:
    """The payloads that a skeleton leaves out, by the token that stands for each."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = data
        self._token = secrets.token_hex(12)
        self._known: list[Payload] = []

    def add(self, payload: Payload) -> str:
        """Remember a payload and return the token that stands for it."""
        self._known.append(payload)
        return f"{self._token}.{len(self._known) - 1}"

    def find(self, tensor: onnx.TensorProto) -> Payload | None:
        """The payload that was left out of a tensor, or None if it is no such tensor."""
        if tensor.data_location != TensorProto.EXTERNAL or len(tensor.external_data) != 1:
            return None
        token, dot, number = tensor.external_data[0].value.partition(".")
        if not dot or token != self._token:
            return None
        return self._known[int(number)]

    def array(self, tensor: onnx.TensorProto, payload: Payload) -> Array:
        """The values of a tensor: a read-only view of the file where the type allows it.

        Raises:
            ValueError: the payload does not fit the tensor's dims.
        """
        if payload.field == _RAW_DATA and tensor.data_type in _PLAIN:
            dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type).newbyteorder("<")
            count = prod(tensor.dims)
            if count * dtype.itemsize != payload.value_end - payload.value:
                raise ValueError("its payload does not have the length that its dims announce")
            return np.frombuffer(self._data, dtype, count, payload.value).reshape(tensor.dims)
        return numpy_helper.to_array(self.tensor(payload))

    def tensor(self, payload: Payload) -> onnx.TensorProto:
        """The tensor as it stands in the file."""
        tensor = onnx.TensorProto()
        tensor.ParseFromString(bytes(self._data[payload.start : payload.end]))
        return tensor

    def fill(self, tensors: Iterator[onnx.TensorProto] | list[onnx.TensorProto]) -> None:
        """Put the payloads back into the tensors they were left out of, in place."""
        for tensor in tensors:
            payload = self.find(tensor)
            if payload is not None:
                tensor.ParseFromString(bytes(self._data[payload.start : payload.end]))

    def __len__(self) -> int:
        return len(self._known)


def skim(data: bytes | memoryview) -> tuple[bytes, Payloads]:
    """Return a serialized ModelProto without large payloads, and where those are.

    Args:
        data: a serialized ModelProto, such as a mapped file.

    Raises:
        WireError: the bytes are no well-formed message.
        RecursionError: graphs are nested deeper than `MAX_DEPTH`.
    """
    payloads = Payloads(data)
    pieces = _shrink(data, 0, len(data), _MODEL, payloads, 0)
    return b"".join(pieces), payloads


Piece = bytes | memoryview


def _shrink(
    data: bytes | memoryview, start: int, end: int, kind: int, payloads: Payloads, depth: int
) -> list[Piece]:
    """The message in data[start:end] without large payloads, in pieces."""
    if depth > MAX_DEPTH:
        raise RecursionError("graphs are nested too deep")
    inner = _INNER[kind]
    pieces: list[Piece] = []
    copied = start
    for field in fields(data, start, end):
        below = inner.get(field.number)
        if below is None or field.wire != BYTES or field.end - field.value <= SMALL:
            continue
        if below == _TENSOR:
            new = _without_payload(data, field, payloads)
        else:
            new = _shrink(data, field.value, field.end, below, payloads, depth + 1)
        if not new:
            continue
        length = sum(len(piece) for piece in new)
        pieces.append(data[copied : field.start])
        pieces.append(varint(field.number << 3 | BYTES) + varint(length))
        pieces.extend(new)
        copied = field.end
    if copied == start and kind != _MODEL:
        return []  # nothing to leave out: the caller copies it with its surroundings
    pieces.append(data[copied:end])
    return pieces


def _without_payload(data: bytes | memoryview, tensor: Field, payloads: Payloads) -> list[Piece]:
    found: list[Field] = []
    for field in fields(data, tensor.value, tensor.end):
        if field.number in (_EXTERNAL_DATA, _DATA_LOCATION):
            return []
        if field.number in _PAYLOADS and field.wire == BYTES:
            found.append(field)
    if len(found) != 1 or found[0].end - found[0].value <= SMALL:
        return []
    field = found[0]
    token = payloads.add(Payload(tensor.value, tensor.end, field.number, field.value, field.end))
    entry = tagged(1, b"location") + tagged(2, token.encode())
    location = varint(_DATA_LOCATION << 3) + varint(TensorProto.EXTERNAL)
    return [
        data[tensor.value : field.start],
        data[field.end : tensor.end],
        tagged(_EXTERNAL_DATA, entry) + location,
    ]
