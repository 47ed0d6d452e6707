"""Opens external data safely: files in the model's folder, and nothing that a name can smuggle in.

A model names the files its weights are in, and the model may come from anybody. So every
component of such a name is opened below its parent's descriptor without following links, and
what was opened, not its name, is asked whether it is a regular file with one name.

Links are allowed only into a folder that the user vouches for (`follow_symlinks`): the file that
is read must lie in that folder, by its real path. There, hard links are allowed too: caches
share files in either way, and the user has named the cache.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from typing import NamedTuple

import onnx

from onnxshare.errors import ModelFileError
from onnxshare.io.memory_map import CHANGED, Identity, identity, map_descriptor
from onnxshare.io.tensors import Array, from_raw, raw_bytes
from onnxshare.support.option_text import option

#: Whether components can be opened one below the other.
_WALKS = os.open in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")

_ABOVE = "put the data file into the model's folder"


def _link() -> str:
    way = option("--follow-symlinks FOLDER")
    return f"replace it by the file itself, or allow links into a folder with {way}"


class Refused(Exception):
    """Why external data is not read, and what the user can do about it, if anything."""

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(reason)
        self.remedy = remedy


class _Linked(Refused):
    """The name leads to its file by a link."""


def open_below(folder: Path, location: str) -> int:
    """Open a regular file below a folder for reading, and return its descriptor.

    Every check is made on what was opened, so a file that is exchanged meanwhile is not read. The
    folder itself may be reached by links: it is the user's choice.

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
        except _Linked:
            raise Refused(
                f"'{location}' is a link out of {allowed}",
                f"name the folder that it leads to with {option('--follow-symlinks')}, if you "
                "trust that",
            ) from None
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
            f"'{location}' is missing in {folder}", "put the data file next to the model"
        ) from None
    except OSError as error:
        if _is_link(folder, parts):
            raise _Linked(f"'{location}' is a symbolic link, or lies behind one", _link()) from None
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
        # Without O_NONBLOCK, opening a pipe would wait for a writer.
        return os.open(parts[-1], below | os.O_NONBLOCK | os.O_NOCTTY, dir_fd=current)
    finally:
        os.close(current)


def _open_without_walking(folder: Path, parts: list[str], location: str) -> int:
    """Where components cannot be opened one by one (Windows): look, open, and make sure that
    what was opened is what was looked at."""
    if _is_link(folder, parts):
        raise _Linked(f"'{location}' is a symbolic link, or lies behind one", _link())
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
    refused = None
    if stat.S_ISDIR(info.st_mode):
        refused = Refused(f"'{location}' is a directory")
    elif not stat.S_ISREG(info.st_mode):
        refused = Refused(f"'{location}' is not a regular file")
    elif info.st_nlink > 1 and not hard_links:
        refused = _Linked(f"'{location}' is a hard link: the file has other names, too", _link())
    if refused is not None:
        os.close(file)
        raise refused
    return file


#: Bytes that are copied at once.
PIECE = 4 * 2**20

#: Files that are kept mapped; arrays keep theirs beyond that, for as long as they live.
_KEPT_MAPS = 32

#: Ranges up to this size are read instead of mapped: a file each would exhaust the descriptors.
_READ_BELOW = 64 * 1024


class Reference(NamedTuple):
    """Where a tensor's data lies: file (as the model names it), offset and length in bytes."""

    location: str
    offset: int
    length: int


def reference(tensor: onnx.TensorProto) -> Reference:
    """What a tensor says about its external data, with the length that its dims announce.

    Raises:
        Refused: an entry is missing, doubled or no number, or the length contradicts the dims.
    """
    entries: dict[str, str] = {}
    for entry in tensor.external_data:
        if entry.key in entries:  # readers disagree on which of them counts
            raise Refused(f"its {entry.key} is given twice")
        entries[entry.key] = entry.value
    if "location" not in entries:
        raise Refused("no file is named")
    try:
        length = raw_bytes(tensor)
    except ValueError as error:
        raise Refused(str(error)) from None
    given = _number(entries, "length", length)
    if given != length:
        raise Refused(f"its length is {given}, its dims need {length} bytes")
    return Reference(entries["location"], _number(entries, "offset", 0), length)


def _number(entries: dict[str, str], key: str, default: int) -> int:
    text = entries.get(key)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise Refused(f"its {key} '{text[:40]}' is not a size in bytes")
    return int(text)


