"""`onnxshare diff`: what changed between two models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from onnxshare.cli import options
from onnxshare.cli.options import argument, option


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `onnxshare diff` takes."""

    a: Path = argument(..., "The model before.", metavar="A")
    b: Path = argument(..., "The model after.", metavar="B")
    exit_code: bool = option(False, "Exit with 1 if anything differs.")
    every: bool = option(False, "Show all rows, not the first 20 of each section.", "--all")
    sizes: options.Sizes
    follow_symlinks: options.FollowSymlinks = None
    output: options.TableOrJson = "table"
    out: options.Out = None
    force: options.Force = False


def command(given: Options) -> int:
    """Show what changed between two models: totals, nodes, weights by content, inputs, outputs.

    Nothing is run: `onnxshare compare` says whether both still compute the same. Weights are
    found again under other names, in another order or shape.

    Exit code: 0, or with --exit-code 1 if anything differs; 2 if a file cannot be read.

    Example: onnxshare diff model.onnx model.fc-to-conv.onnx
    """
    import onnxshare
    from onnxshare.cli.progress import Bars

    read = {"A": [given.a], "B": [given.b]}
    with options.report_to(given.out, read=read, force=given.force):
        models = [
            onnxshare.load(path, follow_symlinks=given.follow_symlinks)
            for path in (given.a, given.b)
        ]
        with Bars() as bars:
            difference = onnxshare.diff(*models, **given.sizes.keywords(), progress=bars)
        if given.output == "json":
            options.print_json(difference.to_dict())
        else:
            from onnxshare.report.diff import print_difference

            print_difference(difference, every=given.every)
    return int(given.exit_code and difference.differs)
