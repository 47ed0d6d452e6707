"""The one index of what stored tensors hold: which are equal, one another's transpose, or the same
real numbers once quantized ones are dequantized.

A tensor is read when its content is requested, once and a piece at a time; those that may be
another's transpose, or its quantized form, once more. No tensor is copied whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx

from onnxshare.graph.constant_values import MAX_FILLED, Values
from onnxshare.graph.index import Graph, Stored
from onnxshare.io.tensors import Array, bytes_of
from onnxshare.weights.content import (
    HIGHEST_RANK,
    Content,
    axis_orders,
    content,
    content_of_pieces,
    permutation_between,
    pieces,
)
from onnxshare.weights.quantization_schemes import quantized_tensors
from onnxshare.weights.quantized_tensor import QuantizedTensor

#: Elements of the first look.
_FIRST = 256

#: So many tensors with the same elements in another order are tried before a new group is begun.
_TRIED = 8

Key = tuple[Any, ...]

#: Told how many bytes have been read, and how many there are.
Progress = Callable[[int, int], None]


class _Source:
    """What the tensors of an index are read by: no tensor holds the index, which holds it."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.values = Values(graph)
        self.progress: Progress | None = None
        self.done = self.total = 0

    def step(self, count: int) -> None:
        self.done += count
        if self.progress is not None:
            self.progress(min(self.done, self.total), self.total)

    @cached_property
    def quantized(self) -> dict[str, QuantizedTensor]:
        return quantized_tensors(self.graph, self.values)


class TensorIndex:
    """Stored tensors of one model, by key, in their order."""

    def __init__(self, graph: Graph, tensors: Iterable[Stored] = ()) -> None:
        self._source = _Source(graph)
        self.tensors: dict[str, IndexedTensor] = {}
        for stored in tensors:
            self.add(stored)

    def add(self, stored: Stored) -> IndexedTensor:
        """A tensor, which is in the index from now on."""
        return self.tensors.setdefault(stored.key, IndexedTensor(self._source, stored))

    def tell(self, progress: Progress | None, tensors: Iterable[IndexedTensor]) -> None:
        """Report at every step how many bytes of how many have been read of these
        tensors, whose contents are requested next."""
        self._source.progress, self._source.done = progress, 0
        self._source.total = sum(tensor.bytes for tensor in tensors)

    def comparable_numbers(self) -> list[IndexedTensor]:
        """The real numbers of the tensors that may equal another's only once dequantized: more than
        one of a form, one of them quantized."""
        numbers = [tensor.numbers for tensor in self.tensors.values()]
        forms: dict[Key, list[IndexedTensor]] = {}
        for one in numbers:
            forms.setdefault(one.form, []).append(one)
        told = {
            form
            for form, alike in forms.items()
            if len(alike) > 1 and any(one.quantized for one in alike)
        }
        return [one for one in numbers if one.form in told]


class IndexedTensor:
    """A stored tensor, or the real numbers that a quantized one stands for.

    Attributes:
        stored: the tensor.
        key: unique within the model.
        quantized: how it is dequantized; None for the elements as they are stored.
        dtype: TensorProto data type of the elements or numbers.
        shape: their dims.
    """

    def __init__(
        self, source: _Source, stored: Stored, quantized: QuantizedTensor | None = None
    ) -> None:
        self._source, self.stored, self.quantized = source, stored, quantized
        self.key = stored.key
        self.dtype = stored.dtype if quantized is None else quantized.dtype
        self.shape = stored.shape if quantized is None else quantized.shape

    @property
    def laid_out(self) -> bool:
        """Whether it has an array: it is not sparse, nor too large to fill."""
        stored = self.stored
        return stored.tensor is not None or not (stored.sparse or stored.elements > MAX_FILLED)

    @property
    def array(self) -> Array | None:
        """The elements as they are stored; None for a sparse one or one too large to fill."""
        return self._source.values.payload(self.stored)

    @property
    def bytes(self) -> int:
        """Bytes that are read, or made, for its content."""
        made = self.quantized is not None or self.stored.tensor is not None
        return bytes_of(self.stored.elements, self.dtype) if made else 0

    @property
    def form(self) -> Key:
        """Alike for a tensor and its transposes."""
        return self.dtype, tuple(sorted(self.shape))

    @property
    def numbers(self) -> IndexedTensor:
        """The real numbers that it stands for: itself where it is not quantized."""
        return self._dequantized or self

    @cached_property
    def _dequantized(self) -> IndexedTensor | None:
        quantized = None if self.quantized else self._source.quantized.get(self.key)
        if quantized is None or not self.laid_out:
            return None
        return IndexedTensor(self._source, self.stored, quantized)

    @cached_property
    def content(self) -> Content:
        """What identifies it; of a sparse tensor, or of one too large to fill, by what it is
        stored as."""
        array = self.array
        if array is None:
            return _content_of_parts(self._source.graph, self.stored)
        if self.quantized is None:
            return content(array, self.dtype, self._source.step if self.bytes else None)
        numbers = (values for values, _ in self.quantized.pieces(array))
        return content_of_pieces(numbers, self.dtype, self.shape, self._source.step)

    def pieces(self, order: tuple[int, ...] | None = None) -> Iterator[Array]:
        """The elements, a piece at a time.

        Args:
            order: of axes, to have those of the transposed tensor; only of what is dequantized.
        """
        array = self.array
        assert array is not None  # else it equals no other
        if self.quantized is None:
            return pieces(array)
        return (values for values, _ in self.quantized.pieces(array, order))

    def permutation_to(
        self, other: IndexedTensor, highest_rank: int = HIGHEST_RANK
    ) -> tuple[int, ...] | None:
        """The order of axes in which this one, transposed, is another bit for bit; None if there is
        none, or if the rank is above `highest_rank`."""
        if self.quantized is None and other.quantized is None:
            one, two = self.array, other.array
            if one is None or two is None:
                return None
            return permutation_between(one, two, highest_rank)
        for order in axis_orders(self.shape, other.shape):
            if self.quantized is not None:
                ends = self.pieces(order), other.pieces()
            else:
                ends = other.pieces(tuple(np.argsort(order))), self.pieces()
            if all(one.tobytes() == two.tobytes() for one, two in zip(*ends, strict=True)):
                return order
        return None


