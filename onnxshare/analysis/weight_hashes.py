"""Which parameter tensors hold the same: hashes, for `inspect --hash` and other callers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from onnxshare.analysis.operators.operator import PARAM
from onnxshare.analysis.results import WeightFacts
from onnxshare.analysis.weight_usage import WeightUsage
from onnxshare.graph.index import Graph
from onnxshare.weights.index import IndexedTensor, Progress, TensorIndex, equal_groups

#: The names of an earlier tensor that is equal and of the first that it is a transpose of, and the
#: order of axes.
_Earlier = tuple[str | None, str | None, tuple[int, ...] | None]

_NONE: _Earlier = (None, None, None)


def hashed(
    graph: Graph,
    usage: WeightUsage,
    weights: tuple[WeightFacts, ...],
    progress: Progress | None = None,
) -> tuple[WeightFacts, ...]:
    """The facts of the parameter tensors with their hashes, and with what equals an earlier one.

    Sparse tensors, and filled ones of more than 2³⁰ elements, have no hash.

    Raises:
        ModelFileError: the weights cannot be read.
    """
    index = TensorIndex(graph, [one.stored for one in usage.tensors.values() if one.role == PARAM])
    tensors = {key: one for key, one in index.tensors.items() if one.laid_out}
    numbers = [one for one in index.comparable_numbers() if one.key in tensors]
    index.tell(progress, [*tensors.values(), *(one for one in numbers if one.quantized)])
    equal, equal_after = _earlier(tensors.values()), _earlier(numbers)
    facts = []
    for key, weight in zip(index.tensors, weights, strict=True):
        if key not in tensors:
            facts.append(weight)
            continue
        known, after = tensors[key].content, None
        same, source, permutation = equal.get(key, _NONE)
        if same is None and source is None and key in equal_after:
            after = "dequantize"
            same, source, permutation = equal_after[key]
            if same is not None:
                source = permutation = None
        facts.append(
            replace(
                weight,
                hash=known.hash,
                uniform=known.uniform,
                same_as=same,
                same_after=after,
                transposed_of=source,
                permutation=permutation,
            )
        )
    return tuple(facts)


def _earlier(tensors: Iterable[IndexedTensor]) -> dict[str, _Earlier]:
    """What each tensor that equals an earlier one equals, by key."""
    found: dict[str, _Earlier] = {}
    for first, *others in equal_groups(tensors):
        alike = {first.permutation: first.stored.name}
        for copy in others:
            same = alike.get(copy.permutation)
            alike.setdefault(copy.permutation, copy.stored.name)
            source = first.stored.name if copy.transposed else None
            found[copy.stored.key] = same, source, copy.permutation
    return found
