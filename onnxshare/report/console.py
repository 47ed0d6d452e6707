"""Where reports go: stdout, in colour on a terminal unless NO_COLOR is set."""

from __future__ import annotations

import os
import sys

from rich.console import Console

#: How wide a report is where there is no terminal to ask.
WIDTH_IN_A_PIPE = 100


class _Report(Console):
    """A console of a command that gives no answer: rich would exit with 1, the answer no, where
    the reader has gone."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def make_console(*, answers: bool = True) -> Console:
    """A console on stdout, as wide as the terminal, else as COLUMNS says, else 100.

    Args:
        answers: whether the exit code of the command is an answer, which is no where nobody reads
            it to the end.
    """
    width = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else WIDTH_IN_A_PIPE
    kind = Console if answers else _Report
    return kind(file=sys.stdout, width=width, highlight=False)
