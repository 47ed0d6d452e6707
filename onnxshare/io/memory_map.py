"""Mapped files: whether they are still what was mapped, and descriptors for other processes.

Nothing is copied when a file is mapped: who writes into it changes what was read, and reading what
was cut off ends the process. So a file is asked whether it changed before it is read again.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from onnxshare.errors import ModelFileError
from onnxshare.io.tensors import Array, mapping, release

#: Descriptors from this number on are not kept: a process often may have only 1024.
_MOST_DESCRIPTORS = 256


class Identity(NamedTuple):
    """What differs between a file and another, or the same one after it was written to."""

    device: int
    inode: int
    size: int
    mtime_ns: int


def identity(info: os.stat_result) -> Identity:
    """The identity of a file by what the system says of it."""
    return Identity(info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns)


#: What is said of a file that is not what it was, and what helps.
CHANGED = "changed on disk since it was read", "run it again"


class MappedFile(mmap.mmap):
    """A file that is mapped for reading.

    Attributes:
        descriptor: the file that was opened and checked, for as long as it is mapped; None
            where many files are open.
        name: its path; empty for a file without a name, which nobody else can change.
        identity: what it was when it was mapped.
    """

    descriptor: int | None = None
    name: str
    identity: Identity

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        # `os` itself may be gone when the interpreter ends.
        if self.descriptor is not None:
            close(self.descriptor)


class Place(NamedTuple):
    """Where an array lies in a file: the file's descriptor and the offset of its first byte."""

    descriptor: int
    offset: int


def map_descriptor(file: int, name: str) -> memoryview:
    """Map an open file, which the caller still has to close; an unnamed one has an empty name.

    Raises:
        OSError, ValueError: it cannot be mapped.
    """
    found = identity(os.fstat(file))
    mapped = MappedFile(file, 0, access=mmap.ACCESS_READ)
    mapped.name, mapped.identity = name, found
    if file < _MOST_DESCRIPTORS:
        mapped.descriptor = os.dup(file)
    return memoryview(mapped)


def require_unchanged(part: Array | bytes | memoryview) -> None:
    """Make sure that the file that an array or a buffer lies in, if any, is still what was mapped.

    Raises:
        ModelFileError: the file was written to or cut off.
    """
    owner = mapping(part)
    if not isinstance(owner, MappedFile) or not owner.name:
        return
    try:
        # The path may meanwhile be another file's; where it is all there is, that is refused too.
        found = os.stat(owner.name if owner.descriptor is None else owner.descriptor)
    except OSError:
        found = None
    if found is None or identity(found) != owner.identity:
        raise ModelFileError(f"{owner.name}: {CHANGED[0]}", CHANGED[1])


def place(array: Array) -> Place | None:
    """Where an array lies in a mapped file; None if it lies elsewhere, or with gaps."""
    owner = _file(array)
    if owner is None or owner.descriptor is None:
        return None
    return Place(owner.descriptor, _range(array, owner)[0])


def aligned(arrays: Sequence[Array]) -> list[Array]:
    """The same arrays, where those of mapped files that begin at no multiple of their elements'
    size lie at one in another file, which has no name.

    They are copied there once, however often this is asked, for as long as their file is mapped.

    Raises:
        OSError: there is no space for them.
    """
    owners = [_file(array) if array.ctypes.data % array.itemsize else None for array in arrays]
    missing: dict[tuple[MappedFile, int, int], Array] = {}
    for array, owner in zip(arrays, owners, strict=True):
        if owner is not None and (key := _range(array, owner)) not in _COPIES.get(owner, {}):
            missing[owner, *key] = array
    if missing:
        _copy(missing)
    return [
        array
        if owner is None
        else np.frombuffer(_COPIES[owner][_range(array, owner)], array.dtype).reshape(array.shape)
        for array, owner in zip(arrays, owners, strict=True)
    ]


#: By mapped file, and by where it begins and how long it is, the copy of a part of it.
_COPIES: weakref.WeakKeyDictionary[MappedFile, dict[tuple[int, int], memoryview]] = (
    weakref.WeakKeyDictionary()
)

#: Where copies begin in their file, and how many bytes are copied at once.
_ALIGNMENT, _STEP = 64, 2**24


def _copy(parts: dict[tuple[MappedFile, int, int], Array]) -> None:
    """Copy parts of mapped files into one file without a name, and map that."""
    starts = []
    with tempfile.TemporaryFile(buffering=0) as file:
        for array in parts.values():
            starts.append(-(-file.tell() // _ALIGNMENT) * _ALIGNMENT)
            file.seek(starts[-1])
            data = array.reshape(-1).view(np.uint8)
            for begin in range(0, len(data), _STEP):
                piece = data[begin : begin + _STEP]
                left = piece.data
                while len(left):
                    left = left[file.write(left) :]
                release(piece)
        mapped = map_descriptor(file.fileno(), "")
    for (owner, offset, size), start in zip(parts, starts, strict=True):
        _COPIES.setdefault(owner, {})[offset, size] = mapped[start : start + size]


def _file(array: Array) -> MappedFile | None:
    """The mapped file that an array lies in, without gaps."""
    owner = mapping(array)
    whole = array.flags.c_contiguous and array.nbytes
    return owner if whole and isinstance(owner, MappedFile) else None


def _range(array: Array, owner: MappedFile) -> tuple[int, int]:
    """Where an array begins in a file, and its length in bytes."""
    return int(array.ctypes.data - np.frombuffer(owner, np.uint8).ctypes.data), array.nbytes
