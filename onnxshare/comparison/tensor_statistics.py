"""The figures behind a verdict, gathered batch by batch so that memory stays bounded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxshare.comparison.target import Criterion, Measure
from onnxshare.io.tensors import Array

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


#: Outputs of up to this many elements per sample are judged element by element below rank 4.
_MOST_ELEMENTS = 65_536


def split_channels(array: Array) -> Floats:
    """Return values as `[samples, channels, positions]`, in double precision.

    The channel of a map `[N, C, H, W…]` is axis 1. Below rank 4 axis 1 may be channels or
    tokens, so every element of a sample is its own channel, unless there are very many.
    """
    values = array.astype(np.float64)
    count = values.shape[0] if values.ndim else 1
    elements = values.size // max(count, 1)
    if values.ndim >= 3 and (values.ndim > 3 or elements > _MOST_ELEMENTS):
        return values.reshape(count, values.shape[1], -1)
    return values.reshape(count, elements, 1)


def is_float(array: Array) -> bool:
    """Whether rounding applies to a tensor: floats, bfloat16 and float8 among them."""
    return array.dtype.kind == "f" or (array.dtype.kind == "V" and array.dtype.names is None)


#: Equal values differ by no more than this share of the largest, at a first look.
_EQUAL = 2.0**-10


def close(a: Array, b: Array) -> bool:
    """Whether two tensors seem to be equal: of one shape and type, and no error is plain to see."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not is_float(a):
        return np.array_equal(a, b)
    one, other = a.astype(np.float64), b.astype(np.float64)
    limit = _EQUAL * np.abs(one[np.isfinite(one)]).max(initial=0.0)
    return np.allclose(one, other, 0.0, limit, equal_nan=True)


