"""`onnxshare check`: check models against limits, for CI; no logic of rules."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from onnxshare.checks.rules import BY_OPTION, RULES
from onnxshare.cli import options
from onnxshare.cli.options import argument, option
from onnxshare.cli.printing import note
from onnxshare.cli.streams import write_utf8
from onnxshare.errors import UsageError
from onnxshare.support import progress

if TYPE_CHECKING:
    from onnxshare.checks.known_findings import Baseline
    from onnxshare.checks.policy import Policy
    from onnxshare.checks.results import CheckReport, ModelReport


_LIMITS = "Limits"
_RULES = "Rules"
_BASELINE = "Baseline"
_REPORTS = "Reports"
_EXIT = "When it fails"

Format = Literal[
    "full",
    "concise",
    "json",
    "github",
    "sarif",
    "junit",
    "gitlab",
    "markdown",
    "comment",
    "csv",
    "jsonl",
]

_METAVARS = {"bytes": "SIZE", "count": "N"}

#: The options that are limits, made of the table of rules.
Limits: Any = make_dataclass(
    "Limits",
    [
        (
            rule.option.replace("-", "_"),
            str | None,
            option(
                None,
                rule.help,
                metavar=_METAVARS.get(rule.unit, rule.unit.upper()),
                panel=_LIMITS,
            ),
        )
        for rule in RULES
        if rule.help
    ],
)


#: Of options that take rules.
_NAMED: dict[str, Any] = {
    "metavar": "RULES",
    "panel": _RULES,
    "autocompletion": options.complete_rules,
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `onnxshare check` takes."""

    models: list[Path] | None = argument(
        None,
        "Models, folders or globs. Left out: the models that the policy file names, "
        "or the only .onnx file of the current folder.",
        metavar="MODEL",
    )
    limits: Limits
    limit: list[str] | None = option(
        None,
        "Any limit that `onnxshare rules` lists. May be given several times.",
        metavar="NAME=LIMIT",
        panel=_LIMITS,
    )
    select: list[str] | None = option(
        None,
        "Add rules with their default limits, by code, name or family: WS104,DP.",
        **_NAMED,
    )
    ignore: list[str] | None = option(None, "Leave rules out.", **_NAMED)
    warn: list[str] | None = option(
        None, "Report findings of these rules without failing.", **_NAMED
    )
    config: Path | None = option(
        None,
        "The policy file. Left out: onnxshare.toml, or \\[tool.onnxshare] in "
        "pyproject.toml, of the current folder or one above it in the repository.",
        metavar="FILE",
        panel=_RULES,
    )
    changed_since: str | None = option(
        None, "Check only the models that changed since this commit of git.", metavar="COMMIT"
    )
    isolated: bool = option(
        False, "Read neither policy files nor ONNXSHARE_ variables.", panel=_RULES
    )
    baseline: Path | None = option(
        None,
        "Findings in this file are known: only new ones fail, and models must not get "
        "worse than it says.",
        metavar="FILE",
        panel=_BASELINE,
    )
    baseline_ref: str | None = option(
        None,
        "The models as they were at this commit, branch or tag of git are the baseline.",
        metavar="REF",
        panel=_BASELINE,
    )
    write_baseline: Path | None = option(
        None,
        "Write what is found and measured as the baseline, and exit 0.",
        metavar="FILE",
        panel=_BASELINE,
    )
    update_baseline: bool = option(
        False,
        "Take what is fixed out of the baseline, and let what was measured become better. "
        "Nothing is added to it.",
        panel=_BASELINE,
    )
    fail_on: Literal["error", "warning"] | None = option(
        None, "Whether findings that only warn fail too.", panel=_EXIT
    )
    max_findings: int | None = option(
        None, "Fail only if more findings than this fail.", metavar="N", min=0, panel=_EXIT
    )
    exit_zero: bool = option(
        False, "Exit 0 whatever is found; 2 if a model cannot be read.", panel=_EXIT
    )
    output: Format = option("full", "How to print the report.", "--format", panel=_REPORTS)
    report: list[str] | None = option(
        None,
        "Also write the report to a file: sarif=check.sarif. May be given several times.",
        metavar="FORMAT=FILE",
        panel=_REPORTS,
    )
    out: Path | None = option(
        None,
        "Write the report to this file. Left out: to standard output.",
        *("-o", "--output"),
        metavar="FILE",
        panel=_REPORTS,
    )
    force: bool = option(False, "Overwrite files that are not reports, too.", panel=_REPORTS)
    html: options.Html = None
    samples: Path | None = option(
        None, "Inputs for --equivalent-to: a .npz file or a folder.", metavar="FILE"
    )
    provider: str = option("auto", options.PROVIDER, metavar="NAME")
    jobs: int | None = option(
        None, "How many models at once. Left out: one per processor.", metavar="N", min=1
    )
    isolation: options.Isolation
    sizes: options.Sizes
    follow_symlinks: options.FollowSymlinks = None


