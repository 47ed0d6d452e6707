"""Where reports go: stdout, in colour on a terminal unless NO_COLOR is set."""

from __future__ import annotations

import os
import sys

from rich.console import Console

#: How wide a report is where there is no terminal to ask.
WIDTH_IN_A_PIPE = 100


def make_console() -> Console:
    """A console on stdout, as wide as the terminal, else as COLUMNS says, else 100."""
    width = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else WIDTH_IN_A_PIPE
    return Console(file=sys.stdout, width=width, highlight=False)
