"""How far values are spread around the mean of their channel, gathered batch by batch."""

from __future__ import annotations

from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float64]]


class Spread:
    """Sum of squared distances from each channel's mean, merged batch by batch (Chan, Golub and
    LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979).
    """

    def __init__(self) -> None:
        """Start with nothing seen."""
        self._count = 0
        self._mean: Floats = np.zeros(0)
        self._squares: Floats = np.zeros(0)

    def add(self, values: Floats) -> None:
        """Add samples × channels × positions."""
        count = values.shape[0] * values.shape[2]
        if not count:
            return
        mean = values.mean(axis=(0, 2))
        squares = ((values - mean[None, :, None]) ** 2).sum(axis=(0, 2))
        if not self._count:
            self._count, self._mean, self._squares = count, mean, squares
            return
        total = self._count + count
        step = mean - self._mean
        self._squares = self._squares + squares + step**2 * (self._count * count / total)
        self._mean = self._mean + step * (count / total)
        self._count = total

    @property
    def energy(self) -> float:
        """The sum over all channels."""
        return float(self._squares.sum())
