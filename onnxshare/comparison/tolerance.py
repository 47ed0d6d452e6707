"""An error that people allow: `compare --keep 99%` and `--max-error 1%`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx

from onnxshare.comparison.tensor_statistics import agreement_lower_bound
from onnxshare.comparison.wider_graph import HALF, float_types
from onnxshare.errors import UsageError
from onnxshare.graph.operator_traits import traits_of
from onnxshare.support.option_text import option

if TYPE_CHECKING:
    from onnxshare.comparison.verdict import Judged


@dataclass(frozen=True)
class Tolerance:
    """What an approximation must keep, of real samples: the least share of samples whose class
    stays, by its 95 % lower bound; the largest relative RMS error of an output, √(Σ(a - b)² /
    Σa²)."""

    keep: float | None = None
    max_error: float | None = None

    def __bool__(self) -> bool:
        return self.keep is not None or self.max_error is not None

    def check(self) -> None:
        """Make sure that both are shares.

        Raises:
            UsageError: one is not between 0 and 1.
        """
        for name, value in (("keep", self.keep), ("max_error", self.max_error)):
            if value is not None and not 0 < value < 1:
                raise UsageError(f"{name} is {value}", "give a share, such as 0.99")

    def hold(self, judged: Sequence[Judged]) -> tuple[bool, str]:
        """Return whether all outputs keep it, and how, as text.

        Raises:
            UsageError: classes should be kept, and no output has classes or labels.
        """
        outputs = [item for item in judged if not item.row.internal]
        if self.keep is not None and not any(map(_has_classes, outputs)):
            raise UsageError(
                f"no output has classes for {option('--keep')}",
                f"give {option('--max-error')} instead",
            )
        found = [pair for item in outputs for pair in self._of(item)]
        broken = [words for kept, words in found if not kept]
        return not broken, "; ".join(broken or [words for _, words in found])

    def _of(self, item: Judged) -> Iterator[tuple[bool, str]]:
        name, tally = f"output '{item.row.name}'", item.tally
        if tally.problem and not tally.only_values:
            yield False, f"{name} {tally.problem}"
            return
        classes = _has_classes(item) and self.keep is not None
        if classes:
            yield self._classes(name, tally.agree, tally.samples)
        if tally.numeric and self.max_error is not None:
            yield self._error(name, item)
        elif not classes and item.excess:
            more = option("--max-error") if tally.numeric else option("--keep")
            what = tally.problem or "differs by more than rounding"
            yield False, f"{name} {what}: give {more} too if that is allowed"

    def _classes(self, name: str, agree: int, samples: int) -> tuple[bool, str]:
        assert self.keep is not None
        low = agreement_lower_bound(agree, samples) or 0.0
        words = (
            f"{name} names the same class on {agree / samples:.2%} of the samples (at least "
            f"{low:.2%} with 95 % confidence), and {self.keep:.2%} was requested"
        )
        if low < self.keep <= agree / samples:
            most = math.ceil(math.log(0.05) / math.log(self.keep))
            words += f": more samples may show it, {most:,} if the class always stays"
        return low >= self.keep, words

    def _error(self, name: str, item: Judged) -> tuple[bool, str]:
        assert self.max_error is not None
        row = item.row
        error = math.inf if row.max_abs else 0.0
        if row.sqnr_db is not None:
            error = 10 ** (-row.sqnr_db / 20)
        return error <= self.max_error, (
            f"the relative RMS error of {name} is {error:.2%}, and {self.max_error:.2%} was allowed"
        )


#: No error but rounding.
NONE = Tolerance()


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


def _has_classes(item: Judged) -> bool:
    """Whether an output names a class: by its largest value, or as a label."""
    return item.tally.classes > 0 or not item.tally.numeric
