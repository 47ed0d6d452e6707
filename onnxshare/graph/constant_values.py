"""Evaluates what does not depend on the model's inputs: shape arithmetic, and weights behind layout
nodes.

These are small NumPy versions of the operators that exporters use most for the two; others are
left to onnx's reference implementation (`reference_values`). Only constants and shapes are
followed, never data. Operators that rearrange are evaluated at any size; those that
compute are bounded, because a hostile file can ask for a tensor of any size.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from math import prod
from typing import Any

import numpy as np
from onnx import helper, numpy_helper

from onnxshare.errors import ModelError
from onnxshare.graph.index import Graph, Node, Scope, Stored
from onnxshare.graph.operator_traits import Effect, traits_of
from onnxshare.graph.reference_values import MAX_ELEMENTS, evaluable, evaluate
from onnxshare.io.tensors import Array

#: The largest tensor that shape arithmetic may compute; real ones hold a handful of numbers.
MAX_COMPUTED = 65_536

Inputs = list[Array | None]
Evaluator = Callable[[Node, Inputs], Any]


#: By operator: the node and the values of its inputs → the value of its output. They raise
#: ValueError and its like where the operands do not fit.
OPERATORS: dict[str, Evaluator] = {}


def _evaluates(op_type: str) -> Callable[[Evaluator], Evaluator]:
    def register(evaluate: Evaluator) -> Evaluator:
        OPERATORS[op_type] = evaluate
        return evaluate

    return register


def resolve_reshape(shape: tuple[int, ...], target: list[int], *, allowzero: bool) -> list[int]:
    """The sizes that a Reshape gives, with 0 and -1 resolved
    (https://onnx.ai/onnx/operators/onnx__Reshape.html).

    Raises:
        ValueError: the sizes do not fit.
    """
    sizes = [
        shape[axis] if size == 0 and not allowzero else size for axis, size in enumerate(target)
    ]
    total = prod(shape)
    if sizes.count(-1) > 1:
        raise ValueError("more than one -1")
    if -1 in sizes:
        known = prod(size for size in sizes if size != -1)
        if known == 0 or total % known:
            raise ValueError("sizes do not divide")
        sizes[sizes.index(-1)] = total // known
    if min(sizes, default=0) < 0 or prod(sizes) != total:
        raise ValueError("sizes do not fit")
    return sizes


def _need(value: Array | None) -> Array:
    if value is None:
        raise ValueError("a required input is missing")
    return value


def _list(value: Array) -> list[int]:
    return [int(item) for item in value.reshape(-1)]


def _axes(node: Node, inputs: Inputs, position: int) -> Any:
    """Axes as an input (later opsets) or as an attribute (earlier ones); None where not given."""
    if len(inputs) > position:
        given = inputs[position]
        return None if given is None else tuple(_list(given))
    axes = node.attribute("axes")
    return None if axes is None else tuple(map(int, axes))


@_evaluates("Reshape")
def _reshape(node: Node, inputs: Inputs) -> Array:
    data = _need(inputs[0])
    target = _list(_need(inputs[1])) if len(inputs) > 1 else list(node.attribute("shape", []))
    allowzero = bool(node.attribute("allowzero", 0))
    return data.reshape(resolve_reshape(data.shape, target, allowzero=allowzero))


@_evaluates("Flatten")
def _flatten(node: Node, inputs: Inputs) -> Array:
    data = _need(inputs[0])
    axis = int(node.attribute("axis", 1))
    axis = axis + data.ndim if axis < 0 else axis
    return data.reshape(prod(data.shape[:axis]), prod(data.shape[axis:]))


@_evaluates("Cast")
def _cast(node: Node, inputs: Inputs) -> Array:
    data = _need(inputs[0])
    dtype = helper.tensor_dtype_to_np_dtype(int(node.attribute("to")))
    if _is_fill(data):  # stays one element in memory
        return np.broadcast_to(data[(0,) * data.ndim].astype(dtype), data.shape)
    return data.astype(dtype)


def _is_fill(data: Array) -> bool:
    """Whether an array is one element, shown many times (a ConstantOfShape)."""
    return data.size > 1 and not any(data.strides)


@_evaluates("Slice")
def _slice(node: Node, inputs: Inputs) -> Array:
    data = _need(inputs[0])
    if len(inputs) > 1:
        starts, ends = _list(_need(inputs[1])), _list(_need(inputs[2]))
        axes = _axes(node, inputs, 3) if len(inputs) > 3 else None
        steps = inputs[4] if len(inputs) > 4 else None
    else:
        starts, ends = list(node.attribute("starts")), list(node.attribute("ends"))
        axes, steps = _axes(node, [], 0), None
    index = [slice(None)] * data.ndim
    for place, axis in enumerate(axes if axes is not None else range(len(starts))):
        step = 1 if steps is None else _list(steps)[place]
        index[axis] = _range_of(starts[place], ends[place], step, data.shape[axis])
    return data[tuple(index)]


def _range_of(start: int, end: int, step: int, size: int) -> slice:
    """ONNX clamps where NumPy does not: a start before the first element is the first, backwards
    too (https://onnx.ai/onnx/operators/onnx__Slice.html)."""
    start, end = (bound + size if bound < 0 else bound for bound in (start, end))
    if step > 0:
        return slice(min(max(start, 0), size), min(max(end, 0), size), step)
    start, end = min(max(start, 0), size - 1), min(max(end, -1), size - 1)
    return slice(start, None if end < 0 else end, step)


@_evaluates("Gather")
def _gather(node: Node, inputs: Inputs) -> Array | None:
    data, indices = _need(inputs[0]), _need(inputs[1]).astype(np.int64)
    axis = int(node.attribute("axis", 0))
    if data.size // max(1, data.shape[axis]) * indices.size > MAX_COMPUTED:
        return None
    return np.take(data, indices, axis=axis)


@_evaluates("Concat")
def _concat(node: Node, inputs: Inputs) -> Array | None:
    parts = [_need(item) for item in inputs]
    # One tensor again and again doubles from node to node; others are no more than what is stored.
    again = len({id(part) for part in parts}) < len(parts)
    if again and sum(part.size for part in parts) > MAX_COMPUTED:
        return None
    return np.concatenate(parts, axis=int(node.attribute("axis", 1)))


def _divide(left: Array, right: Array) -> Array:
    if left.dtype.kind in "iu":  # ONNX truncates towards zero
        magnitude = np.abs(left) // np.abs(right)
        return np.asarray(np.sign(left) * np.sign(right) * magnitude, left.dtype)
    return np.asarray(left / right)


@_evaluates("Range")
def _range(node: Node, inputs: Inputs) -> Array | None:
    start, limit, delta = (_need(item).reshape(-1)[0] for item in inputs)
    # Python's numbers, because a difference of NumPy's integers may wrap around to a small one.
    first, last, step = start.item(), limit.item(), delta.item()
    if step == 0 or not (last - first) / step <= MAX_COMPUTED:
        return None
    return np.asarray(np.arange(first, last, step), start.dtype)


@_evaluates("ConstantOfShape")
def _fill(node: Node, inputs: Inputs) -> Array | None:
    shape = _list(_need(inputs[0]))
    if prod(shape) > MAX_COMPUTED:
        return None
    given = node.attribute("value")
    value = np.zeros(1, np.float32) if given is None else numpy_helper.to_array(given)
    return np.broadcast_to(value.reshape(()), shape)


@_evaluates("Expand")
def _expand(node: Node, inputs: Inputs) -> Array | None:
    data, target = _need(inputs[0]), _list(_need(inputs[1]))
    shape = np.broadcast_shapes(data.shape, tuple(target))
    return np.broadcast_to(data, shape) if prod(shape) <= MAX_COMPUTED else None


@_evaluates("DequantizeLinear")
def _dequantize(node: Node, inputs: Inputs) -> Array | None:
    """y = (x - zero_point) · scale, per tensor, per axis or in blocks
    (https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html)."""
    data, scale = _need(inputs[0]), _need(inputs[1])
    zero = inputs[2] if len(inputs) > 2 else None
    axis = int(node.attribute("axis", 1))
    block = int(node.attribute("block_size", 0))
    if _is_fill(data) and data.size > MAX_COMPUTED:
        return None  # a file of no size can ask for any number of elements

    def spread(part: Array) -> Array:
        if scale.size <= 1:
            return part.reshape(())
        if not block:
            return part.reshape([-1 if at == axis % data.ndim else 1 for at in range(data.ndim)])
        if not 0 < block <= data.shape[axis]:
            raise ValueError("blocks are larger than the axis")
        kept = (*[slice(None)] * (axis % data.ndim), slice(data.shape[axis]))
        return np.repeat(part, block, axis=axis)[kept]

    wide = data.astype(np.float32)
    if zero is not None:
        wide = wide - spread(zero).astype(np.float32)
    return np.asarray((wide * spread(scale).astype(np.float32)).astype(scale.dtype))


def _broadcasting(function: Callable[..., Any]) -> Evaluator:
    """An element-wise operator, refused where its operands broadcast to something large."""

    def evaluate(node: Node, inputs: Inputs) -> Any:
        operands = [_need(item) for item in inputs]
        shape = np.broadcast_shapes(*(item.shape for item in operands))
        return function(*operands) if prod(shape) <= MAX_COMPUTED else None

    return evaluate


def _one(function: Callable[[Array], Any]) -> Evaluator:
    return lambda node, inputs: function(_need(inputs[0]))


@_evaluates("ReduceProd")
def _product(node: Node, inputs: Inputs) -> Array:
    data, axes = _need(inputs[0]), _axes(node, inputs, 1)
    if not axes and node.attribute("noop_with_empty_axes", 0):
        return data
    kept = bool(node.attribute("keepdims", 1))
    return np.asarray(np.prod(data, axes or None, data.dtype, keepdims=kept))


OPERATORS.update(
    Transpose=lambda node, inputs: np.transpose(_need(inputs[0]), node.attribute("perm")),
    Squeeze=lambda node, inputs: np.squeeze(_need(inputs[0]), _axes(node, inputs, 1)),
    Unsqueeze=lambda node, inputs: np.expand_dims(_need(inputs[0]), _axes(node, inputs, 1)),
    Identity=_one(lambda data: data),
    Neg=_one(np.negative),
    Abs=_one(np.abs),
    Sqrt=_one(np.sqrt),
    Floor=_one(np.floor),
    Ceil=_one(np.ceil),
    Not=_one(np.logical_not),
    Add=_broadcasting(np.add),
    Sub=_broadcasting(np.subtract),
    Mul=_broadcasting(np.multiply),
    Div=_broadcasting(_divide),
    Equal=_broadcasting(np.equal),
    Greater=_broadcasting(np.greater),
    Less=_broadcasting(np.less),
    Min=_broadcasting(lambda *operands: functools.reduce(np.minimum, operands)),
    Max=_broadcasting(lambda *operands: functools.reduce(np.maximum, operands)),
    Where=_broadcasting(np.where),
)


#: So many nodes are left to the reference implementation, which takes half a millisecond for each.
_MOST_EVALUATED = 2000

#: The largest ConstantOfShape that is filled in memory when its values are requested.
MAX_FILLED = 2**30

#: Known shapes: (scope path, tensor name) → sizes.
KnownShapes = Mapping[tuple[str, str], tuple[int, ...]]


class Values:
    """Values of constant tensors, computed once each, on demand. `shapes` are what Shape and Size
    nodes answer; `impossible` the paths of branches that cannot run, as something in them does not
    fit."""

    def __init__(
        self,
        graph: Graph,
        shapes: KnownShapes | None = None,
        impossible: Collection[str] = (),
    ) -> None:
        self._graph = graph
        self._shapes = shapes or {}
        self._impossible = impossible
        self._known: dict[tuple[str, str], Any] = {}  # lists for sequences
        self._left = _MOST_EVALUATED

    def get(self, scope: Scope, name: str) -> Array | None:
        """The value of a tensor, or None if it depends on the model's inputs or is too large.

        Iterative, so that a long chain of nodes cannot exhaust the stack.
        """
        home = scope.home(name)
        if home is None:
            return None
        stack = [(home, name)]
        while stack:
            where, wanted = stack[-1]
            key = (where.path, wanted)
            if key in self._known:
                stack.pop()
                continue
            missing = self._missing(where, wanted)
            if missing is None:
                self._known[key] = None
                stack.pop()
            elif missing:
                stack.extend(missing)
            else:
                self._known[key] = self._compute(where, wanted)
                stack.pop()
        found = self._known[home.path, name]
        return None if isinstance(found, list) else found

    def branch(self, node: Node) -> str | None:
        """Which branch of an If runs, where its condition does not depend on data, or only one of
        them can."""
        return self._branch(node, self.get(node.scope, node.inputs[0]))

    def _branch(self, node: Node, condition: Any) -> str | None:
        if isinstance(condition, np.ndarray) and condition.size == 1:
            return "then_branch" if condition.all() else "else_branch"
        branches = self._graph.subgraphs(node)
        left = [name for name, scope in branches.items() if scope.path not in self._impossible]
        return left[0] if len(left) == 1 < len(branches) else None

    def integers(self, scope: Scope, name: str) -> list[int] | None:
        """The value as a flat list of integers, for shapes, axes and pads."""
        value = self.get(scope, name)
        if value is None or value.dtype.kind not in "iu":
            return None
        return [int(item) for item in value.reshape(-1)]

    def _missing(self, scope: Scope, name: str) -> list[tuple[Scope, str]] | None:
        """The inputs to evaluate first; None if the tensor cannot be evaluated at all."""
        if self._graph.stored(scope, name) is not None:
            return []
        node = scope.producers.get(name)
        if node is None or not node.standard:
            return None
        if traits_of(node).effect is Effect.SHAPE:
            return []
        if node.op_type == "If":
            return self._missing_of_branch(node, name)
        quick = node.op_type in OPERATORS and name == node.outputs[0]
        if not quick and (not evaluable(node) or self._too_large(node)):
            return None
        return self._unknown([(node.scope, needed) for needed in node.inputs if needed])

    def _unknown(self, needed: list[tuple[Scope, str]]) -> list[tuple[Scope, str]] | None:
        """Those of some tensors that are to be evaluated first; None if one cannot be."""
        missing = []
        for scope, name in needed:
            home = scope.home(name)
            if home is None:
                return None
            key = (home.path, name)
            if key not in self._known:
                missing.append((home, name))
            elif self._known[key] is None:
                return None
        return missing

    def _missing_of_branch(self, node: Node, name: str) -> list[tuple[Scope, str]] | None:
        home = node.scope.home(node.inputs[0])
        if home is not None and (home.path, node.inputs[0]) not in self._known:
            return [(home, node.inputs[0])]
        source = self._returned(node, name)
        return None if source is None else self._unknown([source])

    def _returned(self, node: Node, name: str) -> tuple[Scope, str] | None:
        """What a result of an If is in the branch that runs."""
        taken = self._branch(node, self._input(node, node.inputs[0]))
        scope = self._graph.subgraphs(node).get(taken or "")
        place = node.outputs.index(name)
        if scope is None or place >= len(scope.graph.output):
            return None
        return scope, scope.graph.output[place].name

    def _too_large(self, node: Node) -> bool:
        """Whether a node reads a large stored tensor."""
        stored = [self._graph.stored(node.scope, name) for name in node.inputs if name]
        return any(item is not None and item.elements > MAX_ELEMENTS for item in stored)

    def _compute(self, scope: Scope, name: str) -> Any:
        stored = self._graph.stored(scope, name)
        if stored is not None:
            return self.payload(stored)
        node = scope.producers[name]
        if traits_of(node).effect is Effect.SHAPE:
            return self._shape(node)
        if node.op_type == "If":
            source = self._returned(node, name)
            home = source[0].home(source[1]) if source else None
            return self._known[home.path, source[1]] if source and home else None
        inputs = [self._input(node, item) for item in node.inputs]
        if (
            node.op_type not in OPERATORS
            or name != node.outputs[0]
            or any(isinstance(item, list) for item in inputs)
        ):
            return self._evaluate(node, name, inputs)
        # What only rearranges or converts is evaluated at any size.
        if (
            not traits_of(node).carries
            and sum(item.size for item in inputs if item is not None) > MAX_COMPUTED
        ):
            return None
        try:
            with np.errstate(all="ignore"):  # a division by zero is the model's business
                result = OPERATORS[node.op_type](node, inputs)
        except (ValueError, IndexError, TypeError, ArithmeticError, KeyError, MemoryError):
            return None  # not ours to judge: what needs the value says that it is unknown
        return None if result is None else np.asarray(result)

    def _evaluate(self, node: Node, name: str, inputs: list[Any]) -> Any:
        """A result of a node by the reference implementation; the others are noted."""
        self._left -= 1
        results = evaluate(node, inputs, self._graph.opset) if self._left >= 0 else None
        if results is None:
            return None
        named = [output for output in node.outputs if output]
        self._known.update({(node.scope.path, n): v for n, v in zip(named, results, strict=True)})
        return self._known[node.scope.path, name]

    def _input(self, node: Node, name: str) -> Any:
        home = node.scope.home(name) if name else None
        return self._known[home.path, name] if home else None

    def payload(self, stored: Stored) -> Array | None:
        """The values of a stored tensor; None for a sparse one or one too large to fill."""
        if stored.tensor is not None:
            return self._graph.model.read(stored.tensor)
        if stored.sparse or stored.elements > MAX_FILLED:
            return None
        if stored.fill is not None:
            fill = self._graph.model.read(stored.fill).reshape(-1)
            if fill.size != 1:
                raise ModelError(f"the value of ConstantOfShape '{stored.name}' is not one element")
            return np.broadcast_to(fill[0], stored.shape)
        dtype = helper.tensor_dtype_to_np_dtype(stored.dtype)
        return np.broadcast_to(np.zeros((), dtype), stored.shape)

    def _shape(self, node: Node) -> Array | None:
        home = node.scope.home(node.inputs[0])
        shape = None if home is None else self._shapes.get((home.path, node.inputs[0]))
        if shape is None:
            return None
        if node.op_type == "Size":
            return np.array(prod(shape), np.int64) if prod(shape) < 2**63 else None
        start = int(node.attribute("start", 0))
        end = node.attribute("end")
        return np.array(shape[start : None if end is None else int(end)], np.int64)
