"""`onnxshare inspect`: where the weights sit and how often each is used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from onnxshare.cli import options
from onnxshare.cli.inspect_run import By, Files, Format, Sort, Wanted, show
from onnxshare.cli.options import option
from onnxshare.errors import UsageError

_ROWS = "Rows and columns"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `onnxshare inspect` takes."""

    model: options.OneModel = None
    output: Format = option("table", "How to print the report.", "--format")
    by: By = option(
        "node",
        "What a row is: a node, a stored weight, an operator, a module of the source "
        "program (scope), or a layer, as summaries in Keras show them.",
        panel=_ROWS,
    )
    columns: str | None = option(
        None,
        "Columns by name, such as name,op_type,macs; a wrong name lists all.",
        metavar="A,B,C",
        panel=_ROWS,
        autocompletion=options.complete_columns,
    )
    summary: bool = option(False, "Only totals and notes.", panel=_ROWS)
    every: bool = option(
        False,
        "Show every node, those without parameters and MACs and those of repeated blocks too.",
        "--all",
        panel=_ROWS,
    )
    sort: Sort = option(
        "graph", "The order of the rows: as in the graph, or largest first.", panel=_ROWS
    )
    top: int | None = option(None, "Show only the first N rows.", metavar="N", panel=_ROWS, min=1)
    depth: int | None = option(
        None,
        "With --by scope: how many levels of modules to show; 2 if left out.",
        metavar="N",
        panel=_ROWS,
        min=1,
    )
    hashes: bool = option(
        False, "Read and hash all weights; show which hold the same, and what it costs.", "--hash"
    )
    html: options.Html = None
    plot: Path | None = option(
        None, "Draw where the weights are (a treemap), as .svg or .png.", metavar="FILE"
    )
    netron: Path | None = option(
        None,
        "Write a copy of the structure, without weights, whose nodes carry these figures as "
        "metadata, which Netron shows.",
        metavar="FILE",
    )
    out: options.Out = None
    force: bool = option(False, "Overwrite files that are not reports, too.")
    sizes: options.Sizes
    follow_symlinks: options.FollowSymlinks = None


def command(given: Options) -> None:
    """Show where a model's weights sit and how often each is used in one inference.

    One row per layer; then, as text, where the weights are that are used only once, and which
    command would change that. Counts are per sample. What is chosen here is what tables, CSV and
    Markdown show; JSON and HTML always hold everything.

    Exit code: 0; 2 if the file cannot be read.

    Example: onnxshare inspect model.onnx --sort params --top 10
    """
    chosen = None if given.columns is None else tuple(given.columns.split(","))
    wanted = Wanted(
        given.by, chosen, given.summary, given.every, given.sort, given.top, given.depth
    )
    _check(wanted)
    files = Files(given.html, given.plot, given.netron)
    path = options.model_path(given.model)
    files.check(path, given.out, force=given.force)
    with options.report_to(given.out, read={}, force=given.force):
        show(
            path,
            given.output,
            wanted,
            files=files,
            hashes=given.hashes,
            **given.sizes.keywords(several=True),
            follow_symlinks=given.follow_symlinks,
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
