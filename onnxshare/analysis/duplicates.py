"""Which parameter tensors hold the same: hashes, for `inspect --hash` and whoever asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from onnxshare.analysis.census import Census
from onnxshare.analysis.dequantized import Dequantized, dequantized
from onnxshare.analysis.equality import Copy, grouped
from onnxshare.analysis.operators import PARAM
from onnxshare.analysis.results import WeightFacts
from onnxshare.contents import HIGHEST_RANK, Content, content, content_of_pieces
from onnxshare.graph import Graph, Stored
from onnxshare.io.dtypes import bytes_of
from onnxshare.io.tensors import Array
from onnxshare.values import Values

#: Told how many bytes have been read, and how many there are.
Progress = Callable[[int, int], None]


def hashed(
    graph: Graph,
    values: Values,
    census: Census,
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
        census: the walk that `weights` come from.
        weights: the facts so far.
        progress: told of every step.

    Raises:
        ModelFileError: the weights cannot be read.
    """
    stored = [tensor.stored for tensor in census.tensors.values() if tensor.role == PARAM]
    contents = read_contents(graph, stored, progress)
    names = {item.key: item.name for item in stored}
    copies = _copies(graph, stored, contents)
    equal = _after_dequantizing(graph, values, census, stored, contents)
    first: dict[str, str] = {}
    facts = []
    for item, weight in zip(stored, weights, strict=True):
        known = contents.get(item.key)
        if known is None:
            facts.append(weight)
            continue
        same = first.setdefault(known.hash, item.key)
        source, permutation = copies.get(item.key, (None, None))
        other = equal.get(item.key) if same == item.key else None
        facts.append(
            replace(
                weight,
                hash=known.hash,
                uniform=known.uniform,
                same_as=names[same] if same != item.key else names.get(other or ""),
                same_after="dequantize" if other else None,
                transposed_of=None if source is None else names[source],
                permutation=permutation,
            )
        )
    return tuple(facts)


def read_contents(
    graph: Graph, tensors: list[Stored], progress: Progress | None = None
) -> dict[str, Content]:
    """The content of tensors by key, those left out that have none (see `hashed`).

    Raises:
        ModelFileError: the weights cannot be read.
    """
    values, found = Values(graph), {}
    total = sum(bytes_of(item.elements, item.dtype) for item in tensors if item.tensor is not None)
    done = 0

    def step(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(min(done, total), total)

    for item in tensors:
        array = values.payload(item)
        if array is not None:
            found[item.key] = content(array, item.dtype, step)
    return found


def _copies(
    graph: Graph, stored: list[Stored], contents: dict[str, Content]
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The keys of transposed copies, each with the key of what it is a transpose of."""
    values = Values(graph)

    def read(item: Stored) -> Array:
        array = values.payload(item)
        assert array is not None  # it has contents
        return array

    groups: list[list[Copy]] = grouped(stored, contents, read, highest_rank=HIGHEST_RANK)
    return {
        copy.stored.key: (group[0].stored.key, copy.permutation)
        for group in groups
        for copy in group
        if copy.permutation is not None
    }


def _after_dequantizing(
    graph: Graph,
    values: Values,
    census: Census,
    stored: list[Stored],
    contents: dict[str, Content],
) -> dict[str, str]:
    """The keys of tensors that equal an earlier one once quantised ones are dequantised, with the
    key of that one. Only quantised tensors that another of their shape may equal are read."""
    readings = _readings(graph, values, census)
    forms: dict[tuple[int, tuple[int, ...]], int] = {}
    for item in stored:
        form = (readings[item.key].dtype if item.key in readings else item.dtype, item.shape)
        forms[form] = forms.get(form, 0) + 1
    first: dict[str, str] = {}
    found = {}
    for item in stored:
        known = contents.get(item.key)
        if known is None:
            continue
        reading = readings.get(item.key)
        identity = known.hash
        if reading is not None and forms[reading.dtype, item.shape] > 1:
            identity = _identity(graph, reading)
        same = first.setdefault(identity, item.key)
        if same != item.key:
            found[item.key] = same
    return found


def _identity(graph: Graph, reading: Dequantized) -> str:
    array = Values(graph).payload(reading.stored)
    assert array is not None  # it has contents
    return content_of_pieces(reading.pieces(array), reading.dtype, reading.stored.shape).hash


def _readings(graph: Graph, values: Values, census: Census) -> dict[str, Dequantized]:
    """How quantised parameters are read, by key: those that every reader dequantises alike."""
    found: dict[str, Dequantized] = {}
    mixed = set()
    for reading in _all_readings(graph, values, census):
        known = found.setdefault(reading.stored.key, reading)
        if known is not reading and not _alike(known, reading):
            mixed.add(reading.stored.key)
    return {key: reading for key, reading in found.items() if key not in mixed}


def _all_readings(graph: Graph, values: Values, census: Census) -> Iterator[Dequantized]:
    for use in census.nodes:
        if use.node.op_type == "DequantizeLinear":
            reading = dequantized(graph, values, use.node)
            if reading is not None:
                yield reading


def _alike(one: Dequantized, other: Dequantized) -> bool:
    same = (one.dtype, one.axis, one.block) == (other.dtype, other.axis, other.block)
    return (
        same
        and one.scale.tobytes() == other.scale.tobytes()
        and one.zero_point.astype(float).tobytes() == other.zero_point.astype(float).tobytes()
    )
