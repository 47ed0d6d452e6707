"""An error that people allow: `compare --keep 99%`, `--max-error 1%` and the like."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import onnx

from onnxshare.comparison.target import Criterion, Measure, Target
from onnxshare.comparison.wider_graph import HALF, float_types
from onnxshare.errors import UsageError
from onnxshare.graph.operator_traits import traits_of
from onnxshare.support.option_text import option

if TYPE_CHECKING:
    from onnxshare.comparison.verdict import Judged


#: No error but rounding.
NONE = Target()

_LABELS = "an array called 'labels' in the .npz"


def needs_labels(target: Target, labelled: bool) -> None:
    """Make sure that there are labels where accuracy is to be kept.

    Raises:
        UsageError: there are none.
    """
    if target.max_loss is not None and not labelled:
        raise UsageError(
            f"{option('--max-loss')} is about accuracy, and the samples have no labels",
            f"give them as {_LABELS}",
        )


def tolerated(target: Target, judged: Sequence[Judged]) -> tuple[bool, str]:
    """Return whether all outputs keep what is requested, and how, as text. The relative error of an
    output is √(Σ(a - b)² / Σa²).

    Raises:
        UsageError: classes should be kept, and no output has classes or labels.
    """
    outputs = [item for item in judged if not item.row.internal]
    for criterion in target.criteria:
        if not any(criterion in item.tally.measures for item in outputs):
            spelled = option(f"--{criterion.kind.replace('_', '-')}")
            raise UsageError(
                f"no output has classes for {spelled}", f"give {option('--max-error')} instead"
            )
    found = [pair for item in outputs for pair in _of(target, item)]
    broken = [words for kept, words in found if not kept]
    return not broken, "; ".join(broken or [words for _, words in found])


def _of(target: Target, item: Judged) -> Iterator[tuple[bool, str]]:
    name, tally = f"output '{item.row.name}'", item.tally
    if tally.problem and not tally.only_values:
        yield False, f"{name} {tally.problem}"
        return
    measures = tally.measures
    for criterion, measure in measures.items():
        if criterion in target.criteria:
            yield _criterion(name, criterion, measure)
    if tally.numeric and target.max_error is not None:
        yield _error(name, item, target.max_error)
    elif not measures and item.excess and (tally.numeric or not target.criteria):
        more = option("--max-error") if tally.numeric else option("--keep")
        what = tally.problem or "differs by more than rounding"
        yield False, f"{name} {what}: give {more} too if that is allowed"


def _criterion(name: str, criterion: Criterion, found: Measure) -> tuple[bool, str]:
    kept = found.low >= criterion.least
    words = f"{name} {criterion.said(found)}, and {criterion.words} was requested"
    if not kept and found.value >= criterion.least:
        words += f": more samples may show it, {criterion.samples_needed:,} if no answer changes"
    return kept, words


def _error(name: str, item: Judged, most: float) -> tuple[bool, str]:
    row = item.row
    error = math.inf if row.max_abs else 0.0
    if row.sqnr_db is not None:
        error = 10 ** (-row.sqnr_db / 20)
    return error <= most, (
        f"the relative RMS error of {name} is {error:.2%}, and {most:.2%} was allowed"
    )


def advice(a: onnx.ModelProto, b: onnx.ModelProto) -> str:
    """What to ask instead, where B is a quantized or half-precision export of A and A is none."""
    for kind, found in (("quantized", _quantizes), ("in half precision", _halves)):
        if found(b) and not found(a):
            return (
                f"B is {kind}, and A is not: give {option('--samples')}, and say which error is "
                f"allowed with {option('--keep 99%')} or {option('--max-error 1%')}"
            )
    return ""


def _quantizes(proto: onnx.ModelProto) -> bool:
    return any(traits_of(node).quantized or traits_of(node).rounds for node in proto.graph.node)


def _halves(proto: onnx.ModelProto) -> bool:
    casts = {a.i for n in proto.graph.node if n.op_type == "Cast" for a in n.attribute}
    return not HALF.isdisjoint(float_types(proto) | casts)
