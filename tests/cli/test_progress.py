"""Bars on stderr: late, on a terminal only, and gone at the end."""

from __future__ import annotations

import io
import sys

import pytest

from onnxshare.cli import progress
from onnxshare.support.progress import log


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("terminal", [True, False])
def test_log_is_written_where_nobody_sees_bars(
    monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    log("before")
    with progress.Steps("rewriting"):
        log("1 of 2: \x1b[31m")
    log("after")
    assert stream.getvalue() == ("" if terminal else "1 of 2: \\x1b[31m\n")


def work(bars: progress.Bars) -> None:
    for done in range(0, 101, 10):
        bars("[red]m.onnx\x1b[31m", done, 100)


@pytest.mark.parametrize(
    ("terminal", "patience", "shown"),
    [(True, 0.0, True), (True, 60.0, False), (False, 0.0, False)],
    ids=["long work", "short work", "a pipe"],
)
def test_bars(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, patience: float, shown: bool
) -> None:
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "_PATIENCE", patience)
    with progress.Bars() as bars:
        work(bars)
    text = stream.getvalue()
    assert ("reading [red]m.onnx\\x1b[31m" in text) == shown
    assert bool(text) == shown
