"""Which parameter tensors hold the same: hashes, for `inspect --hash` and whoever asks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from onnxshare.analysis.operators.operator import PARAM
from onnxshare.analysis.results import WeightFacts
from onnxshare.analysis.weight_usage import WeightUsage
from onnxshare.graph.constant_values import Values
from onnxshare.graph.index import Graph, Stored
from onnxshare.io.tensors import Array, bytes_of
from onnxshare.weights.content import HIGHEST_RANK, Content, content
from onnxshare.weights.equal_dequantized import equal_after, meanings
from onnxshare.weights.equal_tensors import Copy, Progress, grouped, steps
from onnxshare.weights.quantization_schemes import readings


def hashed(
    graph: Graph,
    values: Values,
    usage: WeightUsage,
    weights: tuple[WeightFacts, ...],
    progress: Progress | None = None,
) -> tuple[WeightFacts, ...]:
    """The facts of the parameter tensors with their hashes, and with what equals an earlier one.

    Every tensor is read once, a piece at a time; those that may be another's transpose, or its
    quantised form, once more. Sparse tensors, and filled ones of more than 2³⁰ elements, have no
    hash.

    Args:
        graph: the index.
        values: evaluates scales and zero points.
        weight usage: the walk that `weights` come from.
        weights: the facts so far.
        progress: told of every step.

    Raises:
        ModelFileError: the weights cannot be read.
    """
    stored = [tensor.stored for tensor in usage.tensors.values() if tensor.role == PARAM]
    meant = meanings(stored, readings(graph, values))
    size = sum(bytes_of(item.elements, item.dtype) for item in stored if item.tensor is not None)
    step = steps(progress, size + sum(one.bytes for one in meant))
    contents = _contents(graph, stored, step)
    copies = _copies(graph, stored, contents)
    equal = equal_after(meant, contents, _reader(graph), step)
    names = {item.key: item.name for item in stored}
    first: dict[str, str] = {}
    facts = []
    for item, weight in zip(stored, weights, strict=True):
        known = contents.get(item.key)
        if known is None:
            facts.append(weight)
            continue
        same = first.setdefault(known.hash, item.key)
        source, permutation = copies.get(item.key, (None, None))
        hashed = replace(
            weight,
            hash=known.hash,
            uniform=known.uniform,
            same_as=names[same] if same != item.key else None,
            transposed_of=None if source is None else names[source],
            permutation=permutation,
        )
        if item.key in equal and same == item.key and source is None:
            other, permutation = equal[item.key]
            hashed = replace(
                hashed,
                same_as=names[other] if permutation is None else None,
                same_after="dequantize",
                transposed_of=None if permutation is None else names[other],
                permutation=permutation,
            )
        facts.append(hashed)
    return tuple(facts)


def _contents(
    graph: Graph, tensors: list[Stored], step: Callable[[int], None]
) -> dict[str, Content]:
    """The content of tensors by key, those left out that have none (see `hashed`)."""
    values, found = Values(graph), {}
    for item in tensors:
        array = values.payload(item)
        if array is not None:
            found[item.key] = content(array, item.dtype, step)
    return found


def _reader(graph: Graph) -> Callable[[Stored], Array]:
    values = Values(graph)

    def read(item: Stored) -> Array:
        array = values.payload(item)
        assert array is not None  # it has contents
        return array

    return read


def _copies(
    graph: Graph, stored: list[Stored], contents: dict[str, Content]
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The keys of transposed copies, each with the key of what it is a transpose of."""
    groups: list[list[Copy]] = grouped(stored, contents, _reader(graph), highest_rank=HIGHEST_RANK)
    return {
        copy.stored.key: (group[0].stored.key, copy.permutation)
        for group in groups
        for copy in group
        if copy.permutation is not None
    }
