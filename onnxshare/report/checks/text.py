"""The report of `check` as text: one line per finding, its fix below it, a summary."""

from __future__ import annotations

import io
import os
import sys

from rich.console import Console
from rich.text import Text

from onnxshare.checks.results import CheckReport, Finding
from onnxshare.checks.rules import BY_OPTION
from onnxshare.errors import printable

#: How wide a report is where there is no terminal to ask.
WIDTH_IN_A_PIPE = 100


def print_findings(
    report: CheckReport, console: Console | None = None, *, fixes: bool = True
) -> None:
    """Print the report on stdout; coloured on a terminal unless NO_COLOR is set."""
    console = console or _console()
    widest = max((len(printable(finding.model)) for finding in report.findings), default=0)
    for finding in report.findings:
        # A line is never broken: a pipe's reader wants one line per finding, and a command must
        # stay in one piece to be copied.
        console.print(_line(finding, widest), soft_wrap=True)
        if fixes:
            console.print(_fix(finding), soft_wrap=True)
    for words in report.stale:
        console.print(Text.assemble(("stale  ", "bold yellow"), printable(words)), soft_wrap=True)
    console.print(_summary(report), soft_wrap=True)


def full(report: CheckReport) -> str:
    """The report without colours."""
    return _plain(report, fixes=True)


def concise(report: CheckReport) -> str:
    """The report without colours and fixes."""
    return _plain(report, fixes=False)


def _plain(report: CheckReport, *, fixes: bool) -> str:
    file = io.StringIO()
    console = Console(file=file, width=WIDTH_IN_A_PIPE, highlight=False, color_system=None)
    print_findings(report, console, fixes=fixes)
    return file.getvalue()


def _line(finding: Finding, widest: int) -> Text:
    where = f"{finding.node}: " if finding.node else ""
    warns = "" if finding.severity == "error" else "warning: "
    return Text.assemble(
        (finding.code, "bold red" if finding.severity == "error" else "bold yellow"),
        "  ",
        (printable(finding.model).ljust(widest), "bold"),
        f"  {warns}{printable(where + finding.message)}",
        (f"; the limit is {printable(finding.bound)}" if finding.bound else "", "yellow"),
    )


def _fix(finding: Finding) -> Text:
    indent = " " * (len(finding.code) + 2)
    return Text.assemble(indent, ("fix: ", "dim"), (printable(finding.fix), "cyan"))


def _summary(report: CheckReport) -> Text:
    judged = len(report.models) - len(report.unreadable)
    text = f"{count(judged, 'model')} checked, {count(len(report.findings), 'finding')}"
    warnings = len(report.findings) - len(report.errors)
    if warnings:
        text += f" ({warnings} only {'warns' if warnings == 1 else 'warn'})"
    if report.silenced:
        text += f", {len(report.silenced)} silenced"
    if report.unreadable:
        text += f", {count(len(report.unreadable), 'model')} could not be read"
    selected = {option for model in report.models for option in model.limits}
    rules = ", ".join(rule.code for option, rule in BY_OPTION.items() if option in selected)
    return Text.assemble((text, "bold green" if report.passed else "bold red"), f" ({rules})")


def count(number: int, word: str) -> str:
    """A number of things: `no findings`, `1 model`, `2 models`."""
    return f"{number or 'no'} {word}{'' if number == 1 else 's'}"


def _console() -> Console:
    width = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else WIDTH_IN_A_PIPE
    return Console(file=sys.stdout, width=width, highlight=False)
