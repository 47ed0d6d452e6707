"""Samples given in Python: arrays, or batches such as those of a data loader.

A function is called once and read once, whatever it would yield a second time: what a head is
fitted to and what certifies it must stay apart. What takes more memory than is held at once goes
to a temporary file as it comes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from onnxshare.errors import SamplesError
from onnxshare.io.tensors import Array
from onnxshare.samples.conform import LABELS, fit, fit_labels, only_input
from onnxshare.samples.input_specs import Batching, InputSpec
from onnxshare.samples.lazy_arrays import EAGER_BYTES, MAX_BYTES, LazyArrays, Piece

#: A batch: arrays by the inputs' names (and `labels`); for a model with one input also the array
#: alone, or a tuple of the array and the labels. Samples are on axis 0.
Batch = Mapping[str, Any] | Array | tuple[Any, Any]

#: One batch, an iterable of batches, or a function without arguments that returns one.
Source = Batch | Iterable[Any] | Callable[[], Iterable[Any]]


def read(
    source: Source, specs: Sequence[InputSpec], layout: Batching, limit: int | None = None
) -> tuple[Mapping[str, Array], Array | None, str]:
    """Read all batches, or `limit` samples of them.

    Returns:
        The arrays, the labels or None, and the name of the function or of the type.

    Raises:
        SamplesError: there are none, or they do not fit the model.
    """
    name = getattr(source, "__name__", type(source).__name__)
    stores = {spec.name: _Store() for spec in specs}
    labels: list[Array] = []
    count = 0
    for place, batch in enumerate(_batches(source, name)):
        where = Path(f"{name}, batch {place}")
        given = _by_name(batch, specs, where)
        taken = {spec.name: fit(given[spec.name], spec, layout, where) for spec in specs}
        sizes = {len(values) for values in taken.values()}
        if LABELS in given and LABELS not in taken:
            labels.append(fit_labels(np.atleast_1d(given[LABELS]), where))
            sizes.add(len(labels[-1]))
        if len(sizes) > 1:
            raise SamplesError(f"{where}: its arrays differ in their number of samples")
        for key, values in taken.items():
            stores[key].add(values, where)
        count += sizes.pop() if sizes else 0
        if limit is not None and count >= limit:
            break
    if not count:
        raise SamplesError(f"{name}: holds no samples")
    found = np.concatenate(labels) if labels else None
    if found is not None and len(found) != count:
        raise SamplesError(f"{name}: {count} samples but {len(found)} labels")
    return _arrays({key: store.array() for key, store in stores.items()}, count, name), found, name


def _batches(source: Source, name: str) -> Iterable[Any]:
    if callable(source):
        source = source()
    elif isinstance(source, (np.ndarray, tuple)):
        return [source]
    if isinstance(source, Mapping):
        return [source]
    if isinstance(source, Iterable) and not isinstance(source, (str, bytes)):
        return source
    remedy = "give a path, arrays by the inputs' names, or batches of them"
    raise SamplesError(f"{name}: not samples", remedy)


def _arrays(found: dict[str, Array], count: int, name: str) -> Mapping[str, Array]:
    """Arrays as they are, or, where one is in a file, read from it as they are needed."""
    if not any(isinstance(values, np.memmap) for values in found.values()):
        return found

    def rows_of(rows: Array) -> dict[str, Array]:
        return {key: np.asarray(values[rows]) for key, values in found.items()}

    shapes = {key: values.shape[1:] for key, values in found.items()}
    each = sum(values.nbytes for values in found.values()) // count
    return LazyArrays([Piece(Path(name), count, rows_of, shapes)], each)


def _by_name(batch: Any, specs: Sequence[InputSpec], where: Path) -> dict[str, Array]:
    if isinstance(batch, Mapping):
        found = {str(key): np.asarray(values) for key, values in batch.items()}
        missing = [spec.name for spec in specs if spec.name not in found]
        if missing:
            held = ", ".join(f"'{key}'" for key in found) or "nothing"
            raise SamplesError(f"{where}: no array for input '{missing[0]}'; it holds {held}")
        return found
    only = only_input(specs, where, "batches without names")
    if isinstance(batch, (tuple, list)):
        if len(batch) != 2:
            raise SamplesError(
                f"{where}: is {len(batch)} things", "yield an array, or the array and the labels"
            )
        return {only.name: np.asarray(batch[0]), LABELS: np.asarray(batch[1])}
    return {only.name: np.asarray(batch)}


class _Store:
    """One input's samples: in memory, and in a temporary file once they are many."""

    def __init__(self) -> None:
        self._parts: list[Array] = []
        self._held = self._count = 0
        self._file: IO[bytes] | None = None
        self._like: Array | None = None

    def add(self, values: Array, where: Path) -> None:
        """Take in a batch.

        Raises:
            SamplesError: its samples are not of the size of those before, or it is too much.
        """
        if self._like is None:
            self._like = np.empty((0, *values.shape[1:]), values.dtype)
        if values.shape[1:] != self._like.shape[1:]:
            raise SamplesError(f"{where}: its samples differ in shape from those before")
        self._held += values.nbytes
        if self._held > MAX_BYTES:
            raise SamplesError(f"{where}: more than {MAX_BYTES / 2**30:.0f} GiB", "yield fewer")
        self._count += len(values)
        self._parts.append(np.array(values))  # the function may use its own array again
        if self._held > EAGER_BYTES:
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115 - the array keeps it open
            for part in self._parts:
                self._file.write(np.ascontiguousarray(part).tobytes())
            self._parts.clear()

    def array(self) -> Array:
        """All samples; those in a file are read as they are needed."""
        if self._file is None:
            return np.concatenate(self._parts)
        assert self._like is not None
        self._file.flush()
        shape = (self._count, *self._like.shape[1:])
        return np.memmap(self._file, self._like.dtype, "r", shape=shape)
