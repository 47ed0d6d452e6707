"""What a head reads, what each of its FCs gives and what its model makes of that, on samples."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import onnx

from onnxshare.comparison.promise import Fit
from onnxshare.graph.editor import Editor
from onnxshare.io.tensors import Array
from rewrites.base import Features
from rewrites.head_as_maps.head_builder import HeadBuilder
from rewrites.refusal import Refusal
from rewrites.small_heads.head_layers import Chain

#: Maps that take more memory than this are kept in a temporary file.
_IN_MEMORY = 2**30


@dataclass(frozen=True)
class HeadData:
    """A head's own computations on samples.

    Attributes:
        chain: the head.
        maps: what its roots read, `[N, C, S]` in single precision (double for a double model).
        results: per layer its outputs `[N, F]`, biases added.
        inputs: what layers behind functions that are not known here read, `[N, D]`.
        classes: the leaves whose largest output is what counts.
        labels: the right class of each sample, where it is known.
    """

    chain: Chain
    maps: Array = field(repr=False)
    results: Mapping[int, Array] = field(repr=False)
    classes: frozenset[int] = frozenset()
    labels: Array | None = field(default=None, repr=False)
    inputs: Mapping[int, Array] = field(default_factory=dict, repr=False)

    @property
    def count(self) -> int:
        """The number of samples."""
        return len(self.maps)


def collect(
    chain: Chain, features: Features, count: int, classes: frozenset[int] = frozenset()
) -> HeadData:
    """Run the model on so many samples, batch by batch.

    Raises:
        Refusal: a value is not finite, the FCs read different maps, or outputs are not rows.
    """
    subject, head = chain.subject, chain.head
    editor = Editor(subject.graph.proto, "fc-to-gap", subject.graph.model.payloads)
    source = carried_map(chain, editor)[1]
    model = editor.apply()  # nothing removed: the old outputs and the carried map
    names = [layer.result for layer in chain.layers]
    unknown = _unknown_inputs(chain)
    read = tuple(dict.fromkeys([source, *names, *unknown.values()]))
    shape = (count, head.channels, prod(head.spatial))
    store: dict[str, Array] = {}
    start = 0
    for batch in features(model, read):
        rows = batch[source].reshape(-1, *shape[1:])
        stop = start + len(rows)
        for name in read:
            values = rows if name == source else batch[name].reshape(len(rows), -1)
            if not np.isfinite(values).all():
                raise Refusal(f"'{name}' is not finite on some samples, so nothing fits")
            if name not in store:
                store[name] = _room((count, *values.shape[1:]), values.dtype)
            store[name][start:stop] = values
        start = stop
    if start != count:
        raise Refusal(f"the model gave {start} maps for {count} samples")
    results = {place: store[name] for place, name in enumerate(names)}
    inputs = {place: store[name] for place, name in unknown.items()}
    return HeadData(chain, store[source], results, classes, inputs=inputs)


def _unknown_inputs(chain: Chain) -> dict[int, str]:
    """The layers behind functions that are not known here, with the rows `[N, D]` they read."""
    subject, found = chain.subject, {}
    for place, layer in enumerate(chain.layers):
        shape = subject.probe.shapes.get(subject.graph.main, layer.fc.data)
        if layer.parent >= 0 and layer.step is None and shape is not None and len(shape) == 2:
            found[place] = layer.fc.data
    return found


def _room(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    wide = np.float64 if dtype == np.float64 else np.float32
    if prod(shape) * np.dtype(wide).itemsize <= _IN_MEMORY:
        return np.empty(shape, wide)
    with tempfile.TemporaryFile() as file:  # it goes when the mapping does
        return np.memmap(file, wide, "w+", shape=shape)


def carried_map(chain: Chain, editor: Editor | None) -> tuple[HeadBuilder, str]:
    """Carry what stands between the map and its FCs over to the map; returns the edits so far, and
    the tensor `[N, C, spatial…]` that all roots read.

    Raises:
        Refusal: they cannot be carried, or the roots read different tensors.
    """
    subject, head = chain.subject, chain.head
    builder = HeadBuilder(subject, editor, head.feature_map)
    path = {node for root in head.roots for node in root.path}
    for node in sorted(path, key=lambda item: item.position):
        builder.carry(node)
    sources = {builder.head_maps[root.layer.data].name for root in head.roots}
    if len(sources) > 1:
        raise Refusal("its FCs read the map through different functions")
    return builder, sources.pop()


#: Types of outputs whose error can be measured.
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)


def outputs_of(chain: Chain, leaf: int) -> tuple[str, ...]:
    """A leaf's result, and the outputs of the model that are computed from it."""
    graph, result = chain.subject.graph, chain.layers[leaf].result
    reached, pending = {result}, [result]
    while pending:
        for reader in graph.main.readers(pending.pop()):
            fresh = [name for name in reader.outputs if name and name not in reached]
            reached.update(fresh)
            pending += fresh
    names = (value.name for value in graph.proto.graph.output)
    return tuple(dict.fromkeys([result, *(name for name in names if name in reached)]))


def kinds(chain: Chain, classes: frozenset[int]) -> Fit:
    """The tensors of `outputs_of` that stand for `classes` and for `values`."""
    found: Fit = {}
    for leaf in chain.leaves:
        if leaf in classes:
            found.setdefault("classes", []).extend(outputs_of(chain, leaf))
        else:
            found.setdefault("values", []).extend(outputs_of(chain, leaf))
    return found


def measured_outputs(
    chain: Chain, classes: frozenset[int], features: Features, model: onnx.ModelProto
) -> dict[int, Array]:
    """Run the original, or a model with another head, on samples.

    Returns:
        Per leaf its outputs `[N, F]`; and under other keys, `[N, …]` too, the outputs of the model
        that are made of values: an embedding that is normalized at the end may be further off than
        it was before.
    """
    leaves = {leaf: chain.layers[leaf].result for leaf in chain.leaves}
    after = [name for name in _made_of_values(chain, classes) if name not in leaves.values()]
    keys = {**leaves, **dict(zip(range(-1, -1 - len(after), -1), after, strict=True))}
    parts: dict[int, list[Array]] = {key: [] for key in keys}
    for batch in features(model, tuple(dict.fromkeys(keys.values()))):
        rows = 0
        for key, name in keys.items():
            values = batch[name]
            if key in leaves:
                values = values.reshape(-1, chain.layers[key].fc.out_features)
                rows = len(values)
            elif values.ndim and len(values) == rows:
                values = values.reshape(rows, -1)
            else:
                continue  # its samples cannot be told apart
            parts[key].append(values)
    return {key: np.concatenate(found) for key, found in parts.items() if found}


def _made_of_values(chain: Chain, classes: frozenset[int]) -> list[str]:
    """The outputs of the model, in floats, that are computed from values and from no classes."""
    named = kinds(chain, classes)
    types = {o.name: o.type.tensor_type.elem_type for o in chain.subject.graph.proto.graph.output}
    of_classes = set(named.get("classes", ()))
    return [
        name
        for name in dict.fromkeys(named.get("values", ()))
        if name not in of_classes and types.get(name) in _FLOATS
    ]
