"""Finds stored tensors that are equal bit for bit, or one another's transpose.

Types and shapes are compared first, then a few elements that a transpose leaves in place, then
hashes of all bytes and digests that do not depend on the order of the elements; a transpose is
confirmed by comparing the bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxshare.graph.index import Stored
from onnxshare.io.tensors import Array
from onnxshare.weights.content import Content, content, permutation_between

#: Elements of the first look.
_FIRST = 256

#: So many tensors with the same elements in another order are tried before a new group is begun.
_TRIED = 8

Read = Callable[[Stored], Array]
Key = tuple[Any, ...]

#: Told how many bytes have been read, and how many there are.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Copy:
    """One of several equal tensors.

    Attributes:
        stored: the tensor.
        permutation: the order of axes in which the first of its group, transposed, is this one;
            None if the two are equal as they are.
    """

    stored: Stored
    permutation: tuple[int, ...] | None = None

    @property
    def turned(self) -> bool:
        """Whether it is a transpose of the first of its group."""
        return self.permutation is not None


def steps(progress: Progress | None, total: int) -> Callable[[int], None]:
    """Adds up the steps of the work for whoever is told of its progress."""
    done = 0

    def step(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(min(done, total), total)

    return step


def groups(
    tensors: Iterable[Stored], read: Read, progress: Progress | None = None
) -> list[list[Copy]]:
    """Groups of two or more tensors that hold the same bits, matrices also transposed, in the
    order given. Only tensors that look alike are read whole.

    Args:
        tensors: the tensors.
        read: the elements of a tensor.
        progress: told of every step how many bytes of how many have been read.
    """
    alike = [
        close
        for form in _split(list(tensors), _form)
        for close in _split(form, lambda stored: _first_look(read(stored)))
    ]
    total = sum(item.bytes for close in alike for item in close)
    step = steps(progress, total)
    found: list[list[Copy]] = []
    for close in alike:
        contents = {item.key: content(read(item), item.dtype, step) for item in close}
        found.extend(grouped(close, contents, read, highest_rank=2))
    return found


def grouped(
    tensors: Iterable[Stored],
    contents: Mapping[str, Content],
    read: Read,
    *,
    highest_rank: int,
) -> list[list[Copy]]:
    """Groups of two or more tensors whose contents are known.

    Args:
        tensors: the tensors; those without contents are left out.
        contents: by key.
        read: the elements of a tensor, asked for where it may be the transpose of another.
        highest_rank: up to which transposes are looked for.
    """
    found: list[list[Copy]] = []
    by_hash: dict[str, tuple[list[Copy], tuple[int, ...] | None]] = {}
    by_bag: dict[Key, list[list[Copy]]] = {}
    for stored in tensors:
        known = contents.get(stored.key)
        if known is None:
            continue
        if known.hash not in by_hash:
            candidates = by_bag.setdefault(
                (stored.dtype, tuple(sorted(stored.shape)), known.bag), []
            )
            by_hash[known.hash] = _transposed(stored, candidates, read, highest_rank)
            if by_hash[known.hash][1] is None:
                candidates.append(by_hash[known.hash][0])
                found.append(by_hash[known.hash][0])
        group, permutation = by_hash[known.hash]
        group.append(Copy(stored, permutation))
    return [group for group in found if len(group) > 1]


def _transposed(
    stored: Stored, candidates: list[list[Copy]], read: Read, highest_rank: int
) -> tuple[list[Copy], tuple[int, ...] | None]:
    """The group whose first tensor this one is a transpose of, with the order of axes; else a
    new group."""
    if 2 <= len(stored.shape) <= highest_rank:
        for group in candidates[:_TRIED]:
            first = read(group[0].stored)
            permutation = permutation_between(first, read(stored), highest_rank)
            if permutation is not None:
                return group, permutation
    return [], None


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
