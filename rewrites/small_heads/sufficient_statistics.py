"""What a linear fit needs to know of its features, in memory of the smaller of N and D squared.

For N samples of D features either the D × D scatter matrix Σ (z − z̄)(z − z̄)ᵀ says all there is to
know, or, where there are fewer samples than features, the N × N Gram matrix (z_n − z̄)·(z_m − z̄).
The scatter is gathered in one pass over blocks of samples in double precision; two blocks of n_a
and n_b samples are merged by the stable update

    z̄ = z̄_a + δ n_b / n,    S = S_a + S_b + δδᵀ n_a n_b / n,    δ = z̄_b − z̄_a

(Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
variances", 1979). The Gram matrix is a sum over blocks of features, each centred exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float64]]
Singles = np.ndarray[Any, np.dtype[np.float32]]

#: Elements of a block: 32 MB in double precision.
BLOCK = 2**22


class Features(Protocol):
    """N × D features that can be passed over again and again, a block at a time."""

    @property
    def shape(self) -> tuple[int, int]:
        """Samples and features."""

    def rows(self) -> Iterator[tuple[slice, Floats]]:
        """Blocks of samples `[n, D]`, in order, with the samples they hold."""

    def columns(self) -> Iterator[tuple[slice, Floats]]:
        """Blocks of features `[N, d]`, in order, with the features they hold."""


class Matrix:
    """Features that are in memory."""

    def __init__(self, values: Floats) -> None:
        self.values = values

    @property
    def shape(self) -> tuple[int, int]:
        """Samples and features."""
        return self.values.shape[0], self.values.shape[1]

    def rows(self) -> Iterator[tuple[slice, Floats]]:
        """Blocks of samples."""
        for part in blocks(self.shape[0], self.shape[1]):
            yield part, self.values[part]

    def columns(self) -> Iterator[tuple[slice, Floats]]:
        """Blocks of features."""
        for part in blocks(self.shape[1], self.shape[0]):
            yield part, self.values[:, part]


def blocks(length: int, width: int) -> Iterator[slice]:
    """Cut an axis so that pieces of `width` elements per step stay below `BLOCK` elements."""
    step = max(1, BLOCK // max(1, width))
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


@dataclass(frozen=True)
class Moments:
    """Count, mean z̄ `[D]` and scatter `[D, D]` of samples: Σ (z − z̄)(z − z̄)ᵀ, not divided by the
    count."""

    count: int
    mean: Floats
    scatter: Floats

    @staticmethod
    def of(block: Floats) -> Moments:
        """The moments of one block of samples `[n, D]`."""
        if not len(block):
            return Moments(0, np.zeros(block.shape[1]), np.zeros((block.shape[1],) * 2))
        mean = block.mean(axis=0)
        centred = block - mean
        return Moments(len(block), mean, centred.T @ centred)

    def merge(self, other: Moments) -> Moments:
        """The moments of both sets of samples together."""
        if not other.count or not self.count:
            return self if self.count else other
        total = self.count + other.count
        step = other.mean - self.mean
        weight = self.count * other.count / total
        scatter = self.scatter + other.scatter
        scatter += np.outer(step * weight, step)
        return Moments(total, self.mean + step * (other.count / total), scatter)


def gather(features: Features) -> Moments:
    """The moments of all samples, in one pass."""
    found = Moments.of(np.zeros((0, features.shape[1])))
    for _, block in features.rows():
        found = found.merge(Moments.of(block))
    return found


def gram(features: Features) -> tuple[Floats, Floats]:
    """The mean `[D]` and the Gram matrix `[N, N]` of the centred samples, in one pass."""
    samples, size = features.shape
    mean = np.zeros(size)
    found = np.zeros((samples, samples))
    for part, block in features.columns():
        mean[part] = block.mean(axis=0)
        centred = block - mean[part]
        found += centred @ centred.T
    return mean, found
