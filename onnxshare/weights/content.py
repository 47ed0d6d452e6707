"""What stored tensors hold, looked at a piece at a time: no tensor is copied whole.

Bits are compared, not values: NaN equals itself, and -0.0 is not 0.0.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxshare.io.memory_map import require_unchanged
from onnxshare.io.tensors import Array, release

if TYPE_CHECKING:
    import hashlib

#: Bytes of one step.
PIECE = 2**20

#: Axes of a tensor are tried in every order up to this rank: 120 orders.
HIGHEST_RANK = 5

_DIGEST_BYTES = 16

#: Elements of a step in which numbers are compared: as float64 they take a MiB.
_GAP_STEP = 2**17

#: Told after each step how many bytes have been read since the last one.
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Content:
    """What identifies the elements of a tensor.

    Attributes:
        hash: 32 hexadecimal digits, equal for equal type, dims and bytes: BLAKE2b of the type's
            number, the dims and the BLAKE2b of every MiB (of which a constant has only one).
        elements: as `hash`, whatever the dims.
        bag: 128 bits that do not depend on the order of the elements: sums of hashed elements.
            Tensors of one type that hold the same elements in any order have the same.
        uniform: whether all elements are the same bits.
    """

    hash: str
    elements: str
    bag: tuple[int, int]
    uniform: bool


def content(array: Array, dtype: int, progress: Progress | None = None) -> Content:
    """Read a tensor of this TensorProto data type once."""
    return content_of_pieces(pieces(array), dtype, array.shape, progress)


def content_of_pieces(
    parts: Iterator[Array], dtype: int, shape: tuple[int, ...], progress: Progress | None = None
) -> Content:
    """As `content`, of elements that come in pieces as `pieces` would cut them."""
    whole, elements = _hash(f"{dtype}:{','.join(map(str, shape))};".encode()), _hash(b"%d" % dtype)
    bag, first, uniform = (0, 0), None, True
    last, digest, mixed = None, b"", (0, 0)
    for part in parts:
        if part is not last:  # a constant is one piece again and again
            bits = _bits(part)
            rows = bits.reshape(len(part), -1)
            first = rows[:1].copy() if first is None else first
            uniform = uniform and bool((rows == first).all())
            last, digest, mixed = part, _hash(bits.view(np.uint8).data).digest(), _bag(bits)
            if progress is not None:
                progress(part.nbytes)
        whole.update(digest)
        elements.update(digest)
        bag = (bag[0] + mixed[0]) % 2**64, (bag[1] + mixed[1]) % 2**64
    return Content(whole.hexdigest(), elements.hexdigest(), bag, uniform)


def pieces(array: Array, step: int | None = None) -> Iterator[Array]:
    """The elements in the order of C, in flat pieces of `step` elements, or of `PIECE` bytes; pages
    of a mapped file are given back when the next is requested. Where one element stands for all,
    the piece is the same as often as it takes.

    Raises:
        ModelFileError: the file that they lie in has changed.
    """
    step = step or max(1, PIECE // max(1, array.itemsize))
    if array.dtype.kind == "O":
        array, step = _packed_strings(array), PIECE
    filled = is_fill(array)
    if filled:
        flat = np.repeat(_one_element(array), min(step, array.size))
    else:
        require_unchanged(array)
        flat = np.ascontiguousarray(array).reshape(-1)
    for start in range(0, array.size, step):
        count = min(step, array.size - start)
        if filled:
            yield flat if count == flat.size else flat[:count]
            continue
        require_unchanged(array)
        part = flat[start : start + count]
        yield part
        release(part)
    require_unchanged(array)


def same_bits(one: Array, other: Array, permutation: tuple[int, ...] | None = None) -> bool:
    """Whether two arrays hold the same bytes, `other` being `one.transpose(permutation)`; pages of
    mapped files are given back as it goes.

    Raises:
        ModelFileError: a file that they lie in has changed.
    """
    if one.dtype != other.dtype or one.dtype.kind == "O":
        return bool(one.dtype == other.dtype and np.array_equal(one, other))
    source, same = one, True
    one = one if permutation is None else one.transpose(permutation)
    if one.shape != other.shape:
        return False
    if one.ctypes.data == other.ctypes.data and one.strides == other.strides:
        return True  # the very same memory: nothing needs to be read
    if is_fill(one) and is_fill(other):
        one, other = _one_element(one), _one_element(other)
    for place in _places(other.shape, max(1, PIECE // max(1, one.itemsize))):
        require_unchanged(one)
        require_unchanged(other)
        left, right = one[place], other[place]
        same = bool(np.array_equal(_bits(left), _bits(right)))
        release(left)
        release(right)
        if not same:
            break
    release(source)  # of a transposed one no part is given back by itself
    return same


def permutation_between(
    one: Array, other: Array, highest_rank: int = HIGHEST_RANK
) -> tuple[int, ...] | None:
    """The order of axes in which `one.transpose(order)` is `other`, bit for bit; None if there is
    none, or if the rank is above `highest_rank`."""
    if one.ndim > highest_rank or one.dtype.kind == "O":
        return None
    orders = axis_orders(one.shape, other.shape)
    return next((order for order in orders if same_bits(one, other, order)), None)


def axis_orders(shape: tuple[int, ...], transposed: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """The orders of axes, but for the one as they are, in which a transpose gives these dims; none
    above `HIGHEST_RANK`."""
    rank = len(shape)
    if rank != len(transposed) or rank > HIGHEST_RANK:
        return
    for order in itertools.islice(itertools.permutations(range(rank)), 1, None):
        if tuple(shape[axis] for axis in order) == transposed:
            yield order


def largest_gap(one: Array, other: Array) -> tuple[float, float]:
    """The largest |a - b| of the elements in their order, and the largest |a|. A number on one side
    and none (NaN) on the other are infinitely far apart."""
    largest = scale = 0.0
    for parts in zip(pieces(one, step=_GAP_STEP), pieces(other, step=_GAP_STEP), strict=True):
        left, right = (
            part.astype(np.complex128 if part.dtype.kind == "c" else np.float64) for part in parts
        )
        with np.errstate(all="ignore"):
            gap = np.abs(left - right)
        gap[(left == right) | (np.isnan(left) & np.isnan(right))] = 0
        gap[np.isnan(gap)] = np.inf
        largest = max(largest, float(gap.max(initial=0)))
        scale = max(scale, float(np.nanmax(np.abs(left), initial=0)))
    return largest, scale


def _places(shape: tuple[int, ...], step: int) -> Iterator[tuple[Any, ...]]:
    """Places that together cover an array, each of at most `step` elements."""
    inner = 1
    for size in shape[1:]:
        inner *= size
    if not shape or 0 in shape:
        yield (...,)
    elif inner > step:
        for row in range(shape[0]):
            for rest in _places(shape[1:], step):
                yield (slice(row, row + 1), *rest)
    else:
        rows = max(1, step // inner)
        for start in range(0, shape[0], rows):
            yield (slice(start, start + rows),)


def is_fill(array: Array) -> bool:
    """Whether one element stands for all, as in what a ConstantOfShape node makes."""
    return array.size > 1 and all(
        step == 0 for step, size in zip(array.strides, array.shape, strict=True) if size > 1
    )


def _one_element(array: Array) -> Array:
    return np.asarray(array[(0,) * array.ndim]).reshape(1)


def _hash(data: bytes | memoryview) -> hashlib.blake2b:
    from hashlib import blake2b  # takes time to import, and few inspections need it

    return blake2b(data, digest_size=_DIGEST_BYTES)


def _bits(part: Array) -> Array:
    """The elements as unsigned integers; elements of 16 bytes as two."""
    kept = np.ascontiguousarray(part)
    if kept.itemsize > 8:
        return kept.reshape(-1).view(np.uint64)
    return kept.reshape(-1).view(f"u{kept.itemsize}")


def _bag(bits: Array) -> tuple[int, int]:
    """Two sums, modulo 2⁶⁴, that do not depend on the order of the elements."""
    with np.errstate(over="ignore"):
        if bits.itemsize <= 2:  # few values: count them
            counts = np.bincount(bits, minlength=256**bits.itemsize).astype(np.uint64)
            mixed = _mix(np.arange(len(counts), dtype=np.uint64))
            return int((counts * mixed).sum()), int((counts * mixed * mixed).sum())
        mixed = _mix(bits.astype(np.uint64))
        one = int(mixed.sum())
        mixed *= mixed
        return one, int(mixed.sum())


def _mix(numbers: Array) -> Array:
    """Scatter numbers over 64 bits, in place: the finaliser of SplitMix64 (Steele, Lea and Flood,
    "Fast Splittable Pseudorandom Number Generators", 2014)."""
    numbers += np.uint64(0x9E3779B97F4A7C15)
    spare = numbers >> np.uint64(30)
    numbers ^= spare
    numbers *= np.uint64(0xBF58476D1CE4E5B9)
    np.right_shift(numbers, np.uint64(27), out=spare)
    numbers ^= spare
    numbers *= np.uint64(0x94D049BB133111EB)
    np.right_shift(numbers, np.uint64(31), out=spare)
    numbers ^= spare
    return numbers


def _packed_strings(array: Array) -> Array:
    """Strings as bytes, each after its length, so that no two lists look alike."""
    texts = [
        item if isinstance(item, bytes) else str(item).encode(errors="surrogateescape")
        for item in array.reshape(-1)
    ]
    data = b"".join(len(text).to_bytes(8, "little") + text for text in texts)
    return np.frombuffer(data, np.uint8)
