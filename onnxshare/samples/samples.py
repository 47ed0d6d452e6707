"""Sample inputs: those that the user gives, or seeded random ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from onnxshare.errors import SamplesError
from onnxshare.io.tensors import Array as Array
from onnxshare.samples import images as image_files
from onnxshare.samples import python_sources
from onnxshare.samples.array_files import data_sets, npy_pieces, npz_pieces, pb_pieces, read_npz
from onnxshare.samples.conform import LABELS, fit, fit_labels, of_files, require_file
from onnxshare.samples.images import ImageOptions as ImageOptions
from onnxshare.samples.input_specs import InputSpec, batching, input_specs
from onnxshare.samples.lazy_arrays import Bounds, LazyArrays
from onnxshare.samples.python_sources import Source as Source
from onnxshare.samples.random_samples import Guess
from onnxshare.samples.random_samples import make as make_random

_KINDS = "an .npz, .npy, .pb or image file, or a folder of them"


@dataclass(frozen=True)
class Samples:
    """Inputs for a model.

    Attributes:
        arrays: per input the values, with the samples on axis 0; the rest as the model wants it.
            Those of large folders are read when needed: `batches` never holds more than one
            batch of them.
        labels: the right class of each sample, or None.
        origin: where they come from, as text: a file's name, or `random, seed 0`.
        random: whether they were generated.
    """

    arrays: Mapping[str, Array]
    labels: Array | None = None
    origin: str = ""
    random: bool = False

    @property
    def count(self) -> int:
        """The number of samples."""
        if isinstance(self.arrays, LazyArrays):
            return self.arrays.count
        return min((len(array) for array in self.arrays.values()), default=1)

    @property
    def nbytes(self) -> int:
        """What all of them take in memory."""
        if isinstance(self.arrays, LazyArrays):
            return self.arrays.nbytes
        return sum(array.nbytes for array in self.arrays.values())

    def take(self, indices: Sequence[int] | Array | slice) -> Samples:
        """Return only these samples, in this order; those not read yet stay so."""
        rows = indices if isinstance(indices, slice) else np.asarray(indices, dtype=np.intp)
        arrays: Mapping[str, Array]
        if isinstance(self.arrays, LazyArrays):
            arrays = self.arrays.take(rows)
        else:
            arrays = {name: array[rows] for name, array in self.arrays.items()}
        return replace(
            self, arrays=arrays, labels=None if self.labels is None else self.labels[rows]
        )

    def batches(self, size: int) -> Iterator[Samples]:
        """Return them `size` at a time, each batch read when its turn comes."""
        for start in range(0, self.count, size):
            yield self.take(slice(start, start + size))


def random_samples(
    proto: onnx.ModelProto,
    count: int = 32,
    seed: int = 0,
    sizes: Mapping[str, int] | None = None,
    *,
    guess: Guess | None = None,
) -> Samples:
    """Make up inputs for a model; the same seed gives the same ones. See `random_inputs.make`.

    Raises:
        SamplesError: the inputs would be too large, or are of a type that cannot be generated.
    """
    arrays = make_random(proto, count, seed, sizes or {}, guess=guess or Guess())
    return Samples(arrays, None, f"random, seed {seed}", True)


def read_samples(
    path: str | Path | Source,
    proto: onnx.ModelProto,
    limit: int | None = None,
    images: ImageOptions | None = None,
    memory: int | None = None,
) -> Samples:
    """Read inputs for a model from a file or a folder, or take those given in Python.

    Args:
        path: an `.npz` whose keys are the inputs' names (and `labels`), an `.npy` for a model
            with one input, an image, or ONNX test data (`input_0.pb`, `test_data_set_*`); or a
            folder of files of one of these kinds, each of them one sample or a batch; or arrays,
            batches or a function that yields batches (`samples/python_sources.py`).
        proto: the model, which says what the shapes and types must be.
        limit: use no more than this many samples.
        images: how image files become inputs.
        memory: the most bytes that they may take at once; None for what suits this machine.

    Raises:
        SamplesError: the file cannot be read, or does not fit the model.
        UsageError: an option for images does not suit the model.
    """
    specs = input_specs(proto)
    layout = batching(specs)
    if not isinstance(path, (str, Path)):
        found_arrays, found_labels, name = python_sources.read(path, specs, layout, limit)
        return _checked(found_arrays, found_labels, Path(name), limit)
    path = Path(path)
    options, bounds = images or ImageOptions(), Bounds(memory)
    labels: Array | None = None
    arrays: Mapping[str, Array]
    if path.is_dir():
        arrays, labels = _read_folder(path, specs, options, bounds)
    elif path.suffix == ".npy":
        require_file(path)
        _, arrays = npy_pieces([path], specs, layout, path, bounds)
    elif path.suffix == ".npz":
        found = read_npz(path, specs, bounds)
        arrays = {spec.name: fit(found[spec.name], spec, layout, path) for spec in specs}
        if LABELS in found and LABELS not in arrays:
            labels = fit_labels(found[LABELS], path)
    elif path.suffix == ".pb":
        arrays = dict(pb_pieces([path], specs, layout, path, bounds)[1])
    elif path.suffix.lower() in image_files.SUFFIXES:
        require_file(path)
        _, arrays = image_files.image_pieces([path], specs, layout, path, options, bounds)
    else:
        require_file(path)
        raise SamplesError(f"{path}: not a sample file", f"give {_KINDS}")
    return _checked(arrays, labels, path, limit)


def _checked(
    arrays: Mapping[str, Array], labels: Array | None, path: Path, limit: int | None
) -> Samples:
    samples = Samples(arrays, labels, path.name or str(path.resolve().name), False)
    if not isinstance(arrays, LazyArrays):
        counts = {name: len(array) for name, array in arrays.items()}
        if len(set(counts.values())) > 1:
            words = ", ".join(f"'{name}' has {count}" for name, count in counts.items())
            raise SamplesError(f"{path}: the inputs differ in their number of samples: {words}")
    if samples.count == 0:
        raise SamplesError(f"{path}: holds no samples")
    if labels is not None and len(labels) != samples.count:
        raise SamplesError(f"{path}: {samples.count} samples but {len(labels)} labels")
    return samples if limit is None else samples.take(slice(limit))


def _read_folder(
    path: Path, specs: Sequence[InputSpec], options: ImageOptions, bounds: Bounds
) -> tuple[Mapping[str, Array], Array | None]:
    layout = batching(specs)
    found = {
        "ONNX test data": data_sets(path),
        ".npy files": sorted(path.glob("*.npy")),
        ".npz files": sorted(path.glob("*.npz")),
        "images": image_files.image_files(path),
    }
    kinds = [kind for kind, files in found.items() if files]
    if not kinds:
        raise SamplesError(f"{path}: holds no samples that are known", f"give {_KINDS}")
    if len(kinds) > 1:
        raise SamplesError(
            f"{path}: holds {' and '.join(kinds)}", "give a folder with one kind of samples"
        )
    kind, files = kinds[0], found[kinds[0]]
    if kind == "images":
        pieces, arrays = image_files.image_pieces(files, specs, layout, path, options, bounds)
    else:
        read = {"ONNX test data": pb_pieces, ".npy files": npy_pieces, ".npz files": npz_pieces}
        pieces, arrays = read[kind](files, specs, layout, path, bounds)
    return arrays, of_files(path, files, [piece.count for piece in pieces])
