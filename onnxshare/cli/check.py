"""`onnxshare check`: hold models against limits, for CI.

What `onnxshare check` does with its options: parse, merge, print, write; no logic of rules.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from onnxshare.cli import options
from onnxshare.cli.printing import note
from onnxshare.errors import UsageError
from onnxshare.support import progress

if TYPE_CHECKING:
    from onnxshare.checks.policy import Policy
    from onnxshare.checks.results import CheckReport, ModelReport


_LIMITS = "Limits"
_RULES = "Rules"
_BASELINE = "Baseline"
_REPORTS = "Reports"

Format = Literal["full", "concise", "json", "github", "sarif", "junit", "gitlab", "markdown"]


def _limit(metavar: str, text: str) -> typer.models.OptionInfo:
    info: typer.models.OptionInfo = typer.Option(
        metavar=metavar, help=text, rich_help_panel=_LIMITS, show_default=False
    )
    return info


def command(
    models: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[MODEL...]",
            help="Models, folders or globs. Left out: the models that the policy file names, "
            "or the only .onnx file of the current folder.",
            show_default=False,
        ),
    ] = None,
    max_params: Annotated[str | None, _limit("N", "The most parameters: 5000000 or 5M.")] = None,
    max_macs: Annotated[
        str | None, _limit("N", "The most multiply-accumulates per sample: 1.2G.")
    ] = None,
    max_file_size: Annotated[
        str | None, _limit("SIZE", "The largest file, external data included: 20MiB.")
    ] = None,
    max_activation_memory: Annotated[
        str | None, _limit("SIZE", "The most activation memory per sample: 16MiB.")
    ] = None,
    max_fc_share: Annotated[
        str | None,
        _limit(
            "SHARE",
            "The largest share of the parameters in fully connected layers: 0.5 or 50%.",
        ),
    ] = None,
    min_sharing_ratio: Annotated[
        str | None, _limit("RATIO", "How often a parameter must be used per sample, on average.")
    ] = None,
    equivalent_to: Annotated[
        Path | None, _limit("MODEL", "The model that each must be equivalent to.")
    ] = None,
    min_agreement: Annotated[
        str | None,
        _limit("SHARE", "The agreement that an approximate model must promise; 100% allows none."),
    ] = None,
    target: Annotated[
        str | None,
        _limit(
            "TARGET", "What must read it: 'onnxruntime 1.20' or 'opset <= 17, ir_version <= 8'."
        ),
    ] = None,
    max_regression: Annotated[
        str | None, _limit("SHARE", "How much worse than the baseline a model may be.")
    ] = None,
    limit: Annotated[
        list[str] | None,
        _limit("NAME=LIMIT", "Any limit that `onnxshare rules` lists. May be given several times."),
    ] = None,
    select: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RULES",
            help="Add rules with their default limits, by code, name or family: WS104,DP.",
            rich_help_panel=_RULES,
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(metavar="RULES", help="Leave rules out.", rich_help_panel=_RULES),
    ] = None,
    warn: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RULES",
            help="Report findings of these rules without failing.",
            rich_help_panel=_RULES,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The policy file. Left out: onnxshare.toml, or \\[tool.onnxshare] in "
            "pyproject.toml, of the current folder.",
            rich_help_panel=_RULES,
        ),
    ] = None,
    changed_since: Annotated[
        str | None,
        typer.Option(
            metavar="COMMIT",
            help="Check only the models that changed since this commit of git.",
            show_default=False,
        ),
    ] = None,
    isolated: Annotated[
        bool,
        typer.Option(
            "--isolated",
            help="Read neither policy files nor ONNXSHARE_ variables.",
            rich_help_panel=_RULES,
        ),
    ] = False,
    baseline: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Findings in this file are known: only new ones fail, and models must not get "
            "worse than it says.",
            rich_help_panel=_BASELINE,
        ),
    ] = None,
    write_baseline: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write what is found and measured as the baseline, and exit 0.",
            rich_help_panel=_BASELINE,
        ),
    ] = None,
    output: Annotated[
        Format,
        typer.Option("--format", help="How to print the report.", rich_help_panel=_REPORTS),
    ] = "full",
    report: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FORMAT=FILE",
            help="Also write the report to a file: sarif=check.sarif. May be given several times.",
            rich_help_panel=_REPORTS,
        ),
    ] = None,
    samples: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Inputs for --equivalent-to: a .npz file or a folder."),
    ] = None,
    provider: Annotated[
        str, typer.Option(metavar="NAME", help="Where --equivalent-to runs: auto, cpu or cuda.")
    ] = "auto",
    jobs: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="How many models at once. Left out: one per processor."
        ),
    ] = None,
    in_process: options.InProcess = False,
    timeout: options.Timeout = None,
    memory_limit: options.MemoryLimit = None,
    input_shape: options.InputShape = None,
    dim: options.Dim = None,
    follow_symlinks: options.FollowSymlinks = None,
) -> int:
    """Check models against limits: exit 0 if all keep them, 1 on findings, 2 on bad input.

    Limits come from the options, else from variables such as
    ONNXSHARE_MAX_PARAMS, else from the policy file's table \\[check], under the
    same names. Without any, a few rules run that hold for every model.

    Example: onnxshare check models/ --max-params 5M --max-fc-share 50%
    """

    shapes, sizes = options.input_shapes(input_shape), options.dims(dim)
    reports = report_files(report)
    policy = effective_policy(config, isolated=isolated)
    given: list[Path | str] = list(models or ())
    given = given or [entry.path for entry in policy.models] or [options.model_path(None)]
    if changed_since is not None:
        given = only_changed(given, changed_since, policy)
        if not given:
            options.note(f"no model changed since {changed_since}")
            return 0
    limits = {
        "max-params": max_params,
        "max-macs": max_macs,
        "max-file-size": max_file_size,
        "max-activation-memory": max_activation_memory,
        "max-fc-share": max_fc_share,
        "min-sharing-ratio": min_sharing_ratio,
        "equivalent-to": None if equivalent_to is None else str(equivalent_to),
        "min-agreement": min_agreement,
        "target": target,
        "max-regression": max_regression,
        **named_limits(limit),
    }
    import onnxshare
    from onnxshare.cli.progress import Steps

    with Steps("checking"):
        found = onnxshare.check(
            given,
            policy=policy.with_options(limits),
            select=split(select),
            ignore=split(ignore),
            warn=split(warn),
            baseline=baseline,
            samples=samples,
            provider=provider,
            input_shapes=shapes,
            dims=sizes,
            run_limits=options.run_limits(in_process, timeout, memory_limit),
            follow_symlinks=follow_symlinks,
            jobs=jobs,
            progress=counted,
        )
    return _finish(found, output, reports, write_baseline)


def _finish(
    report: CheckReport,
    output: Format,
    reports: list[tuple[str, Path]],
    write_baseline: Path | None,
) -> int:

    if write_baseline is None and lacks_baseline(report):
        options.note(
            "note: RG501 judges nothing without a baseline; --write-baseline FILE writes one, "
            "--baseline FILE or the policy names it"
        )
    for model in report.unreadable:
        options.note(f"onnxshare: error: {model.error}")
    print_report(report, output)
    for name, path in reports:
        write_report(report, name, path)
    if write_baseline is None:
        return report.exit_code
    if report.unreadable:
        raise UsageError(
            f"{write_baseline}: not written, because a model could not be read", "mend it first"
        )
    return write_known(report, write_baseline)


#: Variables that say what options say begin with this.
VARIABLES = "ONNXSHARE_"


def effective_policy(config: Path | None, *, isolated: bool) -> Policy:
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
