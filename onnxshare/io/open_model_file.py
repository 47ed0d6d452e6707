"""Opens what the user names as a model, and says what it is where it is not an ONNX model.

Nothing that is opened here holds up the program: no pipe that nobody writes to, no device. The
first bytes tell why a file is not an ONNX model.
"""

from __future__ import annotations

import glob
import os
import re
import shlex
import stat
import sys
from pathlib import Path

from onnxshare.errors import ModelFileError, UsageError
from onnxshare.io.memory_map import map_descriptor
from onnxshare.support.option_text import option

_EXPORT = "export the model to ONNX first"

#: What to do with arrays; {} is where they go.
_ARRAYS = "give the model first; arrays go to {}"

# (first bytes, what it is, what to do); the longest prefixes come first where they nest.
_SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "a gzip file", "decompress it first"),
    (b"\xfd7zXZ\x00", "an xz file", "decompress it first"),
    (b"BZh", "a bzip2 file", "decompress it first"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file", "decompress it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "unpack it first"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file (a Keras model?)", _EXPORT),
    *((bytes((0x80, n)), "a pickle (a PyTorch checkpoint?)", _EXPORT) for n in range(2, 6)),
    (b"GGUF", "a GGUF file", _EXPORT),
    (b"\x93NUMPY", "a NumPy array", _ARRAYS),
    (b"\x7fELF", "a program or library", "give the .onnx file"),
    (b"%PDF-", "a PDF document", "give the .onnx file"),
)

_LFS = b"version https://git-lfs.github.com/"


def describe(head: bytes, size: int | None = None) -> tuple[str, str] | None:
    """What a file is and the remedy, judged by its first 512 bytes, or None if it may be ONNX."""
    if not head:
        return "an empty file", "export or download the model again"
    if head.startswith(_LFS):
        return _pointer(head, size)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _archive(head)
    for prefix, what, remedy in _SIGNATURES:
        if head.startswith(prefix):
            return what, remedy.format(option("--samples"))
    if head[4:8] == b"TFL3":
        return "a TensorFlow Lite model", "convert the model to ONNX first"
    if head[4:8] == b"ORTM":
        return "a model in ONNX Runtime's own format", "give the .onnx file it was made from"
    if head[8:10] == b'{"':
        return "a safetensors file", "weights alone are not a model: export the model to ONNX"
    if head[257:262] == b"ustar":
        return "a tar archive", "unpack it first"
    return _text(head) if _looks_like_text(head) else None


def _pointer(head: bytes, size: int | None) -> tuple[str, str]:
    announced = re.search(rb"^size (\d{1,18})\r?$", head, re.MULTILINE)
    own = f"a {size}-byte" if size else "a"
    of = f" to a file of {int(announced[1]):,} bytes" if announced else ""
    return (
        f"{own} Git LFS pointer{of}, not the model itself",
        "run `git lfs pull`, or set `lfs: true` in the checkout step",
    )


def _archive(head: bytes) -> tuple[str, str]:
    """The first entry of a ZIP tells who wrote it."""
    length = int.from_bytes(head[26:28], "little")
    entry = head[30 : 30 + length]
    if entry.endswith((b"/data.pkl", b"/version", b"/constants.pkl", b".format_version")):
        return "a PyTorch file (a ZIP archive)", _EXPORT
    if entry in (b"metadata.json", b"config.json", b"model.weights.h5"):
        return "a Keras file (a ZIP archive)", _EXPORT
    if entry.endswith(b".npy"):
        return (
            "an .npz file of NumPy arrays",
            _ARRAYS.format(option("--samples")),
        )
    if entry.endswith(b".onnx"):
        return "a ZIP archive with a model in it", "unpack it first"
    return "a ZIP archive (a PyTorch or Keras file?)", _EXPORT


def _text(head: bytes) -> tuple[str, str]:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:64].lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<script")):
        return "an HTML page", "download the model file, not its web page"
    if start.startswith(b"<?xml"):
        return "an XML file", "give the binary .onnx file"
    return "a text file", "give the binary .onnx file"


def _looks_like_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8", errors="strict")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # a character may be cut at the end of the piece
            return False
        text = head[: error.start].decode("utf-8")
    return all(char.isprintable() or char in "\t\r\n\ufeff" for char in text)


#: A protobuf message cannot be larger than 2 GiB.
PROTOBUF_LIMIT = 2**31 - 1

#: Bytes read from a stream at a time.
_CHUNK = 2**20

_SPECIAL = (
    (
        stat.S_ISDIR,
        "is a directory, not a model",
        "name the .onnx file in it, or use `onnxshare scan` for all",
    ),
    (stat.S_ISFIFO, "is a pipe, not a regular file", "name - to read a model from standard input"),
    (stat.S_ISCHR, "is a device, not a regular file", "save the model to a file first"),
    (stat.S_ISBLK, "is a device, not a regular file", "save the model to a file first"),
    (stat.S_ISSOCK, "is a socket, not a regular file", "save the model to a file first"),
)


_HUB = "hf download OWNER/NAME FILE --local-dir ."

#: By how an address starts, the command that brings what it names onto this machine.
_FETCH = (
    ("hf://", _HUB),
    ("https://huggingface.co/", _HUB),
    ("https://hf.co/", _HUB),
    ("s3://", "aws s3 cp {} ."),
    ("gs://", "gcloud storage cp {} ."),
    ("http", "curl -LO {}"),
)


def _missing(path: Path) -> ModelFileError:
    """What to say of a file that is missing: perhaps its name is an address or a pattern."""
    found = re.match(r"([a-z][a-z0-9]+):/{1,2}([^/].*)", path.as_posix())  # a path has one slash
    if found:
        address = f"{found[1]}://{found[2]}"
        how = next((how for start, how in _FETCH if address.startswith(start)), "")
        hub = re.match(r"hf://([^/]+/[^/]+)/(.+)", address)
        if hub:
            how = how.replace("OWNER/NAME", shlex.quote(hub[1])).replace("FILE", "{}")
        fetch = how.format(shlex.quote(hub[2] if hub else address))
        return ModelFileError(
            f"{address}: is an address, which `onnxshare scan` alone reads",
            f"download it first{f': `{fetch}`' if fetch else ''}",
        )
    if next(glob.iglob(str(path)), None) is not None:
        return ModelFileError(
            f"{path}: no file has this name, and one model is read at a time",
            "use `onnxshare scan`, `onnxshare check` or `onnxshare family` for several",
        )
    return ModelFileError(f"{path}: no such file", "check the path")


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
        raise _missing(path) from None
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path}: cannot be opened: {_reason(error)}") from error
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {_reason(error)}") from error
    try:
        info = os.fstat(descriptor)
        _require_regular(path, info.st_mode)
        if info.st_size == 0:
            return memoryview(b"")
        return map_descriptor(descriptor, str(path))
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