def command(given: Options) -> int:
    """Check models against limits.

    Limits come from the options, else from variables such as
    ONNXSHARE_MAX_PARAMS, else from the policy file's table \\[check], under the
    same names. Without any, a few rules run that hold for every model.

    Exit code: 0 if all keep them, 1 on findings, 2 on bad input.

    Example: onnxshare check models/ --max-params 5M --max-fc-share 50%
    """
    reports = report_files(given.report)
    if given.html is not None:
        reports.append(("html", given.html))
    policy = effective_policy(given.config, isolated=given.isolated)
    models: list[Path | str] = list(given.models or ())
    if not models and not policy.models:
        models = [options.model_path(None)]
    limits = {name.replace("_", "-"): limit for name, limit in vars(given.limits).items()}
    policy = policy.with_options({**limits, **named_limits(given.limit)})
    baseline = _baseline(given, policy)
    files = [path for path in (given.out, *(path for _, path in reports)) if path is not None]
    _check_files(given, files, models, policy)
    found = _checked(given, models, policy, baseline)
    if baseline is None and not given.baseline_ref and not given.write_baseline:
        _advise_baseline(found)
    with options.report_to(given.out, read={}, force=given.force):
        code = _finish(found, given.output, reports)
    if given.write_baseline is not None:
        return _write_baseline(found, given.write_baseline)
    if given.update_baseline and baseline is not None:
        _update_baseline(found, baseline, policy)
    return 0 if given.exit_zero and code == 1 else code


def _checked(
    given: Options, models: list[Path | str], policy: Policy, baseline: Baseline | None
) -> CheckReport:
    import onnxshare
    from onnxshare.cli.progress import Steps

    with Steps("checking"):
        return onnxshare.check(
            models,
            policy=policy,
            select=split(given.select),
            ignore=split(given.ignore),
            warn=split(given.warn),
            baseline=baseline,
            baseline_ref=given.baseline_ref,
            changed_since=given.changed_since,
            fail_on=given.fail_on,
            max_findings=given.max_findings,
            samples=given.samples,
            provider=given.provider,
            **given.sizes.keywords(),
            run_limits=given.isolation.limits(),
            follow_symlinks=given.follow_symlinks,
            jobs=given.jobs,
            progress=counted,
        )


def _baseline(given: Options, policy: Policy) -> Baseline | None:
    """The baseline file that counts, read.

    Raises:
        UsageError: it is not a baseline, or there is none to be updated.
    """
    from onnxshare.checks.known_findings import read_baseline

    path = given.baseline or policy.baseline
    if given.update_baseline and given.write_baseline:
        raise UsageError("--write-baseline and --update-baseline do not go together", "give one")
    if given.update_baseline and path is None:
        raise UsageError("--update-baseline needs a baseline", "name it by --baseline FILE")
    if path is None or not (path.exists() or given.baseline or given.update_baseline):
        return None
    return read_baseline(path)


