"""`onnxshare family`: what several models share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxshare.cli import options


def command(
    models: Annotated[
        list[Path], typer.Argument(metavar="MODEL...", help="The models, two or more.")
    ],
    every: Annotated[
        bool, typer.Option("--all", help="List all weights, also those of one model alone.")
    ] = False,
    follow_symlinks: options.FollowSymlinks = None,
    output: options.TableOrJson = "table",
) -> int:
    """Show which weights several models share, and how many times over they are held.

    For the children of an architecture search, fine-tuned variants, or a model in parts. Weights
    are compared by content, whatever their names.

    Exit code: 0; 2 if a file cannot be read.

    Example: onnxshare family models/enas/*.onnx
    """
    import onnxshare
    from onnxshare.cli.progress import Bars

    loaded = [onnxshare.load(path, follow_symlinks=follow_symlinks) for path in models]
    with Bars() as bars:
        found = onnxshare.family(loaded, progress=bars)
    if output == "json":
        options.print_json(found.to_dict())
    else:
        from onnxshare.report.diff import print_family

        print_family(found, every=every)
    return 0
