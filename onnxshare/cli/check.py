"""`onnxshare check`: hold models against limits, for CI."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from onnxshare.cli import common

_LIMITS = "Limits"


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
    max_params: Annotated[
        str | None,
        typer.Option(
            metavar="N", help="The most parameters: 5000000 or 5M.", rich_help_panel=_LIMITS
        ),
    ] = None,
    max_fc_share: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE",
            help="The largest share of the parameters in fully connected layers: 0.5 or 50%.",
            rich_help_panel=_LIMITS,
        ),
    ] = None,
    min_sharing_ratio: Annotated[
        str | None,
        typer.Option(
            metavar="RATIO",
            help="How often a parameter must be used per sample, on average.",
            rich_help_panel=_LIMITS,
        ),
    ] = None,
    max_macs: Annotated[
        str | None,
        typer.Option(
            metavar="N",
            help="The most multiply-accumulates per sample: 1.2G.",
            rich_help_panel=_LIMITS,
        ),
    ] = None,
    equivalent_to: Annotated[
        Path | None,
        typer.Option(
            metavar="MODEL",
            help="The model that each must be equivalent to.",
            rich_help_panel=_LIMITS,
        ),
    ] = None,
    samples: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Inputs for --equivalent-to: a .npz file or a folder."),
    ] = None,
    provider: Annotated[
        str, typer.Option(metavar="NAME", help="Where --equivalent-to runs: auto, cpu or cuda.")
    ] = "auto",
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The policy file. Left out: onnxshare.toml, or \\[tool.onnxshare] in "
            "pyproject.toml, of the current folder.",
        ),
    ] = None,
    input_shape: common.InputShape = None,
    dim: common.Dim = None,
    follow_symlinks: common.FollowSymlinks = None,
    output: Annotated[
        Literal["table", "json"], typer.Option("--format", help="How to print the report.")
    ] = "table",
) -> int:
    """Check models against limits: exit 0 if all keep them, 1 on findings, 2 on bad input.

    Limits come from the options, or from the policy file's table \\[check] under the same
    names; options come first.

    Example: onnxshare check models/ --max-params 5M --max-fc-share 50%
    """
    from onnxshare.checks.policy_file import find_policy, read_policy

    shapes, dims = common.input_shapes(input_shape), common.dims(dim)
    import onnxshare

    policy = find_policy() if config is None else read_policy(config)
    given: list[Path | str] = list(models or ())
    given = given or [entry.path for entry in policy.models] or [common.model_path(None)]
    report = onnxshare.check(
        given,
        policy=policy,
        max_params=max_params,
        max_fc_share=max_fc_share,
        min_sharing_ratio=min_sharing_ratio,
        max_macs=max_macs,
        equivalent_to=equivalent_to,
        samples=samples,
        provider=provider,
        input_shapes=shapes,
        dims=dims,
        follow_symlinks=follow_symlinks,
    )
    for model in report.unreadable:
        common.note(f"onnxshare: error: {model.error}")
    if output == "json":
        common.print_json(report.to_dict())
    else:
        from onnxshare.report.findings import print_findings

        print_findings(report)
    return report.exit_code
