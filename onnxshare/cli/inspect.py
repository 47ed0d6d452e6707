"""`onnxshare inspect`: where the weights sit and how often each is used."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from onnxshare.cli import common
from onnxshare.cli.formats import Format
from onnxshare.cli.show import show


def command(
    model: common.OneModel = None,
    output: Annotated[
        Format,
        typer.Option("--format", help="How to print the report."),
    ] = "table",
    every: Annotated[
        bool, typer.Option("--all", help="Show nodes without parameters and MACs too.")
    ] = False,
    sort: Annotated[
        Literal["graph", "params", "macs", "sharing"],
        typer.Option(help="The order of the rows: as in the graph, or largest first."),
    ] = "graph",
    top: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Show only the first N rows.", show_default=False),
    ] = None,
    input_shape: common.InputShape = None,
    dim: common.Dim = None,
    follow_symlinks: common.FollowSymlinks = None,
) -> None:
    """Show where a model's weights sit and how often each is used in one inference.

    One row per layer; then, in words, where the weights are that are used only once, and which
    command would change that. Counts are per sample.

    Example: onnxshare inspect model.onnx --sort params --top 10
    """
    show(
        common.model_path(model),
        output,
        every=every,
        sort=sort,
        top=top,
        shapes=common.input_shapes(input_shape),
        dims=common.dims(dim),
        follow_symlinks=follow_symlinks,
    )
