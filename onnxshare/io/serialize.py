"""Serializes a model piece by piece: the inverse of `skeleton.skim`.

The structure is serialized in memory; the payloads that the skeleton leaves out are spliced in
from the file that was read, so that memory does not follow the size of the weights. What is
written parses equal to the whole model.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import onnx
from onnx import numpy_helper

from onnxshare.io.external_data import PIECE, Reference
from onnxshare.io.load import Model, all_tensors
from onnxshare.io.memory_map import require_unchanged
from onnxshare.io.protobuf_wire import BYTES, VARINT, Field, fields, varint
from onnxshare.io.skeleton import (
    DATA_LOCATION,
    EXTERNAL_DATA,
    INNER,
    MODEL,
    RAW_DATA,
    SMALL,
    TENSOR,
    Payloads,
)
from onnxshare.io.tensors import BITS, raw_bytes, release

Buffer = bytes | memoryview

#: Tensors of this size or more begin at a multiple of a page, so that they can be mapped.
_PAGED_FROM, _PAGE = 2**20, 4096

#: The others begin where vector instructions like it.
_ALIGNED = 64

#: Tensors smaller than this stay in the model file when all data is asked to be external.
EXTERNAL_FROM = 1024


@dataclass(frozen=True)
class Piece:
    """Some bytes of what is written: at hand, or a range of the model file that was read."""

    data: Buffer
    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start


def pieces(model: Model, skeleton: onnx.ModelProto | None = None) -> list[Piece]:
    """The serialized model, payloads spliced in, as pieces that are not copied yet; external
    tensors stay references. Another structure can be serialized with the same payloads."""
    data = (skeleton or model.skeleton).SerializeToString()
    whole = [Piece(data, 0, len(data))]
    if not model.payloads:
        return whole
    places: list[int] = []
    token, place = model.payloads.token.encode(), -1
    while (place := data.find(token, place + 1)) >= 0:
        places.append(place)
    splicer = _Splicer(data, places, model.payloads)
    return splicer.message(0, len(data), MODEL) if places else whole


def size(parts: list[Piece]) -> int:
    """Bytes of all pieces together."""
    return sum(len(part) for part in parts)


def chunks(parts: list[Piece]) -> Iterator[Buffer]:
    """Yield what pieces hold, a few MiB at a time; pages of a mapped file are given back at
    once, so that they do not add up.

    Raises:
        ModelFileError: the file that they lie in has changed.
    """
    for part in parts:
        for start in range(part.start, part.end, PIECE):
            end = min(start + PIECE, part.end)
            require_unchanged(part.data)
            yield memoryview(part.data)[start:end]
            release(part.data[start:end])
        require_unchanged(part.data)


def digest(parts: list[Piece]) -> bytes:
    """A hash of what pieces hold, equal for equal bytes however they are cut."""
    result = hashlib.blake2b()
    for chunk in chunks(parts):
        result.update(chunk)
    return result.digest()


class _Splicer:
    """Rebuilds the messages on the way to each payload; all others are taken as they are."""

    def __init__(self, data: bytes, places: list[int], payloads: Payloads) -> None:
        self._data, self._places, self._payloads = data, places, payloads

    def _concerns(self, field: Field) -> bool:
        at = bisect_left(self._places, field.value)
        return at < len(self._places) and self._places[at] < field.end

    def message(self, start: int, end: int, kind: int) -> list[Piece]:
        parts: list[Piece] = []
        copied = start
        for field in fields(self._data, start, end):
            below = INNER[kind].get(field.number)
            if below is None or field.wire != BYTES or not self._concerns(field):
                continue
            if below == TENSOR:
                new = self._tensor(field)
            else:
                new = self.message(field.value, field.end, below)
            head = varint(field.number << 3 | BYTES) + varint(size(new))
            parts += [Piece(self._data, copied, field.start), Piece(head, 0, len(head)), *new]
            copied = field.end
        parts.append(Piece(self._data, copied, end))
        return [part for part in parts if len(part)]

    def _tensor(self, tensor: Field) -> list[Piece]:
        parsed = onnx.TensorProto.FromString(self._data[tensor.value : tensor.end])
        payload = self._payloads.find(parsed)
        if payload is None:
            return [Piece(self._data, tensor.value, tensor.end)]
        # In the order of their numbers, as protobuf writes fields; unknown ones come last.
        own = [
            (field.number, [Piece(self._data, field.start, field.end)])
            for field in fields(self._data, tensor.value, tensor.end)
            if field.number not in (EXTERNAL_DATA, DATA_LOCATION)
        ]
        head = payload.encoded()
        whole = Piece(payload.data, payload.value, payload.value_end)
        own.append((payload.field, [Piece(head, 0, len(head)), whole]))
        if payload.located:
            default = varint(DATA_LOCATION << 3 | VARINT) + b"\0"
            own.append((DATA_LOCATION, [Piece(default, 0, len(default))]))
        own.sort(key=lambda numbered: numbered[0])
        return [part for _, parts in own for part in parts]


def has_external(model: Model) -> bool:
    """Whether tensors of a model say that their data is external, be it right or not."""
    return any(True for _ in model.external_tensors())


@dataclass(frozen=True)
class Block:
    """A tensor's place in a data file, and how to read its bytes, a few MiB at a time."""

    offset: int
    length: int
    read: Callable[[], Iterator[Buffer]]


