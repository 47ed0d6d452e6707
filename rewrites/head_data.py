"""What the fits see of a head: the maps it reads and what each of its FCs gives, on samples."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from onnxshare.graph.editor import Editor
from onnxshare.io.tensors import Array
from rewrites.base import Features
from rewrites.chain import Chain
from rewrites.mirror import Mirror
from rewrites.refusal import Refusal

#: Maps that take more memory than this are kept in a temporary file.
_IN_MEMORY = 2**30


@dataclass(frozen=True)
class HeadData:
    """A head's own computations on samples.

    Attributes:
        maps: what its roots read, `[N, C, S]` in single precision (double for a double model).
        results: per layer of the chain its outputs `[N, F]`, biases added.
    """

    maps: Array = field(repr=False)
    results: Mapping[int, Array] = field(repr=False)

    @property
    def count(self) -> int:
        """The number of samples."""
        return len(self.maps)


def collect(chain: Chain, features: Features, count: int) -> HeadData:
    """Run the model on the samples, batch by batch.

    Args:
        chain: the head.
        features: runs a model on the samples.
        count: how many samples there are.

    Raises:
        Refusal: a value is not finite, the FCs read different maps, or outputs are no rows.
    """
    subject, head = chain.subject, chain.head
    editor = Editor(subject.graph.proto, "fc-to-gap", subject.graph.model.payloads)
    source = carried_map(chain, editor)[1]
    model = editor.apply()  # nothing removed: the old outputs and the carried map
    names = [layer.result for layer in chain.layers]
    shape = (count, head.channels, prod(head.spatial))
    store: dict[str, Array] = {}
    start = 0
    for batch in features(model, tuple(dict.fromkeys([source, *names]))):
        rows = batch[source].reshape(-1, *shape[1:])
        stop = start + len(rows)
        for name in (source, *names):
            values = rows if name == source else batch[name].reshape(len(rows), -1)
            if not np.isfinite(values).all():
                raise Refusal(f"'{name}' is not finite on some samples, so nothing fits")
            if name not in store:
                store[name] = _room((count, *values.shape[1:]), values.dtype)
            store[name][start:stop] = values
        start = stop
    if start != count:
        raise Refusal(f"the model gave {start} maps for {count} samples")
    return HeadData(store[source], {place: store[name] for place, name in enumerate(names)})


def _room(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    wide = np.float64 if dtype == np.float64 else np.float32
    if prod(shape) * np.dtype(wide).itemsize <= _IN_MEMORY:
        return np.empty(shape, wide)
    with tempfile.TemporaryFile() as file:  # it goes when the mapping does
        return np.memmap(file, wide, "w+", shape=shape)


def carried_map(chain: Chain, editor: Editor | None) -> tuple[Mirror, str]:
    """Carry what stands between the map and its FCs over to the map.

    Returns:
        The edits so far, and the tensor `[N, C, spatial…]` that all roots read.

    Raises:
        Refusal: they cannot be carried, or the roots read different tensors.
    """
    subject, head = chain.subject, chain.head
    sizes = subject.probe.shapes.sizes(subject.graph.main, head.feature_map)
    assert sizes is not None  # or there would be no chain
    mirror = Mirror(subject, editor, head.feature_map, sizes)
    path = {node for root in head.roots for node in root.path}
    for node in sorted(path, key=lambda item: item.position):
        mirror.carry(node)
    sources = {mirror.twins[root.layer.data].name for root in head.roots}
    if len(sources) > 1:
        raise Refusal("its FCs read the map through different functions")
    return mirror, sources.pop()
