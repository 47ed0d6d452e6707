"""What `onnxshare inspect` does once its command line is parsed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from onnxshare.cli.formats import Format, Wanted
from onnxshare.cli.printing import note, print_json
from onnxshare.support.garbage_collection import paused

if TYPE_CHECKING:
    from onnxshare.analysis.results import Inspection
    from onnxshare.io.load import Model
    from onnxshare.shapes.inference import InputShapes
    from onnxshare.shapes.input_sizes import Dims


@paused()
def show(
    path: Path,
    output: Format,
    wanted: Wanted | None = None,
    *,
    hashes: bool = False,
    shapes: InputShapes | None = None,
    dims: Dims | None = None,
    follow_symlinks: Path | None = None,
) -> None:
    """Inspect a model and print the report; the options are those of the command."""
    import onnxshare

    model = onnxshare.load(path, follow_symlinks=follow_symlinks)
    if hashes:
        report = _hashed(model, shapes, dims)
    else:
        report = onnxshare.inspect(model, input_shapes=shapes, dims=dims)
    if output == "json":
        _ = report.nodes, report.weights  # what they are made from goes before they are printed
        print_json(report.records())
    else:
        _print(report, output, wanted or Wanted())
    for warning in report.warnings:
        note(f"warning: {warning}")


def _hashed(model: Model, shapes: InputShapes | None, dims: Dims | None) -> Inspection:
    import onnxshare
    from onnxshare.cli.progress import Bars

    with Bars() as bars:
        return onnxshare.inspect(
            model,
            input_shapes=shapes,
            dims=dims,
            hashes=True,
            progress=lambda done, total: bars(model.name, done, total),
        )


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
        sys.stdout.write(inspect.as_csv(report, view))
    elif output == "markdown":
        sys.stdout.write(inspect.as_markdown(report, view))
    elif output == "html":
        from onnxshare.report.html import as_html

        sys.stdout.write(as_html(report, view))
    else:
        inspect.print_table(report, view)
