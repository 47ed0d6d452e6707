"""Rows of earlier scans, for files that did not change since."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from pathlib import Path

from onnxshare.errors import UsageError
from onnxshare.io.atomic_write import replace_file
from onnxshare.model_scan.remote_file import filesystem, is_address
from onnxshare.model_scan.results import ScanRow
from onnxshare.support.dataclass_tools import plain
from onnxshare.support.option_text import option
from onnxshare.version import __version__


class RowCache:
    """A folder with a file per model: its row, and what it was when that was made.

    A row counts only for the same state of the file, the same version of onnxshare and the same
    options. Rows with errors are kept too: the same file gives the same error.
    """

    def __init__(self, folder: Path | None, options: str) -> None:
        """Use a folder, which is made if it is missing; None keeps nothing.

        Raises:
            UsageError: it cannot be made.
        """
        self._folder, self._options = folder, options
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UsageError(
                    f"{option(f'--cache {folder}')}: {error.strerror}",
                    "name a folder that can be written",
                ) from None

    def find(self, path: str, state: str | None) -> ScanRow | None:
        """The row of a file in this state; None where there is none."""
        if self._folder is None or state is None:
            return None
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            document = json.loads(self._file(path).read_text("utf-8"))
            data = document["data"]  # files that weights lie in may change by themselves
            same = all(state_of(name) == known for name, known in data.items())
            if same and document["key"] == self._key(path, state):
                fields = document["row"]
                return ScanRow(**{**fields, "data": tuple(fields["data"])})
        return None

    def keep(self, row: ScanRow, state: str | None) -> None:
        """Keep a row for the next scan."""
        if self._folder is None or state is None:
            return
        fields = {item.name: plain(getattr(row, item.name)) for item in dataclasses.fields(row)}
        data = {name: state_of(name) for name in row.data}
        document = {"key": self._key(row.path, state), "data": data, "row": fields}
        replace_file(self._file(row.path), json.dumps(document))

    def _key(self, path: str, state: str) -> list[str]:
        return [__version__, self._options, path, state]

    def _file(self, path: str) -> Path:
        assert self._folder is not None
        name = hashlib.blake2b(path.encode(errors="surrogateescape"), digest_size=16).hexdigest()
        return self._folder / f"{name}.json"


def state_of(path: str) -> str | None:
    """What changes when a file does: size and time, or the ETag; None where that is unknown."""
    try:
        if is_address(path):
            system, inner = filesystem(path)
            info = system.info(inner)
            marks = [info.get(key) for key in ("ETag", "etag", "mtime", "LastModified", "size")]
            return repr(marks) if any(marks[:-1]) else None
        info = os.stat(path)
        return f"{info.st_size} {info.st_mtime_ns} {info.st_ino}"
    except Exception:
        return None
