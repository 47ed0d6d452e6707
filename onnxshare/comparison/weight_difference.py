"""A weight that differs alone: two models of equal outputs that are not the same function.

Outputs may hide a changed weight: a bias of a unit that no sample wakes, a difference that later
layers make smaller than rounding. But weights can be read. Where both models hold the same values,
in whatever order, names and operators, but for one layer whose weights differ by more than
rounding, and neither an operator nor a number elsewhere went or came to make up for it, that layer
computes something else. What compensates for a changed weight, and so never counts against a model:
a normalization or factor that was folded into it (its numbers are gone), a changed `alpha`, other
layers that changed too (equalised channels, reordered units), another type; nor what a layer after
it takes off again: a term that all classes share before a softmax, any before a normalization.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from onnxshare.comparison.rounding_noise import EPSILON
from onnxshare.graph.constant_values import Values
from onnxshare.graph.index import CARRIERS, Graph, Node, Scope
from onnxshare.graph.operator_traits import Effect, operators_where
from onnxshare.io.load import Model
from onnxshare.io.tensors import Array, types
from onnxshare.samples.input_uses import LOOKUPS
from onnxshare.weights.content import Content, content, largest_gap, same_bits
from onnxshare.weights.index import IndexedTensor, TensorIndex

#: Types of numbers that are computed with; sizes and indices are int64 or bool.
_KINDS = EPSILON.keys() | types("INT8 UINT8 INT4 UINT4 INT32")

#: Elements, at most, of quantized tensors that are dequantized to be compared.
_MOST_DEQUANTIZED = 2**22

#: Operators with weights of which each is a factor or a term of its own, so that a change of one
#: is not undone by another of the same node.
_SUMS = (Effect.CONVOLUTION, Effect.PRODUCT)
LAYERS = operators_where(lambda traits: traits.effect in _SUMS and not traits.quantized)
TERMS = operators_where(lambda traits: traits.linear or traits.effect is Effect.LOOKUP)
TERMS |= {"PRelu", "Slice", "BatchNormalization"}
QUANTIZED = operators_where(
    lambda traits: traits.quantized and (traits.effect in _SUMS or traits.elementwise)
)

#: Operators that may come and go without making up for a weight: layers and their biases, whose
#: numbers are compared, and what only moves values.
_MOVES = (*_SUMS, Effect.PERMUTATION, Effect.CUT, Effect.LOOKUP, Effect.JOIN, Effect.SHAPE)
_PLAIN = {"Add", "Dropout", "Expand"} | operators_where(
    lambda traits: traits.effect in _MOVES or traits.carries or traits.quantized
)
_PLAIN |= {"Constant", "ConstantOfShape"}

#: Operators that take no notice of a term that all their inputs, or all of a channel, share.
CENTRED = operators_where(
    lambda traits: traits.ignores_shift and traits.effect is Effect.NORMALIZATION
)
SHIFTED = operators_where(lambda traits: traits.ignores_shift) - CENTRED

#: Names for one thing.
_SAME = {"GlobalAveragePool": "mean", "AveragePool": "mean", "ReduceMean": "mean"}


@dataclass(eq=False)
class Used:
    """Numbers that nodes compute with: the tensor that holds them, under a key that is unique
    within the model, what they are where it is quantized, and the nodes."""

    key: str
    tensor: IndexedTensor
    dequantized: Array | None = field(default=None, repr=False)
    readers: list[Node] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The tensor's name."""
        return self.tensor.stored.name

    @property
    def kind(self) -> tuple[int, int]:
        """A TensorProto data type, and the number of elements."""
        if self.dequantized is None:
            return self.tensor.dtype, self.tensor.stored.elements
        return TensorProto.FLOAT, self.dequantized.size

    @property
    def array(self) -> Array:
        """The numbers; none of a tensor that is not laid out."""
        array = self.tensor.array if self.dequantized is None else self.dequantized
        return np.zeros(0) if array is None else array

    @cached_property
    def content(self) -> Content:
        """What identifies them."""
        if self.dequantized is None:
            return self.tensor.content
        return content(self.dequantized, TensorProto.FLOAT)


def live_nodes(graph: Graph) -> list[Node]:
    """The nodes that some output needs, those of subgraphs with the nodes that hold them."""
    needed = set(graph.main.outputs)
    found: list[Node] = []
    for node in reversed(graph.main.nodes):
        if needed.isdisjoint(filter(None, node.outputs)):
            continue
        inner = list(_inner(graph, node))
        found += [node, *inner]
        needed.update(name for item in (node, *inner) for name in item.inputs)
        for item in (node, *inner):
            for scope in graph.subgraphs(item).values():
                needed.update(scope.outputs)
    return found


