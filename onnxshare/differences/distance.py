"""How far apart the elements of two tensors are."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxshare.io.tensors import Array, release

#: Elements of one step.
_STEP = 2**17


def distance(one: Array | None, other: Array | None) -> tuple[float | None, float | None]:
    """Largest |a - b|, and that over the largest |a|; None where the two are not numbers of one
    kind. A number on one side and none (NaN) on the other are infinitely far apart."""
    if one is None or other is None or _kind(one) != _kind(other) or _kind(one) is None:
        return None, None
    largest = scale = 0.0
    for left, right in zip(_steps(one), _steps(other), strict=True):
        with np.errstate(all="ignore"):
            apart = np.abs(left - right)
        apart[(left == right) | (np.isnan(left) & np.isnan(right))] = 0
        apart[np.isnan(apart)] = np.inf
        largest = max(largest, float(apart.max(initial=0)))
        scale = max(scale, float(np.nanmax(np.abs(left), initial=0)))
    return largest, largest / scale if scale and np.isfinite(scale) else None


def first(array: Array | None) -> Array | None:
    """One element, which is like all others."""
    return None if array is None else array[(slice(0, 1),) * array.ndim]


def _kind(array: Array) -> str | None:
    name = array.dtype.name
    if name.startswith(("float", "bfloat", "complex")):
        return "real"
    return "whole" if name.startswith(("int", "uint", "bool")) else None


def _steps(array: Array) -> Iterator[Array]:
    wide = np.complex128 if array.dtype.kind == "c" else np.float64
    filled = array.size > 1 and not any(array.strides)
    flat = array[(0,) * array.ndim].reshape(1) if filled else array.reshape(-1)
    for start in range(0, array.size, _STEP):
        count = min(_STEP, array.size - start)
        part = np.repeat(flat, count) if filled else flat[start : start + count]
        yield part.astype(wide)
        release(part)
