"""Where reports go: stdout, in colour on a terminal unless NO_COLOR is set. What `doctor` says."""

from __future__ import annotations

import os
import sys
from typing import TextIO

from rich.console import Console
from rich.text import Text

from onnxshare.errors import printable
from onnxshare.runtime.doctor import OPTIONAL, Diagnosis
from onnxshare.runtime.onnx_runtime import INSTALL

#: How wide a report is where there is no terminal to ask.
WIDTH_IN_A_PIPE = 100


class _Report(Console):
    """A console of a command that gives no answer: rich would exit with 1, the answer no, where
    the reader has gone."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def make_console(file: TextIO | None = None, *, answers: bool = True) -> Console:
    """A console on stdout or a file, as wide as the terminal, else as COLUMNS says, else 100.
    `answers` is whether the exit code of the command is an answer, which it is not where nothing
    reads it to the end."""
    file = file or sys.stdout
    width = None if file.isatty() or os.environ.get("COLUMNS") else WIDTH_IN_A_PIPE
    kind = Console if answers else _Report
    return kind(file=file, width=width, highlight=False)


def say(console: Console, words: str | Text, style: str = "") -> None:
    """Print words on a line of their own, which is never broken: the reader of a pipe wants a
    sentence in one line, and a command must stay in one piece to be copied."""
    text = words if isinstance(words, Text) else Text(printable(words), style)
    console.print(text, soft_wrap=True)


def print_diagnosis(diagnosis: Diagnosis, console: Console | None = None) -> None:
    """Print the diagnosis on stdout, a line for each fact."""
    console = console or make_console()
    for name, value in _versions(diagnosis):
        say(console, Text.assemble((f"{name:<21} ", "dim"), printable(value)))
    for state in diagnosis.providers:
        mark = ("works", "green") if state.works else ("does not work", "yellow")
        detail = f": {printable(state.detail)}" if state.detail else ""
        say(console, Text.assemble((f"{printable(state.name):<21} ", "dim"), mark, detail))
    for problem in diagnosis.problems:
        say(console, Text.assemble(("broken  ", "bold red"), printable(problem)))
    if diagnosis.healthy:
        what = "Everything that onnxshare needs" if diagnosis.runtimes else "What is installed"
        say(console, f"{what} works.", "bold green")


def _versions(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    versions = [
        ("onnxshare", diagnosis.onnxshare),
        ("Python", diagnosis.python),
        ("platform", diagnosis.platform),
    ]
    installed = {**diagnosis.packages, **diagnosis.optional, **diagnosis.runtimes}
    versions += [
        (name, version or f"not installed{f' ({OPTIONAL[name]})' if name in OPTIONAL else ''}")
        for name, version in installed.items()
    ]
    if not diagnosis.runtimes:
        needed = "compare, rewrite and rules that run models need it"
        versions.append(("ONNX Runtime", f"not installed; {needed}: {INSTALL}"))
    versions += [("plugin", plugin) for plugin in diagnosis.plugins]
    return [*versions, ("NVIDIA GPU", diagnosis.nvidia)]
