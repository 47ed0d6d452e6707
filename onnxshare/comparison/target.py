"""What an approximation has to keep, and what samples show of it.

What is kept of classes is a mean over samples. Each sample gives an outcome o for each criterion,
and the criterion is kept where a one-sided 95 % lower bound of the mean of o reaches its least:

| Criterion | o of a sample, with c = arg max a, d = arg max b | least |
|---|---|---|
| `keep` | 1 if c = d | p |
| `keep_top` | 1 if c is among the k largest of b | p |
| `within` | 1 if abs(c - d) <= k, of classes that are ordered | p |
| `max_loss` | [d is right] - [c is right], of samples with labels | -x |

For outcomes of 0 and 1 that is the bound of Clopper and Pearson (1934). An accuracy that is lost
counts in pairs: with the shares g of samples that become right and l of those that become wrong,
the loss is l - g, and it is at most the upper bound of l less the lower bound of g, each at 97.5 %.
All these hold at any number of samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, floor, lgamma, log, log1p

import numpy as np

from onnxshare.errors import UsageError
from onnxshare.io.tensors import Array
from onnxshare.support.dataclass_tools import Result

#: How sure a promise is.
CONFIDENCE = 0.95


@lru_cache(maxsize=256)
def agreement_lower_bound(successes: int, trials: int, confidence: float = 0.95) -> float | None:
    """Return the one-sided Clopper-Pearson lower bound of a proportion.

    It is the p at which `successes` or more out of `trials` would still be seen with
    probability 1 - `confidence` (Clopper and Pearson, Biometrika 26, 1934). None without trials.
    """
    if trials < 1:
        return None
    if successes < 1:
        return 0.0
    counts = np.arange(successes, trials + 1)
    logs = np.array([lgamma(n + 1) for n in range(trials + 1)])
    ways = logs[trials] - logs[counts] - logs[trials - counts]
    low, high = 0.0, 1.0
    for _ in range(60):
        p = (low + high) / 2
        if p in (low, high):
            break
        tail = np.exp(ways + counts * log(p) + (trials - counts) * log1p(-p)).sum()
        low, high = (p, high) if tail < 1 - confidence else (low, p)
    return low


@dataclass(frozen=True)
class Measure(Result):
    """What samples show of a criterion.

    Attributes:
        criterion: its name.
        samples: how many.
        value: the mean outcome.
        low: its lower bound.
    """

    criterion: str
    samples: int
    value: float
    low: float


@dataclass(frozen=True)
class Criterion:
    """One thing to be kept of classes.

    Attributes:
        kind: `keep`, `keep_top`, `within` or `max_loss`.
        least: the least mean outcome.
        count: k of `keep_top` and `within`.
    """

    kind: str
    least: float
    count: int = 0

    @property
    def name(self) -> str:
        """Its option, with k where it has one."""
        return f"{self.kind}:{self.count}" if self.count else self.kind

    @property
    def paired(self) -> bool:
        """Whether it is about labels, and one sample may make up for another."""
        return self.kind == "max_loss"

    def outcomes(self, a: Array, b: Array, labels: Array | None = None) -> Array | None:
        """Per sample 1, 0 or -1, for scores `[N, classes]` or for the classes themselves, `[N]`;
        None where these do not say."""
        first, second = (rows.argmax(axis=1) if rows.ndim > 1 else rows for rows in (a, b))
        if first.dtype.kind not in "iu":
            return None
        if self.kind == "keep":
            return np.asarray(first == second, np.int8)
        if self.kind == "within":
            gap = np.abs(first.astype(np.int64) - second.astype(np.int64))
            return np.asarray(gap <= self.count, np.int8)
        if self.kind == "keep_top" and b.ndim > 1:
            score = np.take_along_axis(b, first[:, None], axis=1)
            # Of equal scores the class comes last; NaN is smaller than nothing.
            return np.asarray((~(b < score)).sum(axis=1) <= self.count, np.int8)
        if self.paired and labels is not None and len(labels) == len(a):
            right = np.asarray(second == labels, np.int8)
            return np.asarray(right - np.asarray(first == labels, np.int8))
        return None

    def measure(self, more: int, less: int, samples: int) -> Measure:
        """What so many outcomes of 1 and of -1 show."""
        low = agreement_lower_bound(more, samples, self._confidence) or 0.0
        if self.paired:
            low -= 1 - (agreement_lower_bound(samples - less, samples, self._confidence) or 0.0)
        return Measure(self.name, samples, (more - less) / max(samples, 1), low)

    @property
    def _confidence(self) -> float:
        """Of each of its bounds."""
        return (1 + CONFIDENCE) / 2 if self.paired else CONFIDENCE

    @property
    def samples_needed(self) -> int:
        """The fewest samples that can show it: with not one outcome below the best, n samples show
        a share of p where p^n <= 1 - confidence."""
        share = 1 + self.least if self.paired else self.least
        return ceil(log(1 - self._confidence) / log(share))

    def provable(self, samples: int) -> str:
        """The most that so many samples could show, as text."""
        share = floor((1 - self._confidence) ** (1 / samples) * 1000) / 1000
        return f"no less than {points(1 - share)}" if self.paired else f"at most {percent(share)}"

    def most_missed(self, samples: int) -> int:
        """How many outcomes of so many samples may fall short of the best; -1 if none may."""
        missed = -1
        while self.reached(missed + 1, samples):
            missed += 1
        return missed

    def reached(self, missed: int, samples: int) -> bool:
        """Whether it is shown where so many outcomes fall short of the best."""
        more, less = (0, missed) if self.paired else (samples - missed, 0)
        return missed <= samples and self.measure(more, less, samples).low >= self.least

    @property
    def words(self) -> str:
        """What is requested, as text."""
        if self.paired:
            return f"accuracy lost ≤ {points(-self.least)}"
        return f"{self.what} ≥ {percent(self.least)}"

    @property
    def what(self) -> str:
        """What its share is of, as text."""
        classes = "1 class" if self.count == 1 else f"{self.count} classes"
        return {
            "keep": "agreement",
            "keep_top": f"class among the first {self.count}",
            "within": f"class within {classes}",
            "max_loss": "accuracy lost",
        }[self.kind]

    def said(self, found: Measure) -> str:
        """What was measured, and its bound, as text that follows a subject."""
        if self.paired:
            change = "loses" if found.value <= 0 else "gains"
            value = f"{change} {abs(found.value) * 100:.2f} points of accuracy"
            return f"{value} (at most {-found.low * 100:.2f} points lost)"
        value = {
            "keep": f"keeps the class of {found.value:.2%}",
            "keep_top": f"has the class among its first {self.count} on {found.value:.2%}",
            "within": f"is within {self.what.partition('within ')[2]} on {found.value:.2%}",
        }[self.kind]
        return f"{value} (at least {found.low:.2%})"


@dataclass(frozen=True)
class Target:
    """What an approximation has to keep.

    Attributes:
        keep: the least share of samples on which the class stays the same; None without.
        max_error: the largest relative RMS error of values; None without.
        keep_top: k, and the least share of samples whose class stays among the k largest scores.
        within: k, and the least share of samples whose class moves by at most k places.
        max_loss: the most of the accuracy that may be lost, as a share of all samples.
    """

    keep: float | None = None
    max_error: float | None = None
    keep_top: tuple[int, float] | None = None
    within: tuple[int, float] | None = None
    max_loss: float | None = None

    def __bool__(self) -> bool:
        return self.asked

    @property
    def asked(self) -> bool:
        """Whether anything is requested."""
        return self != Target()

    @property
    def criteria(self) -> tuple[Criterion, ...]:
        """What is to be kept of classes."""
        found = []
        if self.keep is not None:
            found.append(Criterion("keep", self.keep))
        for kind, given in (("keep_top", self.keep_top), ("within", self.within)):
            if given is not None:
                found.append(Criterion(kind, given[1], given[0]))
        if self.max_loss is not None:
            found.append(Criterion("max_loss", -self.max_loss))
        return tuple(found)

    @property
    def words(self) -> str:
        """What is requested, as text."""
        parts = [item.words for item in self.criteria]
        if self.max_error is not None:
            parts.append(f"relative error ≤ {percent(self.max_error)}")
        return " and ".join(parts)

    def check(self) -> None:
        """Make sure that all are shares, with a whole number where they have one.

        Raises:
            UsageError: one is not.
        """
        shares = {name: getattr(self, name) for name in ("keep", "max_error", "max_loss")}
        for name in ("keep_top", "within"):
            given = getattr(self, name)
            if given is None:
                continue
            if not isinstance(given, Sequence) or len(given) != 2 or given[0] != int(given[0]) > 0:
                raise UsageError(f"{name} is {given}", "give a number and a share, such as 5, 0.99")
            shares[name] = given[1]
        for name, value in shares.items():
            if value is not None and not 0 < value < 1:
                raise UsageError(f"{name} is {value}", "give a share, such as 0.99")


def percent(share: float) -> str:
    """A share as it is promised: 99.0 %, 99.95 %."""
    return f"{_short(share)} %"


def points(share: float) -> str:
    """A difference of shares in percentage points."""
    return f"{_short(share)} points"


def _short(share: float) -> str:
    whole, _, digits = f"{share * 100:.4f}".rstrip("0").partition(".")
    return f"{whole}.{digits or '0'}"
