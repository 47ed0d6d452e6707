"""What `onnxshare inspect` does once its command line is parsed: what it prints, and how."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from onnxshare.cli.printing import note, print_json, write_page
from onnxshare.cli.streams import write_utf8
from onnxshare.support.garbage_collection import paused

if TYPE_CHECKING:
    from onnxshare.analysis.results import Inspection
    from onnxshare.io.load import Model
    from onnxshare.shapes.inference import InputShapes
    from onnxshare.shapes.input_sizes import ManyDims


Format = Literal["table", "json", "csv", "markdown", "html"]

#: The same, to look through.
FORMATS: tuple[Format, ...] = ("table", "json", "csv", "markdown", "html")

By = Literal["node", "weight", "op", "scope", "layer"]

Sort = Literal["graph", "params", "macs", "sharing"]


@dataclass(frozen=True)
class Wanted:
    """What of a report is printed; JSON always holds everything.

    Attributes:
        by: what a row is.
        columns: names of columns; None for the usual ones.
        summary: the totals instead of rows.
        every: nodes without parameters and MACs too.
        sort: the order of the rows.
        top: so many rows only.
        depth: levels of modules; None for the usual number.
    """

    by: By = "node"
    columns: tuple[str, ...] | None = None
    summary: bool = False
    every: bool = False
    sort: Sort = "graph"
    top: int | None = None
    depth: int | None = None


@dataclass(frozen=True)
class Files:
    """Files that are written in addition to what is printed; None for those that are not.

    Attributes:
        html: the page.
        plot: the treemap.
        netron: the copy of the structure with our figures.
    """

    html: Path | None = None
    plot: Path | None = None
    netron: Path | None = None

    def check(self, model: Path, out: Path | None, *, force: bool) -> None:
        """Make sure, before any work, that they can be written, and over nothing that is read.

        Args:
            model: the model that is read.
            out: where the report goes, or None.
            force: overwrite what is there.

        Raises:
            OutputError: one cannot be written, or must not be overwritten.
            UsageError: the ending of the picture is neither .svg nor .png.
        """
        named = {self.plot: False, self.netron: False, self.html: True, out: True}
        outputs = [path for path in (out, self.html, self.plot, self.netron) if path is not None]
        if not outputs:
            return
        from onnxshare.io.save import check_distinct, check_output

        if self.plot is not None:
            from onnxshare.report.plot.picture import check_format

            check_format(self.plot)
        check_distinct(outputs, {"the model itself": [model]})
        for path in outputs:
            check_output(path, force=force, report=named[path])

    def write(self, report: Inspection, model: Model) -> None:
        """Write those that were named."""
        if self.html is not None:
            from onnxshare.report.page.inspect import as_html

            write_page(self.html, as_html(report))
        if self.plot is not None:
            from onnxshare.report.page.charts import standalone
            from onnxshare.report.plot.picture import save

            save(standalone(report), self.plot)
            note(f"drew {self.plot}")
        if self.netron is not None:
            from onnxshare.report.netron import write_structure

            write_structure(report, model, self.netron)
            note(f"wrote {self.netron}: a copy to look at, without weights")


@paused()
def show(
    path: Path,
    output: Format,
    wanted: Wanted | None = None,
    *,
    files: Files | None = None,
    hashes: bool = False,
    input_shapes: InputShapes | None = None,
    dims: ManyDims | None = None,
    follow_symlinks: Path | None = None,
) -> None:
    """Inspect a model and print the report; the options are those of the command."""
    import onnxshare
    from onnxshare.support.plugins import stdout_kept

    model = onnxshare.load(path, follow_symlinks=follow_symlinks)
    find = _hashed if hashes else onnxshare.inspect
    with stdout_kept():
        report = find(model, input_shapes=input_shapes, dims=dims)
    if output == "json":
        _ = report.nodes, report.weights  # what they are made from goes before they are printed
        print_json(report.records())
    else:
        _print(report, output, wanted or Wanted())
    if files is not None:
        files.write(report, model)
    for warning in report.warnings:
        note(f"warning: {warning}")


def _hashed(model: Model, **sizes: Any) -> Inspection:
    import onnxshare
    from onnxshare.cli.progress import Bars

    with Bars() as bars:
        return onnxshare.inspect(model, **sizes, hashes=True, progress=partial(bars, model.name))


def _print(report: Inspection, output: Format, wanted: Wanted) -> None:
    from onnxshare.report import inspect, inspect_views

    view = None
    if not wanted.summary:
        view = inspect_views.make_view(
            report,
            wanted.by,
            columns=wanted.columns,
            every=wanted.every,
            sort=wanted.sort,
            top=wanted.top,
            depth=inspect_views.DEPTH if wanted.depth is None else wanted.depth,
        )
    if output == "csv":
        write_utf8(inspect.as_csv(report, view))
    elif output == "markdown":
        write_utf8(inspect.as_markdown(report, view))
    elif output == "html":
        from onnxshare.report.page.inspect import as_html

        write_utf8(as_html(report))
    else:
        inspect.print_table(report, view)
