"""What an approximate model promises: written into its metadata, held against new samples."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from onnxshare.comparison import Comparison, OutputComparison

#: The key of the promise in a model's `metadata_props`.
PROMISE_KEY = "onnxshare.approximate"

#: A promised SQNR is this far below the measured one: it has no confidence bound of its own.
SQNR_MARGIN_DB = 1.0


@dataclass(frozen=True)
class Promise:
    """What a model that approximates another says about itself.

    Attributes:
        rewrite: the rewrite that made it.
        agreement_low: the share of samples on which the arg-max shall agree at least; None
            where the outputs are no classes.
        sqnr_low: the centred SQNR in dB that outputs without classes shall reach at least.
    """

    rewrite: str
    agreement_low: float | None
    sqnr_low: float | None = None


def promise_of(a: onnx.ModelProto, b: onnx.ModelProto) -> Promise | None:
    """Return what the one model that approximates the other promises.

    Where both carry the same promise neither approximates the other: there is none between them.
    """
    texts = [
        next((item.value for item in proto.metadata_props if item.key == PROMISE_KEY), None)
        for proto in (b, a)
    ]
    if texts[0] == texts[1]:
        return None
    for text in texts:
        promise = _read(text)
        if promise is not None:
            return promise
    return None


def declared(proto: onnx.ModelProto) -> Promise | None:
    """What a model promises as an approximation, of whatever model; None if it is none."""
    return _read(next((e.value for e in proto.metadata_props if e.key == PROMISE_KEY), None))


def _read(text: str | None) -> Promise | None:
    try:
        data = json.loads(text or "")
        low, ratio = (
            None if data.get(key) is None else float(data[key])
            for key in ("agreement_low", "sqnr_low")
        )
        name = str(data.get("rewrite", "a rewrite"))
    except (ValueError, TypeError, AttributeError):
        return None
    if (low is None and ratio is None) or not 0.0 <= (low or 0.0) <= 1.0:
        return None
    return Promise(name, low, ratio)


def make(comparison: Comparison, rewrite: str, fit: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Turn what was measured on held-out samples into a promise.

    Args:
        comparison: of the original with the approximation, on samples that it was not fitted to.
        rewrite: the name of the rewrite that made the approximation.
        fit: what else to note of the fit.

            A `keep` or `max_error` there is what was asked for: it is promised where the
            samples show it, instead of the most that they show.

    Returns:
        The promise as it is written into the model, and what was measured, in words.
    """
    common = {"rewrite": rewrite, "samples": comparison.samples, **fit}
    held = f"on {comparison.samples} samples that it was not fitted to"
    keep, most = fit.get("keep"), fit.get("max_error")
    worst = None if most is not None and keep is None else _by_agreement(comparison.outputs)
    if worst is not None:
        agreement, low = worst.argmax_agreement or 0.0, worst.confidence_low or 0.0
        words = (
            f"an approximation: {held}, '{worst.name}' names the same class on {agreement:.1%} "
            f"(at least {low:.1%} with 95 % confidence)"
        )
        if keep is not None and low >= keep:
            low = float(keep)
            words += (
                f"; promised: agreement ≥ {_percent(low)} with 95 % confidence, "
                f"{comparison.samples:,} samples"
            )
        return {**common, "agreement": agreement, "agreement_low": low, "confidence": 0.95}, words
    noisy = _by_sqnr(comparison.outputs)
    ratio = 0.0 if noisy is None else noisy.sqnr_centred_db or 0.0
    name = "the output" if noisy is None else f"'{noisy.name}'"
    words = f"an approximation: {held}, the error of {name} is {-ratio:.1f} dB of its movement"
    low = ratio - SQNR_MARGIN_DB
    if most is not None and ratio >= -20 * math.log10(most):
        low = -20 * math.log10(most)
        words += (
            f"; promised: relative error ≤ {_percent(most)} with 95 % confidence, "
            f"{comparison.samples:,} samples"
        )
    return {**common, "sqnr": ratio, "sqnr_low": low}, words


def _percent(share: float) -> str:
    """A share as it is promised: 99.0 %, 99.95 %."""
    whole, _, digits = f"{share * 100:.4f}".rstrip("0").partition(".")
    return f"{whole}.{digits or '0'} %"


def hold(rows: Sequence[OutputComparison], promise: Promise) -> tuple[bool, str]:
    """Return whether a promise is kept on the compared samples, and how in words."""
    start = f"{promise.rewrite} is an approximation: "
    if promise.agreement_low is not None:
        worst = _by_agreement(rows)
        if worst is None:
            return False, f"{promise.rewrite} promises agreement of classes, and there are none"
        measured = worst.argmax_agreement or 0.0
        return measured >= promise.agreement_low, (
            f"{start}{worst.name} names the same class on {measured:.2%} of the samples, and at "
            f"least {promise.agreement_low:.2%} were promised"
        )
    noisy = _by_sqnr(rows)
    if noisy is None or noisy.sqnr_centred_db is None or promise.sqnr_low is None:
        return False, f"{promise.rewrite} promises a signal-to-error ratio, and none was measured"
    return noisy.sqnr_centred_db >= promise.sqnr_low, (
        f"{start}the movement of {noisy.name} is {noisy.sqnr_centred_db:.1f} dB above its error, "
        f"and at least {promise.sqnr_low:.1f} dB were promised"
    )


def _by_agreement(rows: Sequence[OutputComparison]) -> OutputComparison | None:
    """The output whose classes agree least; None without classes."""
    known = [row for row in rows if row.argmax_agreement is not None]
    known = [row for row in known if not row.internal] or known
    return min(known, key=lambda row: row.argmax_agreement or 0.0, default=None)


def _by_sqnr(rows: Sequence[OutputComparison]) -> OutputComparison | None:
    """The output with the largest error beside its movement; None if none has an error."""
    known = [row for row in rows if row.sqnr_centred_db is not None]
    known = [row for row in known if not row.internal] or known
    return min(known, key=lambda row: row.sqnr_centred_db or 0.0, default=None)
