"""`onnxshare rewrite`: turn unshared layers into shared ones, and prove what changed."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from onnxshare.cli import options
from onnxshare.cli.options import option
from onnxshare.errors import UsageError

if TYPE_CHECKING:
    from rewrites.run import RewriteResult

_REWRITES = "Rewrites"
_APPROXIMATE = "Approximation"

#: An option that is off unless given.
_flag = partial(option, False, panel=_REWRITES)


@dataclass(frozen=True, kw_only=True)
class Rewrites:
    """The rewrites that have an option, in the order in which they are named and made."""

    share: bool = _flag("Equal stored tensors, and transposed copies → one tensor. Exact.")
    fold_batchnorm: bool = _flag(
        "BatchNormalization, or a scale and shift → weights and bias next to it. Exact."
    )
    global_pool: bool = _flag("Average pooling over the whole map → GlobalAveragePool. Exact.")
    pool_first: bool = _flag("1×1 convolution, then global average pooling → pooling first. Exact.")
    fc_to_gap: bool = _flag("FC after convolutions → global average pooling and a small FC.")
    fc_to_conv: bool = _flag("FC after convolutions → the convolution that equals it. Exact.")
    conv_to_fc: bool = _flag("Convolution over its whole map → the FC that equals it. Exact.")
    rewrite: list[str] | None = option(
        None,
        "Any rewrite by name, those of installed packages included.",
        metavar="NAME",
        autocompletion=options.complete_rewrites,
        panel=_REWRITES,
    )

    def names(self) -> list[str]:
        """The rewrites that are requested.

        Raises:
            UsageError: there are none.
        """
        flags = {item.name.replace("_", "-"): getattr(self, item.name) for item in fields(self)}
        others = flags.pop("rewrite") or []
        names = [name for name, wanted in flags.items() if wanted] + others
        if not names:
            known = f"give one or more of --{', --'.join(flags)}"
            raise UsageError("no rewrite was requested", known)
        return names


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `onnxshare rewrite` takes."""

    model: options.OneModel = None
    rewrites: Rewrites
    fully_convolutional: bool = _flag(
        "With --fc-to-conv: accept larger inputs and return a map of outputs."
    )
    pool_outputs: bool = _flag("With --fully-convolutional: average each map to one answer.")
    assume_defaults: bool = _flag(
        "Take constants that are listed as inputs too off the inputs: nobody gives them."
    )
    node: str = option(
        "*",
        "Leave sites alone whose node's name does not match, such as 'fc*'.",
        metavar="PATTERN",
        panel=_REWRITES,
        show_default=False,
    )
    approximate: bool = option(
        False, "Allow changes that are not exact, fitted to --samples.", panel=_APPROXIMATE
    )
    method: str = option(
        "",
        "With --fc-to-gap, the small head to make: gap, grid:K, mask:R, depthwise, "
        "collapse, stack:R, collapse+mask:R, mlp:H+separable:K …, prune, with +int8 weights in 8 "
        "bits, with +w8a8 activations too; int8 or w8a8 (the head as it is in 8 bits), or auto, "
        "the cheapest that keeps a promise.",
        metavar="NAME",
        autocompletion=options.complete_methods,
        panel=_APPROXIMATE,
        show_default=False,
    )
    keep: str | None = option(
        None,
        "Promise that this share of the samples keeps its class, such as 99%.",
        metavar="SHARE",
        panel=_APPROXIMATE,
    )
    max_error: str | None = option(
        None,
        "For outputs that are not classes: promise a relative error of at most this.",
        metavar="SHARE",
        panel=_APPROXIMATE,
    )
    keep_top: str | None = option(
        None,
        "Promise that on this share of the samples the class is among the first so many, such as "
        "5:99%.",
        metavar="K:SHARE",
        panel=_APPROXIMATE,
    )
    within: str | None = option(
        None,
        "For classes in an order, such as ages: promise that on this share of the samples the "
        "class moves by so many places at most, such as 2:95%.",
        metavar="K:SHARE",
        panel=_APPROXIMATE,
    )
    max_loss: str | None = option(
        None,
        "Promise that no more accuracy than this is lost, such as 1pt; the samples need labels.",
        metavar="POINTS",
        panel=_APPROXIMATE,
    )
    search_share: str | None = option(
        None,
        "The share of the samples that a fit or a search sees; the rest certify. Left out: what "
        "the promise does not need, at least half.",
        metavar="SHARE",
        panel=_APPROXIMATE,
    )
    objective: Literal["params", "macs", "bytes", "latency"] = option(
        "params", "With --method auto, what the head should be cheapest in.", panel=_APPROXIMATE
    )
    int8_activations: bool = option(
        False,
        "With --method auto: try heads in 8 bits with their activations in 8 bits too.",
        panel=_APPROXIMATE,
    )
    time_limit: float | None = option(
        None,
        "With --method auto: end the search for a head after so long, with the best so far.",
        metavar="SECONDS",
        panel=_APPROXIMATE,
    )
    plot: Path | None = option(
        None,
        "With --method auto, draw what was tried: the objective against what is kept, as "
        ".svg or .png.",
        metavar="FILE",
        panel=_APPROXIMATE,
    )
    samples: Path | None = option(
        None,
        "Real inputs: an .npz, an .npy, an image or a folder of these. Exact changes are "
        "compared on them; approximations are fitted to three quarters of them and "
        "measured on the rest.",
        metavar="FILE|FOLDER",
    )
    out: Path | None = option(
        None,
        "Where to write. Left out: MODEL.REWRITE.onnx next to the model.",
        "--output",
        "-o",
        metavar="FILE",
    )
    force: bool = option(False, "Overwrite the output if it exists.")
    diff: bool = option(False, "Show which nodes were removed and which were added.")
    dry_run: bool = option(False, "Do everything but write the file.")
    no_validate: bool = option(
        False,
        "Run neither model: write exact changes after a check of moved weights alone. The "
        "output and the file say so.",
    )
    provider: str = option("auto", options.PROVIDER, metavar="NAME")
    seed: int = option(0, "Seed of random inputs and held-out samples.", min=0)
    html: options.Html = None
    images: options.Images
    isolation: options.Isolation
    sizes: options.Sizes
    follow_symlinks: options.FollowSymlinks = None
    output: options.TableOrJson = "table"


