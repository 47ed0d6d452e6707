"""Rows of earlier scans, for files that did not change since."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

from onnxshare.errors import UsageError
from onnxshare.io.atomic_write import replace_file
from onnxshare.model_scan.results import ScanRow
from onnxshare.support.dataclass_tools import plain
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
                    f"--cache {folder}: {error.strerror}", "name a folder that can be written"
                ) from None

    def find(self, path: str, state: str | None) -> ScanRow | None:
        """The row of a file in this state; None where there is none."""
        if self._folder is None or state is None:
            return None
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            document = json.loads(self._file(path).read_text("utf-8"))
            if document["key"] == self._key(path, state):
                return ScanRow(**document["row"])
        return None

    def keep(self, row: ScanRow, state: str | None) -> None:
        """Keep a row for the next scan."""
        if self._folder is None or state is None:
            return
        fields: dict[str, Any] = plain(row)
        document = {"key": self._key(row.path, state), "row": fields}
        replace_file(self._file(row.path), json.dumps(document))

    def _key(self, path: str, state: str) -> list[str]:
        return [__version__, self._options, path, state]

    def _file(self, path: str) -> Path:
        assert self._folder is not None
        name = hashlib.blake2b(path.encode(errors="surrogateescape"), digest_size=16).hexdigest()
        return self._folder / f"{name}.json"