def _content_of_parts(graph: Graph, stored: Stored) -> Content:
    """What identifies a tensor whose elements are never laid out."""
    parts = [stored.fill] if stored.fill is not None else []
    if stored.sparse:
        sparse = _sparse(graph, stored)
        parts += [sparse.values, sparse.indices]
    hashes = [content(graph.model.read(part), part.data_type).hash for part in parts]
    words = np.frombuffer(f"{stored.dtype}:{stored.shape}{''.join(hashes)}".encode(), np.uint8)
    known = content(words, onnx.TensorProto.UINT8)
    return Content(known.hash, known.hash, (0, int(known.hash[:16], 16)), not stored.sparse)


def _sparse(graph: Graph, stored: Stored) -> onnx.SparseTensorProto:
    scope = graph.scope_of(stored)
    if stored.name in scope.sparse:
        return scope.sparse[stored.name]
    producer = scope.producers[stored.name]
    return next(a.sparse_tensor for a in producer.proto.attribute if a.name == "sparse_value")


@dataclass(frozen=True)
class Copy:
    """One of several equal tensors; its permutation is the order of axes in which the first of its
    group, transposed, is this one, None if the two are equal as they are."""

    stored: Stored
    permutation: tuple[int, ...] | None = None

    @property
    def transposed(self) -> bool:
        """Whether it is a transpose of the first of its group."""
        return self.permutation is not None


def equal_groups(
    tensors: Iterable[IndexedTensor], highest_rank: int = HIGHEST_RANK
) -> list[list[Copy]]:
    """Groups of two or more tensors, none sparse or too large to fill, that hold the same bits,
    also transposed up to some rank, in the order given."""
    found: list[list[Copy]] = []
    by_hash: dict[str, tuple[list[Copy], tuple[int, ...] | None]] = {}
    by_bag: dict[Key, list[tuple[IndexedTensor, list[Copy]]]] = {}
    for tensor in tensors:
        known = tensor.content
        if known.hash not in by_hash:
            firsts = by_bag.setdefault((*tensor.form, known.bag), [])
            for first, group in firsts[:_TRIED]:
                permutation = first.permutation_to(tensor, highest_rank)
                if permutation is not None:
                    by_hash[known.hash] = group, permutation
                    break
            else:
                found.append([])
                firsts.append((tensor, found[-1]))
                by_hash[known.hash] = found[-1], None
        group, permutation = by_hash[known.hash]
        group.append(Copy(tensor.stored, permutation))
    return [group for group in found if len(group) > 1]


def look_alikes(tensors: Iterable[IndexedTensor]) -> list[list[IndexedTensor]]:
    """The tensors that others of their type and dims look like, matrices also transposed, by a few
    elements: only these need to be read whole to tell which are equal."""
    return [
        close
        for form in _split(list(tensors), _matrix_form)
        for close in _split(form, lambda tensor: _first_look(tensor.array))
    ]


def _split(
    tensors: list[IndexedTensor], key: Callable[[IndexedTensor], Key]
) -> Iterator[list[IndexedTensor]]:
    """The tensors of each key that more than one of them has."""
    found: dict[Key, list[IndexedTensor]] = {}
    for tensor in tensors if len(tensors) > 1 else ():
        found.setdefault(key(tensor), []).append(tensor)
    yield from (alike for alike in found.values() if len(alike) > 1)


def _matrix_form(tensor: IndexedTensor) -> Key:
    """Type and shape, alike for a matrix and its transpose."""
    return tensor.form if len(tensor.shape) == 2 else (tensor.dtype, tensor.shape)


def _first_look(values: Array | None) -> Key:
    """Some elements that are in the same place in the transpose: those on the diagonal."""
    if values is None:
        return ()
    few = np.diagonal(values) if values.ndim == 2 else values.reshape(-1)
    return (np.ascontiguousarray(few[:_FIRST]).tobytes(),)
