"""Holds arrays from files against what a model takes."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxshare.errors import SamplesError
from onnxshare.io.tensors import Array
from onnxshare.signature import Batching, InputSpec

#: What NumPy and zipfile raise on files that are not what they should be.
BROKEN = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    MemoryError,
    OverflowError,
    RuntimeError,
    NotImplementedError,
    SyntaxError,
    TypeError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


def fit(array: Array, spec: InputSpec, layout: Batching, path: Path) -> Array:
    """Return the array with a sample axis and the model's type, or say why it does not fit.

    Raises:
        SamplesError: shape or type are not the model's, or a value is NaN or infinite.
    """
    wanted = sample_shape(spec, layout)
    if wanted is not None and array.ndim == len(wanted):
        array = array[np.newaxis]  # one sample without an axis for the samples
    elif wanted is None and array.ndim == 0:
        array = array[np.newaxis]
    check_shape(array.shape, spec, layout, path)
    array = _cast(array, spec, path)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise SamplesError(f"{path}: '{spec.name}' holds NaN or infinite values")
    return array


def check_shape(shape: Sequence[int], spec: InputSpec, layout: Batching, path: Path) -> None:
    """Make sure that a shape, samples first, is one that the model takes.

    Raises:
        SamplesError: it is not.
    """
    wanted = sample_shape(spec, layout)
    if wanted is None:
        return
    fits = len(shape) == len(wanted) + 1 and all(
        size in (None, given) for given, size in zip(shape[1:], wanted, strict=True)
    )
    if not fits:
        shown = "×".join(map(str, shape)) or "a scalar"
        raise SamplesError(
            f"{path}: '{spec.name}' has shape {shown} (samples first), the model wants {spec.words}"
        )


def sample_shape(spec: InputSpec, layout: Batching) -> tuple[int | None, ...] | None:
    """The shape of one sample of an input; None where not even the rank is known."""
    if spec.shape is None or layout.whole:
        return spec.shape
    return spec.shape[1:]


def only_input(specs: Sequence[InputSpec], path: Path, what: str) -> InputSpec:
    """The one input of a model.

    Raises:
        SamplesError: it has none, or several.
    """
    if len(specs) == 1:
        return specs[0]
    names = ", ".join(f"'{spec.name}'" for spec in specs) or "none"
    raise SamplesError(
        f"{path}: {what} suit models with one input, and this one's are {names}",
        "give an .npz whose keys are the inputs' names",
    )


def require_file(path: Path) -> None:
    """Make sure that a path is a regular file.

    Raises:
        SamplesError: it is not.
    """
    if not path.exists():
        raise SamplesError(f"{path}: no such file or folder", "check --samples")
    if not path.is_file():
        raise SamplesError(f"{path}: is not a regular file")


def first_line(error: BaseException) -> str:
    """What an exception says, in one line."""
    lines: Iterator[str] = (line.strip() for line in str(error).splitlines() if line.strip())
    return next(lines, type(error).__name__)[:200]


def _cast(array: Array, spec: InputSpec, path: Path) -> Array:
    """Cast between floats, and otherwise only where every value survives."""
    if array.dtype == spec.dtype:
        return array
    problem = f"{path}: '{spec.name}' is {array.dtype}, the model wants {spec.dtype}"
    if array.dtype.kind not in "fiub" or not _is_number(spec.dtype):
        raise SamplesError(problem)
    with np.errstate(all="ignore"):
        cast = array.astype(spec.dtype)
        floats = array.dtype.kind == "f" and not _is_integer(spec.dtype)
        if floats or np.array_equal(cast.astype(array.dtype), array):
            return cast
    raise SamplesError(f"{problem}, and its values do not survive the change")


def _is_integer(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "iub"


def _is_number(dtype: np.dtype[Any]) -> bool:
    # bfloat16 and float8, which NumPy files under "V", come from ml_dtypes.
    return dtype.kind in "fiubV"
