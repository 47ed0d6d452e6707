"""Seeded damage to real models: bytes, and fields of the protobuf message they are."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

from onnxshare.io.protobuf_wire import BYTES, VARINT, Field, WireError, fields, varint

#: Fields of messages that hold messages, by the path of field numbers from the model down:
#: all that lead to nodes, attributes, tensors, types and functions (onnx/onnx.proto).
_MESSAGES: dict[str, dict[int, str]] = {
    "model": {7: "graph", 8: "opset", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 11: "value", 12: "value", 13: "value", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "function": {7: "node", 9: "opset", 12: "value"},
    "value": {2: "type"},
    "type": {1: "tensor type"},
    "tensor type": {2: "shape"},
    "shape": {1: "dim"},
    "tensor": {},
    "opset": {},
    "dim": {},
}

#: Numbers that programs forget.
_NUMBERS = (0, 1, 2, 3, 7, 64, 255, 65_536, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1)
_HUGE = (2**63, 2**64 - 1, 2**64 - 5)  # negative ones


class Place(NamedTuple):
    """A field and the messages around it, outermost first."""

    field: Field
    kind: str
    around: tuple[Field, ...]


def places(data: bytes) -> list[Place]:
    """Every field of a model that can be reached."""
    found: list[Place] = []
    waiting: list[tuple[int, int, str, tuple[Field, ...]]] = [(0, len(data), "model", ())]
    while waiting:
        start, end, kind, around = waiting.pop()
        try:
            inside = list(fields(data, start, end))
        except WireError:
            continue
        for field in inside:
            found.append(Place(field, kind, around))
            below = _MESSAGES[kind].get(field.number)
            if below is not None and field.wire == BYTES:
                waiting.append((field.value, field.end, below, (*around, field)))
    return found


def replace(data: bytes, place: Place, new: bytes) -> bytes:
    """The model with other bytes in place of one field, and all lengths around it corrected."""
    start, end = place.field.start, place.field.end
    for outer in reversed(place.around):
        body = data[outer.value : start] + new + data[end : outer.end]
        new = varint(outer.number << 3 | BYTES) + varint(len(body)) + body
        start, end = outer.start, outer.end
    return data[:start] + new + data[end:]


def _flip(data: bytes, found: list[Place], rng: random.Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 32))):
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def _truncate(data: bytes, found: list[Place], rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def _overwrite(data: bytes, found: list[Place], rng: random.Random) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + rng.randbytes(rng.choice((1, 4, 16))) + data[start + 4 :]


def _number(data: bytes, found: list[Place], rng: random.Random) -> bytes:
    """Any number in the model: dims, types, versions, attributes."""
    numbers = [place for place in found if place.field.wire == VARINT]
    return _set_number(data, numbers, rng)


def _dim(data: bytes, found: list[Place], rng: random.Random) -> bytes:
    """A dim of a tensor or of a declared shape."""
    dims = [
        place
        for place in found
        if place.field.wire == VARINT
        and (place.kind, place.field.number) in (("tensor", 1), ("dim", 1))
    ]
    return _set_number(data, dims, rng)


def _attribute(data: bytes, found: list[Place], rng: random.Random) -> bytes:
    """An integer attribute: strides, pads, axes, groups."""
    numbers = [
        place
        for place in found
        if place.field.wire == VARINT
        and (place.kind, place.field.number) in (("attribute", 3), ("attribute", 8))
    ]
    return _set_number(data, numbers, rng)


def _set_number(data: bytes, numbers: list[Place], rng: random.Random) -> bytes:
    if not numbers:
        return _flip(data, [], rng)
    place = rng.choice(numbers)
    value = rng.choice((*_NUMBERS, *_HUGE, rng.getrandbits(rng.randrange(1, 64))))
    return replace(data, place, varint(place.field.number << 3) + varint(value))


def _payload(data: bytes, found: list[Place], rng: random.Random) -> bytes:
    """The bytes of a small tensor: what shapes, axes and pads are computed from."""
    small = [
        place
        for place in found
        if place.kind == "tensor"
        and place.field.wire == BYTES
        and place.field.number in (4, 7, 9)
        and 0 < place.field.end - place.field.value <= 64
    ]
    if not small:
        return _number(data, found, rng)
    field = (place := rng.choice(small)).field
    value = rng.choice((*_NUMBERS, *_HUGE)) & (2**64 - 1)
    new = bytearray(data[field.value : field.end])
    start = rng.randrange(0, max(1, len(new) - 7), 8)
    new[start : start + 8] = value.to_bytes(8, "little")[: len(new) - start]
    return replace(data, place, _tagged(field.number, bytes(new)))


def _drop(data: bytes, found: list[Place], rng: random.Random) -> bytes:
    return replace(data, rng.choice(found), b"")


def _double(data: bytes, found: list[Place], rng: random.Random) -> bytes:
    place = rng.choice(found)
    copy = data[place.field.start : place.field.end]
    return replace(data, place, copy * rng.choice((2, 2, 3, 100)))


def _splice(data: bytes, found: list[Place], rng: random.Random) -> bytes:
    """The content of one field in the place of another."""
    place, other = rng.choice(found), rng.choice(found)
    if other.field.end - other.field.start > 65_536:
        return _double(data, found, rng)
    return replace(data, place, data[other.field.start : other.field.end])


def _retag(data: bytes, found: list[Place], rng: random.Random) -> bytes:
    place = rng.choice(found)
    tag = varint(rng.randrange(1, 32) << 3 | rng.choice((0, 1, 2, 5)))
    return replace(data, place, tag + data[place.field.value : place.field.end])


def _rename(data: bytes, found: list[Place], rng: random.Random) -> bytes:
    """A name or text replaced by that of another, by nothing, or by what is no text."""
    texts = [
        place
        for place in found
        if place.field.wire == BYTES
        and place.field.number not in _MESSAGES[place.kind]
        and place.field.end - place.field.value <= 64
    ]
    if not texts:
        return _flip(data, found, rng)
    place, other = rng.choice(texts), rng.choice(texts)
    text = rng.choice(
        (data[other.field.value : other.field.end], b"", b"\xff\xfe", b"\x1b[31m", b"x" * 5000)
    )
    return replace(data, place, _tagged(place.field.number, text))


def _tagged(number: int, payload: bytes) -> bytes:
    return varint(number << 3 | BYTES) + varint(len(payload)) + payload


_KINDS: tuple[Callable[[bytes, list[Place], random.Random], bytes], ...] = (
    _flip,
    _truncate,
    _overwrite,
    _number,
    _dim,
    _attribute,
    _payload,
    _drop,
    _double,
    _splice,
    _retag,
    _rename,
)


def mutants(data: bytes, seed: int) -> Iterator[tuple[str, bytes]]:
    """Damaged forms of a model without end: what was done, and the result. Every fourth one has
    been damaged twice or more."""
    rng = random.Random(seed)
    found = places(data)
    while True:
        kind = rng.choice(_KINDS)
        result, name = kind(data, found, rng), kind.__name__.strip("_")
        while rng.random() < 0.25 and result:
            kind = rng.choice(_KINDS)
            if inner := places(result):
                result, name = kind(result, inner, rng), f"{name}+{kind.__name__.strip('_')}"
        yield name, result
