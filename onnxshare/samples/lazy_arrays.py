"""Samples that are read from their files only when they are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxshare.errors import SamplesError
from onnxshare.io.tensors import Array
from onnxshare.support.memory import allowed
from onnxshare.support.option_text import option

#: Samples that take no more than this are read at once.
EAGER_BYTES = 2**26

#: No more than this is read at a time, nor than half of the memory that is free, unless the user
#: allows more: a caller that needs more takes it batch by batch.
MAX_BYTES = 16 * 2**30

#: A file that unpacks to more than `_SMALL_BYTES` may be so many times as large unpacked, unless
#: the user allows more.
_SMALL_BYTES, _MOST_TIMES = 2**30, 50


@dataclass(frozen=True)
class Bounds:
    """How much memory samples may take: `memory` is what the user allows, in bytes, or None."""

    memory: int | None = None

    @property
    def at_once(self) -> int:
        """The most bytes that samples may take at once."""
        return allowed(self.memory, 0.5, EAGER_BYTES, MAX_BYTES)

    def unpacked(self, size: int) -> int:
        """The most bytes that a compressed file of a size may unpack to."""
        times = max(_SMALL_BYTES, _MOST_TIMES * size)
        return self.at_once if self.memory is not None else min(self.at_once, times)


@dataclass(frozen=True)
class Piece:
    """A file, or a few that belong together, with one sample or several.

    Attributes:
        path: where it is, for messages.
        count: how many samples it holds.
        read: reads the samples at these rows: per input an array with the samples on axis 0.
        shapes: per input the shape of one sample, where it is known before reading.
    """

    path: Path
    count: int
    read: Callable[[Array], Mapping[str, Array]]
    shapes: Mapping[str, tuple[int, ...]]


class LazyArrays(Mapping[str, Array]):
    """Per input the values of all samples, or of some rows of them, read when first needed, and
    then kept."""

    def __init__(
        self,
        pieces: Sequence[Piece],
        sample_bytes: int,
        bounds: Bounds | None = None,
        rows: Array | None = None,
    ) -> None:
        self._pieces, self._bounds = pieces, bounds or Bounds()
        self._starts = np.cumsum([0, *(piece.count for piece in pieces)])
        self._rows = np.arange(self._starts[-1]) if rows is None else rows
        self.sample_bytes = sample_bytes
        self._read: dict[str, Array] | None = None

    @property
    def count(self) -> int:
        """The number of samples."""
        return len(self._rows)

    @property
    def nbytes(self) -> int:
        """What all samples take in memory."""
        return self.count * self.sample_bytes

    def take(self, rows: Array | slice) -> LazyArrays:
        """Only these samples, in this order, not read yet."""
        return LazyArrays(self._pieces, self.sample_bytes, self._bounds, self._rows[rows])

    def __getitem__(self, name: str) -> Array:
        if self._read is None:
            self._read = self._load()
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._pieces[0].shapes)

    def __len__(self) -> int:
        return len(self._pieces[0].shapes)

    def _load(self) -> dict[str, Array]:
        if self.nbytes > self._bounds.at_once:
            raise SamplesError(
                f"{self._pieces[0].path.parent}: {self.count} samples take "
                f"{self.nbytes / 2**30:.0f} GiB at once",
                f"give fewer, or raise the bound with {option('--memory-limit')}",
            )
        owner = np.searchsorted(self._starts, self._rows, side="right") - 1
        result: dict[str, Array] = {}
        for index in dict.fromkeys(owner.tolist()):
            piece, places = self._pieces[index], np.flatnonzero(owner == index)
            for name, values in piece.read(self._rows[places] - self._starts[index]).items():
                if name not in result:
                    result[name] = np.empty((self.count, *values.shape[1:]), values.dtype)
                if values.shape[1:] != result[name].shape[1:]:
                    raise SamplesError(f"{piece.path}: '{name}' differs in shape from other files")
                result[name][places] = values
        return result


def gather(
    pieces: Sequence[Piece], sample_bytes: int, folder: Path, bounds: Bounds
) -> Mapping[str, Array]:
    """Many pieces as one: read at once where they are small, else when they are needed.

    Raises:
        SamplesError: there are no samples, or their shapes differ.
    """
    if not sum(piece.count for piece in pieces):
        raise SamplesError(f"{folder}: holds no samples")
    for piece in pieces:
        for name, shape in piece.shapes.items():
            first = pieces[0].shapes[name]
            if shape != first:
                sizes = ["×".join(map(str, item)) or "a scalar" for item in (shape, first)]
                raise SamplesError(
                    f"{piece.path}: its samples for '{name}' are {sizes[0]}, and those of "
                    f"{pieces[0].path.name} are {sizes[1]}",
                    "give samples of one size",
                )
    lazy = LazyArrays(pieces, sample_bytes, bounds)
    return dict(lazy) if lazy.nbytes <= EAGER_BYTES else lazy
