"""Data to stdout, words to stderr, pages to files."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from onnxshare.cli.streams import write_utf8
from onnxshare.errors import printable
from onnxshare.support.json_text import json_items, json_text

#: So many records are written at once.
_AT_ONCE = 1000


def print_json(data: Mapping[str, Any]) -> None:
    """Print one JSON document on stdout; NaN and infinities become null.

    Lists of records are written a record a line. Records that come from an iterator are written
    as they come, so that a document of any length takes the memory of some of its lines.
    """
    for piece in _document(data):
        write_utf8(piece)


def note(text: str) -> None:
    """Print words for the user on stderr, which keeps stdout for data."""
    print(printable(text), file=sys.stderr)


@contextlib.contextmanager
def report_to(
    out: Path | None,
    *,
    read: Mapping[str, Iterable[Path]],
    force: bool,
    others: Sequence[Path | None] = (),
) -> Iterator[None]:
    """What is printed within goes to a file, which appears whole or, after an error, not at all.
    Before any work, make sure that it and other reports can be written, and over nothing that is
    read.

    Args:
        out: the file; None for standard output.
        read: what is read, by what messages call it.
        force: overwrite what is not a report, too.
        others: other files that are written; None for those that are not.

    Raises:
        OutputError: one cannot be written, or must not be overwritten.
    """
    files = [path for path in (out, *others) if path is not None]
    if files:
        from onnxshare.io.save import check_distinct, check_output

        check_distinct(files, read)
        for path in files:
            check_output(path, force=force, report=True)
    if out is None:
        yield
        return
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        yield
    write_page(out, text.getvalue())


def write_page(path: Path, text: str) -> None:
    """Write a report, and say so."""
    from onnxshare.io.atomic_write import replace_file

    replace_file(path, text)
    note(f"wrote {path}")


def _document(data: Mapping[str, Any]) -> Iterator[str]:
    before = "{\n"
    for key, value in data.items():
        yield f"{before}  {json_text(key)}: "
        yield from _lines(value)
        before = ",\n"
    yield "\n}\n" if data else "{\n\n}\n"


def _lines(value: Any) -> Iterator[str]:
    """A list of records, or a record, with a line for each of its items."""
    if isinstance(value, (list, tuple)) and any(isinstance(item, Mapping) for item in value):
        value = iter(value)
    if isinstance(value, Iterator):
        before = "[\n    "
        while some := list(islice(value, _AT_ONCE)):
            yield before + json_items(some, ",\n    ")
            before = ",\n    "
        yield "[]" if before.startswith("[") else "\n  ]"
    elif isinstance(value, Mapping) and value:
        items = (f"    {json_text(str(key))}: {json_text(item)}" for key, item in value.items())
        yield "{\n" + ",\n".join(items) + "\n  }"
    else:
        yield json_text(value)
