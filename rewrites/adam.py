"""Adam: steps of stochastic gradient descent, sized by what gradients were lately.

Kingma and Ba, "Adam: A Method for Stochastic Optimization", 2015 (arXiv 1412.6980), algorithm 1,
with a step size that grows and then falls along a cosine (Loshchilov and Hutter, arXiv 1608.03983).
"""

from __future__ import annotations

from math import cos, pi

import numpy as np

from rewrites.moments import Singles

#: Adam's step size at its height, and how it remembers gradients and their squares.
_RATE = 0.02
_MEMORY = (0.9, 0.99)

#: The share of the steps in which the step size grows; it falls to 0 along a cosine in the rest.
_GROWTH = 0.1


class Adam:
    """Moves a point along its gradients."""

    def __init__(self, point: list[Singles]) -> None:
        self._point = point
        self._mean = [np.zeros_like(values) for values in point]
        self._square = [np.zeros_like(values) for values in point]
        self._count = 0

    def step(self, gradient: list[Singles], size: float) -> None:
        """One step of this size."""
        self._count += 1
        first, second = (1 - memory**self._count for memory in _MEMORY)
        for values, slope, mean, square in zip(
            self._point, gradient, self._mean, self._square, strict=True
        ):
            mean += (1 - _MEMORY[0]) * (slope - mean)
            square += (1 - _MEMORY[1]) * (slope * slope - square)
            values -= (size / first) * mean / (np.sqrt(square / second) + 1e-8)


def rate(done: float) -> float:
    """The step size where this share of all steps is done."""
    if done < _GROWTH:
        return _RATE * (done + 1e-3) / _GROWTH
    return _RATE * (1 + cos(pi * (done - _GROWTH) / (1 - _GROWTH))) / 2
