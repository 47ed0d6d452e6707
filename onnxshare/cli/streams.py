"""Standard output and standard error: what a console cannot show, and what a CI system obeys."""

from __future__ import annotations

import codecs
import contextlib
import io
import re
import sys
from collections.abc import Iterator
from typing import Any, TextIO

#: What stands for a character that a console's encoding lacks.
_PLAIN = {
    "→": "->", "←": "<-", "×": "x", "÷": "/", "·": "-", "–": "-", "—": "-", "…": "...", "±": "+-",
    "≤": "<=", "≥": ">=", "√": "sqrt", "µ": "u", "²": "2", "█": "#", "▉": "#", "▊": "#", "▋": "#",
    "▌": "#", "▍": "#", "▎": "#", "▏": "|", "▁": "_", "─": "-", "│": "|", "┌": "+", "┐": "+",
    "└": "+", "┘": "+", "├": "+", "┤": "+", "┬": "+", "┴": "+", "┼": "+", "━": "=", "╭": "+",
    "╮": "+", "╯": "+", "╰": "+", "╴": "-", "╷": "|", "╵": "|", "╶": "-", "‘": "'", "’": "'",
    "“": '"', "”": '"', "•": "*", "✓": "ok", "✗": "x",
}  # fmt: skip

#: The start of a line, or a mark, that the runners of CI systems take for a command.
_COMMAND = re.compile(r"^([ \t]*):(?=:)|#(?=#(?:vso)?\[)", re.MULTILINE)

_MARK = re.compile(r"()#(?=#(?:vso)?\[)")


def _degrade(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_PLAIN.get(char, "?") for char in lacking), error.end


codecs.register_error("onnxshare.degrade", _degrade)


def _escape(found: re.Match[str]) -> str:
    return f"{found[1] or ''}\\x{ord(found[0][-1]):x}"


class _Guarded(io.TextIOBase):
    """A stream in which no line is a command to a CI system, whatever names a model has."""

    def __init__(self, stream: TextIO) -> None:
        self.unguarded = stream

    def write(self, text: str) -> int:
        if "::" in text or "##" in text:
            text = _COMMAND.sub(_escape, text)
        return self.unguarded.write(text)

    def flush(self) -> None:
        self.unguarded.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unguarded, name)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """As of the stream itself."""
        return self.unguarded.encoding

    def isatty(self) -> bool:
        return self.unguarded.isatty()

    def fileno(self) -> int:
        return self.unguarded.fileno()


def write_utf8(text: str, *, commands: bool = False) -> None:
    """Write a data format to standard output: UTF-8, whatever the console's encoding is; `commands`
    if it is made of commands to a CI system, as `--format github` is."""
    stream: Any = sys.stdout
    if str(getattr(stream, "encoding", "utf-8")).lower().replace("-", "") != "utf8":
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    text = text.encode(errors="backslashreplace").decode()  # a path may hold undecodable bytes
    if commands:  # of GitHub: the marks of others are none of its own
        stream, text = getattr(stream, "unguarded", stream), _MARK.sub(_escape, text)
    stream.write(text)


@contextlib.contextmanager
def prepared() -> Iterator[None]:
    """Standard output and error for one command: no character crashes it, no name commands a CI
    system, and a full disk is an error even where Python does not buffer."""
    kept = sys.stdout, sys.stderr
    for stream in kept:
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="onnxshare.degrade")  # type: ignore[union-attr]
    out: Any = kept[0]
    if isinstance(getattr(out, "buffer", None), io.RawIOBase):  # PYTHONUNBUFFERED: writes are cut
        out = io.TextIOWrapper(
            io.BufferedWriter(out.buffer), out.encoding, "onnxshare.degrade", line_buffering=True
        )
    sys.stdout, sys.stderr = _Guarded(out), _Guarded(kept[1])
    try:
        yield
    finally:
        if out is not kept[0]:
            with contextlib.suppress(OSError):
                out.detach().detach()
        sys.stdout, sys.stderr = kept
