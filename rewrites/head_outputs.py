"""What a head gives to the rest of its model, and what the model makes of it, on samples."""

from __future__ import annotations

import numpy as np
import onnx

from onnxshare.io.tensors import Array
from rewrites.base import Features
from rewrites.chain import Chain

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


def kinds(chain: Chain, classes: frozenset[int]) -> dict[str, list[str]]:
    """The tensors of `outputs_of` that stand for `classes` and for `values`."""
    found: dict[str, list[str]] = {}
    for leaf in chain.leaves:
        kind = "classes" if leaf in classes else "values"
        found.setdefault(kind, []).extend(outputs_of(chain, leaf))
    return found


def measured_outputs(
    chain: Chain, classes: frozenset[int], features: Features, model: onnx.ModelProto
) -> dict[int, Array]:
    """Run a model on samples.

    Args:
        chain: the head as it was.
        classes: the leaves whose largest output counts.
        features: runs a model.
        model: the original, or one with another head.

    Returns:
        Per leaf its outputs `[N, F]`; and under other keys, `[N, …]` too, the outputs of the model
        that are made of values: an embedding that is normalised at the end may be further off than
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