class Tally:
    """What is known about one output of two models so far.

    Attributes:
        samples: rows seen.
        bit_equal: all bytes equal so far.
        problem: a difference that no tolerance excuses, as text, or an empty string.
        numeric: whether the tensor is floating-point, and so judged by tolerance.
        classes: the size of the class axis, or 0 where there is none.
        agree: rows with the same arg-max; of integers and strings, rows that are equal.
        only_values: whether the problem is that some integers or strings differ, no more.
        agree_five: rows with the same five largest classes.
        worst_row: per channel the sample with the largest error.
        fixed: whether no input has a part in it.
        discrete: whether values jump by whole steps, which any channel may do once in a while.
    """

    def __init__(self, name: str, criteria: Sequence[Criterion] = ()) -> None:
        """Start with nothing seen of the tensor called `name`; count outcomes for `criteria`."""
        self.name = name
        self._outcomes = {item: np.zeros(3, np.int64) for item in criteria}  # 1, -1, all
        self.samples = 0
        self.bit_equal = True
        self.problem = ""
        self.numeric = True
        self.discrete = self.fixed = False
        self.epsilon = 0.0
        self.classes = 0
        self.agree = 0
        self.agree_five = 0
        self.only_values = False
        self.right = [0, 0]
        self.worst_row = self.error = self.noise = self.largest = np.zeros(0)
        self.response: Floats | None = None
        self._low = self._high = np.zeros(0)
        self._sums = np.zeros(4)  # of a², b², a·b, error²
        self._elements = self._not_finite = 0
        self._spread = Spread()

    def add(
        self, a: Array, b: Array, own: Sequence[Array] = (), labels: Array | None = None
    ) -> None:
        """Add one batch: the two models' values, and other runs of the first model (`own`)."""
        first = self.samples
        self.samples += len(a)
        if a.shape != b.shape and a.size == b.size and _squeezed(a) == _squeezed(b):
            b = b.reshape(a.shape)
        if a.shape != b.shape:
            self._refuse(f"has shape {_words(a)} in A and {_words(b)} in B")
            return
        if a.dtype != b.dtype:
            self._refuse(f"is {a.dtype} in A and {b.dtype} in B")
            return
        same = a.tobytes() == b.tobytes() if a.dtype.kind != "O" else np.array_equal(a, b)
        self.bit_equal = self.bit_equal and same
        self.numeric = is_float(a)
        if not self.numeric:
            self._add_exact(a, b, own, labels)
            return
        self.epsilon = _epsilon(a.dtype)
        self._add_classes(a, b, labels)
        self._add_floats(split_channels(a), split_channels(b), first)
        self.add_noise(a, own)

    def add_noise(self, a: Array, own: Sequence[Array]) -> None:
        """Add how far the first model's other runs are from its values `a`."""
        if self.problem or not self.numeric:
            return
        reference = split_channels(a)
        if reference.shape[1] != self.noise.size:
            return  # a batch behind axis 0: fewer samples are fewer channels
        for other in own:
            if other.shape == a.shape:
                self.noise = np.maximum(self.noise, _distance(split_channels(other), reference))

    def add_response(self, a: Array, moved: Array) -> None:
        """Add how far the outputs move when the inputs are moved visibly."""
        if self.problem or not self.numeric or moved.shape != a.shape:
            return
        distance = _distance(split_channels(moved), split_channels(a))
        if distance.size != self.error.size:
            return
        self.response = distance if self.response is None else np.maximum(self.response, distance)

    @property
    def measures(self) -> dict[Criterion, Measure]:
        """What is known by criterion, of those that the tensor says something about."""
        return {
            item: item.measure(*map(int, counts))
            for item, counts in self._outcomes.items()
            if counts[2]
        }

    @property
    def movement(self) -> Floats:
        """Per channel half the largest range over the samples: a constant does not count."""
        span = np.where(np.isfinite(self._low), (self._high - self._low) / 2, 0.0)
        return np.asarray(span.max(axis=-1, initial=0.0))

    @property
    def moves(self) -> bool:
        """Whether a value changes at all from sample to sample; of strings that is not known."""
        return not self._low.size or bool((self.movement > 0).any())

    @property
    def numberless(self) -> bool:
        """Whether all values are NaN or infinite."""
        return self._not_finite > 0 and not self._elements

    @property
    def varied(self) -> float | None:
        """Share of the channels of an integer tensor that are not the same on all samples."""
        if self.numeric or self.problem or not self._elements:
            return None
        return float((self.movement > 0).mean())

    def figures(self) -> dict[str, float | None]:
        """Return max_abs, max_rel, rmse, both SQNR and cosine of all that was added; of integers
        and booleans only the first three, of strings none.

        max_rel = largest |a - b| / largest |a|; SQNR = 10·log10(Σa² / Σ(a - b)²) dB, None
        without error or signal; centred, each channel's mean is taken off a first, so that a
        large constant hides no error; cosine = Σab / √(Σa²·Σb²).
        """
        found: dict[str, float | None] = dict.fromkeys(
            ("max_abs", "max_rel", "rmse", "sqnr_db", "sqnr_centred_db", "cosine")
        )
        if self.problem or not (self.numeric or self._elements):
            return found
        aa, bb, ab, ee = (float(value) for value in self._sums)
        largest = float(self.largest.max(initial=0.0))
        error = float(self.error.max(initial=0.0))
        norm = math.sqrt(aa) * math.sqrt(bb)
        found |= {
            "max_abs": error,
            "max_rel": error / largest if largest else (None if error else 0.0),
            "rmse": math.sqrt(ee / self._elements) if self._elements else None,
        }
        if not self.numeric:
            return found
        return found | {
            "sqnr_db": _decibels(aa, ee),
            "sqnr_centred_db": _decibels(self._spread.energy, ee),
            "cosine": min(1.0, ab / norm) if norm else None,
        }

    def _refuse(self, problem: str) -> None:
        self.bit_equal = False
        self.problem = self.problem or problem

    def _add_outcomes(
        self, a: Array, b: Array, labels: Array | None, same: Array | None = None
    ) -> None:
        """Count the outcomes of scores `[N, classes]`; or of classes `[N, 1]`, of which it is known
        where they are the `same`."""
        one = same is not None
        for item, counts in self._outcomes.items():
            found = same if item.kind == "keep" else None
            if found is None and not (one and a.shape[1] != 1):
                found = item.outcomes(a[:, 0] if one else a, b[:, 0] if one else b, labels)
            if found is not None:
                counts += (int((found > 0).sum()), int((found < 0).sum()), len(found))

    def _add_exact(self, a: Array, b: Array, own: Sequence[Array], labels: Array | None) -> None:
        wrong = a != b
        for other in own:  # an arg-max that the model's own rounding turns over
            if other.shape == a.shape:
                wrong &= other == a
        same = (~wrong).reshape(len(a), -1).all(axis=1)
        self.agree += int(same.sum())
        self._add_outcomes(a.reshape(len(a), -1), b.reshape(len(a), -1), labels, same)
        if wrong.any():
            self.only_values = self.only_values or not self.problem
            self._refuse(f"differs in {int(wrong.sum())} of {a.size} {a.dtype} values")
        if a.dtype.kind in "biu" and not self.problem:
            self._add_numbers(split_channels(a), split_channels(b))

    def _add_classes(self, a: Array, b: Array, labels: Array | None) -> None:
        rows = a.reshape(len(a), -1)
        if a.ndim < 2 or rows.shape[1] != a.shape[-1 if a.shape[1] == 1 else 1]:
            return
        self.classes = rows.shape[1] if rows.shape[1] >= 2 else 0
        if not self.classes:
            return
        best_a, best_b = rows.argmax(axis=1), b.reshape(len(b), -1).argmax(axis=1)
        self._add_outcomes(rows, b.reshape(len(b), -1), labels)
        self.agree += int((best_a == best_b).sum())
        if self.classes > 5:
            self.agree_five += int((_five(rows) == _five(b.reshape(len(b), -1))).all(axis=1).sum())
        if labels is not None and len(labels) == len(rows):
            self.right[0] += int((best_a == labels).sum())
            self.right[1] += int((best_b == labels).sum())

    def _add_floats(self, a: Floats, b: Floats, first: int) -> None:
        for special in (np.isnan, np.isposinf, np.isneginf):
            count = int((special(a) != special(b)).sum())
            if count:
                self._refuse(f"has NaN or infinite values in other places ({count} differ)")
                return
        if self.error.size and a.shape[1:] != self._low.shape:
            self._refuse("changes its shape from batch to batch")
            return
        finite = np.isfinite(a)
        a, b = np.where(finite, a, 0.0), np.where(finite, b, 0.0)
        before = self.error
        error = self._add_numbers(a, b)
        if not before.size:
            before, self.noise, self.worst_row = (np.zeros(a.shape[1]) for _ in range(3))
        per_row = error.max(axis=2, initial=0.0)
        self.worst_row = np.where(
            self.error > before, first + per_row.argmax(axis=0), self.worst_row
        )
        self._spread.add(a)
        self._sums[:3] += (np.vdot(a, a), np.vdot(b, b), np.vdot(a, b))
        odd = int((~finite).sum())
        self._elements -= odd
        self._not_finite += odd

    def _add_numbers(self, a: Floats, b: Floats) -> Floats:
        """Widen ranges, and return the errors; no more is known of integers and booleans, which no
        tolerance judges."""
        if self._low.shape != a.shape[1:]:
            self._low, self._high = np.full(a.shape[1:], np.inf), np.full(a.shape[1:], -np.inf)
            self.error, self.largest = np.zeros(a.shape[1]), np.zeros(a.shape[1])
        self._low = np.minimum(self._low, a.min(axis=0, initial=np.inf))
        self._high = np.maximum(self._high, a.max(axis=0, initial=-np.inf))
        error = np.abs(a - b)
        self.error = np.maximum(self.error, error.max(axis=(0, 2), initial=0.0))
        self.largest = np.maximum(self.largest, np.abs(a).max(axis=(0, 2), initial=0.0))
        self._sums[3] += np.vdot(error, error)
        self._elements += a.size
        return error


def _five(rows: Array) -> Array:
    """The five largest of each row, by their places."""
    return np.sort(np.argpartition(rows, -5, axis=1)[:, -5:], axis=1)


def _decibels(signal: float, error: float) -> float | None:
    return 10 * math.log10(signal / error) if signal and error else None


def _distance(a: Floats, b: Floats) -> Floats:
    with np.errstate(invalid="ignore"):
        gap = np.abs(a - b)
    return np.asarray(np.where(np.isfinite(gap), gap, 0.0).max(axis=(0, 2), initial=0.0))


def _squeezed(array: Array) -> tuple[int, ...]:
    return tuple(size for size in array.shape if size != 1)


def _words(array: Array) -> str:
    return "×".join(map(str, array.shape)) or "scalar"


def _epsilon(dtype: np.dtype[Any]) -> float:
    """The spacing of numbers at 1; bfloat16's kin, which NumPy does not know, are short."""
    return float(np.finfo(dtype).eps) if dtype.kind == "f" else 2.0**-7
