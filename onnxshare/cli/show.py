"""What `onnxshare inspect` does once its command line is parsed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from onnxshare.cli.formats import Format
from onnxshare.cli.printing import note, print_json

if TYPE_CHECKING:
    from onnxshare.named_sizes import Dims
    from onnxshare.shapes import InputShapes


def show(
    path: Path,
    output: Format,
    *,
    every: bool = False,
    sort: str = "graph",
    top: int | None = None,
    shapes: InputShapes | None = None,
    dims: Dims | None = None,
    follow_symlinks: Path | None = None,
) -> None:
    """Inspect a model and print the report; the options are those of the command."""
    import onnxshare

    report = onnxshare.inspect(
        onnxshare.load(path, follow_symlinks=follow_symlinks), input_shapes=shapes, dims=dims
    )
    if output == "json":
        print_json(report.to_dict())
    else:
        from onnxshare.report import inspection

        chosen = inspection.rows(report, every=every, sort=sort, top=top)
        if output == "csv":
            sys.stdout.write(inspection.as_csv(chosen))
        elif output == "markdown":
            sys.stdout.write(inspection.as_markdown(report, chosen))
        else:
            inspection.print_table(report, chosen)
    for warning in report.warnings:
        note(f"warning: {warning}")
