"""Files at an address, read by ranges: the structure of a model, never all of its weights."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, overload

from onnxshare.errors import ModelFileError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

#: What is fetched at once, and how many such pieces are kept.
_BLOCK, _KEPT = 2**16, 64

#: More than this at once is a weight, which a scan does not need.
_MOST = 2**22


def is_address(path: str) -> bool:
    """Whether a path is an address that fsspec reads, such as `s3://bucket/model.onnx`."""
    return "://" in path


def filesystem(address: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it.

    Raises:
        UsageError: fsspec, or what it needs for this kind of address, is not installed.
    """
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise UsageError(
            f"{address}: addresses are read by fsspec, which is not installed",
            "pip install 'onnxshare[remote]', or download the model",
        ) from None
    try:
        found, path = url_to_fs(address)
    except ImportError as error:
        raise UsageError(f"{address}: cannot be opened: {error}", "install what it names") from None
    except ValueError as error:
        raise UsageError(f"{address}: cannot be opened: {error}", "check the address") from None
    return found, path


class RemoteBytes:
    """The bytes of a file at an address: what is looked at is fetched, a block at a time.

    Attributes:
        fetched: how many bytes have been read.
    """

    def __init__(self, address: str) -> None:
        """Ask for the size of the file.

        Raises:
            UsageError: as of `filesystem`.
            ModelFileError: there is no such file, or it has no known size.
        """
        system, path = filesystem(address)
        try:
            self._size = int(system.size(path))
            self._file = system.open(path, "rb", cache_type="none")
        except Exception as error:  # every file system has its own
            told = str(error)
            why = told if told and told not in address else "no such file, or no connection"
            raise ModelFileError(
                f"{address}: cannot be opened: {why}", "check the address"
            ) from None
        self._address = address
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self.fetched = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[int]:
        raise TypeError("read it by ranges")

    @overload
    def __getitem__(self, place: int) -> int: ...
    @overload
    def __getitem__(self, place: slice) -> bytes: ...
    def __getitem__(self, place: int | slice) -> int | bytes:
        if isinstance(place, int):
            if not 0 <= place < self._size:
                raise IndexError(place)
            return self._block(place // _BLOCK)[place % _BLOCK]
        start, end, _ = place.indices(self._size)
        if end - start > _MOST:
            raise ModelFileError(f"{self._address}: weights at an address are not read")
        found = bytearray()
        while start < end:
            block = self._block(start // _BLOCK)
            piece = block[start % _BLOCK : start % _BLOCK + end - start]
            found += piece
            start += len(piece)
        return bytes(found)

    def _block(self, number: int) -> bytes:
        block = self._blocks.get(number)
        if block is None:
            try:
                self._file.seek(number * _BLOCK)
                block = self._file.read(min(_BLOCK, self._size - number * _BLOCK))
            except Exception as error:
                raise ModelFileError(f"{self._address}: cannot be read: {error}") from None
            if len(block) < min(_BLOCK, self._size - number * _BLOCK):
                raise ModelFileError(f"{self._address}: ends too early", "download it again")
            self.fetched += len(block)
            self._blocks[number] = block
            if len(self._blocks) > _KEPT:
                self._blocks.popitem(last=False)
        else:
            self._blocks.move_to_end(number)
        return block
