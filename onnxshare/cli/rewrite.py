"""`onnxshare rewrite`: turn unshared layers into shared ones, and prove what changed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from onnxshare.cli import options
from onnxshare.errors import UsageError

_REWRITES = "Rewrites"
_APPROXIMATE = "Approximation"


def command(
    model: options.OneModel = None,
    fc_to_gap: Annotated[
        bool,
        typer.Option(
            "--fc-to-gap",
            help="FC after convolutions → global average pooling and a small FC.",
            rich_help_panel=_REWRITES,
        ),
    ] = False,
    fc_to_conv: Annotated[
        bool,
        typer.Option(
            "--fc-to-conv",
            help="FC after convolutions → the convolution that equals it. Exact.",
            rich_help_panel=_REWRITES,
        ),
    ] = False,
    conv_to_fc: Annotated[
        bool,
        typer.Option(
            "--conv-to-fc",
            help="Convolution over its whole map → the FC that equals it. Exact.",
            rich_help_panel=_REWRITES,
        ),
    ] = False,
    share: Annotated[
        bool,
        typer.Option(
            "--share",
            help="Equal stored tensors, and transposed copies → one tensor. Exact.",
            rich_help_panel=_REWRITES,
        ),
    ] = False,
    fold_batchnorm: Annotated[
        bool,
        typer.Option(
            "--fold-batchnorm",
            help="BatchNormalization → weights and bias of the layer before it. Exact.",
            rich_help_panel=_REWRITES,
        ),
    ] = False,
    global_pool: Annotated[
        bool,
        typer.Option(
            "--global-pool",
            help="Average pooling over the whole map → GlobalAveragePool. Exact.",
            rich_help_panel=_REWRITES,
        ),
    ] = False,
    pool_first: Annotated[
        bool,
        typer.Option(
            "--pool-first",
            help="1×1 convolution, then global average pooling → pooling first. Exact.",
            rich_help_panel=_REWRITES,
        ),
    ] = False,
    plugins: Annotated[
        list[str] | None,
        typer.Option(
            "--rewrite",
            metavar="NAME",
            help="Any rewrite by name, those of installed packages included.",
            rich_help_panel=_REWRITES,
            show_default=False,
        ),
    ] = None,
    fully_convolutional: Annotated[
        bool,
        typer.Option(
            "--fully-convolutional",
            help="With --fc-to-conv: accept larger inputs and return a map of outputs.",
            rich_help_panel=_REWRITES,
        ),
    ] = False,
    pool_outputs: Annotated[
        bool,
        typer.Option(
            "--pool-outputs",
            help="With --fully-convolutional: average each map to one answer.",
            rich_help_panel=_REWRITES,
        ),
    ] = False,
    node: Annotated[
        str,
        typer.Option(
            metavar="PATTERN",
            help="Leave sites alone whose node's name does not match, such as 'fc*'.",
            rich_help_panel=_REWRITES,
            show_default=False,
        ),
    ] = "*",
    approximate: Annotated[
        bool,
        typer.Option(
            "--approximate",
            help="Allow changes that are not exact, fitted to --samples.",
            rich_help_panel=_APPROXIMATE,
        ),
    ] = False,
    method: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="With --fc-to-gap, the small head to make: gap, grid:K, mask:R, depthwise, "
            "collapse, stack:R, collapse+mask:R, mlp:H+separable:K … or auto, the cheapest that "
            "keeps a promise.",
            rich_help_panel=_APPROXIMATE,
            show_default=False,
        ),
    ] = "",
    keep: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE",
            help="Promise that this share of the samples keeps its class, such as 99%.",
            rich_help_panel=_APPROXIMATE,
            show_default=False,
        ),
    ] = None,
    max_error: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE",
            help="For outputs that are no classes: promise a relative error of at most this.",
            rich_help_panel=_APPROXIMATE,
            show_default=False,
        ),
    ] = None,
    objective: Annotated[
        Literal["params", "macs", "bytes", "latency"],
        typer.Option(
            help="With --method auto, what the head shall be cheapest in.",
            rich_help_panel=_APPROXIMATE,
        ),
    ] = "params",
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="With --method auto, draw what was tried: parameters against what they keep, as "
            ".svg or .png.",
            rich_help_panel=_APPROXIMATE,
            show_default=False,
        ),
    ] = None,
    samples: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|FOLDER",
            help="Real inputs: an .npz, an .npy, an image or a folder of these. Exact changes are "
            "compared on them; approximations are fitted to three quarters of them and "
            "measured on the rest.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Where to write. Left out: MODEL.REWRITE.onnx beside the model.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite the output if it exists.")
    ] = False,
    diff: Annotated[
        bool, typer.Option("--diff", help="Show which nodes went and which came.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Do everything but write the file.")
    ] = False,
    no_validate: Annotated[
        bool,
        typer.Option(
            "--no-validate",
            help="Run neither model: write exact changes after a check of moved weights alone. The "
            "output and the file say so.",
        ),
    ] = False,
    provider: Annotated[
        str, typer.Option(metavar="NAME", help="Where to run: auto, cpu, cuda or a provider.")
    ] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of random inputs and held-out samples.")] = 0,
    normalize: options.Normalize = "0-255",
    layout: options.Layout = "auto",
    resize: options.Resize = "",
    in_process: options.InProcess = False,
    timeout: options.Timeout = None,
    memory_limit: options.MemoryLimit = None,
    input_shape: options.InputShape = None,
    dim: options.Dim = None,
    follow_symlinks: options.FollowSymlinks = None,
    output: Annotated[
        Literal["table", "json"], typer.Option("--format", help="How to print the report.")
    ] = "table",
) -> None:
    """Rewrite a model so that its weights are shared, and prove what that changed.

    Both models are run on the same inputs, and nothing is written unless the comparison is
    passed. The input is never changed.

    Example: onnxshare rewrite model.onnx --fc-to-gap --approximate --samples images.npz
    """
    flags = {
        "share": share,
        "fold-batchnorm": fold_batchnorm,
        "global-pool": global_pool,
        "pool-first": pool_first,
        "fc-to-gap": fc_to_gap,
        "fc-to-conv": fc_to_conv,
        "conv-to-fc": conv_to_fc,
    }
    names = [name for name, wanted in flags.items() if wanted] + (plugins or [])
    path = options.model_path(model)
    shapes, dims = options.input_shapes(input_shape), options.dims(dim)
    if not names:
        raise UsageError("no rewrite was asked for", f"give one or more of --{', --'.join(flags)}")
    if path == Path("-") and out is None and not dry_run:
        raise UsageError("a model from standard input has no folder", "name the output with -o")
    target = out or path.with_name(f"{path.stem}.{'+'.join(names)}.onnx")
    from onnxshare.io.save import check_output

    options.check_distinct(path, target)
    if not dry_run and path.is_file():
        check_output(target, force=force)
    if plot is not None:
        _check_plot(plot, method, force=force)
    import onnxshare
    from onnxshare.cli.progress import Steps
    from onnxshare.report import rewrite
    from onnxshare.samples.samples import ImageOptions

    source = onnxshare.load(path, follow_symlinks=follow_symlinks)
    options.check_spared(source, target)
    with Steps("rewriting"):
        result = onnxshare.rewrite(
            source,
            names,
            approximate=approximate,
            samples=samples,
            fully_convolutional=fully_convolutional,
            pool_outputs=pool_outputs,
            node=node,
            provider=provider,
            seed=seed,
            validate=not no_validate,
            input_shapes=shapes,
            dims=dims,
            run_limits=options.run_limits(in_process, timeout, memory_limit),
            images=ImageOptions(normalize, layout, resize),
            method=method,
            keep=options.share("--keep", keep),
            max_error=options.share("--max-error", max_error),
            objective=objective,
        )
    written = None
    if result.passed and not dry_run:
        written = (target, result.save(target, force=force))
    for warning in result.warnings:
        options.note(f"warning: {warning}")
    drawn = plot is not None and rewrite.draw(result, plot)
    if output == "json":
        options.print_json({**result.to_dict(), "written": str(target) if written else None})
    else:
        rewrite.print_result(result, written, diff=diff)
    if plot is not None:
        options.note(f"drew {plot}" if drawn else f"{plot}: not drawn, as no search came to an end")
    if not result.passed:
        raise typer.Exit(1)


def _check_plot(path: Path, method: str, *, force: bool) -> None:
    """Make sure, before any work, that the picture can be drawn."""
    from onnxshare.io.save import check_output
    from onnxshare.report.plot.picture import check_format

    if method != "auto":
        raise UsageError("--plot shows what a search tried", "add --method auto --keep 99%")
    check_format(path)
    check_output(path, force=force)
