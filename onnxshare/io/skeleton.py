"""Reads the structure of a model and leaves large payloads where they are.

The file is walked field by field. A tensor whose payload is large is kept without it: in its
place stands a reference of the same form as external data, which only this reading can resolve
(its location is a random token, so no file can forge one). The cost follows the size of the
graph; the bytes of a payload are touched when they are needed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from onnxshare.io.memory_map import require_unchanged
from onnxshare.io.protobuf_wire import BYTES, VARINT, Field, fields, long_fields, tagged, varint
from onnxshare.io.tensors import Array, from_raw

#: Payloads up to this size are read with the structure: shapes, scales, small weights.
SMALL = 32 * 1024

#: For each kind of message, the fields that may hold tensors (onnx/onnx.proto).
MODEL, _GRAPH, _NODE, _ATTRIBUTE, TENSOR, _SPARSE, _TRAINING, _FUNCTION = range(8)
INNER: dict[int, dict[int, int]] = {
    MODEL: {7: _GRAPH, 20: _TRAINING, 25: _FUNCTION},
    _GRAPH: {1: _NODE, 5: TENSOR, 15: _SPARSE},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {5: TENSOR, 6: _GRAPH, 10: TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE},
    _SPARSE: {1: TENSOR, 2: TENSOR},
    _TRAINING: {1: _GRAPH, 2: _GRAPH},
    _FUNCTION: {7: _NODE},
}

#: Fields of TensorProto: the payloads, and those that say it is external already.
RAW_DATA = 9
_PAYLOADS = frozenset((4, 5, 6, 7, RAW_DATA, 10, 11))
EXTERNAL_DATA, DATA_LOCATION = 13, 14

#: Deeper nesting of graphs is refused before a parser's own stack is at risk; protobuf's own limit
#: on messages in messages is the same.
MAX_DEPTH = 100

#: The most messages and strings of a graph; a million nodes have about eight million. A parser
#: takes some hundred bytes for each.
MAX_PARTS = 8_000_000

#: Smaller skeletons, in bytes, cannot have more: a part takes two bytes at least.
_COUNTED_ABOVE = 2 * MAX_PARTS


class TooManyParts(ValueError):
    """A graph of so many parts that reading it would exhaust the memory."""


@dataclass(frozen=True)
class Payload:
    """What a tensor of the skeleton leaves out, and where it is.

    Attributes:
        data: the model file, or an array made by a rewrite.
        field: the number of the field that holds the payload.
        value, value_end: the payload is data[value:value_end].
        located: whether the tensor says in so many words that its data is not external.
        made: whether it is an array made by a rewrite.
    """

    data: bytes | memoryview
    field: int
    value: int
    value_end: int
    located: bool = False
    made: bool = False

    def encoded(self) -> bytes:
        """The tag and the length that stand before the payload in a serialized tensor."""
        return varint(self.field << 3 | BYTES) + varint(self.value_end - self.value)


class Payloads:
    """The payloads that a skeleton leaves out, by the token that stands for each."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = data
        #: What every reference of this reading begins with: as secrets.token_hex, which takes time
        #: to import.
        self.token = os.urandom(12).hex()
        self._known: list[Payload] = []

    def add(self, field: int, value: int, value_end: int, located: bool = False) -> str:
        """Remember a payload of the file and return the token that stands for it."""
        return self._add(Payload(self._data, field, value, value_end, located))

    def hold(self, array: Array, name: str) -> TensorProto:
        """Make a tensor of an array, which is not copied and must not change any more."""
        tensor = TensorProto(
            name=name,
            data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
            dims=array.shape,
            data_location=TensorProto.EXTERNAL,
        )
        data = memoryview(array.reshape(-1).view(np.uint8).data)
        token = self._add(Payload(data, RAW_DATA, 0, len(data), made=True))
        tensor.external_data.add(key="location", value=token)
        return tensor

    def _add(self, payload: Payload) -> str:
        self._known.append(payload)
        return f"{self.token}.{len(self._known) - 1}"

    def find(self, tensor: TensorProto) -> Payload | None:
        """The payload that was left out of a tensor, or None if it is no such tensor."""
        if tensor.data_location != TensorProto.EXTERNAL or len(tensor.external_data) != 1:
            return None
        token, dot, number = tensor.external_data[0].value.partition(".")
        if not dot or token != self.token:
            return None
        return self._known[int(number)]

    def array(self, tensor: TensorProto, payload: Payload) -> Array:
        """The values of a tensor: a read-only view of the file where the type allows it.

        Raises:
            ValueError: the payload does not fit the tensor's dims.
            ModelFileError: the file has changed.
        """
        require_unchanged(payload.data)
        if payload.field == RAW_DATA:
            if isinstance(payload.data, (bytes, memoryview)):
                return from_raw(tensor, payload.data, payload.value, payload.value_end)
            part = payload.data[payload.value : payload.value_end]  # of what is read by ranges
            return from_raw(tensor, part, 0, len(part))
        whole = TensorProto()
        whole.CopyFrom(tensor)
        self.fill([whole])
        return numpy_helper.to_array(whole)

    def fill(self, tensors: Iterable[TensorProto]) -> None:
        """Put the payloads back into the tensors they were left out of, in place.

        Raises:
            ModelFileError: the file has changed.
        """
        for tensor in tensors:
            payload = self.find(tensor)
            if payload is None:
                continue
            del tensor.external_data[:]
            tensor.ClearField("data_location")
            if payload.located:
                tensor.data_location = TensorProto.DEFAULT
            require_unchanged(payload.data)
            data = bytes(payload.data[payload.value : payload.value_end])
            require_unchanged(payload.data)
            tensor.MergeFromString(payload.encoded() + data)

    def __len__(self) -> int:
        return len(self._known)