def _inner(graph: Graph, node: Node) -> Iterator[Node]:
    for scope in graph.subgraphs(node).values():
        for item in scope.nodes:
            yield item
            yield from _inner(graph, item)


def used_weights(graph: Graph, nodes: Iterable[Node]) -> dict[str, Used]:
    """The numbers that nodes compute with, by key: stored tensors, and what DequantizeLinear makes
    of them, whatever rearranges them before they are used."""
    index, values = TensorIndex(graph), Values(graph)
    found: dict[str, Used] = {}
    for node in nodes:
        if node.op_type in CARRIERS and node.inputs and _carries(graph, node):
            continue
        for name in filter(None, node.inputs):
            stored = graph.source(node.scope, name)
            if stored is None or stored.dtype not in _KINDS:
                continue
            key, numbers = stored.key, None
            if stored.elements <= _MOST_DEQUANTIZED and _dequantizes(graph, node.scope, name):
                numbers = values.get(node.scope, name)
            if numbers is not None and numbers.dtype == np.float32:
                key = f"{key} dequantized"
            else:
                numbers = None
            used = found.setdefault(key, Used(key, index.add(stored), numbers))
            used.readers.append(node)
    return found


def _carries(graph: Graph, node: Node) -> bool:
    return graph.source(node.scope, node.outputs[0]) is not None


def _dequantizes(graph: Graph, scope: Scope, name: str) -> bool:
    """Whether a constant comes through a DequantizeLinear."""
    node = scope.producer(name)
    while node is not None and node.op_type in CARRIERS:
        if node.op_type == "DequantizeLinear":
            return True
        scope, name = node.scope, node.inputs[0]
        node = scope.producer(name)
    return False


def others(nodes: Iterable[Node]) -> Counter[Any]:
    """What else could make up for a weight: operators, and the numbers in their attributes."""
    found: Counter[Any] = Counter()
    for node in nodes:
        if node.op_type not in _PLAIN or not node.standard:
            found[_SAME.get(node.op_type, node.op_type)] += 1
        elif node.op_type not in LAYERS:
            continue
        for item in node.proto.attribute:
            if item.type == onnx.AttributeProto.FLOAT and item.f != 1.0:
                found[item.name, item.f] += 1
            elif item.type == onnx.AttributeProto.FLOATS:
                found[item.name, tuple(item.floats)] += 1
    return found


#: A weight that was computed another way differs by no more than so many units in the last place
#: of its largest value.
_ROUNDINGS = 64.0

#: Elements by which tensors are told apart before all are compared.
_FIRST = 64

#: The most rows of a table that may differ for it to be the same table, with other rows.
_FEW_ROWS = 0.5

#: Elements, at most, of tensors that are sorted to tell rounding in another order from a change.
_MOST_SORTED = 2**24


class _How(Enum):
    """How the elements of two tensors differ.

    SAME: not at all, but for the order of axes or for rounding.
    COLUMNS: in the order of what goes into each result of the layer.
    ORDER: in another order.
    VALUES: in their values.
    """

    SAME = 0
    COLUMNS = 1
    ORDER = 2
    VALUES = 3


@dataclass(frozen=True)
class _Pair:
    a: Used
    b: Used
    how: _How
    largest: float = 0.0
    rows: int = 0

    @property
    def words(self) -> str:
        one, other = self.a.name, self.b.name
        name = f"'{one}'" if one == other else f"'{one}' ('{other}' in B)"
        if self.how is not _How.VALUES:
            return f"{name} holds its values in another order"
        if math.isinf(self.largest):
            return f"{name} is all zero in A and not in B"
        where = f" in {self.rows:,} of {len(self.a.array):,} rows" if self.rows else ""
        return f"{name} differs{where} by up to {_share(self.largest)} its largest value"


def weight_difference(a: Model, b: Model, values: Callable[[str], Array] | None = None) -> str:
    """Say which weights of one layer differ although nothing makes up for it; "" if none do.

    Every weight is read once, those that are alike in name and bytes at the speed of memory. Where
    operators differ too, they may make up for a layer, but not for some rows of a table.

    Args:
        a, b: the models.
        values: returns a tensor of A on all samples: what is looked up of a table.

    Raises:
        ModelError, ModelFileError: a graph contradicts itself, or weights cannot be read.
    """
    return _Search(Graph(a), Graph(b)).run(values)


