"""What goes through a pipe between two processes: a JSON header, then arrays as plain bytes.

Nothing that is received can run code (no pickle), and its sizes are checked before memory is
taken for it.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from typing import IO, Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Header = dict[str, Any]

_LENGTH = struct.Struct(">Q")

#: The largest header, in bytes: it holds names, shapes and the texts of string tensors, which take
#: ten times as much memory.
_MOST_HEADER = 2**26


class Closed(Exception):
    """The other end has gone."""


class TooLarge(Exception):
    """What comes is larger than what is taken; its argument is the size in bytes."""


def send(pipe: IO[bytes], header: Mapping[str, Any], arrays: Sequence[Array] = ()) -> None:
    """Write one message.

    Raises:
        OSError: the other end has gone.
    """
    described = [_describe(array) for array in arrays]
    text = json.dumps({**header, "arrays": described}).encode()
    _write(pipe, memoryview(_LENGTH.pack(len(text)) + text))
    for array in arrays:
        if array.dtype.kind != "O" and array.nbytes:
            native = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
            _write(pipe, native.reshape(-1).view(np.uint8).data)
    pipe.flush()


def receive(pipe: IO[bytes], most: int | None = None) -> tuple[Header, list[Array]]:
    """Read one message, whose arrays may take `most` bytes.

    Raises:
        Closed: the other end has gone, or what it sends is not a message.
        TooLarge: the arrays are.
        MemoryError: there is not enough memory for them.
    """
    (length,) = _LENGTH.unpack(bytes(_exactly(pipe, _LENGTH.size)))
    if length > max(_MOST_HEADER, (most or 0) // 10):
        raise TooLarge(length)
    try:
        header = json.loads(bytes(_exactly(pipe, length)))
        described = header.pop("arrays")
        size = sum(map(_size, described))
        if most is not None and size > most:
            raise TooLarge(size)
        empty = [_empty(item) for item in described]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Closed("what it sends is not a message") from error
    for array in empty:
        if array.dtype.kind != "O" and array.nbytes:
            _fill(pipe, array.reshape(-1).view(np.uint8).data)
    return header, empty


def _write(pipe: IO[bytes], data: memoryview) -> None:
    """Write all of it: a pipe without a buffer may take a part, as the system does of 2 GiB."""
    while len(data):
        data = data[pipe.write(data) :]


def _describe(array: Array) -> dict[str, Any]:
    if array.dtype.kind in "OUS":
        return {"shape": array.shape, "strings": [str(item) for item in array.flat]}
    return {"shape": array.shape, "dtype": array.dtype.newbyteorder("=").name}


def _size(described: Any) -> int:
    if "strings" in described:
        return 0  # they are in the header
    return int(math.prod(described["shape"])) * _dtype(described["dtype"]).itemsize


def _empty(described: Any) -> Array:
    shape = tuple(int(size) for size in described["shape"])
    if "strings" not in described:
        return np.empty(shape, _dtype(described["dtype"]))
    strings = np.empty(len(described["strings"]), dtype=object)
    strings[:] = described["strings"]
    return strings.reshape(shape)


def _dtype(name: str) -> np.dtype[Any]:
    try:
        found = np.dtype(name)
    except TypeError:
        import ml_dtypes  # bfloat16, float8 and the like

        found = np.dtype(getattr(ml_dtypes, name))
    if found.hasobject:
        raise ValueError(name)
    return found


def _exactly(pipe: IO[bytes], count: int) -> bytearray:
    data = bytearray(count)
    _fill(pipe, memoryview(data))
    return data


def _fill(pipe: IO[bytes], into: memoryview) -> None:
    done = 0
    while done < len(into):
        got = pipe.readinto(into[done:])  # type: ignore[attr-defined]
        if not got:
            raise Closed
        done += got
