"""Files at an address, read by ranges: the structure of a model, never all of its weights."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, overload

from onnxshare.errors import ModelFileError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Bytes of a block, of which so many are kept. Between two large weights lies less than one.
_BLOCK, _KEPT = 2**10, 2**12

#: So many blocks are fetched at once where a file is read from one to the next.
_MOST_AHEAD = 2**8

#: More than this at once is a weight, and a file of more is not fetched whole.
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
    """The bytes of a file at an address: what is looked at is fetched, in blocks; more of them at
    once the longer it is read from one to the next.

    Attributes:
        fetched: how many bytes have been read.
    """

    def __init__(self, address: str, *, weights: bool = False) -> None:
        """Ask for the size of the file.

        Args:
            address: where it is.
            weights: whether large weights may be read, each at once.

        Raises:
            UsageError: as of `filesystem`.
            ModelFileError: there is no such file, or it has no known size.
        """
        self._system, self._path = filesystem(address)
        try:
            self._size = int(self._system.size(self._path))
            self._file = self._system.open(self._path, "rb", cache_type="none")
        except Exception as error:  # every file system has its own
            told = str(error)
            why = told if told and told not in address else "no such file, or no connection"
            raise ModelFileError(
                f"{address}: cannot be opened: {why}", "check the address"
            ) from None
        self._address, self._weights = address, weights
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._whole: bytes | None = None
        self._next, self._ahead = 0, 1
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
            return self._block(place // _BLOCK, 1)[place % _BLOCK]
        start, end, _ = place.indices(self._size)
        if end - start > _MOST:
            if not self._weights:
                raise ModelFileError(f"{self._address}: weights at an address are not read")
            return self._read(start, end)
        if end <= start:
            return b""
        first, last = start // _BLOCK, (end - 1) // _BLOCK
        parts = [self._block(number, last - number + 1) for number in range(first, last + 1)]
        return b"".join(parts)[start - first * _BLOCK : end - first * _BLOCK]

    def _block(self, number: int, needed: int) -> bytes:
        """A block; where it is missing, it is fetched with those behind it that are needed."""
        block = self._blocks.get(number)
        if block is not None:
            self._blocks.move_to_end(number)
            return block
        self._ahead = min(2 * self._ahead, _MOST_AHEAD) if number == self._next else 1
        count = max(needed, self._ahead)
        data = self._read(number * _BLOCK, min((number + count) * _BLOCK, self._size))
        self._next = number + count
        for at in range(0, len(data), _BLOCK):
            self._blocks[number + at // _BLOCK] = data[at : at + _BLOCK]
        while len(self._blocks) > max(_KEPT, count):
            self._blocks.popitem(last=False)
        return self._blocks[number]

    def _read(self, start: int, end: int) -> bytes:
        """Fetch a range, or the whole file where it is small and its server knows no ranges."""
        if self._whole is not None:
            return self._whole[start:end]
        try:
            self._file.seek(start)
            data = bytes(self._file.read(end - start))
        except Exception as error:
            return self._fetch_whole(error)[start:end]
        if len(data) < end - start:
            raise ModelFileError(f"{self._address}: ends too early", "download it again")
        self.fetched += len(data)
        return data

    def _fetch_whole(self, why: Exception) -> bytes:
        if "range request" not in str(why):  # as fsspec says of HTTP
            raise ModelFileError(f"{self._address}: cannot be read: {why}") from None
        if self._size > _MOST:
            raise ModelFileError(
                f"{self._address}: its server gives whole files only", "download it"
            ) from None
        try:
            self._whole = bytes(self._system.cat_file(self._path))
        except Exception as error:
            raise ModelFileError(f"{self._address}: cannot be read: {error}") from None
        self.fetched += len(self._whole)
        return self._whole
