"""Sample inputs: the user's files, or seeded random ones (`random_inputs.py`)."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxshare.errors import SamplesError
from onnxshare.io.tensors import Array
from onnxshare.signature import Batching, InputSpec, batching, input_specs

__all__ = ["Array", "InputSpec", "Samples", "input_specs", "random_samples", "read_samples"]


#: The key of the labels in an `.npz` file.
LABELS = "labels"

#: Larger files are refused before anything is read: a small ZIP can announce terabytes.
MAX_BYTES = 16 * 2**30

_KINDS = "an .npz, an .npy or a folder of .npy files"

_BROKEN = (
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


@dataclass(frozen=True)
class Samples:
    """Inputs for a model.

    Attributes:
        arrays: per input the values, with the samples on axis 0; the rest as the model wants it.
        labels: the right class of each sample, or None.
        origin: where they come from, in words: a file's name, or `random, seed 0`.
        random: whether they were made up.
    """

    arrays: Mapping[str, Array]
    labels: Array | None = None
    origin: str = ""
    random: bool = False

    @property
    def count(self) -> int:
        """The number of samples."""
        return min((len(array) for array in self.arrays.values()), default=1)

    def take(self, indices: Sequence[int] | Array | slice) -> Samples:
        """Return only these samples, in this order."""
        rows = indices if isinstance(indices, slice) else np.asarray(indices, dtype=np.intp)
        arrays = {name: array[rows] for name, array in self.arrays.items()}
        labels = None if self.labels is None else self.labels[rows]
        return Samples(arrays, labels, self.origin, self.random)


def random_samples(
    proto: onnx.ModelProto,
    count: int = 32,
    seed: int = 0,
    sizes: Mapping[str, int] | None = None,
) -> Samples:
    """Make up inputs for a model; the same seed gives the same ones. See `random_inputs.make`.

    Raises:
        SamplesError: the inputs would be too large, or are of a type that cannot be made up.
    """
    from onnxshare import random_inputs

    return Samples(
        random_inputs.make(proto, count, seed, sizes or {}), None, f"random, seed {seed}", True
    )


def read_samples(path: str | Path, proto: onnx.ModelProto, limit: int | None = None) -> Samples:
    """Read inputs for a model from a file or a folder.

    Args:
        path: an `.npz` whose keys are the inputs' names (and `labels`), an `.npy` for a model
            with one input, or a folder of `.npy` files, each of them one sample or a batch.
        proto: the model, which says what the shapes and types must be.
        limit: read no more than this many samples.

    Raises:
        SamplesError: the file cannot be read, or does not fit the model.
    """
    path = Path(path)
    specs = input_specs(proto)
    if path.is_dir():
        found = _read_folder(path, specs)
    elif path.suffix == ".npy":
        found = {_only_input(specs, path).name: _read_npy(path)}
    elif path.suffix == ".npz":
        found = _read_npz(path, specs)
    else:
        _require_file(path)
        raise SamplesError(
            f"{path}: not a sample file", "give an .npz, an .npy or a folder of .npy"
        )
    layout = batching(specs)
    arrays = {s.name: _fit(found[s.name], s, layout, path)[:limit] for s in specs}
    labels = found.get(LABELS) if LABELS not in arrays else None
    return _checked(arrays, labels, path, limit)


def _checked(
    arrays: dict[str, Array], labels: Array | None, path: Path, limit: int | None
) -> Samples:
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        words = ", ".join(f"'{name}' has {count}" for name, count in counts.items())
        raise SamplesError(f"{path}: the inputs differ in their number of samples: {words}")
    count = min(counts.values(), default=1)
    if count == 0:
        raise SamplesError(f"{path}: holds no samples")
    if labels is not None:
        labels = _fit_labels(labels, path)[:limit]
        if len(labels) != count:
            raise SamplesError(f"{path}: {count} samples but {len(labels)} labels")
    return Samples(arrays, labels, path.name, False)


def _read_npz(path: Path, specs: Sequence[InputSpec]) -> dict[str, Array]:
    _require_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            announced = sum(entry.file_size for entry in archive.infolist())
        if announced > MAX_BYTES:
            raise SamplesError(
                f"{path}: unpacks to {announced / 2**30:.0f} GiB", "give fewer samples"
            )
        with np.load(path, allow_pickle=False) as file:
            keys = list(file.files)
            chosen = _match_keys(keys, specs, path)
            return {name: np.asarray(file[key]) for name, key in chosen.items()}
    except _BROKEN as error:
        raise SamplesError(f"{path}: not a readable .npz file: {_line(error)}") from error


def _match_keys(keys: list[str], specs: Sequence[InputSpec], path: Path) -> dict[str, str]:
    """Return for each input (and the labels) the key that holds it."""
    chosen = {spec.name: spec.name for spec in specs if spec.name in keys}
    missing = [spec.name for spec in specs if spec.name not in keys]
    others = [key for key in keys if key != LABELS]
    if len(specs) == 1 and missing and len(others) == 1:
        chosen = {specs[0].name: others[0]}
    elif missing:
        held = ", ".join(f"'{key}'" for key in keys[:10]) or "nothing"
        raise SamplesError(
            f"{path}: no array for input '{missing[0]}'; it holds {held}",
            "name the arrays after the model's inputs",
        )
    if LABELS in keys:
        chosen.setdefault(LABELS, LABELS)
    return chosen


def _read_npy(path: Path) -> Array:
    _require_file(path)
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except _BROKEN as error:
        raise SamplesError(f"{path}: not a readable .npy file: {_line(error)}") from error


def _read_folder(path: Path, specs: Sequence[InputSpec]) -> dict[str, Array]:
    files = sorted(path.glob("*.npy"))
    if not files:
        raise SamplesError(
            f"{path}: holds no .npy files", "give an .npz, or a folder of .npy files"
        )
    spec = _only_input(specs, path)
    layout = batching(specs)
    try:
        return {spec.name: np.concatenate([_fit(_read_npy(f), spec, layout, f) for f in files])}
    except ValueError as error:
        raise SamplesError(f"{path}: its files differ in shape: {_line(error)}") from error


def _only_input(specs: Sequence[InputSpec], path: Path) -> InputSpec:
    if len(specs) == 1:
        return specs[0]
    names = ", ".join(f"'{spec.name}'" for spec in specs) or "none"
    raise SamplesError(
        f"{path}: .npy files suit models with one input, and this one's are {names}",
        "give an .npz whose keys are the inputs' names",
    )


def _fit(array: Array, spec: InputSpec, layout: Batching, path: Path) -> Array:
    """Return the array with a sample axis and the model's type, or say why it does not fit."""
    wanted = _sample_shape(spec, layout)
    if wanted is not None:
        if array.ndim == len(wanted):  # one sample without an axis for the samples
            array = array[np.newaxis]
        if not _matches(array.shape[1:], wanted) or array.ndim != len(wanted) + 1:
            shown = "×".join(map(str, array.shape)) or "a scalar"
            raise SamplesError(
                f"{path}: '{spec.name}' has shape {shown} (samples first), "
                f"the model wants {spec.words}"
            )
    elif array.ndim == 0:
        array = array[np.newaxis]
    array = _cast(array, spec, path)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise SamplesError(f"{path}: '{spec.name}' holds NaN or infinite values")
    return array


