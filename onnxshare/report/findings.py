"""The report of `check` as text: one line per finding, its fix below it, a summary."""

from __future__ import annotations

import os
import sys

from rich.console import Console
from rich.text import Text

from onnxshare.checks.results import CheckReport, Finding
from onnxshare.checks.rules import BY_OPTION, RULES
from onnxshare.errors import printable

#: How wide a report is where there is no terminal to ask.
WIDTH_IN_A_PIPE = 100


def print_findings(report: CheckReport, console: Console | None = None) -> None:
    """Print the report on stdout; coloured on a terminal unless NO_COLOR is set."""
    console = console or _console()
    rules = {rule.code: rule for rule in RULES}
    widest = max((len(printable(finding.model)) for finding in report.findings), default=0)
    for finding in report.findings:
        rule = rules[finding.code]
        measured = finding.measured
        bound = rule.bound(finding.limit, None if isinstance(measured, str) else measured)
        for line in _lines(finding, bound, widest):
            # A line is never broken: a pipe's reader wants one line per finding, and a
            # command must stay in one piece to be copied.
            console.print(line, soft_wrap=True)
    console.print(_summary(report), soft_wrap=True)


def _lines(finding: Finding, bound: str, widest: int) -> tuple[Text, Text]:
    what = Text.assemble(
        (finding.code, "bold red"),
        "  ",
        (printable(finding.model).ljust(widest), "bold"),
        f"  {printable(finding.message)}; ",
        (f"the limit is {printable(bound)}", "yellow"),
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
    rules = ", ".join(BY_OPTION[option].code for option in report.limits)
    return Text.assemble((text, "bold green" if report.passed else "bold red"), f" ({rules})")


def _count(number: int, word: str) -> str:
    return f"{number or 'no'} {word}{'' if number == 1 else 's'}"


def _console() -> Console:
    width = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else WIDTH_IN_A_PIPE
    return Console(file=sys.stdout, width=width, highlight=False)
