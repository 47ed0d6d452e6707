"""Checks arrays from files against what a model takes, and labels against the samples.

Labels are the right classes of the samples: given as an array, read from a file, or taken from the
names of folders.
"""

from __future__ import annotations

import os
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from onnxshare.errors import SamplesError
from onnxshare.io.tensors import Array
from onnxshare.io.user_files import read_user_file
from onnxshare.samples.input_specs import Batching, InputSpec
from onnxshare.support.numbers import whole_number
from onnxshare.support.option_text import option

#: What NumPy and zipfile raise on files that are not what they should be.
BROKEN = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    MemoryError,
    OverflowError,
    RuntimeError,
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
    if array.ndim == len(sample_shape(spec, layout) or ()):
        array = array[np.newaxis]  # one sample without an axis for the samples
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
        raise SamplesError(f"{path}: no such file or folder", f"check {option('--samples')}")
    if not path.is_file():
        raise SamplesError(f"{path}: is not a regular file")


def first_line(error: BaseException) -> str:
    """What an exception says, in one line."""
    lines = filter(None, map(str.strip, str(error).splitlines()))
    return next(lines, type(error).__name__)[:200]


def _cast(array: Array, spec: InputSpec, path: Path) -> Array:
    """Cast between floats, and otherwise only where every value survives."""
    if array.dtype == spec.dtype:
        return array
    problem = f"{path}: '{spec.name}' is {array.dtype}, the model wants {spec.dtype}"
    # bfloat16 and float8, which NumPy files under "V", come from ml_dtypes.
    if array.dtype.kind not in "fiub" or spec.dtype.kind not in "fiubV":
        raise SamplesError(problem)
    with np.errstate(all="ignore"):
        cast = array.astype(spec.dtype)
        floats = array.dtype.kind == "f" and spec.dtype.kind not in "iub"
        if floats or np.array_equal(cast.astype(array.dtype), array):
            return cast
    raise SamplesError(f"{problem}, and its values do not survive the change")


#: The key of the labels in an `.npz` file.
LABELS = "labels"

#: Files of labels that a folder may hold.
FILES = ("labels.csv", "labels.txt")


def fit_labels(labels: Array, path: Path) -> Array:
    """Return labels as class numbers, one per sample; rows of a one-hot matrix become numbers.

    Raises:
        SamplesError: they are neither.
    """
    if labels.ndim == 2 and labels.shape[1] > 1:  # one-hot
        labels = labels.argmax(axis=1)
    labels = labels.reshape(-1)
    if labels.dtype.kind in "iub":
        return labels.astype(np.int64)
    if labels.dtype.kind == "f" and np.array_equal(labels, np.rint(labels)):
        return labels.astype(np.int64)
    raise SamplesError(f"{path}: '{LABELS}' must be class numbers, and is {labels.dtype}")


def of_files(folder: Path, files: Sequence[Path], counts: Sequence[int]) -> Array | None:
    """The label of each sample of a folder's files, in their order; None where nothing says them.

    A file `labels.csv` or `labels.txt` has a line per file, `NAME,NUMBER` or `NAME NUMBER` (a
    first line without a number is a heading), or just a number per sample in the order of the
    sorted names. Without one, the names of subfolders are labels if all are whole numbers.

    Raises:
        SamplesError: the file of labels is no such file, or misses a sample.
    """
    for name in FILES:
        if os.path.lexists(folder / name):  # a pipe or a device is refused, not left out
            return _from_file(folder / name, folder, files, counts)
    numbers = [whole_number(file.parent.name) for file in files if file.parent != folder]
    if len(numbers) == len(files) and None not in numbers:
        return np.repeat(np.array(numbers, np.int64), counts)
    return None


def _from_file(path: Path, folder: Path, files: Sequence[Path], counts: Sequence[int]) -> Array:
    try:
        text = read_user_file(path, SamplesError, within=folder).decode("utf-8-sig")
    except FileNotFoundError:
        raise SamplesError(f"{path}: is a link that leads nowhere") from None
    except UnicodeDecodeError:
        raise SamplesError(f"{path}: is not UTF-8 text", "save it as UTF-8") from None
    lines = [line.strip() for line in text.splitlines()]
    fields = [_fields(line) for line in lines if line]
    if fields and whole_number(fields[0][-1]) is None:
        del fields[0]  # a heading
    for item in fields:
        if len(item) > 2 or whole_number(item[-1]) is None:
            raise SamplesError(
                f"{path}: '{' '.join(item)[:80]}' is not a label",
                "write a line NAME,NUMBER per file, or a number per sample",
            )
    if all(len(item) == 1 for item in fields):
        labels = np.array([whole_number(item[0]) for item in fields], np.int64)
        if len(labels) != sum(counts):
            raise SamplesError(f"{path}: {sum(counts)} samples but {len(labels)} labels")
        return labels
    known = {item[0]: whole_number(item[-1]) for item in fields}
    found = []
    for file in files:
        names = (file.relative_to(folder).as_posix(), file.name)
        label = next((known[name] for name in names if name in known), None)
        if label is None:
            raise SamplesError(f"{path}: has no line for {names[0]}")
        found.append(label)
    return np.repeat(np.array(found, np.int64), counts)


def _fields(line: str) -> list[str]:
    name, comma, label = line.rpartition(",")
    parts = [name, label] if comma else line.rsplit(maxsplit=1)
    return [part.strip().strip('"') for part in parts]
