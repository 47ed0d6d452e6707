"""The report of `doctor`: versions, providers, and what is broken."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from onnxshare.errors import printable
from onnxshare.report.console import make_console
from onnxshare.runtime.doctor import Diagnosis


def print_diagnosis(diagnosis: Diagnosis, console: Console | None = None) -> None:
    """Print the diagnosis on stdout, a line for each fact."""
    console = console or make_console()
    for name, value in _versions(diagnosis):
        console.print(Text.assemble((f"{name:<18}", "dim"), printable(value)), soft_wrap=True)
    for state in diagnosis.providers:
        mark = ("works", "green") if state.works else ("does not work", "yellow")
        detail = f": {printable(state.detail)}" if state.detail else ""
        name = printable(state.name)
        console.print(Text.assemble((f"{name:<18}", "dim"), mark, detail), soft_wrap=True)
    for problem in diagnosis.problems:
        console.print(Text.assemble(("broken  ", "bold red"), printable(problem)), soft_wrap=True)
    if diagnosis.healthy:
        console.print(Text("Everything that onnxshare needs works.", "bold green"))


def _versions(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    versions = [
        ("onnxshare", diagnosis.onnxshare),
        ("Python", diagnosis.python),
        ("platform", diagnosis.platform),
    ]
    installed = {**diagnosis.packages, **diagnosis.runtimes}
    return versions + [(name, version or "not installed") for name, version in installed.items()]
