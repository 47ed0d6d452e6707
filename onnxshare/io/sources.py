"""Opens model files without being held up by a pipe that nobody writes to, or by a device."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from onnxshare.errors import ModelFileError, UsageError
from onnxshare.io.mapped import map_descriptor

#: A protobuf message cannot be larger than 2 GiB.
PROTOBUF_LIMIT = 2**31 - 1

#: Bytes read from a stream at a time.
_CHUNK = 2**20

_SPECIAL = (
    (stat.S_ISDIR, "is a directory, not a model", "name the .onnx file in it"),
    (stat.S_ISFIFO, "is a pipe, not a regular file", "name - to read a model from standard input"),
    (stat.S_ISCHR, "is a device, not a regular file", "save the model to a file first"),
    (stat.S_ISBLK, "is a device, not a regular file", "save the model to a file first"),
    (stat.S_ISSOCK, "is a socket, not a regular file", "save the model to a file first"),
)


def map_file(path: Path) -> memoryview:
    """Map a regular file into memory; nothing of it is read yet.

    Raises:
        ModelFileError: it is missing, unreadable, or not a regular file.
    """
    try:
        # A device may act when it is opened, so it is looked at before. The descriptor is looked
        # at again, because the path may have become something else in between.
        _require_regular(path, path.stat().st_mode)
    except FileNotFoundError:
        raise ModelFileError(f"{path}: no such file", "check the path") from None
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path}: cannot be opened: {_reason(error)}") from error
    try:
        descriptor = os.open(
            path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        )
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {_reason(error)}") from error
    try:
        info = os.fstat(descriptor)
        _require_regular(path, info.st_mode)
        if info.st_size == 0:
            return memoryview(b"")
        return map_descriptor(descriptor)
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path}: cannot be read: {_reason(error)}") from error
    finally:
        os.close(descriptor)


def read_stdin() -> bytes:
    """All of standard input, up to one byte more than a model may have.

    Raises:
        UsageError: nothing is piped into it.
    """
    stream = getattr(sys.stdin, "buffer", None)
    if stream is None or stream.isatty():
        raise UsageError(
            "MODEL is -, and standard input is a terminal", "pipe a model into it, or name a file"
        )
    data = bytearray()
    while len(data) <= PROTOBUF_LIMIT and (piece := stream.read(_CHUNK)):
        data += piece
    return bytes(data)


def _require_regular(path: Path, mode: int) -> None:
    for is_kind, what, remedy in _SPECIAL:
        if is_kind(mode):
            raise ModelFileError(f"{path}: {what}", remedy)
    if not stat.S_ISREG(mode):
        raise ModelFileError(f"{path}: is not a regular file", "save the model to a file first")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