def _sample_shape(spec: InputSpec, layout: Batching) -> tuple[int | None, ...] | None:
    if spec.shape is None or layout.whole:
        return spec.shape
    return spec.shape[1:]


def _matches(found: Sequence[int], wanted: Sequence[int | None]) -> bool:
    return len(found) == len(wanted) and all(
        size in (None, given) for given, size in zip(found, wanted, strict=True)
    )


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


def _fit_labels(labels: Array, path: Path) -> Array:
    if labels.ndim == 2 and labels.shape[1] > 1:  # one-hot
        labels = labels.argmax(axis=1)
    labels = labels.reshape(-1)
    if labels.dtype.kind in "iub":
        return labels.astype(np.int64)
    if labels.dtype.kind == "f" and np.array_equal(labels, np.rint(labels)):
        return labels.astype(np.int64)
    raise SamplesError(f"{path}: '{LABELS}' must be class numbers, and is {labels.dtype}")


def _require_file(path: Path) -> None:
    if not path.exists():
        raise SamplesError(f"{path}: no such file or folder", "check --samples")
    if not path.is_file():
        raise SamplesError(f"{path}: is not a regular file")


def _line(error: BaseException) -> str:
    lines: Iterator[str] = (line.strip() for line in str(error).splitlines() if line.strip())
    return next(lines, type(error).__name__)[:200]
