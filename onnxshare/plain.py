"""What nodes of one operation have in common for the bounds on shape inference (`ordinary.py`)."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

from onnx import AttributeProto, TensorProto

from onnxshare.io.node_reader import Operation

#: The most axes of a tensor, numbers in a computed shape, and numbers in an attribute.
MAX_RANK, MAX_COUNT, MAX_INTS = 64, 4096, 256

#: The largest size, and the largest number of elements along a computed axis.
MAX_SIZE, MAX_FILL = 2**48, 2**24

_LARGEST = 2**31

#: Attributes that count or divide: less than 1 is no use to anybody.
_POSITIVE = frozenset(
    "strides dilations kernel_shape group blocksize block_size num_groups num_outputs hidden_size "
    "q_num_heads kv_num_heads num_heads num_scan_inputs".split()
)

#: Attributes in which exporters write the largest and smallest number for "to the end".
_UNBOUNDED = frozenset(("starts", "ends", "value_int", "value_ints", "seed", "ignore_index"))

#: Types of shapes.
INTEGERS = frozenset((TensorProto.INT32, TensorProto.INT64))

#: Bounds of a constant: its axes, its numbers if they are known, and integers themselves.
Value = tuple[int, int | None, TensorProto | None]

#: Operators through which computed shapes go: they make no more numbers than their inputs have,
#: or `special` says how many.
_FOLLOWED = frozenset(
    "Identity Cast CastLike Squeeze Unsqueeze Gather GatherElements Slice Split Concat Reshape "
    "Flatten Transpose Add Sub Mul Div Mod Pow Min Max Neg Abs Sign Floor Ceil Round Sqrt Equal "
    "Greater GreaterOrEqual Less LessOrEqual Not And Or Where Clip ScatterND ScatterElements "
    "ReduceProd ReduceSum ReduceMax ReduceMin ReduceMean Size Shape Constant".split()
)

#: Operators that make numbers which are known, however many.
_MAKING = frozenset(("Shape", "ConstantOfShape"))

_SPECIAL = frozenset(
    "Shape Concat Gather GatherND ScatterND Einsum ConstantOfShape Reshape Expand Tile "
    "Range Unsqueeze Col2Im MaxUnpool OneHot SequenceConstruct SequenceInsert ConcatFromSequence "
    "SplitToSequence".split()
)

#: Operators whose result may have more axes than what they read, or be a shape.
GROWING = _SPECIAL | {"Constant", "If", "Loop", "Scan"}


class Kind:
    """What nodes of one operation have in common.

    Attributes:
        plain: whether its attributes are; None where each node has its own.
        followed: whether computed shapes go through it.
        special: whether it may make axes or numbers.
        makes: whether it makes numbers, which are known.
        constant: whether it is a Constant.
        value: what that holds; None where each node has its own.
    """

    __slots__ = ("constant", "followed", "makes", "plain", "special", "value")

    def __init__(self, operation: Operation) -> None:
        op_type, attributes = operation.op_type, operation.first.attribute
        comparable = operation.attributes is not None
        self.plain = all(map(plain, attributes)) if comparable else None
        self.followed = op_type in _FOLLOWED
        self.special = op_type in _SPECIAL
        self.makes = op_type in _MAKING
        self.constant = op_type == "Constant"
        self.value = held(attributes) if comparable and self.constant else None


def plain(attribute: AttributeProto) -> bool:
    """Whether the numbers in an attribute are ordinary."""
    kind = attribute.type
    if kind == AttributeProto.INT:
        return _in_bounds((attribute.i,), attribute.name)
    if kind == AttributeProto.INTS:
        if len(attribute.ints) > MAX_INTS and attribute.name != "value_ints":
            return False
        return _in_bounds(attribute.ints, attribute.name)
    return True


def _in_bounds(numbers: Iterable[int], name: str) -> bool:
    if name in _UNBOUNDED:
        return True
    lowest = 1 if name in _POSITIVE else 1 - _LARGEST
    return all(lowest <= number < _LARGEST for number in numbers)


def weighed(tensor: TensorProto) -> Value:
    """The bounds of a stored tensor; of floats only as many as may be factors of sizes."""
    size = prod(tensor.dims)
    if tensor.data_type in INTEGERS:
        return len(tensor.dims), size, tensor
    return len(tensor.dims), size if size <= MAX_RANK else None, None


def held(attributes: Iterable[AttributeProto]) -> Value:
    """The bounds of what a Constant node holds."""
    for attribute in attributes:
        if attribute.name == "value":
            rank, count, tensor = weighed(attribute.t)
            return rank, count or 0, tensor
        if attribute.name == "value_ints":
            return 1, len(attribute.ints), None
    return 1, 1, None