class _Search:
    def __init__(self, a: Graph, b: Graph) -> None:
        self.live = (live_nodes(a), live_nodes(b))
        self.used = (used_weights(a, self.live[0]), used_weights(b, self.live[1]))

    def run(self, values: Callable[[str], Array] | None) -> str:
        if others(self.live[0]) != others(self.live[1]):
            found = self._row_difference()
        else:
            found = self._layer_difference()
        shares = (_looked_up(pair.a, values) for pair in found if values is not None)
        return " and ".join(pair.words for pair in found) + next(filter(None, shares), "")

    def _row_difference(self) -> list[_Pair]:
        """A table of which some rows differ, and most do not."""
        ours, theirs = self._unlike()
        for one in filter(_is_table, ours):
            alike = [item for item in theirs if item.kind == one.kind]
            other = self._partner(one, [t for t in alike if t.array.shape == one.array.shape])
            if other is None or one.array.dtype.kind not in "fiu":
                continue
            left, right = (item.array.reshape(-1, item.array.shape[-1]) for item in (one, other))
            gap = np.abs(left.astype(np.float64) - right).max(axis=1, initial=0.0)
            largest = float(np.abs(left).max(initial=0.0))
            rows = np.flatnonzero(gap > _ROUNDINGS * EPSILON.get(one.kind[0], 0.0) * largest)
            if 0 < rows.size <= _FEW_ROWS * len(gap):
                share = float(gap.max()) / largest if largest else math.inf
                return [_Pair(one, other, _How.VALUES, share, rows.size)]
        return []

    def _layer_difference(self) -> list[_Pair]:
        pairs = self._paired(*self._unlike())
        told = [pair for pair in pairs if pair.how in (_How.ORDER, _How.VALUES)]
        layer = {id(node) for pair in told for node in pair.a.readers}
        for pair in pairs:
            beyond = pair.how is _How.COLUMNS and layer.isdisjoint(map(id, pair.a.readers))
            if beyond and any(one.how is _How.ORDER for one in told):
                return []  # units in another order, and those that read them with them
        if not self._one_layer(told) or any(map(self._taken_off, told)):
            return []
        return told

    def _unlike(self) -> tuple[list[Used], list[Used]]:
        """Tensors whose elements, in their order, the other model does not hold."""
        ours, theirs = (dict(used) for used in self.used)
        for key in list(ours):
            if key in theirs and _same(ours[key], theirs[key]):
                del ours[key], theirs[key]
        return _missing(ours, self.used[1]), _missing(theirs, self.used[0])

    def _paired(self, ours: list[Used], theirs: list[Used]) -> list[_Pair]:
        """Tensors that differ, each with the one that takes its place; none where it is not plain
        which that is, or where rounding or a new order of axes explains all."""
        if len(ours) != len(theirs):
            return []
        pairs = []
        for one in ours:
            other = self._partner(one, [item for item in theirs if item.kind == one.kind])
            if other is None:
                return []
            theirs.remove(other)
            pairs.append(self._pair(one, other))
        return pairs

    def _partner(self, one: Used, alike: list[Used]) -> Used | None:
        bag = one.content.bag
        for found in (
            [item for item in alike if item.content.bag == bag],
            [item for item in alike if item.key == one.key],
            alike,
        ):
            if len(found) == 1:
                return found[0]
        return None

    def _pair(self, one: Used, other: Used) -> _Pair:
        left, right = one.array, other.array
        if one.content.bag == other.content.bag:
            if _is_vector(left) or _is_vector(right):
                # One for each element of a flattened map, and one for each of the map.
                both = _is_vector(left) and _is_vector(right)
                return _Pair(one, other, _How.ORDER if both else _How.COLUMNS)
            return _Pair(one, other, _rearranged(_rows(one, left), _rows(other, right)))
        known = left.dtype.kind in "fiu" and left.size <= _MOST_SORTED
        if not known or not (np.isfinite(left).all() and np.isfinite(right).all()):
            return _Pair(one, other, _How.SAME)  # it cannot be told, or would take too long
        gap, largest = largest_gap(left, right)
        least = 1.0 if left.dtype.kind in "iu" else _ROUNDINGS * EPSILON[one.kind[0]] * largest
        if gap <= least or largest_gap(np.sort(left, None), np.sort(right, None))[0] <= least:
            return _Pair(one, other, _How.SAME)
        return _Pair(one, other, _How.VALUES, gap / largest if largest else math.inf)

    def _taken_off(self, pair: _Pair) -> bool:
        """Whether something in the model undoes such a change, wherever that stands."""
        operators = {node.op_type for node in self.live[0]}
        left, right = pair.a.array, pair.b.array
        if not _is_vector(left):
            return False
        if not operators.isdisjoint(CENTRED):
            return True
        step = right.reshape(-1).astype(np.float64) - left.reshape(-1)
        roundings = _ROUNDINGS * EPSILON.get(pair.a.kind[0], 0.0)
        shared = step.size > 1 and np.ptp(step) <= roundings * np.abs(left).max() + roundings
        return bool(shared) and not operators.isdisjoint(SHIFTED)

    def _one_layer(self, pairs: Sequence[_Pair]) -> bool:
        """Whether these are weights of one layer, so that none makes up for another."""
        nodes = list({id(node): node for pair in pairs for node in pair.a.readers}.values())
        if len(pairs) == 1:
            return all(node.op_type in LAYERS | TERMS | QUANTIZED for node in nodes)
        if len(nodes) == 1:
            return nodes[0].op_type in LAYERS
        if len(nodes) != 2:
            return False
        layer, bias = sorted(nodes, key=lambda node: node.op_type == "Add")
        follows = bias.op_type == "Add" and not set(layer.outputs).isdisjoint(bias.inputs)
        return follows and layer.op_type in LAYERS


