"""Arrays in files: NumPy's `.npy` and `.npz`, and ONNX test data.

ONNX test data are folders `test_data_set_*` with a TensorProto per input, `input_0.pb` and so on
(https://github.com/onnx/onnx/blob/main/docs/OnnxBackendTest.md).
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import prod
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from onnxshare.errors import SamplesError
from onnxshare.io.tensors import Array
from onnxshare.samples.conform import (
    BROKEN,
    LABELS,
    check_shape,
    first_line,
    fit,
    only_input,
    require_file,
    sample_shape,
)
from onnxshare.samples.input_specs import Batching, InputSpec
from onnxshare.samples.lazy_arrays import Bounds, Piece, gather
from onnxshare.support.option_text import option


def read_npz(path: Path, specs: Sequence[InputSpec], bounds: Bounds) -> dict[str, Array]:
    """The arrays of an `.npz` for each input, and the labels, as they are stored.

    Raises:
        SamplesError: it cannot be read, misses an input, or would unpack to more than 16 GiB, or
            to more than 1 GiB and 50 times its size.
    """
    require_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            announced = sum(entry.file_size for entry in archive.infolist())
        if announced > bounds.unpacked(path.stat().st_size):  # a small ZIP can announce terabytes
            raise SamplesError(
                f"{path}: unpacks to {announced / 2**30:.1f} GiB",
                "give fewer samples, or .npy files, or raise the bound with "
                + option("--memory-limit"),
            )
        with np.load(path, allow_pickle=False) as file:
            chosen = _match_keys(list(file.files), specs, path)
            return {name: np.asarray(file[key]) for name, key in chosen.items()}
    except BROKEN as error:
        raise SamplesError(f"{path}: not a readable .npz file: {first_line(error)}") from error


def npy_pieces(
    files: Sequence[Path],
    specs: Sequence[InputSpec],
    layout: Batching,
    path: Path,
    bounds: Bounds,
) -> tuple[list[Piece], Mapping[str, Array]]:
    """The samples of `.npy` files, each one sample or a batch; only their headers are read now.

    Raises:
        SamplesError: one cannot be read or does not fit.
    """
    spec = only_input(specs, path, ".npy files")
    pieces = [_npy_piece(file, spec, layout) for file in files]
    return pieces, gather(pieces, _sample_bytes(pieces, specs), path, bounds)


def npz_pieces(
    files: Sequence[Path],
    specs: Sequence[InputSpec],
    layout: Batching,
    path: Path,
    bounds: Bounds,
) -> tuple[list[Piece], Mapping[str, Array]]:
    """The samples of `.npz` files, each one sample or a batch.

    Raises:
        SamplesError: one cannot be read or does not fit.
    """

    def whole(file: Path) -> dict[str, Array]:
        found = read_npz(file, specs, bounds)
        return {spec.name: fit(found[spec.name], spec, layout, file) for spec in specs}

    pieces = [_piece(file, partial(whole, file)) for file in files]
    return pieces, gather(pieces, _sample_bytes(pieces, specs), path, bounds)


def _piece(where: Path, whole: Callable[[], dict[str, Array]]) -> Piece:
    """What is read whole: now, to be counted, and again when samples are needed."""
    arrays = whole()
    counts = {len(array) for array in arrays.values()}
    if len(counts) > 1:
        raise SamplesError(f"{where}: the inputs differ in their number of samples")

    def read(rows: Array) -> dict[str, Array]:
        return {name: array[rows] for name, array in whole().items()}

    shapes = {name: array.shape[1:] for name, array in arrays.items()}
    return Piece(where, counts.pop() if counts else 1, read, shapes)


def _sample_bytes(pieces: Sequence[Piece], specs: Sequence[InputSpec]) -> int:
    return sum(prod(pieces[0].shapes[spec.name]) * spec.dtype.itemsize for spec in specs)


def _npy_piece(file: Path, spec: InputSpec, layout: Batching) -> Piece:
    stored = _open(file)
    single = stored.ndim == len(sample_shape(spec, layout) or ())
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


_INPUT = re.compile(r"input_(\d+)\.pb")
_SET = re.compile(r"test_data(_set)?_?(\d+)")


def data_sets(folder: Path) -> list[Path]:
    """The folders with test data: this one, or its `test_data_set_*`, in the order of their
    numbers."""
    if any(_INPUT.fullmatch(path.name) for path in folder.glob("input_*.pb")):
        return [folder]
    found = [path for path in folder.glob("test_data*") if path.is_dir()]
    numbered = [(match, path) for path in found if (match := _SET.fullmatch(path.name))]
    return [path for match, path in sorted(numbered, key=lambda item: int(item[0][2]))]


def pb_pieces(
    sets: Sequence[Path],
    specs: Sequence[InputSpec],
    layout: Batching,
    path: Path,
    bounds: Bounds,
) -> tuple[list[Piece], Mapping[str, Array]]:
    """The samples of test data sets; or of one TensorProto, for a model with one input.

    Raises:
        SamplesError: a file is missing, cannot be read or does not fit.
    """
    pieces = [_piece(where, partial(_tensors, where, specs, layout, bounds)) for where in sets]
    return pieces, gather(pieces, _sample_bytes(pieces, specs), path, bounds)


def _tensors(
    where: Path, specs: Sequence[InputSpec], layout: Batching, bounds: Bounds
) -> dict[str, Array]:
    files = _files(where, specs)
    tensors = [_parse(file, spec, bounds) for file, spec in zip(files, specs, strict=True)]
    names = [tensor.name for tensor in tensors]
    order = list(range(len(specs)))
    if set(names) == {spec.name for spec in specs}:  # else they stand in the inputs' order
        order = [names.index(spec.name) for spec in specs]
    return {
        spec.name: fit(_values(tensors[index], files[index]), spec, layout, files[index])
        for spec, index in zip(specs, order, strict=True)
    }


def _files(folder: Path, specs: Sequence[InputSpec]) -> list[Path]:
    if not folder.is_dir():
        if len(specs) == 1:
            return [folder]
        raise SamplesError(
            f"{folder}: is one tensor, and the model has {len(specs)} inputs",
            "give the folder that holds a file input_0.pb, input_1.pb, … for each",
        )
    files = [folder / f"input_{index}.pb" for index in range(len(specs))]
    for file in files:
        if not file.is_file():
            raise SamplesError(
                f"{folder}: holds no {file.name}, and the model has {len(specs)} inputs"
            )
    return files


def _parse(path: Path, spec: InputSpec, bounds: Bounds) -> onnx.TensorProto:
    require_file(path)
    tensor = onnx.TensorProto()
    try:
        # Packed numbers of a byte each take eight when they are parsed.
        if path.stat().st_size > min(bounds.at_once // 8, 2**31):
            raise SamplesError(f"{path}: is too large for a TensorProto", "give an .npz or .npy")
        tensor.ParseFromString(path.read_bytes())
    except (DecodeError, OSError, MemoryError) as error:
        raise SamplesError(f"{path}: not a readable TensorProto: {first_line(error)}") from error
    if not tensor.data_type:
        raise SamplesError(
            f"{path}: is not a tensor, and the model's input '{spec.name}' is one",
            "sequences, maps and optional values cannot be fed",
        )
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise SamplesError(f"{path}: keeps its values in another file", "give an .npz or .npy")
    return tensor


def _values(tensor: onnx.TensorProto, path: Path) -> Array:
    try:
        return numpy_helper.to_array(tensor)
    except BROKEN as error:
        raise SamplesError(f"{path}: not a readable TensorProto: {first_line(error)}") from error
