"""What is promised of an approximation, and how many samples that takes.

Agreement of classes is a proportion: its lower bound is Clopper and Pearson's (1934), which holds
at any number of samples. For values, with e_n² the squared error of sample n and s_n² its squared
distance from the mean, the relative error t with t² = Σ e² / Σ s² is bounded by the largest t for
which the mean of e_n² − t² s_n² is not clearly negative in a one-sided t-test (Fieller, 1954): that
bound holds for many samples, not exactly for few.

Trying candidates on the same held-out samples until one passes would break promises more often
than they say. A fixed sequence does not: an order is laid down before those samples are looked at,
each candidate is tested at the full level, and the first that fails ends it. For a promise to be
made falsely, the first false one in the order must pass its own test, which happens in at most 5 %
(Angelopoulos et al., "Learn then Test", arXiv 2110.01052, section on fixed sequence testing; Bauer,
1991). The order goes from the surest to the cheapest, so the last that passes is the cheapest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf, log, sqrt
from time import monotonic

import numpy as np

from onnxshare.comparison.tensor_statistics import agreement_lower_bound
from onnxshare.io.tensors import Array
from onnxshare.support.dataclass_tools import Result
from rewrites.small_heads.sufficient_statistics import Floats

#: How sure a promise is.
CONFIDENCE = 0.95

#: The one-sided quantile of the normal distribution at that.
_QUANTILE = 1.6448536269514722


@dataclass(frozen=True)
class Target:
    """What an approximation has to keep.

    Attributes:
        keep: the least share of samples on which the class stays the same; None without.
        max_error: the largest relative RMS error of values; None without.
    """

    keep: float | None = None
    max_error: float | None = None

    @property
    def asked(self) -> bool:
        """Whether anything is requested."""
        return self.keep is not None or self.max_error is not None

    def kept_by(self, agreement: float | None, error: float | None) -> bool:
        """Whether so much agreement and so large an error keep it."""
        kept = self.keep is None or (agreement is not None and agreement >= self.keep)
        small = self.max_error is None or (error is not None and error <= self.max_error)
        return kept and small

    @property
    def words(self) -> str:
        """What is requested, as text."""
        parts = []
        if self.keep is not None:
            parts.append(f"agreement ≥ {percent(self.keep)}")
        if self.max_error is not None:
            parts.append(f"relative error ≤ {percent(self.max_error)}")
        return " and ".join(parts)


@dataclass(frozen=True)
class Estimate(Result):
    """How well a head does on samples that it was not fitted to.

    Attributes:
        samples: how many.
        agreement: the share of them with the same class in every output of classes; None without.
        agreement_low: its lower bound.
        error: the largest relative RMS error over the outputs of values; None without.
        error_high: its upper bound.
    """

    samples: int
    agreement: float | None = None
    agreement_low: float | None = None
    error: float | None = None
    error_high: float | None = None

    def reaches(self, target: Target) -> bool:
        """Whether the bounds, not just the estimates, keep the target."""
        return target.kept_by(self.agreement_low, self.error_high)

    def could_reach(self, target: Target) -> bool:
        """Whether the estimates keep the target, whatever their bounds."""
        return target.kept_by(self.agreement, self.error)

    @property
    def margin(self) -> tuple[float, float]:
        """How sure it is, to order by."""
        return (self.agreement_low or 0.0, -(self.error_high or 0.0))


def samples_needed(target: Target) -> int:
    """The fewest samples on which a promise can be kept: with not one class changed, n samples
    prove an agreement of p where pⁿ ≤ 1 − confidence; the bound on values wants 30."""
    needed = 1
    if target.keep is not None and 0 < target.keep < 1:
        needed = ceil(log(1 - CONFIDENCE) / log(target.keep))
    return max(needed, 30 if target.max_error is not None else 1)


def fixed_sequence(
    order: Sequence[str],
    measure: Callable[[str], Estimate],
    target: Target,
    deadline: float = inf,
) -> list[tuple[str, Estimate]]:
    """Measure candidates on held-out samples, in an order laid down before these are looked at,
    until one does not keep the target: all measured but the last keep it; the last may. Past the
    deadline (of `monotonic`) none is begun but the first: a clock knows nothing of the samples."""
    found: list[tuple[str, Estimate]] = []
    for name in order:
        if found and monotonic() >= deadline:
            break
        found.append((name, measure(name)))
        if not found[-1][1].reaches(target):
            break
    return found


def estimate(
    wanted: Mapping[int, Array], given: Mapping[int, Array], classes: frozenset[int]
) -> Estimate:
    """Compare a head's outputs with the original's, both per leaf `[N, F]`; of the leaves in
    `classes` the largest output is what counts, the others give values."""
    samples = len(next(iter(wanted.values())))
    same = np.ones(samples, np.bool_)
    errors = []
    for leaf, values in wanted.items():
        if leaf in classes:
            same &= values.argmax(axis=1) == given[leaf].argmax(axis=1)
        else:
            errors.append(_relative(values.astype(np.float64), given[leaf].astype(np.float64)))
    agreed = int(same.sum())
    worst = max(errors, key=lambda item: item[1], default=None)
    return Estimate(
        samples,
        agreed / samples if classes else None,
        agreement_lower_bound(agreed, samples, CONFIDENCE) if classes else None,
        worst[0] if worst else None,
        worst[1] if worst else None,
    )


def _relative(wanted: Floats, given: Floats) -> tuple[float, float]:
    """The relative RMS error and its upper bound; infinite where that is not known."""
    errors = ((given - wanted) ** 2).sum(axis=1)
    signal = ((wanted - wanted.mean(axis=0)) ** 2).sum(axis=1)
    total, count = float(signal.sum()), len(errors)
    if not float(errors.sum()):
        return 0.0, 0.0
    if not total or count < 2:
        return float("inf"), float("inf")
    point = float(errors.sum()) / total

    def clearly_below(square: float) -> bool:
        gap = errors - square * signal
        return float(gap.mean()) + _t(count) * float(gap.std(ddof=1)) / sqrt(count) < 0

    high = point
    while not clearly_below(high):
        high *= 2
        if high > 1e6 * max(point, 1.0):
            return sqrt(point), float("inf")
    low = point
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if clearly_below(middle) else (middle, high)
    return sqrt(point), sqrt(high)


def _t(count: int) -> float:
    """Student's one-sided quantile, by the first terms of its expansion (Abramowitz and Stegun,
    "Handbook of Mathematical Functions", 26.7.5)."""
    z, free = _QUANTILE, count - 1
    return float(z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2))


def percent(share: float) -> str:
    """A share as it is promised: 99.0 %, 99.95 %."""
    text = f"{share * 100:.4f}".rstrip("0")
    whole, _, digits = text.partition(".")
    return f"{whole}.{digits or '0'} %"
