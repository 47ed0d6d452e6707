"""`onnxshare diff`: what changed between two models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from onnxshare.cli import options


def command(
    a: Annotated[Path, typer.Argument(metavar="A", help="The model before.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="The model after.")],
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 1 if anything differs.")
    ] = False,
    every: Annotated[
        bool, typer.Option("--all", help="Show all rows, not the first 20 of each section.")
    ] = False,
    input_shape: options.InputShape = None,
    dim: options.Dim = None,
    follow_symlinks: options.FollowSymlinks = None,
    output: Annotated[
        Literal["table", "json"], typer.Option("--format", help="How to print the result.")
    ] = "table",
) -> int:
    """Show what changed between two models: totals, nodes, weights by content, inputs, outputs.

    Nothing is run: `onnxshare compare` says whether both still compute the same. Weights are
    found again under other names, in another order or shape.

    Exit code: 0, or with --exit-code 1 if anything differs; 2 if a file cannot be read.

    Example: onnxshare diff model.onnx model.fc-to-conv.onnx
    """
    import onnxshare
    from onnxshare.cli.progress import Bars

    models = [onnxshare.load(path, follow_symlinks=follow_symlinks) for path in (a, b)]
    with Bars() as bars:
        difference = onnxshare.diff(
            *models,
            input_shapes=options.input_shapes(input_shape),
            dims=options.dims(dim),
            progress=bars,
        )
    if output == "json":
        options.print_json(difference.to_dict())
    else:
        from onnxshare.report.diff import print_difference

        print_difference(difference, every=every)
    return int(exit_code and difference.differs)