def _is_table(used: Used) -> bool:
    """Whether rows of a tensor are looked up or cut off, and nothing else is done with it."""
    array = used.array
    rows = array.ndim == 2 or (array.ndim > 2 and array.shape[0] == 1)
    return rows and all(
        used.name in _tables(node) and node.attribute("axis", 0) in (0, -array.ndim)
        for node in used.readers
    )


def _tables(node: Node) -> dict[str, str]:
    """The tables that a node looks rows up in or cuts off, and the indices, "" where it cuts."""
    if node.op_type == "Slice":
        return {node.inputs[0]: ""}
    places = LOOKUPS.get(node.op_type, {}).items()
    return {node.inputs[table]: node.inputs[index] for index, table in places}


def _looked_up(used: Used, values: Callable[[str], Array]) -> str:
    """Which share of a table's rows the samples look up, as text."""
    if not _is_table(used):
        return ""
    indices = [_tables(node)[used.name] for node in used.readers]
    if not all(indices):
        return ""
    rows: set[int] = set()
    for name in indices:
        found = np.unique(values(name)).astype(np.int64)
        rows.update(map(int, found % len(used.array)))
    return f" (the samples look up {len(rows) / len(used.array):.1%} of its rows)"


def _same(one: Used, other: Used) -> bool:
    return one.kind == other.kind and same_bits(one.array.reshape(-1), other.array.reshape(-1))


def _missing(used: dict[str, Used], others: dict[str, Used]) -> list[Used]:
    alike: dict[tuple[object, bytes], list[Used]] = {}
    for item in others.values():
        alike.setdefault(_start(item), []).append(item)
    return [
        item
        for item in used.values()
        if not any(_same(item, other) for other in alike.get(_start(item), []))
    ]


def _start(used: Used) -> tuple[object, bytes]:
    """The type and size of a tensor, and its first bytes."""
    flat = used.array.reshape(-1) if used.array.dtype.kind != "O" else used.array[:0]
    return used.kind, flat[:_FIRST].tobytes()


def _share(share: float) -> str:
    return f"{100 * share:.3g}% of" if share < 9.99 else f"{share:.3g} times"


def _is_vector(array: Array) -> bool:
    return array.size == max(array.shape, default=1)


def _rearranged(left: Sequence[Array], right: Sequence[Array]) -> _How:
    """How the same elements stand, in a row for each result."""
    pairs = [(one, other) for one in left for other in right if one.shape == other.shape]
    if any(same_bits(one, other) for one, other in pairs):
        return _How.SAME
    for one, other in pairs:
        if np.allclose(_sums(one), _sums(other), 1e-9, 1e-9, equal_nan=True):
            return _How.COLUMNS
    return _How.ORDER


def _rows(used: Used, array: Array) -> list[Array]:
    """A row for each result of the layer, in every way that it may be."""
    node = next((node for node in used.readers if used.name in node.inputs), None)
    first, last = array.reshape(len(array), -1), array.reshape(-1, array.shape[-1]).T
    if node is None or node.op_type not in ("Conv", "Gemm", "MatMul"):
        return [first, last]
    turned = node.op_type == "MatMul" or (
        node.op_type == "Gemm" and not node.attribute("transB", 0)
    )
    if turned and used.name == node.inputs[1]:
        return [last]
    # What was flattened with its channels last.
    return [first, np.moveaxis(array, 1, -1).reshape(len(array), -1)]


def _sums(rows: Array) -> Array:
    """Per row the sum and the sum of squares."""
    if rows.dtype.kind not in "fiu":  # bfloat16 and four bits
        rows = rows.astype(np.float32)
    return np.stack([rows.sum(1, dtype=np.float64), np.square(rows, dtype=np.float64).sum(1)])
