"""Fits one linear layer to another layer's outputs in closed form, without training.

Ridge regression around a prior. Given features z_n (rows of Z, N × D) and targets y_n (rows of Y,
N × F), with column means removed (Zc, Yc), minimise over V

    Σ_n ‖y_n − b − V z_n‖² + λ ‖V − V₀‖²        b free.

With R = Yc − Zc V₀ᵀ the solution is V = V₀ + Rᵀ Zc (ZcᵀZc + λI)⁻¹ and b = ȳ − V z̄ (Hoerl and
Kennard, "Ridge Regression", 1970). Let Zc = U diag(√w) Qᵀ be the thin singular value
decomposition, taken from the eigenvectors of the smaller of ZcᵀZc (D × D) and ZcZcᵀ (N × N); then

    V = V₀ + (Q diag(√w / (w + λ)) Uᵀ R)ᵀ  =  V₀ + (U diag(1 / (w + λ)) Uᵀ R)ᵀ Zc.

λ is chosen by exact leave-one-out: the residual of sample n when it is left out is its residual
divided by 1 − h_n with leverage h_n = 1/N + Σ_i U_ni² w_i / (w_i + λ) (Allen, "PRESS", 1974;
Golub, Heath and Wahba, 1979). With g_i = λ / (w_i + λ) this is

    1 − h_n = Σ_i U_ni² g_i + p_n,   p_n = 1 − 1/N − Σ_i U_ni²  (0 where U spans all of it),

a sum of positive terms: 1 − h_n itself would be 0/0 when N ≤ D. The same quotient gives for every
sample the prediction of a fit that has not seen it, at no further cost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from rewrites.small_heads.sufficient_statistics import Features, Floats, blocks, gather, gram

#: Eigenvalues below this share of the largest are rounding, not signal.
_RELATIVE_CUT = 1e-11

#: The grid of λ, as multiples of the largest eigenvalue.
_GRID = np.logspace(-8, 1, 37)

#: Each of so many of the grid is tried first, then those around the best.
_STRIDE = 4

#: Above so many outputs λ is chosen by so many random combinations of them, which keep squared
#: lengths in expectation (Johnson and Lindenstrauss, 1984).
_SKETCH = 256


@dataclass(frozen=True)
class LinearFit:
    """y ≈ V z + b.

    Attributes:
        weight: V, F × D.
        bias: b, F.
        ridge: the chosen λ.
        error: leave-one-out squared error as a share of the targets' variance; 0 is perfect.
        left_out: per sample the prediction of the fit to all others, N × F.
    """

    weight: Floats = field(repr=False)
    bias: Floats = field(repr=False)
    ridge: float
    error: float
    left_out: Floats = field(repr=False)


class Ridge:
    """Features, decomposed once for any number of targets.

    Args:
        features: Z, N × D; passed over again by each fit.

    Raises:
        ValueError: there is no sample, or a value is not finite.
    """

    def __init__(self, features: Features) -> None:
        self._features = features
        samples, size = features.shape
        if samples == 0:
            raise ValueError("no samples")
        self._samples = samples
        self._left: Floats | None = None
        self._right: Floats | None = None
        if samples <= size:
            self.mean, small = gram(features)
        else:
            moments = gather(features)
            self.mean, small = moments.mean, moments.scatter
        if not np.isfinite(small).all():
            raise ValueError("a feature is not finite")
        power, vectors = np.linalg.eigh(small)
        power, vectors = power[::-1], vectors[:, ::-1]
        keep = power > max(float(power[0]) if size else 0.0, 1e-300) * _RELATIVE_CUT
        keep[max(samples - 1, 0) :] = False  # centring takes one direction away
        self.power: Floats = power[keep]
        if samples <= size:
            self._left = vectors[:, keep]
        else:
            self._right = vectors[:, keep]
        # Where U spans all centred directions, what is outside it is rounding.
        self._spans = self.power.size >= samples - 1

    def fit(self, targets: Floats, prior: Floats) -> LinearFit:
        """Fit to targets `[N, F]` around a prior `[F, D]`.

        Raises:
            ValueError: shapes do not fit, or a value is not finite.
        """
        size = self._features.shape[1]
        if targets.shape[0] != self._samples or prior.shape != (targets.shape[1], size):
            raise ValueError("features, targets and prior do not fit")
        if not (np.isfinite(targets).all() and np.isfinite(prior).all()):
            raise ValueError("a target is not finite")
        mean = targets.mean(axis=0)
        residual = targets - mean
        variance = float((residual**2).sum())
        residual -= self.predict(prior)
        if self.power.size == 0:  # one sample, or features that never change
            return self._constant(targets, mean, residual, variance, prior)
        projected = np.zeros((self.power.size, targets.shape[1]))
        for part, left in self._left_blocks():
            projected += left.T @ residual[part]
        strength, error = self._choose(residual, projected)
        left_out = targets - self._left_out(residual, projected, strength)
        gain = np.sqrt(self.power) / (self.power + strength)
        weight = self.lift((gain[:, None] * projected).T) + prior
        share = error / variance if variance else 0.0
        return LinearFit(weight, mean - weight @ self.mean, strength, share, left_out)

    def _constant(
        self, targets: Floats, mean: Floats, residual: Floats, variance: float, prior: Floats
    ) -> LinearFit:
        """The prior, with a bias that makes it right on average."""
        others = max(self._samples - 1, 1)
        left_out = targets - residual * (self._samples / others)
        error = float((residual**2).sum()) / variance if variance else 0.0
        return LinearFit(prior, mean - prior @ self.mean, 0.0, error, left_out)

    def _left_blocks(self) -> Iterator[tuple[slice, Floats]]:
        """U, some samples at a time."""
        if self._left is not None:
            for part in blocks(self._samples, self.power.size):
                yield part, self._left[part]
            return
        assert self._right is not None
        scaled = self._right / np.sqrt(self.power)
        for part, block in self._features.rows():
            yield part, (block - self.mean) @ scaled

    def _choose(self, residual: Floats, projected: Floats) -> tuple[float, float]:
        """The λ of the grid with the least leave-one-out error, and that error: one λ of each
        decade is tried, then those within a decade of the best."""
        outputs = residual.shape[1]
        if outputs > _SKETCH:
            mix = np.random.default_rng(outputs).standard_normal((outputs, _SKETCH))
            mix /= np.sqrt(_SKETCH)
            residual, projected = residual @ mix, projected @ mix
        errors = np.full(len(_GRID), np.inf)
        coarse = range(0, len(_GRID), _STRIDE)
        errors[coarse] = self._errors(residual, projected, coarse)
        around = int(np.argmin(errors))
        fine = range(max(0, around - _STRIDE + 1), min(len(_GRID), around + _STRIDE))
        errors[fine] = self._errors(residual, projected, fine)
        best = int(np.argmin(errors))
        return float(self.power[0] * _GRID[best]), float(errors[best])

    def _errors(self, residual: Floats, projected: Floats, places: Sequence[int]) -> Floats:
        """The leave-one-out squared error of some λ of the grid."""
        candidates = self.power[0] * _GRID[places]
        errors = np.zeros(len(candidates))
        for part, left in self._left_blocks():
            outside, spare = self._outside(left, residual[part], projected)
            squares = left**2
            for place, value in enumerate(candidates):
                shrink = value / (self.power + value)
                left_out = left @ (shrink[:, None] * projected) + outside
                slack = np.maximum(squares @ shrink + spare, 1e-13)
                errors[place] += float(((left_out / slack[:, None]) ** 2).sum())
        return errors

    def _outside(
        self, left: Floats, residual: Floats, projected: Floats
    ) -> tuple[Floats | float, Floats | float]:
        """What of a block of residuals, and of its leverages, lies outside of U."""
        if self._spans:
            return 0.0, 0.0
        spare = np.maximum(1 - 1 / self._samples - (left**2).sum(axis=1), 0.0)
        return residual - left @ projected, spare

    def _left_out(self, residual: Floats, projected: Floats, strength: float) -> Floats:
        """The leave-one-out residuals."""
        shrink = strength / (self.power + strength)
        found = np.empty_like(residual)
        for part, left in self._left_blocks():
            outside, spare = self._outside(left, residual[part], projected)
            slack = np.maximum((left**2) @ shrink + spare, 1e-13)
            found[part] = (left @ (shrink[:, None] * projected) + outside) / slack[:, None]
        return found

    def coordinates(self) -> Floats:
        """The centred features in the directions they vary in, Zc Q = U diag(√w): N × m."""
        found = np.empty((self._samples, self.power.size))
        for part, left in self._left_blocks():
            found[part] = left * np.sqrt(self.power)
        return found

    def rotate(self, centred: Floats) -> Floats:
        """V Q, F × m, of a weight V known by its predictions Zc Vᵀ, N × F."""
        found = np.zeros((centred.shape[1], self.power.size))
        for part, left in self._left_blocks():
            found += centred[part].T @ left
        return np.asarray(found / np.sqrt(self.power))

    def lift(self, rotated: Floats) -> Floats:
        """The weight V = (V Q) Qᵀ, F × D, of one in those directions, F × m."""
        if self._right is not None:
            return rotated @ self._right.T
        assert self._left is not None
        dual = (rotated / np.sqrt(self.power)) @ self._left.T
        weight = np.empty((len(rotated), self._features.shape[1]))
        for part, block in self._features.columns():
            weight[:, part] = dual @ (block - self.mean[part])
        return weight

    def predict(self, weight: Floats) -> Floats:
        """Zc Vᵀ, N × F."""
        found = np.zeros((self._samples, len(weight)))
        if self._left is not None:
            for part, block in self._features.columns():
                found += (block - self.mean[part]) @ weight[:, part].T
            return found
        for part, block in self._features.rows():
            found[part] = (block - self.mean) @ weight.T
        return found
