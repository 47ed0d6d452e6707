"""Files that appear under their names whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import signal
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

from onnxshare.errors import OutputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

#: Folders of links to the open files of a process.
_OPEN_FILES = re.compile(r"/proc/\d+(/task/\d+)?/fd")

#: So many seconds another run may take to move its files.
_PATIENCE = 10

#: What tells a second name of a replaced file.
_OLD = "old."

#: So many links one behind the other are followed, as Linux does.
_MOST_LINKS = 40


def sweep(path: Path, before: Callable[[Path], None] | None = None) -> None:
    """Remove the temporary files for `path` of runs that were killed: their locks are gone.

    Args:
        path: the file that they would have become.
        before: is called with each of them.
    """
    left = re.compile(
        re.escape(f".{path.name}.") + r"([0-9a-f]{8}\.)?(data\.|old\.)?[0-9a-f]{8}\.tmp"
    )
    with contextlib.suppress(OSError):
        for name in filter(left.fullmatch, os.listdir(path.parent)):
            remove_unused(path.with_name(name), before)


def is_second_name(path: Path) -> bool:
    """Whether a temporary file is what was replaced, and not what was to replace it."""
    return f".{_OLD}" in path.name


def remove_unused(path: Path, before: Callable[[Path], None] | None = None) -> None:
    """Remove a file that no living run writes or has just written, where that can be told."""
    if fcntl is None or path.is_symlink() or not path.is_file():
        return
    with contextlib.suppress(OSError), open(path, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if before is not None:
            before(path)
        path.unlink()


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


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """No other run moves files in a folder meanwhile, and Ctrl-C, and what asks this process to
    end, wait until this is over."""
    with contextlib.ExitStack() as stack:
        if fcntl is not None:
            with contextlib.suppress(OSError):
                handle = os.open(folder, os.O_RDONLY)
                stack.callback(os.close, handle)
                _lock(handle)
        if hasattr(signal, "pthread_sigmask"):
            ours = {signal.SIGINT, signal.SIGTERM}
            before = signal.pthread_sigmask(signal.SIG_BLOCK, ours)
            stack.callback(signal.pthread_sigmask, signal.SIG_SETMASK, before)
        yield


def _lock(handle: int) -> None:
    """Wait for a lock, but not for ever: who holds it may have been stopped."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                return
        time.sleep(0.005)


def locked(file: IO[bytes]) -> bool:
    """Lock an open file until it is closed; false if another run has."""
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            pass
    return True


def mode_of(path: Path) -> int | None:
    """The permissions of a file, or None if there is none."""
    try:
        return path.stat().st_mode & 0o777
    except OSError:
        return None


@contextlib.contextmanager
def written(
    path: Path, pieces: Iterable[bytes | memoryview], mode: int | None = None
) -> Iterator[tuple[Path, int]]:
    """A new file next to `path`, on the disk: its hidden name, and its size in bytes. What is still
    there in the end is removed; until then it is locked, which says that this run is alive.

    Args:
        path: the name that the file will have.
        pieces: what to write, read as it is written.
        mode: its permissions; None lets the umask decide.

    Raises:
        OutputError: it cannot be written.
    """
    with contextlib.ExitStack() as stack:
        try:
            name, file = _create(path, mode)
            stack.callback(_end, name, file)
            if mode is not None and hasattr(os, "fchmod"):
                os.fchmod(file.fileno(), mode)  # whatever the umask says
            size = sum(file.write(piece) for piece in pieces)
            file.flush()
            os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(
                f"{path}: cannot be written: {error.strerror}",
                "nothing was changed: free some space or choose another path",
            ) from error
        if fcntl is None:
            file.close()  # Windows moves no open file
        yield name, size


def _create(path: Path, mode: int | None) -> tuple[Path, IO[bytes]]:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    while True:
        name = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        file = os.fdopen(os.open(name, flags, 0o666 if mode is None else mode), "wb")
        if fcntl is None:
            return name, file
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:  # else another run took it for a dead one's
            return name, file
        file.close()


@contextlib.contextmanager
def second_name(path: Path) -> Iterator[None]:
    """Keep a file that is about to be replaced under a temporary name too, where that can be."""
    name = path.with_name(f".{path.name}.{_OLD}{secrets.token_hex(4)}.tmp")
    with contextlib.ExitStack() as stack:
        if fcntl is not None:
            with contextlib.suppress(OSError):
                file = stack.enter_context(open(path, "rb"))
                fcntl.flock(file, fcntl.LOCK_SH)
                os.link(path, name)
                stack.callback(_end, name, file)
        yield


def _end(path: Path, file: IO[bytes]) -> None:
    """Remove a temporary file that is still there, and then its lock."""
    for done in (path.unlink, file.close):
        with contextlib.suppress(OSError):
            done()


def replace_file(path: Path, data: bytes | str) -> int:
    """Write a file, in place of one that may be there, and return its size in bytes.

    Raises:
        OutputError: it cannot be written; what was there is kept.
    """
    content = data.encode(errors="backslashreplace") if isinstance(data, str) else data
    if is_special(path):
        _through(path, content)
        return len(content)
    sweep(path)
    with written(path, [content], mode_of(path)) as (name, size):
        try:
            move(name, path, force=True)
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror}") from error
    return size


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
    """Unlike a rename, a link fails if `path` was made meanwhile."""
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
