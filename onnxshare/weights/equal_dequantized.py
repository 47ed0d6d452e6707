"""Which tensors are equal, or one another's transpose, once quantised ones are dequantised."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from onnxshare.graph.index import Stored
from onnxshare.io.tensors import Array, bytes_of
from onnxshare.weights.content import HIGHEST_RANK, Content, content_of_pieces
from onnxshare.weights.dequantize import Dequantized, Sizes

Read = Callable[[Stored], Array]

#: So many tensors with the same elements in another order are tried.
_TRIED = 8


@dataclass(frozen=True)
class Meaning:
    """The numbers that a tensor stands for.

    Attributes:
        stored: the tensor.
        dtype: their TensorProto data type.
        shape: their dims.
        reading: how they are made; None where they are what is stored.
    """

    stored: Stored
    dtype: int
    shape: Sizes
    reading: Dequantized | None = None

    @property
    def form(self) -> tuple[int, Sizes]:
        """Alike for a tensor and its transposes."""
        return self.dtype, tuple(sorted(self.shape))

    @property
    def bytes(self) -> int:
        """Of the numbers, where they are made."""
        return bytes_of(self.stored.elements, self.dtype) if self.reading is not None else 0


def meanings(tensors: Iterable[Stored], readings: Mapping[str, Dequantized]) -> list[Meaning]:
    """What tensors stand for: those that another of their form may equal, one of them quantised."""
    found: dict[tuple[int, Sizes], list[Meaning]] = {}
    order = []
    for stored in tensors:
        reading = readings.get(stored.key)
        one = Meaning(stored, stored.dtype, stored.shape)
        if reading is not None:
            one = Meaning(stored, reading.dtype, reading.shape, reading)
        found.setdefault(one.form, []).append(one)
        order.append(one)
    told = {
        form
        for form, alike in found.items()
        if len(alike) > 1 and any(one.reading is not None for one in alike)
    }
    return [one for one in order if one.form in told]


def content_of(
    one: Meaning,
    contents: Mapping[str, Content],
    read: Read,
    step: Callable[[int], None] | None = None,
) -> Content:
    """What identifies the numbers of a tensor.

    Args:
        one: the tensor.
        contents: what is stored, by key.
        read: the elements of a tensor.
        step: told how many bytes were made since the last time.
    """
    if one.reading is None:
        return contents[one.stored.key]
    parts = _told(one.reading.pieces(read(one.stored)), step)
    return content_of_pieces(parts, one.dtype, one.shape)


def _told(parts: Iterator[Array], step: Callable[[int], None] | None) -> Iterator[Array]:
    for part in parts:
        yield part
        if step is not None:
            step(part.nbytes)


def equal_after(
    tensors: Iterable[Meaning],
    contents: Mapping[str, Content],
    read: Read,
    step: Callable[[int], None] | None = None,
) -> dict[str, tuple[str, tuple[int, ...] | None]]:
    """The keys of tensors that stand for the same numbers as an earlier one, each with the key of
    that one, and the order of axes in which that one, transposed, is this one; None if the two are
    equal as they are.

    Args:
        tensors: what `meanings` found; those without contents are left out.
        contents: what is stored, by key.
        read: the elements of a tensor.
        step: told how many bytes were made since the last time.
    """
    first: dict[str, str] = {}
    alike: dict[tuple[object, ...], list[Numbers]] = {}
    found: dict[str, tuple[str, tuple[int, ...] | None]] = {}
    for one in tensors:
        key = one.stored.key
        if key not in contents:
            continue
        known = content_of(one, contents, read, step)
        if known.hash in first:
            found[key] = first[known.hash], None
            continue
        first[known.hash] = key
        numbers = Numbers(one, known, read)
        candidates = alike.setdefault((*one.form, known.bag), [])
        for other in candidates[:_TRIED]:
            order = permutation(other, numbers)
            if order is not None:
                found[key] = other.meaning.stored.key, order
                break
        else:
            candidates.append(numbers)
    return found


@dataclass(frozen=True)
class Numbers:
    """The numbers that a tensor stands for, what identifies them, and how it is read."""

    meaning: Meaning
    content: Content
    read: Read

    def turned(self, order: tuple[int, ...], shape: Sizes) -> Content | None:
        """What identifies the transposed numbers, whose dims are these; None where they are what
        is stored."""
        reading, stored = self.meaning.reading, self.meaning.stored
        if reading is None:
            return None
        parts = reading.pieces(self.read(stored), order)
        return content_of_pieces(parts, self.meaning.dtype, shape)


def permutation(one: Numbers, other: Numbers) -> tuple[int, ...] | None:
    """The order of axes in which the numbers of one tensor, transposed, are those of another; None
    if there is none, or if both are what is stored."""
    before, after = one.meaning.shape, other.meaning.shape
    rank = len(before)
    if not 2 <= rank <= HIGHEST_RANK or rank != len(after):
        return None
    for order in itertools.permutations(range(rank)):
        if order == tuple(range(rank)) or tuple(before[axis] for axis in order) != after:
            continue
        there = one.turned(order, after)
        if there is not None:
            found = there.hash == other.content.hash
        else:
            back = other.turned(tuple(int(axis) for axis in np.argsort(order)), before)
            found = back is not None and back.hash == one.content.hash
        if found:
            return order
    return None
