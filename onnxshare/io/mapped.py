"""Mapped files whose descriptors can be handed to another process."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from onnxshare.io.tensors import Array

#: Descriptors from this number on are not kept: a process often may have only 1024.
_MOST_DESCRIPTORS = 256


class MappedFile(mmap.mmap):
    """A file that is mapped for reading.

    Attributes:
        descriptor: the file that was opened and checked, for as long as it is mapped; None
            where many files are open.
    """

    descriptor: int | None = None

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        # `os` itself may be gone when the interpreter ends.
        if self.descriptor is not None:
            close(self.descriptor)


class Place(NamedTuple):
    """Where an array lies in a file: the file's descriptor and the offset of its first byte."""

    descriptor: int
    offset: int


def map_descriptor(file: int) -> memoryview:
    """Map an open file, which the caller still has to close.

    Raises:
        OSError, ValueError: it cannot be mapped.
    """
    mapped = MappedFile(file, 0, access=mmap.ACCESS_READ)
    if file < _MOST_DESCRIPTORS:
        mapped.descriptor = os.dup(file)
    return memoryview(mapped)


def place(array: Array) -> Place | None:
    """Where an array lies in a mapped file; None if it lies elsewhere, or with gaps."""
    owner: Any = array
    while not isinstance(owner, mmap.mmap):
        owner = owner.obj if isinstance(owner, memoryview) else getattr(owner, "base", None)
        if owner is None:
            return None
    if not isinstance(owner, MappedFile) or owner.descriptor is None:
        return None
    if not array.flags.c_contiguous or not array.nbytes:
        return None
    return Place(
        owner.descriptor, int(array.ctypes.data - np.frombuffer(owner, np.uint8).ctypes.data)
    )