def _check_files(
    given: Options, reports: list[Path], models: Sequence[Path | str], policy: Policy
) -> None:
    """Make sure, before any work, that nothing that is read, and no model, is overwritten."""
    written = [*reports, *filter(None, [given.write_baseline])]
    if not written:
        return
    from onnxshare.checks.jobs import plan
    from onnxshare.io.save import check_distinct, check_output

    jobs = plan(models, policy)
    references = [job.limits.get("equivalent-to") for job in jobs]
    samples = [given.samples, *(job.samples for job in jobs)]
    read: dict[str, list[Any]] = {
        "a model that is checked": [job.source for job in jobs],
        "a model that is compared with": references,
        "read as samples": samples,
        "the policy": [policy.path],
    }
    check_distinct(written, {what: map(Path, filter(None, some)) for what, some in read.items()})
    check_distinct(reports, {"the baseline": filter(None, [given.baseline, policy.baseline])})
    for path in written:
        check_output(path, force=given.force, report=True)


def _finish(report: CheckReport, output: Format, reports: list[tuple[str, Path]]) -> int:
    """Print and write the reports, and return the exit code."""
    from onnxshare.io.atomic_write import replace_file
    from onnxshare.report.checks import render
    from onnxshare.report.checks.text import print_findings

    for words in report.notes:
        note(f"note: {words}")
    for model in report.unreadable:
        note(f"onnxshare: error: {model.error}")
    if output in ("full", "concise"):  # with colours where these are for a person
        print_findings(report, fixes=output == "full")
    else:
        write_utf8(render(report, output), commands=output == "github")
    for name, path in reports:
        replace_file(path, render(report, name))
    return report.exit_code


def _advise_baseline(report: CheckReport) -> None:
    from onnxshare.checks.run import needing_baseline

    codes = needing_baseline(report)
    if codes:
        note(
            f"note: {', '.join(codes)} {'judges' if len(codes) == 1 else 'judge'} nothing without "
            "a baseline; --write-baseline FILE writes one, --baseline FILE or the policy names it"
        )


def _write_baseline(report: CheckReport, path: Path) -> int:
    from onnxshare.checks.known_findings import write_baseline

    if report.unreadable:
        raise UsageError(f"{path}: not written, because a model could not be read", "fix it first")
    count = write_baseline(report, path)
    note(f"wrote {path}: {count} known finding{'' if count == 1 else 's'}")
    return 0


def _update_baseline(report: CheckReport, baseline: Baseline, policy: Policy) -> None:
    from onnxshare.checks.known_findings import update_baseline

    assert baseline.path is not None
    left, fixed = update_baseline(report, baseline, baseline.path, policy.root)
    note(
        f"wrote {baseline.path}: {left} known finding{'' if left == 1 else 's'}, {fixed} less "
        "than before"
    )


#: Variables that say what options say begin with this.
VARIABLES = "ONNXSHARE_"
_LISTS = ("SELECT", "IGNORE", "WARN")
_OTHER_VARIABLES = {VARIABLES + name for name in (*_LISTS, "DEBUG", "ZOO")}


def effective_policy(config: Path | None, *, isolated: bool) -> Policy:
    """The policy file that counts, with variables such as ONNXSHARE_MAX_PARAMS put over it.

    Raises:
        UsageError: it is not valid.
    """
    from onnxshare.checks.policy import Policy
    from onnxshare.checks.policy_file import find_policy, read_policy

    found = Policy() if isolated else find_policy()
    if config is not None:
        found = read_policy(config)
    return found if isolated else found.with_options(*_variables())


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


def _variables() -> tuple[dict[str, object], list[str], list[str], list[str]]:
    """What variables such as ONNXSHARE_MAX_PARAMS and ONNXSHARE_SELECT say."""
    given = {
        name.removeprefix(VARIABLES).lower().replace("_", "-"): value
        for name, value in os.environ.items()
        if name.startswith(VARIABLES) and value and name not in _OTHER_VARIABLES
    }
    limits: dict[str, object] = {name: text for name, text in given.items() if name in BY_OPTION}
    lists = [split([os.environ.get(VARIABLES + name, "")]) for name in _LISTS]
    return limits, lists[0], lists[1], lists[2]


def split(given: Sequence[str] | None) -> list[str]:
    """The words of options that take several, with commas or given several times."""
    return [word.strip() for text in given or () for word in text.split(",") if word.strip()]


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


def counted(reports: Iterable[ModelReport], count: int) -> Iterator[ModelReport]:
    """The same reports, and a word to the progress bar after each."""
    for done, report in enumerate(reports, 1):
        yield report
        progress.report("checking", done, count)
