"""The right classes of samples: from arrays, from a file of labels, from the names of folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from onnxshare.errors import SamplesError
from onnxshare.io.tensors import Array

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
        if (folder / name).is_file():
            return _from_file(folder / name, folder, files, counts)
    numbers = [_number(file.parent.name) for file in files if file.parent != folder]
    if len(numbers) == len(files) and None not in numbers:
        return np.repeat(np.array(numbers, np.int64), counts)
    return None


def _from_file(path: Path, folder: Path, files: Sequence[Path], counts: Sequence[int]) -> Array:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise SamplesError(f"{path}: cannot be read: {type(error).__name__}") from error
    fields = [_fields(line) for line in lines if line]
    if fields and _number(fields[0][-1]) is None:
        del fields[0]  # a heading
    for item in fields:
        if len(item) > 2 or _number(item[-1]) is None:
            raise SamplesError(
                f"{path}: '{' '.join(item)[:80]}' is no label",
                "write a line NAME,NUMBER per file, or a number per sample",
            )
    if all(len(item) == 1 for item in fields):
        labels = np.array([int(item[0]) for item in fields], np.int64)
        if len(labels) != sum(counts):
            raise SamplesError(f"{path}: {sum(counts)} samples but {len(labels)} labels")
        return labels
    known = {item[0]: int(item[-1]) for item in fields}
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


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() else None
