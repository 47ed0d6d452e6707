"""Small NumPy versions of the operators that exporters use most for sizes and for weights' layout.

Those that rearrange are evaluated at any size; those that compute are bounded, because a hostile
file can ask for a tensor of any size.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
from onnx import helper, numpy_helper

from onnxshare.graph.nodes import Node
from onnxshare.io.tensors import Array

#: The largest tensor that shape arithmetic may compute; real ones hold a handful of numbers.
MAX_COMPUTED = 65_536

Inputs = list[Array | None]
Evaluator = Callable[[Node, Inputs], Any]


#: By operator: the node and the values of its inputs → the value of its output. They raise
#: ValueError and its like where the operands do not fit.
OPERATORS: dict[str, Evaluator] = {}

#: Those of them that are not of the standard's default domain.
OTHERS = frozenset((("ai.onnx.ml", "ArrayFeatureExtractor"),))


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


@_evaluates("ArrayFeatureExtractor")
def _extract(node: Node, inputs: Inputs) -> Array | None:
    """Elements of the last axis; of one row where there is only that axis."""
    data, places = _need(inputs[0]), _need(inputs[1]).astype(np.int64).reshape(-1)
    rows = data.reshape(-1, data.shape[-1])
    if len(rows) * places.size > MAX_COMPUTED:
        return None
    return rows[:, places].reshape(*(data.shape[:-1] or (1,)), places.size)


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
    Optional=_one(lambda data: data),
    OptionalGetElement=_one(lambda data: data),
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