def command(given: Options) -> int:
    """Rewrite a model so that its weights are shared, and prove what that changed.

    Both models are run on the same inputs, and nothing is written unless the comparison is
    passed. The input is never changed.

    Exit code: 0; 1 if nothing was rewritten or the comparison is not passed, 2 if the file cannot
    be read.

    Example: onnxshare rewrite model.onnx --fc-to-gap --approximate --samples images.npz
    """
    path, names = options.model_path(given.model), given.rewrites.names()
    sizes = given.sizes.keywords()
    if path == Path("-") and given.out is None and not given.dry_run:
        raise UsageError("a model from standard input has no folder", "name the output with -o")
    words = re.sub(r"[/\\\0]", "_", "+".join(names))  # who knows what such a rewrite is
    target = given.out or path.with_name(f"{path.stem}.{words}.onnx")
    _check_files(given, path, target)
    import onnxshare
    from onnxshare.cli.progress import Steps
    from onnxshare.io.save import check_distinct
    from onnxshare.support.plugins import stdout_kept

    source = onnxshare.load(path, follow_symlinks=given.follow_symlinks)
    data = [(source.folder or Path()) / name for name in source.external_files()]
    check_distinct([target, target.with_name(f"{target.name}.data")], {"read as weights": data})
    with Steps("rewriting"), stdout_kept():
        result = onnxshare.rewrite(
            source,
            names,
            approximate=given.approximate,
            samples=given.samples,
            fully_convolutional=given.fully_convolutional,
            pool_outputs=given.pool_outputs,
            assume_defaults=given.assume_defaults,
            node=given.node,
            provider=given.provider,
            seed=given.seed,
            validate=not given.no_validate,
            **sizes,
            run_limits=given.isolation.limits(),
            images=given.images.options(),
            method=given.method,
            keep=options.share("--keep", given.keep),
            max_error=options.share("--max-error", given.max_error),
            keep_top=options.counted_share("--keep-top", given.keep_top),
            within=options.counted_share("--within", given.within),
            max_loss=options.points("--max-loss", given.max_loss),
            int8_activations=given.int8_activations,
            search_share=options.share("--search-share", given.search_share),
            objective=given.objective,
            time_limit=given.time_limit,
        )
    _report(given, result, target)
    return 0 if result.passed else 1


def _report(given: Options, result: RewriteResult, target: Path) -> None:
    """Write the model, if it may be written, and say what was done."""
    from onnxshare.report import rewrite

    written = None
    if result.passed and not given.dry_run:
        written = (target, result.save(target, force=given.force))
    for warning in result.warnings:
        options.note(f"warning: {warning}")
    drawn = given.plot is not None and rewrite.draw(result, given.plot)
    if given.output == "json":
        options.print_json({**result.to_dict(), "written": str(target) if written else None})
    else:
        rewrite.print_result(result, written, diff=given.diff)
    if given.html is not None:
        _write_page(result, given.html)
    if given.plot is not None:
        missing = f"{given.plot}: not drawn, as no search came to an end"
        options.note(f"drew {given.plot}" if drawn else missing)


def _write_page(result: RewriteResult, path: Path) -> None:
    from onnxshare.analysis.inspection import inspect
    from onnxshare.report.page.rewrite import as_html

    both = inspect(result.original), inspect(result.rewritten)
    options.write_page(path, as_html(result, *both))


def _check_files(given: Options, path: Path, target: Path) -> None:
    """Make sure, before any work, that the model and the picture can be written."""
    from onnxshare.io.save import check_distinct, check_output

    read = {"the model itself": [path], "read as samples": filter(None, [given.samples])}
    check_distinct(list(filter(None, [target, given.plot, given.html])), read)
    if given.html is not None:
        check_output(given.html, force=given.force, report=True)
    if not given.dry_run and path.is_file():
        check_output(target, force=given.force)
    if given.plot is None:
        return
    from onnxshare.report.plot.picture import check_format

    if given.method != "auto":
        raise UsageError("--plot shows what a search tried", "add --method auto --keep 99%")
    check_format(given.plot)
    check_output(given.plot, force=given.force)
