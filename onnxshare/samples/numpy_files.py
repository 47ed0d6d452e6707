"""NumPy's formats: `.npy` and `.npz`, alone or a folder of them."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from functools import partial
from math import prod
from pathlib import Path

import numpy as np

from onnxshare.errors import SamplesError
from onnxshare.io.tensors import Array
from onnxshare.samples.fitting import (
    BROKEN,
    check_shape,
    first_line,
    fit,
    only_input,
    require_file,
    sample_shape,
)
from onnxshare.samples.labels import LABELS
from onnxshare.samples.lazy import MAX_BYTES, Piece, gather
from onnxshare.signature import Batching, InputSpec


def read_npz(path: Path, specs: Sequence[InputSpec]) -> dict[str, Array]:
    """The arrays of an `.npz` for each input, and the labels, as they are stored.

    Raises:
        SamplesError: it cannot be read, would unpack to more than 16 GiB, or misses an input.
    """
    require_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            announced = sum(entry.file_size for entry in archive.infolist())
        if announced > MAX_BYTES:  # a small ZIP can announce terabytes
            raise SamplesError(
                f"{path}: unpacks to {announced / 2**30:.0f} GiB", "give fewer samples"
            )
        with np.load(path, allow_pickle=False) as file:
            keys = list(file.files)
            chosen = _match_keys(keys, specs, path)
            return {name: np.asarray(file[key]) for name, key in chosen.items()}
    except BROKEN as error:
        raise SamplesError(f"{path}: not a readable .npz file: {first_line(error)}") from error


def npy_pieces(
    files: Sequence[Path], specs: Sequence[InputSpec], layout: Batching, path: Path
) -> tuple[list[Piece], Mapping[str, Array]]:
    """The samples of `.npy` files, each one sample or a batch; only their headers are read now.

    Raises:
        SamplesError: one cannot be read or does not fit.
    """
    spec = only_input(specs, path, ".npy files")
    pieces = [_npy_piece(file, spec, layout) for file in files]
    size = prod(pieces[0].shapes[spec.name]) * spec.dtype.itemsize
    return pieces, gather(pieces, size, path)


def npz_pieces(
    files: Sequence[Path], specs: Sequence[InputSpec], layout: Batching, path: Path
) -> tuple[list[Piece], Mapping[str, Array]]:
    """The samples of `.npz` files, each one sample or a batch.

    Raises:
        SamplesError: one cannot be read or does not fit.
    """

    def whole(file: Path) -> dict[str, Array]:
        found = read_npz(file, specs)
        return {spec.name: fit(found[spec.name], spec, layout, file) for spec in specs}

    pieces = []
    for file in files:
        arrays = whole(file)  # read to be counted, and let go again
        counts = {len(array) for array in arrays.values()}
        if len(counts) > 1:
            raise SamplesError(f"{file}: the inputs differ in their number of samples")
        shapes = {name: array.shape[1:] for name, array in arrays.items()}
        pieces.append(Piece(file, counts.pop(), partial(_rows_of_npz, file, whole), shapes))
    size = sum(prod(pieces[0].shapes[spec.name]) * spec.dtype.itemsize for spec in specs)
    return pieces, gather(pieces, size, path)


def _rows_of_npz(file: Path, whole: object, rows: Array) -> dict[str, Array]:
    assert callable(whole)
    return {name: array[rows] for name, array in whole(file).items()}


def _npy_piece(file: Path, spec: InputSpec, layout: Batching) -> Piece:
    stored = _open(file)
    wanted = sample_shape(spec, layout)
    single = stored.ndim == (0 if wanted is None else len(wanted))
    shape = (1, *stored.shape) if single else stored.shape
    check_shape(shape, spec, layout, file)

    def read(rows: Array) -> dict[str, Array]:
        values = _open(file)
        chosen = np.asarray(values)[np.newaxis] if single else np.asarray(values[rows])
        return {spec.name: fit(chosen, spec, layout, file)}

    return Piece(file, shape[0], read, {spec.name: tuple(shape[1:])})


def _open(path: Path) -> Array:
    """An array whose values stay in the file until they are needed."""
    require_file(path)
    try:
        return np.asanyarray(np.load(path, allow_pickle=False, mmap_mode="r"))
    except BROKEN as error:
        raise SamplesError(f"{path}: not a readable .npy file: {first_line(error)}") from error


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