def lay_out(
    model: Model,
    location: str,
    *,
    everything: bool,
    elsewhere: Mapping[int, Reference] | None = None,
) -> tuple[onnx.ModelProto, list[Block]]:
    """Plan a data file of this name for a model: for every tensor of `EXTERNAL_FROM` bytes or
    more, or for those that are external already and those that were made in memory.

    Args:
        model: the model.
        location: the name of the data file.
        everything: whether tensors that are embedded now go there too.
        elsewhere: by place in `all_tensors`, the tensors that lie in another file.

    Returns:
        The structure with references into the data file, and the data file's blocks in order.
        Tensors that shared a range go on sharing it.

    Raises:
        ModelFileError: external data is missing, unsafe or contradicts its tensor.
    """
    structure = onnx.ModelProto()
    structure.CopyFrom(model.skeleton)
    blocks: list[Block] = []
    shared: dict[Reference, int] = {}
    end = 0
    for place, tensor in enumerate(all_tensors(structure)):
        payload = model.payloads.find(tensor) if model.payloads else None
        if elsewhere and place in elsewhere:
            _refer(tensor, *elsewhere[place], keep=payload is None)
            continue
        found = raw_data(model, tensor)
        embedded = payload is not None and not payload.made
        if found is None or (embedded and not everything):
            continue
        if found.origin is None and found.length < (EXTERNAL_FROM if everything else SMALL + 1):
            continue
        offset = shared.get(found.origin) if found.origin else None
        if offset is None:
            offset = aligned(end, found.length)
            end = offset + found.length
            blocks.append(Block(offset, found.length, found.read))
            if found.origin:
                shared[found.origin] = offset
        _refer(tensor, location, offset, found.length, keep=payload is None)
    return structure, blocks


def aligned(end: int, length: int) -> int:
    """Where a tensor of so many bytes begins in a data file that ends there now."""
    unit = _PAGE if length >= _PAGED_FROM else _ALIGNED
    return -(-end // unit) * unit


@dataclass(frozen=True)
class RawData:
    """The raw data of a tensor: its length, how to read it, and the external range it is now."""

    length: int
    read: Callable[[], Iterator[Buffer]]
    origin: Reference | None = None


def raw_data(model: Model, tensor: onnx.TensorProto, *, typed: bool = False) -> RawData | None:
    """The raw data of a tensor; None for one whose values are in fields of their types, unless
    `typed` ones are converted, and for strings.

    Raises:
        ModelFileError: external data is missing, unsafe or contradicts its tensor.
    """
    payload = model.payloads.find(tensor) if model.payloads else None
    if payload is None and tensor.data_location == onnx.TensorProto.EXTERNAL:
        # The original is asked again when it is copied: by then `tensor` refers to the new file.
        original = onnx.TensorProto()
        original.CopyFrom(tensor)
        where = model.external.check(original)
        return RawData(where.length, lambda: model.external.pieces(original), where)
    if payload is not None and payload.field == RAW_DATA:
        part = Piece(payload.data, payload.value, payload.value_end)
    elif payload is None and tensor.HasField("raw_data"):
        data = tensor.raw_data
        part = Piece(data, 0, len(data))
    elif typed and tensor.data_type in BITS:
        known = onnx.TensorProto()
        known.CopyFrom(tensor)

        def convert() -> Iterator[Buffer]:
            data = numpy_helper.from_array(model.read(known)).raw_data
            return chunks([Piece(data, 0, len(data))])

        return RawData(raw_bytes(tensor), convert)
    else:
        return None
    return RawData(len(part), lambda: chunks([part]))


#: What holds the values of a tensor in its type.
TYPED_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")


def _refer(
    tensor: onnx.TensorProto, location: str, offset: int, length: int, *, keep: bool
) -> None:
    """Let a tensor refer to a range of a data file; other entries, such as checksums, stay."""
    if not keep:
        del tensor.external_data[:]
    entries = {entry.key: entry for entry in tensor.external_data}
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        entry = entries.get(key) or tensor.external_data.add(key=key)
        entry.value = str(value)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for field in ("raw_data", *TYPED_FIELDS):
        tensor.ClearField(field)
