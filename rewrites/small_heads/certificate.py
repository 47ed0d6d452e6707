"""What is promised of an approximation, and how many samples that takes.

How sure it is what is kept of classes stands in `onnxshare/comparison/target.py`. For values, with
e_n² the squared error of sample n and s_n² its squared distance from the mean, the relative error t
with t² = Σ e² / Σ s² is bounded by the largest t for which the mean of e_n² − t² s_n² is not
clearly negative in a one-sided t-test (Fieller, 1954): that bound holds for many samples, not
exactly for few.

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
from math import inf, sqrt
from time import monotonic

import numpy as np

from onnxshare.comparison.target import CONFIDENCE, Criterion, Measure, agreement_lower_bound
from onnxshare.comparison.target import Target as Target
from onnxshare.io.tensors import Array
from onnxshare.support.dataclass_tools import Result
from rewrites.small_heads.sufficient_statistics import Floats

#: The one-sided quantile of the normal distribution at that.
_QUANTILE = 1.6448536269514722


@dataclass(frozen=True)
class Estimate(Result):
    """How well a head does on samples that it was not fitted to.

    Attributes:
        samples: how many.
        agreement: the share of them with the same class in every output of classes; None without.
        agreement_low: its lower bound.
        error: the largest relative RMS error over the outputs of values; None without.
        error_high: its upper bound.
        kept: what was measured of each criterion that is about classes.
    """

    samples: int
    agreement: float | None = None
    agreement_low: float | None = None
    error: float | None = None
    error_high: float | None = None
    kept: tuple[Measure, ...] = ()

    def measure(self, criterion: Criterion) -> Measure | None:
        """What is known of a criterion."""
        if criterion.kind == "keep" and self.agreement is not None:
            low = self.agreement_low or 0.0
            return Measure(criterion.name, self.samples, self.agreement, low)
        return next((item for item in self.kept if item.criterion == criterion.name), None)

    def reaches(self, target: Target) -> bool:
        """Whether the bounds, not just the estimates, keep the target."""
        return self._keeps(target, self.error_high, lambda measure: measure.low)

    def could_reach(self, target: Target) -> bool:
        """Whether the estimates keep the target, whatever their bounds."""
        return self._keeps(target, self.error, lambda measure: measure.value)

    def _keeps(
        self, target: Target, error: float | None, value: Callable[[Measure], float]
    ) -> bool:
        found = [(item, self.measure(item)) for item in target.criteria]
        kept = all(measure is not None and value(measure) >= item.least for item, measure in found)
        return kept and (
            target.max_error is None or (error is not None and error <= target.max_error)
        )

    def used(self, target: Target) -> float:
        """How much of what the target lets a head miss this is likely to miss.

        Of a share the mean of its posterior under Jeffreys' prior counts, (missed + ½) / (n + 1):
        no miss in a few samples says less than one in many. Of points of accuracy, which few
        answers decide, the bound counts.
        """
        shares = [0.0 if target.max_error is None else _share(self.error or 0.0, target.max_error)]
        for item in target.criteria:
            measure = self.measure(item)
            if measure is None:
                continue
            if item.paired:
                shares.append(_share(-measure.low, -item.least))
                continue
            missed = (1 - measure.value) * measure.samples
            shares.append(_share((missed + 0.5) / (measure.samples + 1), 1 - item.least))
        return max(shares)


def _share(missed: float, allowed: float) -> float:
    return max(0.0, missed / allowed) if allowed else inf if missed > 0 else 0.0


#: Samples that the bound on values wants.
_VALUES = 30


def samples_needed(target: Target) -> int:
    """The fewest samples on which a promise can be kept, with no outcome but the best; the bound on
    values wants 30."""
    least = 1 if target.max_error is None else _VALUES
    return max([least, *(criterion.samples_needed for criterion in target.criteria)])


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
    wanted: Mapping[int, Array],
    given: Mapping[int, Array],
    classes: frozenset[int],
    target: Target | None = None,
    labels: Array | None = None,
) -> Estimate:
    """Compare a head's outputs with the original's, both per leaf `[N, F]`; of the leaves in
    `classes` the largest output is what counts, the others give values. Of classes is measured
    whether they agree, and what the target is about."""
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
        tuple(
            measure
            for item in (target.criteria if target else ())
            if (measure := _measure(item, wanted, given, classes, labels)) is not None
        ),
    )


def _measure(
    criterion: Criterion,
    wanted: Mapping[int, Array],
    given: Mapping[int, Array],
    classes: frozenset[int],
    labels: Array | None,
) -> Measure | None:
    """What is kept in all outputs of classes at once; None where that cannot be told."""
    found = [criterion.outcomes(wanted[leaf], given[leaf], labels) for leaf in sorted(classes)]
    known = [item for item in found if item is not None]
    if not known or len(known) < len(found):
        return None
    least = np.minimum.reduce(known)
    return criterion.measure(int((least > 0).sum()), int((least < 0).sum()), len(least))


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
