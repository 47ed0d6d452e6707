"""The report of `check` as text: one line per finding, its fix below it, a summary."""

from __future__ import annotations

import io

from rich.console import Console
from rich.text import Text

from onnxshare.checks.policy import ordered
from onnxshare.checks.results import CheckReport, Finding
from onnxshare.checks.rules import BY_OPTION
from onnxshare.errors import printable
from onnxshare.report.console import WIDTH_IN_A_PIPE, make_console, say


def print_findings(
    report: CheckReport, console: Console | None = None, *, fixes: bool = True
) -> None:
    """Print the report on stdout; coloured on a terminal unless NO_COLOR is set."""
    console = console or make_console()
    widest = max((len(printable(finding.model)) for finding in report.findings), default=0)
    for finding in report.findings:
        say(console, _line(finding, widest))
        if fixes:
            say(console, _fix(finding))
    for model in report.models:
        for one in model.differences:
            say(console, f"{printable(model.path)}: {one}")
    for words in report.stale:
        say(console, Text.assemble(("stale  ", "bold yellow"), printable(words)))
    say(console, _summary(report))


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
    warns = "" if finding.severity == "error" else "warning: "
    return Text.assemble(
        (finding.code, "bold red" if finding.severity == "error" else "bold yellow"),
        "  ",
        (printable(finding.model).ljust(widest), "bold"),
        f"  {warns}{printable(finding.where + finding.message)}",
        (f"; the limit is {printable(finding.bound)}" if finding.bound else "", "yellow"),
    )


def _fix(finding: Finding) -> Text:
    indent = " " * (len(finding.code) + 2)
    return Text.assemble(indent, ("fix: ", "dim"), (printable(finding.fix), "cyan"))


def _summary(report: CheckReport) -> Text:
    selected = {option for model in report.models for option in model.limits}
    rules = ", ".join(BY_OPTION[option].code for option in ordered(dict.fromkeys(selected, True)))
    style = "bold green" if report.passed else "bold red"
    return Text.assemble((report.verdict, style), f" ({rules})" if rules else "")
