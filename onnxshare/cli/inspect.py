"""`onnxshare inspect`: where the weights sit and how often each is used."""

from __future__ import annotations

from typing import Annotated

import typer

from onnxshare.cli import options
from onnxshare.cli.inspect_run import By, Format, Sort, Wanted, show
from onnxshare.errors import UsageError

_ROWS = "Rows and columns"


def command(
    model: options.OneModel = None,
    output: Annotated[
        Format,
        typer.Option("--format", help="How to print the report."),
    ] = "table",
    by: Annotated[
        By,
        typer.Option(
            "--by",
            help="What a row is: a node, a stored weight, an operator, a module of the source "
            "program (scope), or a layer, as summaries in Keras show them.",
            rich_help_panel=_ROWS,
        ),
    ] = "node",
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,C",
            help="Columns by name, such as name,op_type,macs; a wrong name lists all.",
            show_default=False,
            rich_help_panel=_ROWS,
        ),
    ] = None,
    summary: Annotated[
        bool, typer.Option("--summary", help="Only totals and notes.", rich_help_panel=_ROWS)
    ] = False,
    every: Annotated[
        bool,
        typer.Option(
            "--all", help="Show nodes without parameters and MACs too.", rich_help_panel=_ROWS
        ),
    ] = False,
    sort: Annotated[
        Sort,
        typer.Option(
            help="The order of the rows: as in the graph, or largest first.",
            rich_help_panel=_ROWS,
        ),
    ] = "graph",
    top: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Show only the first N rows.",
            show_default=False,
            rich_help_panel=_ROWS,
        ),
    ] = None,
    depth: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="With --by scope: how many levels of modules to show; 2 if left out.",
            show_default=False,
            rich_help_panel=_ROWS,
        ),
    ] = None,
    hashes: Annotated[
        bool,
        typer.Option(
            "--hash", help="Read and hash all weights; show which hold the same, and what it costs."
        ),
    ] = False,
    input_shape: options.InputShape = None,
    dim: options.Dim = None,
    follow_symlinks: options.FollowSymlinks = None,
) -> None:
    """Show where a model's weights sit and how often each is used in one inference.

    One row per layer; then, in words, where the weights are that are used only once, and which
    command would change that. Counts are per sample. What is chosen here is what tables, CSV,
    Markdown and HTML show; JSON always holds everything.

    Example: onnxshare inspect model.onnx --sort params --top 10
    """
    chosen = None if columns is None else tuple(columns.split(","))
    wanted = Wanted(by, chosen, summary, every, sort, top, depth)
    _check(wanted)
    show(
        options.model_path(model),
        output,
        wanted,
        hashes=hashes,
        shapes=options.input_shapes(input_shape),
        dims=options.dims(dim),
        follow_symlinks=follow_symlinks,
    )


def _check(wanted: Wanted) -> None:
    """Refuse options that would be ignored, before any work is done."""
    if wanted.summary and wanted != Wanted(summary=True):
        raise UsageError(
            "--summary shows no rows", "leave out --by, --columns, --all, --sort, --top and --depth"
        )
    if wanted.depth is not None and wanted.by != "scope":
        raise UsageError("--depth counts levels of modules", "give it with --by scope")
    if wanted.columns is not None:
        from onnxshare.report.inspect_columns import choose

        choose(wanted.by, wanted.columns)