class ExternalData:
    """The external data of a model in this folder; one from memory has none, and can have no such
    files. Links may lead into the folder `follow_symlinks`, if one is given. Files that a model
    calls by the name that they will have are `hidden` under others."""

    def __init__(
        self,
        folder: Path | None,
        model: str = "<model>",
        follow_symlinks: Path | None = None,
        hidden: Mapping[str, str] | None = None,
    ) -> None:
        self.folder, self.follow_symlinks = folder, follow_symlinks
        self._model, self._hidden = model, hidden or {}
        self._maps: OrderedDict[str, memoryview] = OrderedDict()
        self._identities: dict[str, Identity] = {}

    def remember(self, locations: Iterable[str]) -> None:
        """Take down what the data files are now: those that change afterwards are refused."""
        for location in locations:
            with contextlib.suppress(Refused, OSError), self._file(location) as file:
                self._identities[location] = identity(os.fstat(file))

    def array(self, tensor: onnx.TensorProto) -> Array:
        """The values of an external tensor: a read-only view of the mapped file where the type
        allows it.

        Raises:
            ModelFileError: the data is missing, unsafe, too short, or contradicts the tensor.
        """
        with self._opened(tensor) as (where, file):
            if where.length <= _READ_BELOW:
                return from_raw(tensor, b"".join(_pieces(file, where)), 0, where.length)
            mapped = self._map(where.location, file)
            return from_raw(tensor, mapped, where.offset, where.offset + where.length)

    def pieces(self, tensor: onnx.TensorProto) -> Iterator[bytes]:
        """Yield the data of an external tensor, piece by piece: memory stays at `PIECE`.

        Raises:
            ModelFileError: as `array`.
        """
        with self._opened(tensor) as (where, file):
            yield from _pieces(file, where)

    def check(self, tensor: onnx.TensorProto) -> Reference:
        """Make sure that a tensor's data can be read, without reading it; return where it is.

        Raises:
            ModelFileError: as `array`.
        """
        with self._opened(tensor) as (where, _):
            return where

    def file_size(self, location: str) -> int | None:
        """The size of a data file in bytes; None if it is missing or must not be opened."""
        try:
            with self._file(location) as file:
                return os.fstat(file).st_size
        except (Refused, OSError):
            return None

    @contextmanager
    def _opened(self, tensor: onnx.TensorProto) -> Iterator[tuple[Reference, int]]:
        try:
            where = reference(tensor)
            with self._file(where.location) as file:
                self._require_unchanged(where.location, file)
                size = os.fstat(file).st_size
                if where.offset + where.length > size:
                    raise Refused(
                        f"'{where.location}' is too short: it has {size} bytes, and "
                        f"{where.offset + where.length} are needed",
                        "the file is truncated or belongs to another model: download it again",
                    )
                yield where, file
                self._require_unchanged(where.location, file)
        except (Refused, OSError) as error:
            what = f"{self._model}: external data cannot be read for tensor '{tensor.name}'"
            reason = getattr(error, "strerror", None) or str(error)
            raise ModelFileError(f"{what}: {reason}", getattr(error, "remedy", "")) from error

    def _require_unchanged(self, location: str, file: int) -> None:
        found = identity(os.fstat(file))
        if self._identities.setdefault(location, found) != found:
            raise Refused(f"'{location}' {CHANGED[0]}", CHANGED[1])

    @contextmanager
    def _file(self, location: str) -> Iterator[int]:
        if self.folder is None:
            raise Refused(
                "the model was not read from a file, so its folder is not known",
                "give the path of the model instead",
            )
        name = self._hidden.get(location, location)
        if self.follow_symlinks is None:
            file = open_below(self.folder, name)
        else:
            file = open_real(self.folder, name, self.follow_symlinks)
        try:
            yield file
        finally:
            os.close(file)

    def _map(self, location: str, file: int) -> memoryview:
        known = self._maps.pop(location, None)
        if known is None:
            name = location if self.folder is None else str(self.folder / location)
            known = map_descriptor(file, name)
        self._maps[location] = known
        while len(self._maps) > _KEPT_MAPS:
            self._maps.popitem(last=False)
        return known


def _pieces(file: int, where: Reference) -> Iterator[bytes]:
    """Read a range with few seeks; a mapping would count every page of it as our memory."""
    os.lseek(file, where.offset, os.SEEK_SET)
    left = where.length
    while left:
        piece = os.read(file, min(left, PIECE))
        if not piece:
            raise Refused(f"'{where.location}' became shorter while it was read")
        left -= len(piece)
        yield piece
