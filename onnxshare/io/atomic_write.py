"""Files that appear under their names whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path

from onnxshare.errors import OutputError


@contextlib.contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """A name beside `path`, hidden and not in use; what is there in the end is removed."""
    name = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield name
    finally:
        with contextlib.suppress(OSError):
            name.unlink()


def mode_of(path: Path) -> int | None:
    """The permissions of a file, or None if there is none."""
    try:
        return path.stat().st_mode & 0o777
    except OSError:
        return None


def write(
    name: Path, pieces: Iterable[bytes | memoryview], path: Path, mode: int | None = None
) -> int:
    """Write a new file, flush it to the disk, and return its size in bytes.

    Args:
        name: the file to make.
        pieces: what to write, read as it is written.
        path: the name to use in messages: the one that the file will have.
        mode: its permissions; None lets the umask decide.

    Raises:
        OutputError: it cannot be written; a part of it may be left at `name`.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        with os.fdopen(os.open(name, flags, 0o666 if mode is None else mode), "wb") as file:
            if mode is not None and hasattr(os, "fchmod"):
                os.fchmod(file.fileno(), mode)  # whatever the umask says
            written = sum(file.write(piece) for piece in pieces)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written: {error.strerror}",
            "nothing was changed: free some space or choose another path",
        ) from error
    return written


def replace_text(path: Path, text: str) -> None:
    """Write a text file, in place of one that may be there.

    Raises:
        OutputError: it cannot be written; what was there is kept.
    """
    with temporary(path) as name:
        write(name, [text.encode(errors="backslashreplace")], path, mode_of(path))
        move(name, path, force=True)


def move(name: Path, path: Path, *, force: bool) -> None:
    """Give a file its final name, and make sure that the disk knows.

    Raises:
        FileExistsError: there is such a file, and `force` is false.
        OSError: the name cannot be given.
    """
    if force or not _link(name, path):
        os.replace(name, path)
    _flush_folder(path.parent)


def _link(name: Path, path: Path) -> bool:
    """Unlike a rename, a link fails if somebody has made `path` meanwhile."""
    try:
        os.link(name, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if path.exists():
            raise FileExistsError(path) from None
        return False
    # At once: a data file with two names would not be read again.
    with contextlib.suppress(OSError):
        name.unlink()
    return True


def _flush_folder(folder: Path) -> None:
    """A rename is on the disk when its folder is; Windows has no way to ask for that."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
