"""What `onnxshare check` does with its options: parse, merge, print, write; no logic of rules."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from onnxshare.cli.printing import note
from onnxshare.errors import UsageError
from onnxshare.support import progress

if TYPE_CHECKING:
    from onnxshare.checks.policy import Policy
    from onnxshare.checks.results import CheckReport, ModelReport

#: Variables that say what options say begin with this.
VARIABLES = "ONNXSHARE_"


def policy(config: Path | None, *, isolated: bool) -> Policy:
    """The policy file that counts, with variables such as ONNXSHARE_MAX_PARAMS put over it.

    Raises:
        UsageError: it is not valid.
    """
    from onnxshare.checks.policy import Policy, find_policy, read_policy

    found = Policy() if isolated else find_policy()
    if config is not None:
        found = read_policy(config)
    return found if isolated else with_variables(found)


def only_changed(models: Sequence[Path | str], revision: str, policy: Policy) -> list[Path | str]:
    """Those of the models that changed since a commit.

    Raises:
        UsageError: git does not know.
    """
    from onnxshare.checks.git_changes import changed_since
    from onnxshare.checks.model_names import find_models

    return list(changed_since(find_models(models), revision, policy.path))


def named_limits(given: Sequence[str] | None) -> dict[str, str]:
    """Parse `--limit NAME=LIMIT`.

    Raises:
        UsageError: one is not of that form.
    """
    limits: dict[str, str] = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not (equals and name.strip() and value.strip()):
            raise UsageError(f"--limit '{text}' is not NAME=LIMIT", "see `onnxshare rules`")
        limits[name.strip()] = value.strip()
    return limits


def with_variables(policy: Policy) -> Policy:
    """The policy with the variables put over it.

    Raises:
        UsageError: a limit or the name of a rule is not one.
    """
    return policy.with_options(*_variables())


def _variables() -> tuple[dict[str, object], list[str], list[str], list[str]]:
    """What variables such as ONNXSHARE_MAX_PARAMS and ONNXSHARE_SELECT say."""
    from onnxshare.checks.rules import RULES

    limits: dict[str, object] = {}
    for rule in RULES:
        value = os.environ.get(VARIABLES + rule.option.upper().replace("-", "_"))
        if value:
            limits[rule.option] = value
    lists = [split([os.environ.get(VARIABLES + name, "")]) for name in ("SELECT", "IGNORE", "WARN")]
    return limits, lists[0], lists[1], lists[2]


def split(given: Sequence[str] | None) -> list[str]:
    """The words of options that take several, with commas or given several times."""
    return [word.strip() for text in given or () for word in text.split(",") if word.strip()]


def lacks_baseline(report: CheckReport) -> bool:
    """Whether a model is to be compared with a baseline, and there is none."""
    return not report.before and any("max-regression" in model.limits for model in report.models)


def report_files(given: Sequence[str] | None) -> list[tuple[str, Path]]:
    """Parse `--report FORMAT=FILE`.

    Raises:
        UsageError: one is not of that form, or there is no such format.
    """
    from onnxshare.report.checks import FORMATS

    found: list[tuple[str, Path]] = []
    for text in given or ():
        name, equals, path = text.partition("=")
        if not equals or not path:
            raise UsageError(f"--report '{text}' is not FORMAT=FILE", "such as sarif=check.sarif")
        if path == "-":
            raise UsageError(f"--report {text}: needs a file", f"--format {name} prints the report")
        if name not in FORMATS:
            raise UsageError(f"--report {text}: there is no format '{name}'", ", ".join(FORMATS))
        found.append((name, Path(path)))
    return found


def print_report(report: CheckReport, name: str) -> None:
    """Print the report on stdout, with colours where these are for a person."""
    from onnxshare.report.checks import render
    from onnxshare.report.checks.text import print_findings

    if name in ("full", "concise"):
        print_findings(report, fixes=name == "full")
    else:
        sys.stdout.write(render(report, name))


def write_report(report: CheckReport, name: str, path: Path) -> None:
    """Write the report to a file, whole or not at all.

    Raises:
        OutputError: the file cannot be written.
    """
    from onnxshare.io.atomic_write import replace_text
    from onnxshare.report.checks import render

    replace_text(path, render(report, name))


def write_known(report: CheckReport, path: Path) -> int:
    """Write the baseline, say so, and return the exit code: 0."""
    from onnxshare.checks.known_findings import write_baseline

    count = write_baseline(report, path)
    note(f"wrote {path}: {count} known finding{'' if count == 1 else 's'}")
    return 0


def counted(reports: Iterable[ModelReport], count: int) -> Iterator[ModelReport]:
    """The same reports, and a word to the progress bar after each."""
    for done, report in enumerate(reports, 1):
        yield report
        progress.report("checking", done, count)