def nested_too_deep(data: bytes | memoryview) -> bool:
    """Whether messages are nested deeper than protobuf's parser follows."""
    waiting = [(0, len(data), MODEL, 1)]
    while waiting:
        start, end, kind, depth = waiting.pop()
        if depth > MAX_DEPTH:
            return True
        with contextlib.suppress(ValueError):
            for field in fields(data, start, end):
                below = INNER[kind].get(field.number)
                if below is not None and below != TENSOR and field.wire == BYTES:
                    waiting.append((field.value, field.end, below, depth + 1))
    return False


def skim(data: bytes | memoryview) -> tuple[bytes, Payloads]:
    """Return a serialized ModelProto without large payloads, and where those are.

    Raises:
        WireError: the bytes are not a well-formed message.
        RecursionError: graphs are nested deeper than `MAX_DEPTH`.
        TooManyParts: parsing it would take gigabytes.
    """
    payloads = Payloads(data)
    pieces = _shrink(data, 0, len(data), MODEL, payloads, 0)
    skeleton = b"".join(pieces)
    if len(skeleton) > _COUNTED_ABOVE and _parts(skeleton, 0, len(skeleton), MODEL) > MAX_PARTS:
        raise TooManyParts(f"its graph has more than {MAX_PARTS:,} parts")
    return skeleton, payloads


def _parts(data: bytes, start: int, end: int, kind: int) -> int:
    """How many messages and strings a message holds, those inside them included, or more than
    `MAX_PARTS`: counted before a parser makes an object of each."""
    inner, count, position = INNER.get(kind, {}), 0, start
    while position < end and count <= MAX_PARTS:
        tag, length = data[position], data[position + 1] if position + 1 < end else 128
        if tag & 0x87 == BYTES and length < 128:  # most fields: written out, because it is faster
            number, value, position = tag >> 3, position + 2, position + 2 + length
        elif tag & 0x87 == VARINT and length < 128:  # such as a dim
            position += 2
            continue
        else:
            field = next(fields(data, position, end))
            number, value, position = field.number, field.value, field.end
            if field.wire != BYTES:
                continue
        count += 1
        if number in inner and position - value > 1:
            count += _parts(data, value, min(position, end), inner[number])
    return count


Piece = bytes | memoryview

#: No sound tensor has more fields, single elements of its payload left out.
_MOST_FIELDS = 1000


def _shrink(
    data: bytes | memoryview, start: int, end: int, kind: int, payloads: Payloads, depth: int
) -> list[Piece]:
    """The message in data[start:end] without large payloads, in pieces."""
    if depth > MAX_DEPTH:
        raise RecursionError("graphs are nested too deep")
    inner = INNER[kind]
    pieces: list[Piece] = []
    copied = start
    for field in long_fields(data, start, end, SMALL):
        below = inner.get(field.number)
        if below is None:
            continue
        if below == TENSOR:
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
    if copied == start and kind != MODEL:
        return []  # nothing to leave out: the caller copies it with its surroundings
    pieces.append(data[copied:end])
    return pieces


def _without_payload(data: bytes | memoryview, tensor: Field, payloads: Payloads) -> list[Piece]:
    found: list[Field] = []
    located = False
    for count, field in enumerate(fields(data, tensor.value, tensor.end)):
        if count > _MOST_FIELDS:
            return []  # dims without end: what reads it next refuses it
        if field.number == DATA_LOCATION and field.wire == VARINT and not data[field.value]:
            located = True  # DEFAULT, as onnx writes it after it has read external data in
        elif field.number in (EXTERNAL_DATA, DATA_LOCATION):
            return []
        if field.number in _PAYLOADS:
            if field.wire != BYTES:
                return []  # single elements, whose place among packed ones would be lost
            found.append(field)
    if len(found) != 1 or found[0].end - found[0].value <= SMALL:
        return []
    field = found[0]
    token = payloads.add(field.number, field.value, field.end, located)
    entry = tagged(1, b"location") + tagged(2, token.encode())
    location = varint(DATA_LOCATION << 3) + varint(TensorProto.EXTERNAL)
    return [
        data[tensor.value : field.start],
        data[field.end : tensor.end],
        tagged(EXTERNAL_DATA, entry) + location,
    ]
