"""`onnxshare compare`: are two models the same function?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onnxshare.cli import options
from onnxshare.cli.options import argument, option
from onnxshare.errors import UsageError
from onnxshare.support.numbers import whole_number

if TYPE_CHECKING:
    from onnxshare.comparison.results import Comparison
    from onnxshare.io.load import Model

_LATENCY = "Latency"
_ALLOWED = "An error that is allowed"
_INTERFACE = "Other names"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `onnxshare compare` takes."""

    a: Path = argument(..., "The model that is right.", metavar="A")
    b: Path = argument(..., "The model to be judged by it.", metavar="B")
    samples: Path | None = option(
        None,
        "Inputs: an .npz with the inputs' names as keys (and 'labels', if known), an "
        ".npy, ONNX test data (.pb), an image, or a folder of these. Left out: random ones.",
        metavar="FILE|FOLDER",
    )
    provider: str = option("auto", options.PROVIDER, metavar="NAME")
    seed: int = option(0, "Of the random inputs and the noise.", min=0)
    count: int = option(32, "How many random inputs.", min=1)
    keep: str | None = option(
        None,
        "Allow an approximation that keeps the class of this share of the samples, such as 99% "
        "(by the 95 % lower bound).",
        metavar="SHARE",
        panel=_ALLOWED,
    )
    max_error: str | None = option(
        None,
        "Allow an approximation with this relative RMS error of every output, such as 1%.",
        metavar="SHARE",
        panel=_ALLOWED,
    )
    keep_top: str | None = option(
        None,
        "Allow one that has the class among its first so many on this share of the samples, such "
        "as 5:99%.",
        metavar="K:SHARE",
        panel=_ALLOWED,
    )
    within: str | None = option(
        None,
        "For classes in an order: allow one whose class moves by so many places at most on this "
        "share of the samples, such as 2:95%.",
        metavar="K:SHARE",
        panel=_ALLOWED,
    )
    max_loss: str | None = option(
        None,
        "Allow one that loses no more accuracy than this, such as 1pt; the samples need labels.",
        metavar="POINTS",
        panel=_ALLOWED,
    )
    map_input: list[str] | None = option(
        None, "A's input OLD is B's NEW; repeatable.", metavar="OLD=NEW", panel=_INTERFACE
    )
    map_output: list[str] | None = option(
        None, "A's output OLD is B's NEW; repeatable.", metavar="OLD=NEW", panel=_INTERFACE
    )
    outputs: list[str] | None = option(
        None, "Compare this output of A alone; repeatable.", metavar="NAME", panel=_INTERFACE
    )
    sizes: options.Sizes
    latency: bool = option(
        False,
        "Also time both models in turn, and say which is faster if that can be shown.",
        panel=_LATENCY,
    )
    batch: str | None = option(
        None,
        "Samples per run at which they are timed, such as 1,8. Left out: 1, or the "
        "number that the models fix.",
        metavar="N,…",
        panel=_LATENCY,
    )
    html: options.Html = None
    out: options.Out = None
    force: options.Force = False
    images: options.Images
    isolation: options.Isolation
    follow_symlinks: options.FollowSymlinks = None
    output: options.TableOrJson = "table"


def command(given: Options) -> int:
    """Run two models on the same inputs and judge whether they are the same function.

    The tolerance is model A's own rounding noise, measured per output channel. Verdicts: identical,
    equivalent, approximate (it keeps its promise, or what --keep and --max-error ask for),
    different, inconclusive (the outputs barely change with the inputs), not run.

    Exit code: 0 for the first three, 1 for the others, 2 if a file cannot be read.

    Example: onnxshare compare model.onnx model.fc-to-conv.onnx --samples test.npz
    """
    from onnxshare.cli.progress import Steps
    from onnxshare.io.load import load

    if given.batch is not None and not given.latency:
        raise UsageError("--batch needs --latency", "add it")
    read = {"A": [given.a], "B": [given.b], "read as samples": filter(None, [given.samples])}
    with options.report_to(given.out, read=read, force=given.force, others=[given.html]):
        a, b = (load(path, follow_symlinks=given.follow_symlinks) for path in (given.a, given.b))
        with Steps("comparing"):
            comparison = _compared(a, b, given)
        if given.output == "json":
            options.print_json(comparison.to_dict())
        else:
            from onnxshare.report.compare import print_comparison

            print_comparison(comparison)
    if given.html is not None:
        from onnxshare.analysis.inspection import inspect
        from onnxshare.report.page.compare import as_html

        options.write_page(given.html, as_html(comparison, inspect(a), inspect(b)))
    return 0 if comparison.passed else 1


def _compared(a: Model, b: Model, given: Options) -> Comparison:
    from onnxshare.comparison.compare import compare

    return compare(
        a,
        b,
        samples=given.samples,
        provider=given.provider,
        seed=given.seed,
        count=given.count,
        images=given.images.options(),
        latency=_batches(given.batch) if given.latency else None,
        run_limits=given.isolation.limits(),
        keep=options.share("--keep", given.keep),
        max_error=options.share("--max-error", given.max_error),
        keep_top=options.counted_share("--keep-top", given.keep_top),
        within=options.counted_share("--within", given.within),
        max_loss=options.points("--max-loss", given.max_loss),
        map_input=_names("--map-input", given.map_input),
        map_output=_names("--map-output", given.map_output),
        outputs=given.outputs or (),
        **given.sizes.keywords(),
    )


def _names(option: str, given: Sequence[str] | None) -> dict[str, str]:
    pairs = given or ()
    found = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
    if len(found) < len(pairs) or len(set(found.values())) < len(found):
        raise UsageError(
            f"{option} takes OLD=NEW, each name once", f"write it like {option} logits=linear_3"
        )
    return found


def _batches(text: str | None) -> list[int]:
    if text is None:
        return []
    numbers = [whole_number(word) or 0 for word in text.split(",")]
    if not all(0 < number < 2**31 for number in numbers):
        raise UsageError(f"--batch '{text}' is not a list of numbers", "write it like 1,8")
    return numbers
