"""`onnxshare check`: hold models against limits, for CI."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from onnxshare.cli import common
from onnxshare.errors import UsageError

if TYPE_CHECKING:
    from onnxshare.checks.results import CheckReport

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
    in_process: common.InProcess = False,
    timeout: common.Timeout = None,
    memory_limit: common.MemoryLimit = None,
    input_shape: common.InputShape = None,
    dim: common.Dim = None,
    follow_symlinks: common.FollowSymlinks = None,
) -> int:
    """Check models against limits: exit 0 if all keep them, 1 on findings, 2 on bad input.

    Limits come from the options, else from variables such as
    ONNXSHARE_MAX_PARAMS, else from the policy file's table \\[check], under the
    same names. Without any, a few rules run that hold for every model.

    Example: onnxshare check models/ --max-params 5M --max-fc-share 50%
    """
    from onnxshare.cli import checking

    shapes, sizes = common.input_shapes(input_shape), common.dims(dim)
    reports = checking.report_files(report)
    policy = checking.policy(config, isolated=isolated)
    given: list[Path | str] = list(models or ())
    given = given or [entry.path for entry in policy.models] or [common.model_path(None)]
    if changed_since is not None:
        given = checking.only_changed(given, changed_since, policy)
        if not given:
            common.note(f"no model changed since {changed_since}")
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
        **checking.named_limits(limit),
    }
    import onnxshare
    from onnxshare.cli.progress import Steps

    with Steps("checking"):
        found = onnxshare.check(
            given,
            policy=policy.with_options(limits),
            select=checking.split(select),
            ignore=checking.split(ignore),
            warn=checking.split(warn),
            baseline=baseline,
            samples=samples,
            provider=provider,
            input_shapes=shapes,
            dims=sizes,
            run_limits=common.run_limits(in_process, timeout, memory_limit),
            follow_symlinks=follow_symlinks,
            jobs=jobs,
            progress=checking.counted,
        )
    return _finish(found, output, reports, write_baseline)


def _finish(
    report: CheckReport,
    output: Format,
    reports: list[tuple[str, Path]],
    write_baseline: Path | None,
) -> int:
    from onnxshare.cli import checking

    if write_baseline is None and checking.lacks_baseline(report):
        common.note(
            "note: RG501 judges nothing without a baseline; --write-baseline FILE writes one, "
            "--baseline FILE or the policy names it"
        )
    for model in report.unreadable:
        common.note(f"onnxshare: error: {model.error}")
    checking.print_report(report, output)
    for name, path in reports:
        checking.write_report(report, name, path)
    if write_baseline is None:
        return report.exit_code
    if report.unreadable:
        raise UsageError(
            f"{write_baseline}: not written, because a model could not be read", "mend it first"
        )
    return checking.write_known(report, write_baseline)
