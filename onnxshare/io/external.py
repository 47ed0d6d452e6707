"""Opens external data safely: files in the model's folder, and nothing that a name can smuggle in.

A model names the files its weights are in, and the model may come from anybody. So every
component of such a name is opened below its parent's descriptor without following links, and
what was opened, not its name, is asked whether it is a regular file with one name.

Links are allowed only into a folder that the user vouches for (`follow_symlinks`): the file that
is read must lie in that folder, by its real path. There, hard links are allowed too: caches
share files in either way, and the user has named the cache.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import onnx

from onnxshare.errors import ModelFileError
from onnxshare.io.confined import Refused, open_below, open_real
from onnxshare.io.mapped import map_descriptor
from onnxshare.io.tensors import Array, from_raw, raw_bytes

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
        raise Refused(f"its {key} '{text[:40]}' is no size in bytes")
    return int(text)


class ExternalData:
    """The external data of one model.

    Args:
        folder: the model's folder; None for a model from memory, which can have no such files.
        model: the model's name, for messages.
        follow_symlinks: the folder that links may lead into; None allows none.
    """

    def __init__(
        self, folder: Path | None, model: str = "<model>", follow_symlinks: Path | None = None
    ) -> None:
        self.folder, self.follow_symlinks = folder, follow_symlinks
        self._model = model
        self._maps: OrderedDict[str, memoryview] = OrderedDict()

    def array(self, tensor: onnx.TensorProto) -> Array:
        """The values of an external tensor: a read-only view of the mapped file where the type
        allows it.

        Raises:
            ModelFileError: the data is missing, unsafe, too short, or contradicts the tensor.
        """
        with self._opened(tensor) as (where, file):
            if where.length <= _READ_BELOW:
                data: bytes | memoryview = b"".join(_pieces(file, where))
                return from_raw(tensor, data, 0, len(data))
            return from_raw(
                tensor, self._map(where.location, file), where.offset, where.offset + where.length
            )

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
                size = os.fstat(file).st_size
                if where.offset + where.length > size:
                    raise Refused(
                        f"'{where.location}' is too short: it has {size} bytes, and "
                        f"{where.offset + where.length} are needed",
                        "the file is truncated or belongs to another model: get it again",
                    )
                yield where, file
        except Refused as refused:
            what = f"{self._model}: external data cannot be read for tensor '{tensor.name}'"
            raise ModelFileError(f"{what}: {refused}", refused.remedy) from None
        except OSError as error:
            reason = error.strerror or str(error)
            raise ModelFileError(
                f"{self._model}: external data cannot be read for tensor '{tensor.name}': {reason}"
            ) from error

    @contextmanager
    def _file(self, location: str) -> Iterator[int]:
        if self.folder is None:
            raise Refused(
                "the model was not read from a file, so its folder is not known",
                "give the path of the model instead",
            )
        if self.follow_symlinks is None:
            file = open_below(self.folder, location)
        else:
            file = open_real(self.folder, location, self.follow_symlinks)
        try:
            yield file
        finally:
            os.close(file)

    def _map(self, location: str, file: int) -> memoryview:
        known = self._maps.pop(location, None)
        if known is None or len(known) != os.fstat(file).st_size:
            known = map_descriptor(file)
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
