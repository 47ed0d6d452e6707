"""The report of `check` as text: one line per finding, its fix below it, a summary."""

from __future__ import annotations

import os
import sys

from rich.console import Console
from rich.text import Text

from onnxshare.checks.results import CheckReport, Finding
from onnxshare.checks.rules import BY_OPTION
from onnxshare.errors import printable

#: How wide a report is where there is no terminal to ask.
WIDTH_IN_A_PIPE = 100


def print_findings(report: CheckReport, console: Console | None = None) -> None:
    """Print the report on stdout; coloured on a terminal unless NO_COLOR is set."""
    console = console or _console()
    widest = max((len(printable(finding.model)) for finding in report.findings), default=0)
    for finding in report.findings:
        for line in _lines(finding, widest):
            # A line is never broken: a pipe's reader wants one line per finding, and a
            # command must stay in one piece to be copied.
            console.print(line, soft_wrap=True)
    console.print(_summary(report), soft_wrap=True)


def _lines(finding: Finding, widest: int) -> tuple[Text, Text]:
    where = f"{finding.node}: " if finding.node else ""
    what = Text.assemble(
        (finding.code, "bold red" if finding.severity == "error" else "bold yellow"),
        "  ",
        (printable(finding.model).ljust(widest), "bold"),
        f"  {printable(where + finding.message)}",
        (f"; the limit is {printable(finding.bound)}" if finding.bound else "", "yellow"),
    )
    fix = Text.assemble(
        " " * (len(finding.code) + 2), ("fix: ", "dim"), (printable(finding.fix), "cyan")
    )
    return what, fix


def _summary(report: CheckReport) -> Text:
    judged = len(report.models) - len(report.unreadable)
    text = f"{_count(judged, 'model')} checked, {_count(len(report.findings), 'finding')}"
    if report.unreadable:
        text += f", {_count(len(report.unreadable), 'model')} could not be read"
    selected = {option for model in report.models for option in model.limits}
    rules = ", ".join(rule.code for option, rule in BY_OPTION.items() if option in selected)
    return Text.assemble((text, "bold green" if report.passed else "bold red"), f" ({rules})")


def _count(number: int, word: str) -> str:
    return f"{number or 'no'} {word}{'' if number == 1 else 's'}"


def _console() -> Console:
    width = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else WIDTH_IN_A_PIPE
    return Console(file=sys.stdout, width=width, highlight=False)
