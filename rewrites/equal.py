"""Finds stored tensors that are equal bit for bit, or the transpose of one another bit for bit.

Types and shapes are compared first, then a few elements that a transpose leaves in place, then
BLAKE2 hashes of all bytes; whoever merges compares the bytes themselves. Bits, not values: NaN
equals itself, and -0.0 is not 0.0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxshare.graph import Stored
from onnxshare.io.tensors import Array

#: Elements of the first look, and bytes of one step of the full one.
_FIRST = 256
_STEP = 2**20

Read = Callable[[Stored], Array]
Key = tuple[Any, ...]


@dataclass(frozen=True)
class Copy:
    """One of several equal tensors.

    Attributes:
        stored: the tensor.
        turned: whether it is the transpose of the first of its group.
    """

    stored: Stored
    turned: bool = False


def groups(tensors: Iterable[Stored], read: Read) -> list[list[Copy]]:
    """Groups of two or more tensors that hold the same bits, in the order given."""
    found: list[list[Copy]] = []
    for alike in _split(list(tensors), _form):
        for close in _split(alike, lambda stored: _first_look(read(stored))):
            found.extend(_by_hash(close, read))
    return found


def same_bits(one: Array, other: Array, *, turned: bool) -> bool:
    """Whether two arrays hold the same bytes, the second one transposed if `turned`."""
    left, right = _bytes(one), _bytes(other)
    if turned:
        right = right.swapaxes(0, 1)
    if left.shape != right.shape or one.dtype != other.dtype:
        return False
    return all(np.array_equal(a, b) for a, b in zip(_blocks(left), _blocks(right), strict=True))


def _split(tensors: list[Stored], key: Callable[[Stored], Key]) -> Iterator[list[Stored]]:
    """The tensors of each key that more than one of them has."""
    if len(tensors) < 2:
        return
    found: dict[Key, list[Stored]] = {}
    for stored in tensors:
        found.setdefault(key(stored), []).append(stored)
    yield from (alike for alike in found.values() if len(alike) > 1)


def _form(stored: Stored) -> Key:
    """Type and shape, alike for a matrix and its transpose."""
    matrix = len(stored.shape) == 2
    return stored.dtype, tuple(sorted(stored.shape)) if matrix else stored.shape


def _first_look(values: Array) -> Key:
    """Some elements that are in the same place in the transpose: those on the diagonal."""
    if values.ndim == 2:
        return (np.ascontiguousarray(np.diagonal(values)[:_FIRST]).tobytes(),)
    return (np.ascontiguousarray(values.reshape(-1)[:_FIRST]).tobytes(),)


def _by_hash(tensors: list[Stored], read: Read) -> list[list[Copy]]:
    shapes = {stored.shape for stored in tensors}
    found: dict[bytes, list[Copy]] = {}
    turned: dict[bytes, list[Copy]] = {}
    for stored in tensors:
        values = _bytes(read(stored))
        digest = _digest(stored.shape, values)
        if digest in found:
            found[digest].append(Copy(stored))
        elif digest in turned:
            turned[digest].append(Copy(stored, turned=True))
        else:
            group = found[digest] = [Copy(stored)]
            if len(stored.shape) == 2 and stored.shape[::-1] in shapes:
                swapped = values.swapaxes(0, 1)
                turned.setdefault(_digest(stored.shape[::-1], swapped), group)
    return [group for group in found.values() if len(group) > 1]


def _digest(shape: tuple[int, ...], values: Array) -> bytes:
    digest = hashlib.blake2b(repr(shape).encode())
    for block in _blocks(values):
        digest.update(np.ascontiguousarray(block).data)
    return digest.digest()


def _bytes(values: Array) -> Array:
    """The same array with one more axis: the bytes of each element."""
    whole = np.ascontiguousarray(values)
    return whole.reshape(-1).view(np.uint8).reshape(*values.shape, values.itemsize)


def _blocks(values: Array) -> Iterator[Array]:
    """Pieces along the first axis of about one step each, so that a transpose is never whole."""
    rows = max(1, _STEP * len(values) // max(1, values.nbytes))
    for start in range(0, len(values), rows):
        yield values[start : start + rows]
