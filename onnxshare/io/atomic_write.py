"""Files that appear under their names whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from onnxshare.errors import OutputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

#: Folders of links to the open files of a process.
_OPEN_FILES = re.compile(r"/proc/\d+(/task/\d+)?/fd")

#: So many links one behind the other are followed, as Linux does.
_MOST_LINKS = 40


#: A temporary file that is older, in seconds, and that no process holds, is left from a dead run.
_STALE = 60


@contextlib.contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """A name beside `path`, hidden and not in use; what is there in the end is removed, and what
    earlier runs left there that did not come to an end."""
    _sweep(path)
    name = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield name
    finally:
        with contextlib.suppress(OSError):
            name.unlink()


def _sweep(path: Path) -> None:
    """Remove temporary files for `path` of runs that were killed: their locks are gone."""
    if fcntl is None:
        return
    left = re.compile(re.escape(f".{path.name}.") + r"([0-9a-f]{8}\.)?(data\.)?[0-9a-f]{8}\.tmp")
    with contextlib.suppress(OSError):
        for entry in os.scandir(path.parent):
            if not left.fullmatch(entry.name) or not entry.is_file(follow_symlinks=False):
                continue
            if time.time() - entry.stat(follow_symlinks=False).st_mtime < _STALE:
                continue
            with contextlib.suppress(OSError), open(entry.path, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(entry.path)


def is_special(path: Path) -> bool:
    """Whether a path leads to a device, a pipe or a socket, or to an open file of a process, such
    as /dev/stdout: what must be written through and never replaced."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    if not stat.S_ISREG(mode):
        return True
    place = os.fspath(path)
    for _ in range(_MOST_LINKS):
        if not os.path.islink(place):
            return False
        if _OPEN_FILES.fullmatch(os.path.realpath(os.path.dirname(place))):
            return True
        place = os.path.join(os.path.dirname(place), os.readlink(place))
    return False


def _through(path: Path, data: bytes) -> None:
    """Write into what is there.

    Raises:
        OutputError: nobody reads the pipe, or it cannot be written.
    """
    flags = os.O_WRONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
    try:
        descriptor = os.open(path, flags)
        if hasattr(os, "set_blocking"):
            os.set_blocking(descriptor, True)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
    except OSError as error:
        reason = "nobody reads from it" if error.errno == errno.ENXIO else error.strerror
        raise OutputError(f"{path}: cannot be written: {reason}", "choose another path") from error


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

    Messages call it `path`, the name that it will have; without a mode the umask decides.

    Raises:
        OutputError: it cannot be written; a part of it may be left at `name`.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        with os.fdopen(os.open(name, flags, 0o666 if mode is None else mode), "wb") as file:
            if fcntl is not None:  # held until it is closed: this run is alive
                fcntl.flock(file, fcntl.LOCK_EX)
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


def replace_file(path: Path, data: bytes | str) -> int:
    """Write a file, in place of one that may be there, and return its size in bytes.

    Raises:
        OutputError: it cannot be written; what was there is kept.
    """
    content = data.encode(errors="backslashreplace") if isinstance(data, str) else data
    if is_special(path):
        _through(path, content)
        return len(content)
    with temporary(path) as name:
        written = write(name, [content], path, mode_of(path))
        try:
            move(name, path, force=True)
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror}") from error
    return written


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
