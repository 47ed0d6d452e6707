"""Writes a model so that no half-written file is ever seen under its final name."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx.external_data_helper import set_external_data

from onnxshare.errors import OutputError
from onnxshare.io.load import PROTOBUF_LIMIT, all_tensors

#: Tensors smaller than this stay in the model file even when its data is external.
_EXTERNAL_FROM_BYTES = 1024


def check_output(path: Path, *, force: bool) -> None:
    """Refuse an output path early, before any work is done for it.

    Raises:
        OutputError: the path exists and `force` is false, or its folder is missing or read-only.
    """
    if path.is_dir():
        raise OutputError(f"{path}: is a directory", "name a file")
    if path.exists() and not force:
        raise OutputError(f"{path}: exists already", "add --force to overwrite it, or use -o")
    folder = path.parent
    if not folder.is_dir():
        raise OutputError(f"{folder}: no such folder", "create it first")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{folder}: is not writable", "choose another folder with -o")


def save(proto: onnx.ModelProto, path: Path, *, external: bool = False, force: bool = False) -> int:
    """Write a model, and return the bytes written (external data included).

    The data goes to temporary files beside `path`, is flushed to disk, and is then renamed;
    the model file comes last, so that it never refers to data that is not there yet.

    Args:
        proto: the model with all its tensors in memory; not changed.
        path: where to write it; its external data goes to `path` + ".data".
        external: keep large tensors outside the model file. Models above 2 GiB always do.
        force: overwrite what is there.

    Raises:
        OutputError: the files cannot be written, or exist and `force` is false.
    """
    check_output(path, force=force)
    if not external and proto.ByteSize() <= PROTOBUF_LIMIT:
        return _write_all([(path, [proto.SerializeToString()])], force=force)
    data_path = path.with_name(path.name + ".data")
    check_output(data_path, force=force)
    slim, payloads = _externalise(proto, data_path.name)
    return _write_all([(data_path, payloads), (path, [slim.SerializeToString()])], force=force)


def write_text(text: str, path: Path, *, force: bool = False) -> int:
    """Write a text file the same safe way as a model, and return the bytes written."""
    check_output(path, force=force)
    return _write_all([(path, [text.encode()])], force=force)


def _externalise(proto: onnx.ModelProto, location: str) -> tuple[onnx.ModelProto, list[bytes]]:
    slim = onnx.ModelProto()
    slim.CopyFrom(proto)
    payloads: list[bytes] = []
    offset = 0
    for tensor in all_tensors(slim):
        if not tensor.HasField("raw_data") or len(tensor.raw_data) < _EXTERNAL_FROM_BYTES:
            continue
        data = tensor.raw_data
        set_external_data(tensor, location, offset=offset, length=len(data))
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.ClearField("raw_data")
        payloads.append(data)
        offset += len(data)
    return slim, payloads


def _write_all(files: list[tuple[Path, list[bytes]]], *, force: bool) -> int:
    written = 0
    with contextlib.ExitStack() as stack:
        ready: list[tuple[Path, Path]] = []
        for path, pieces in files:
            temporary = stack.enter_context(_temporary(path))
            written += _write(temporary, pieces, path)
            ready.append((temporary, path))
        _move_all(ready, force=force)
    return written


def _move_all(ready: list[tuple[Path, Path]], *, force: bool) -> None:
    moved: list[Path] = []
    try:
        for temporary, path in ready:
            _move(temporary, path, force=force)
            moved.append(path)
    except OSError as error:
        if not force:  # then these are ours: nothing was there before
            for other in moved:
                other.unlink()
        if isinstance(error, FileExistsError):
            raise OutputError(
                f"{path}: exists already", "add --force to overwrite it, or use -o"
            ) from None
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error


def _move(temporary: Path, path: Path, *, force: bool) -> None:
    if not force:
        # Unlike a rename, a link fails if somebody has made `path` meanwhile.
        try:
            os.link(temporary, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            if path.exists():
                raise FileExistsError(path) from None
        else:
            return
    os.replace(temporary, path)


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _write(temporary: Path, pieces: list[bytes], path: Path) -> int:
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o666
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        with os.fdopen(os.open(temporary, flags, mode), "wb") as file:
            written = sum(file.write(piece) for piece in pieces)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written: {error.strerror}", "free some space or choose another path"
        ) from error
    return written
