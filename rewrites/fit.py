"""Fits one linear layer to another layer's outputs in closed form, without training.

Ridge regression around a prior. Given features z_n (rows of Z, N × D) and targets y_n (rows of Y,
N × F), with column means removed (Zc, Yc), minimise over V

    Σ_n ‖y_n − b − V z_n‖² + λ ‖V − V₀‖²        b free.

With R = Yc − Zc V₀ᵀ the solution is V = V₀ + Rᵀ Zc (ZcᵀZc + λI)⁻¹ and b = ȳ − V z̄ (Hoerl and
Kennard, "Ridge Regression", 1970). Let Zc = U diag(√w) Qᵀ be the thin singular value
decomposition, taken from the eigenvectors of the smaller Gram matrix. Then

    V = V₀ + (Q diag(√w / (w + λ)) Uᵀ R)ᵀ.

λ is chosen by exact leave-one-out: the residual of sample n when it is left out is its residual
divided by 1 − h_n with leverage h_n = 1/N + Σ_i U_ni² w_i / (w_i + λ) (Allen, "PRESS", 1974;
Golub, Heath and Wahba, 1979). With g_i = λ / (w_i + λ) this is

    1 − h_n = Σ_i U_ni² g_i + p_n,   p_n = 1 − 1/N − Σ_i U_ni²  (0 where U spans all of it),

a sum of positive terms: 1 − h_n itself would be 0/0 when N ≤ D.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

#: Eigenvalues below this share of the largest are rounding, not signal.
_RELATIVE_CUT = 1e-11

#: The grid of λ, as multiples of the largest eigenvalue.
_GRID = np.logspace(-8, 1, 37)


@dataclass(frozen=True)
class LinearFit:
    """y ≈ V z + b.

    Attributes:
        weight: V, F × D.
        bias: b, F.
        ridge: the chosen λ.
        error: leave-one-out squared error as a share of the targets' variance; 0 is perfect.
    """

    weight: Floats = field(repr=False)
    bias: Floats = field(repr=False)
    ridge: float
    error: float


def ridge(features: npt.ArrayLike, targets: npt.ArrayLike, prior: npt.ArrayLike) -> LinearFit:
    """Fit V and b around a prior, λ by exact leave-one-out.

    Constant features and targets, one sample, and duplicates are all fine: what the samples say
    nothing about keeps its prior.

    Args:
        features: Z, N × D.
        targets: Y, N × F.
        prior: V₀, F × D.

    Raises:
        ValueError: shapes do not fit, there is no sample, or a value is not finite.
    """
    z, y, v0 = (np.asarray(item, np.float64) for item in (features, targets, prior))
    if z.ndim != 2 or y.ndim != 2 or len(z) != len(y) or v0.shape != (y.shape[1], z.shape[1]):
        raise ValueError("features, targets and prior do not fit")
    if len(z) == 0:
        raise ValueError("no samples")
    if not (np.isfinite(z).all() and np.isfinite(y).all() and np.isfinite(v0).all()):
        raise ValueError("a feature or target is not finite")
    z_mean, y_mean = z.mean(axis=0), y.mean(axis=0)
    centred, target = z - z_mean, y - y_mean
    residual = target - centred @ v0.T
    left, right, power = _decompose(centred)
    variance = float((target**2).sum())
    if power.size == 0:  # one sample, or features that never change
        error = float((residual**2).sum()) / variance if variance else 0.0
        return LinearFit(v0, y_mean - v0 @ z_mean, 0.0, error)
    projected = left.T @ residual
    outside = residual - left @ projected
    spare = np.maximum(1 - 1 / len(z) - (left**2).sum(axis=1), 0.0)
    if power.size >= len(z) - 1:
        outside, spare = np.zeros_like(outside), np.zeros_like(spare)
    candidates = [float(power[0] * factor) for factor in _GRID]
    errors = [_left_out(left, projected, outside, spare, power, value) for value in candidates]
    best = int(np.argmin(errors))
    gain = np.sqrt(power) / (power + candidates[best])
    weight = v0 + (right @ (gain[:, None] * projected)).T
    error = errors[best] / variance if variance else 0.0
    return LinearFit(weight, y_mean - weight @ z_mean, candidates[best], error)


def _decompose(centred: Floats) -> tuple[Floats, Floats, Floats]:
    """U, Q and w of the thin SVD, largest first, without directions that are only rounding."""
    samples, size = centred.shape
    small = centred @ centred.T if samples <= size else centred.T @ centred
    power, vectors = np.linalg.eigh(small)
    power, vectors = power[::-1], vectors[:, ::-1]
    keep = power > max(float(power[0]), 1e-300) * _RELATIVE_CUT
    keep[max(samples - 1, 0) :] = False  # centring takes one direction away
    power, vectors = power[keep], vectors[:, keep]
    if samples <= size:
        return vectors, (centred.T @ vectors) / np.sqrt(power), power
    return (centred @ vectors) / np.sqrt(power), vectors, power


def _left_out(
    left: Floats, projected: Floats, outside: Floats, spare: Floats, power: Floats, value: float
) -> float:
    """Sum of squared leave-one-out residuals for one λ."""
    shrink = value / (power + value)
    residual = left @ (shrink[:, None] * projected) + outside
    slack = (left**2) @ shrink + spare
    return float(((residual / np.maximum(slack, 1e-13)[:, None]) ** 2).sum())
