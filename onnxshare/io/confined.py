"""Opens a file by a name that came from somebody else."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path, PureWindowsPath

#: Whether components can be opened one below the other.
_WALKS = os.open in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")

_ABOVE = "put the data file into the model's folder"
_LINK = "replace it by the file itself, or allow links into a folder with --follow-symlinks FOLDER"


class Refused(Exception):
    """Why external data is not read.

    Attributes:
        remedy: what the user can do about it; may be empty.
    """

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(reason)
        self.remedy = remedy


def open_below(folder: Path, location: str) -> int:
    """Open a regular file below a folder for reading, and return its descriptor.

    Every check is made on what was opened, so a file that is exchanged meanwhile is not read.

    Args:
        folder: may itself be reached by links: it is the user's choice.
        location: the name that the model gives.

    Raises:
        Refused: the name leads out of the folder, or to anything but a regular file that has
            this one name and is reached without links; or there is no such file.
    """
    file = _open(folder, _parts(location), location)
    return _checked(file, location, hard_links=False)


def open_real(folder: Path, location: str, allowed: Path) -> int:
    """Like `open_below`, but links may be followed if the file lies in `allowed`, by its real
    path. A file there may have several names.

    Raises:
        Refused: as `open_below`, or a link leads out of `allowed`.
    """
    parts = _parts(location)
    try:
        real = Path(os.path.realpath(folder.joinpath(*parts)))
        home = Path(os.path.realpath(allowed))
    except (OSError, ValueError) as error:
        raise Refused(f"'{location}' cannot be opened: {error}") from None
    if not real.is_relative_to(home):
        try:
            return open_below(folder, location)
        except Refused as refused:
            if refused.remedy != _LINK:
                raise
        raise Refused(
            f"'{location}' is a link out of {allowed}",
            "name the folder that it leads to with --follow-symlinks, if you trust that",
        )
    # Opened without links from there, so that nobody can turn the way aside in between.
    file = _open(home, list(real.relative_to(home).parts), location)
    return _checked(file, location, hard_links=True)


def _parts(location: str) -> list[str]:
    """The components of a name, if it can only lead downwards, on whatever system."""
    if not location:
        raise Refused("its file has an empty name")
    if "\0" in location:
        raise Refused(f"'{location}' holds a NUL")
    windows = PureWindowsPath(location)
    if location.startswith(("/", "\\")) or windows.drive or windows.root:
        raise Refused(f"'{location}' is an absolute path", _ABOVE)
    if ".." in location.replace("\\", "/").split("/"):
        raise Refused(f"'{location}' leads out of the model's folder", _ABOVE)
    if os.name == "nt" and ":" in location:
        raise Refused(f"'{location}' names a stream of a file", _ABOVE)
    # On POSIX a backslash is part of a name; on Windows it parts components.
    separated = location.replace("\\", "/") if os.name == "nt" else location
    parts = [part for part in separated.split("/") if part not in ("", ".")]
    if not parts or location.endswith("/"):
        raise Refused(f"'{location}' is a directory")
    return parts


def _open(folder: Path, parts: list[str], location: str) -> int:
    try:
        if not _WALKS:
            return _open_without_walking(folder, parts, location)
        return _walk(folder, parts)
    except FileNotFoundError:
        raise Refused(
            f"'{location}' is missing in {folder}", "put the data file beside the model"
        ) from None
    except OSError as error:
        if _is_link(folder, parts):
            raise Refused(f"'{location}' is a symbolic link, or lies behind one", _LINK) from None
        if error.errno in (errno.ENXIO, errno.ENODEV):
            raise Refused(f"'{location}' is not a regular file") from None
        raise Refused(f"'{location}' cannot be opened: {error.strerror}") from None


def _walk(folder: Path, parts: list[str]) -> int:
    below = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    current = os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        for part in parts[:-1]:
            following = os.open(part, below | os.O_DIRECTORY, dir_fd=current)
            os.close(current)
            current = following
        # Without O_NONBLOCK, opening a pipe would wait for somebody to write to it.
        return os.open(parts[-1], below | os.O_NONBLOCK | os.O_NOCTTY, dir_fd=current)
    finally:
        os.close(current)


def _open_without_walking(folder: Path, parts: list[str], location: str) -> int:
    """Where components cannot be opened one by one (Windows): look, open, and make sure that
    what was opened is what was looked at."""
    if _is_link(folder, parts):
        raise Refused(f"'{location}' is a symbolic link, or lies behind one", _LINK)
    path = folder.joinpath(*parts)
    seen = path.lstat()
    if not stat.S_ISREG(seen.st_mode):
        raise Refused(f"'{location}' is not a regular file")
    file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    if not os.path.samestat(seen, os.fstat(file)):
        os.close(file)
        raise Refused(f"'{location}' was exchanged while it was opened")
    return file


def _is_link(folder: Path, parts: list[str]) -> bool:
    path = folder
    with contextlib.suppress(OSError):
        for part in parts:
            path = path / part
            if path.is_symlink() or (hasattr(path, "is_junction") and path.is_junction()):
                return True
    return False


def _checked(file: int, location: str, *, hard_links: bool) -> int:
    info = os.fstat(file)
    reason = remedy = ""
    if stat.S_ISDIR(info.st_mode):
        reason = f"'{location}' is a directory"
    elif not stat.S_ISREG(info.st_mode):
        reason = f"'{location}' is not a regular file"
    elif info.st_nlink > 1 and not hard_links:
        reason, remedy = f"'{location}' is a hard link: the file has other names, too", _LINK
    if reason:
        os.close(file)
        raise Refused(reason, remedy)
    return file
