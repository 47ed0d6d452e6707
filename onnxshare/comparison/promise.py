"""What an approximate model promises: written into its metadata, checked against new samples."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict

import onnx

from onnxshare.comparison.function_digest import function_digest
from onnxshare.comparison.results import Comparison, OutputComparison
from onnxshare.comparison.target import Criterion, Measure, Target, percent
from onnxshare.errors import UsageError
from onnxshare.io.load import Model

#: The key of the promise in a model's `metadata_props`.
PROMISE_KEY = "onnxshare.approximate"

#: A promised SQNR is this far below the measured one: it has no confidence bound of its own.
SQNR_MARGIN_DB = 1.0


@dataclass(frozen=True)
class Promise:
    """What a model that approximates another says about itself.

    Attributes:
        rewrite: the rewrite that made it.
        agreement_low: the share of samples on which the arg-max should agree at least; None
            where the outputs are not classes.
        sqnr_low: the centred SQNR in dB that outputs without classes should reach at least.
        classes, values: the outputs that each is promised of; empty for all of that kind.
        target: what it promises of classes in other ways than by `agreement_low`.
        original, approximation: digests of the functions of the pair that it was made for; empty
            where it names none, and then it counts between no models.
    """

    rewrite: str
    agreement_low: float | None
    sqnr_low: float | None = None
    classes: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    original: str = ""
    approximation: str = ""
    target: Target = field(default_factory=Target)

    def made_for(self, model: Model) -> bool:
        """Whether a model is the approximation that promises this; its weights are read."""
        return bool(self.original) and self.approximation == function_digest(model)


def promise_of(a: Model, b: Model) -> tuple[Promise | None, str]:
    """Return what the one model that approximates the other promises, and a sentence on a promise
    that is there and does not count, because it was made for other models.

    Where both carry the same promise neither approximates the other: there is none between them.

    Raises:
        ModelFileError, ModelError: a weight cannot be read.
    """
    texts = _text(b.skeleton), _text(a.skeleton)
    if texts[0] == texts[1]:
        return None, ""
    words = ""
    for text, letter, model, other in ((texts[0], "B", b, a), (texts[1], "A", a, b)):
        promise = _read(text)
        if promise is None:
            continue
        if promise.made_for(model) and promise.original == function_digest(other):
            return promise, ""
        why = "was made for another pair of models"
        if not promise.original:
            why = "does not say for which models it was made"
        words = words or f"the promise that {letter} carries {why}, and does not count"
    return None, words


def declared(proto: onnx.ModelProto) -> Promise | None:
    """What a model promises as an approximation, of whatever model; None if it is none."""
    return _read(_text(proto))


def _text(proto: onnx.ModelProto) -> str | None:
    return next((item.value for item in proto.metadata_props if item.key == PROMISE_KEY), None)


def _read(text: str | None) -> Promise | None:
    try:
        data = json.loads(text or "")
        low, ratio = (
            None if data.get(key) is None else float(data[key])
            for key in ("agreement_low", "sqnr_low")
        )
        target = replace(_target(data), keep=None, max_error=None)
        target.check()
        name = str(data.get("rewrite", "a rewrite"))
        classes, values = (tuple(map(str, data.get(key, ()))) for key in ("classes", "values"))
        pair = [str(data.get(key) or "") for key in ("original", "approximation")]
    except (ValueError, TypeError, AttributeError, UsageError):
        return None
    if (low is None and ratio is None and not target.asked) or not 0.0 <= (low or 0.0) <= 1.0:
        return None
    return Promise(name, low, ratio, classes, values, pair[0], pair[1], target)


def _target(data: Mapping[str, Any]) -> Target:
    """What was requested of an approximation, as its fit or its promise notes it."""
    pairs = {
        key: None if data.get(key) is None else (int(data[key][0]), float(data[key][1]))
        for key in ("keep_top", "within")
    }
    loss = data.get("max_loss")
    return Target(
        data.get("keep"),
        data.get("max_error"),
        **pairs,
        max_loss=None if loss is None else float(loss),
    )


class Fit(TypedDict, total=False):
    """Figures of a fit, as the model notes them next to the promise.

    Attributes:
        method: the small head that was fitted.
        fitted_on: the number of samples.
        certified_on: the number of others that what was requested was certified on.
        left_out_error: the largest leave-one-out error of its layers, where it has one.
        refined: whether a layer was refined as a classifier.
        keep, max_error, keep_top, within, max_loss: what was requested, where that was certified.
        classes, values: the outputs that it was asked of.
    """

    method: str
    fitted_on: int
    certified_on: int
    left_out_error: float
    refined: bool
    keep: float
    max_error: float
    keep_top: Sequence[float]
    within: Sequence[float]
    max_loss: float
    classes: list[str]
    values: list[str]


def make(comparison: Comparison, rewrite: str, fit: Fit) -> tuple[dict[str, Any], str]:
    """Turn what was measured on held-out samples into a promise.

    Args:
        comparison: of the original with the approximation, on samples that it was not fitted to.
        rewrite: the name of the rewrite that made the approximation.
        fit: what else to note of the fit.

            A `keep` or `max_error` there is what was requested: it is promised where the
            samples show it, instead of the most that they show. `classes` and `values` there are
            the outputs that it was asked of.

    Returns:
        The promise as it is written into the model, and what was measured, as text.
    """
    promise: dict[str, Any] = {"rewrite": rewrite, "samples": comparison.samples, **fit}
    keep, most = fit.get("keep"), fit.get("max_error")
    rows, said = comparison.outputs, []
    worst = _by_agreement(_of(rows, fit.get("classes", ())))
    others = [item for item in _target(fit).criteria if item.kind != "keep"]
    if worst is not None and (keep is not None or (most is None and not others)):
        figures, words = _of_classes(worst, keep)
        promise |= figures
        said.append(words)
    found = {item: _least(rows, fit.get("classes", ()), item) for item in others}
    said += [item.said(measure) for item, measure in found.items() if measure is not None]
    if most is not None or (worst is None and not others):
        figures, words = _of_values(_by_sqnr(_of(rows, fit.get("values", ()))), most)
        promise |= figures
        said.append(words)
    words = (
        f"an approximation: on {comparison.samples} samples that it was not fitted to, "
        f"{', and '.join(said)}"
    )
    if others:
        promise["kept"] = [measure.to_dict() for measure in found.values() if measure is not None]
    kept = [item.words for item, m in found.items() if m is not None and m.low >= item.least]
    if keep is not None and promise.get("agreement_low", 0.0) >= keep:
        kept.append(f"agreement ≥ {percent(keep)}")
    if most is not None and promise["sqnr"] >= _decibels(most):
        kept.append(f"relative error ≤ {percent(most)}")
    if kept:
        words += (
            f"; promised: {' and '.join(kept)} with 95 % confidence, {comparison.samples:,} samples"
        )
    return promise, words


def _of_classes(row: OutputComparison, keep: float | None) -> tuple[dict[str, float], str]:
    agreement, low = row.argmax_agreement or 0.0, row.confidence_low or 0.0
    words = (
        f"'{row.name}' names the same class on {agreement:.1%} (at least {low:.1%} with 95 % "
        "confidence)"
    )
    low = float(keep) if keep is not None and low >= keep else low
    return {"agreement": agreement, "agreement_low": low, "confidence": 0.95}, words


def _of_values(row: OutputComparison | None, most: float | None) -> tuple[dict[str, float], str]:
    ratio = 0.0 if row is None else row.sqnr_centred_db or 0.0
    name = "the output" if row is None else f"'{row.name}'"
    words = f"the error of {name} is {10 ** (-ratio / 20):.1%} ({-ratio:.1f} dB) of its movement"
    low = ratio - SQNR_MARGIN_DB
    if most is not None:  # what was requested has a bound of its own, and needs no margin
        low = _decibels(most) if ratio >= _decibels(most) else min(low, ratio)
    return {"sqnr": ratio, "sqnr_low": low}, words


def _decibels(error: float) -> float:
    """A relative error as a ratio of signal to error."""
    return -20 * math.log10(error)


def missed(comparison: Comparison, fit: Fit) -> list[str]:
    """What was requested of classes, other than that they stay, and is not shown."""
    rows, names = comparison.outputs, fit.get("classes", ())
    others = [item for item in _target(fit).criteria if item.kind != "keep"]
    found = [(item, _least(rows, names, item)) for item in others]
    return [item.words for item, m in found if m is None or m.low < item.least]


def hold(rows: Sequence[OutputComparison], promise: Promise) -> tuple[bool, str]:
    """Return whether a promise is kept on the compared samples, and how, as text."""
    found = []
    if promise.agreement_low is not None:
        found.append(_hold_classes(_by_agreement(_of(rows, promise.classes)), promise))
    if promise.sqnr_low is not None:
        found.append(_hold_values(_by_sqnr(_of(rows, promise.values)), promise))
    for criterion in promise.target.criteria:
        found.append(_hold_criterion(_least(rows, promise.classes, criterion), criterion))
    broken = [words for kept, words in found if not kept]
    words = "; ".join(broken or [words for _, words in found])
    return not broken, f"{promise.rewrite} is an approximation: {words}"


def _hold_classes(row: OutputComparison | None, promise: Promise) -> tuple[bool, str]:
    assert promise.agreement_low is not None
    if row is None:
        return False, "it promises agreement of classes, and there are none"
    measured = row.argmax_agreement or 0.0
    return measured >= promise.agreement_low, (
        f"{row.name} names the same class on {measured:.2%} of the samples, and at least "
        f"{promise.agreement_low:.2%} were promised"
    )


def _hold_criterion(found: Measure | None, criterion: Criterion) -> tuple[bool, str]:
    if found is None:
        return False, f"it promises {criterion.words}, and nothing shows that"
    words = f"it {criterion.said(found)}, and {criterion.words} was promised"
    return found.value >= criterion.least, words


def _hold_values(row: OutputComparison | None, promise: Promise) -> tuple[bool, str]:
    assert promise.sqnr_low is not None
    if row is None or row.sqnr_centred_db is None:
        return False, "it promises a signal-to-error ratio, and none was measured"
    return row.sqnr_centred_db >= promise.sqnr_low, (
        f"the movement of {row.name} is {row.sqnr_centred_db:.1f} dB above its error, and at least "
        f"{promise.sqnr_low:.1f} dB were promised"
    )


def _of(rows: Sequence[OutputComparison], names: Sequence[str]) -> Sequence[OutputComparison]:
    """The rows of these outputs; all where none of them was compared."""
    return [row for row in rows if row.name in names] or rows


def _least(
    rows: Sequence[OutputComparison], names: Sequence[str], criterion: Criterion
) -> Measure | None:
    """What is known of a criterion in the output that keeps it least; None if nothing is."""
    known = [
        row for row in _of(rows, names) if any(m.criterion == criterion.name for m in row.kept)
    ]
    known = [row for row in known if not row.internal] or known
    found = [m for row in known for m in row.kept if m.criterion == criterion.name]
    return min(found, key=lambda measure: measure.low, default=None)


def _by_agreement(rows: Sequence[OutputComparison]) -> OutputComparison | None:
    """The output whose classes agree least; None without classes."""
    known = [row for row in rows if row.argmax_agreement is not None]
    known = [row for row in known if not row.internal] or known
    return min(known, key=lambda row: row.argmax_agreement or 0.0, default=None)


def _by_sqnr(rows: Sequence[OutputComparison]) -> OutputComparison | None:
    """The output with the largest error relative to its movement; None if none has an error."""
    known = [row for row in rows if row.sqnr_centred_db is not None]
    known = [row for row in known if not row.internal] or known
    return min(known, key=lambda row: row.sqnr_centred_db or 0.0, default=None)
