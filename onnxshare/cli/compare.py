"""`onnxshare compare`: are two models the same function?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from onnxshare.cli import options
from onnxshare.errors import UsageError

_LATENCY = "Latency"


def command(
    a: Annotated[Path, typer.Argument(metavar="A", help="The model that is right.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="The model to be judged by it.")],
    samples: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|FOLDER",
            help="Inputs: an .npz with the inputs' names as keys (and 'labels', if known), an "
            ".npy, ONNX test data (.pb), an image, or a folder of these. Left out: random ones.",
            show_default=False,
        ),
    ] = None,
    provider: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Where to run: auto (CUDA if it works, else the CPU), cuda, cpu, or an "
            "ONNX Runtime provider.",
        ),
    ] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Of the random inputs and the noise.")] = 0,
    count: Annotated[int, typer.Option(min=1, help="How many random inputs.")] = 32,
    latency: Annotated[
        bool,
        typer.Option(
            "--latency",
            help="Also time both models in turn, and say which is faster if that can be shown.",
            rich_help_panel=_LATENCY,
        ),
    ] = False,
    batch: Annotated[
        str | None,
        typer.Option(
            metavar="N,…",
            help="Samples per run at which they are timed, such as 1,8. Left out: 1, or the "
            "number that the models fix.",
            rich_help_panel=_LATENCY,
            show_default=False,
        ),
    ] = None,
    normalize: options.Normalize = "0-255",
    layout: options.Layout = "auto",
    resize: options.Resize = "",
    in_process: options.InProcess = False,
    timeout: options.Timeout = None,
    memory_limit: options.MemoryLimit = None,
    follow_symlinks: options.FollowSymlinks = None,
    output: Annotated[
        Literal["table", "json"], typer.Option("--format", help="How to print the result.")
    ] = "table",
) -> None:
    """Run two models on the same inputs and judge whether they are the same function.

    The tolerance is model A's own rounding noise, measured per output channel. Verdicts: identical,
    equivalent, approximate (a declared approximation that keeps its promise), different,
    inconclusive (the outputs hardly move with the inputs), not run.

    Exit code: 0 for the first three, 1 for the others, 2 if a file cannot be read.

    Example: onnxshare compare model.onnx model.fc-to-conv.onnx --samples test.npz
    """
    from onnxshare.cli.progress import Steps
    from onnxshare.comparison.compare import compare
    from onnxshare.io.load import load
    from onnxshare.samples.samples import ImageOptions

    if batch is not None and not latency:
        raise UsageError("--batch needs --latency", "add it")
    left, right = (load(path, follow_symlinks=follow_symlinks) for path in (a, b))
    with Steps("comparing"):
        comparison = compare(
            left,
            right,
            samples=samples,
            provider=provider,
            seed=seed,
            count=count,
            images=ImageOptions(normalize, layout, resize),
            latency=_batches(batch) if latency else None,
            run_limits=options.run_limits(in_process, timeout, memory_limit),
        )
    if output == "json":
        options.print_json(comparison.to_dict())
    else:
        from onnxshare.report.compare import print_comparison

        print_comparison(comparison)
    if not comparison.passed:
        raise typer.Exit(1)


def _batches(text: str | None) -> list[int]:
    if text is None:
        return []
    words = text.split(",")
    if not all(word.strip().isdecimal() and 0 < int(word) < 2**31 for word in words):
        raise UsageError(f"--batch '{text}' is no list of numbers", "write it like 1,8")
    return [int(word) for word in words]
