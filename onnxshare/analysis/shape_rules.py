"""Finds nodes whose known shapes cannot fit, where onnx's inference does not judge.

One small rule for an operator, after its specification (https://onnx.ai/onnx/operators/): it is
given what is known of the shapes and says what is wrong, or None. What is unknown is never wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

from onnxshare.graph.index import Node
from onnxshare.shapes.types import Shape, TensorType, shown


@dataclass(frozen=True)
class Operands:
    """What a rule may ask: the node, what is known of each input and output, the opset."""

    node: Node
    inputs: Sequence[TensorType]
    outputs: Sequence[TensorType]
    opset: int

    def shape(self, position: int) -> Shape | None:
        """The shape of an input; None for one that is left out or of unknown rank."""
        return self.inputs[position].shape if position < len(self.inputs) else None

    def size(self, position: int, axis: int) -> int | None:
        """One size of an input, where it is known."""
        shape = self.shape(position)
        if shape is None or not -len(shape) <= axis < len(shape):
            return None
        size = shape[axis]
        return size if isinstance(size, int) else None

    def sizes(self, position: int) -> tuple[int, ...] | None:
        """All sizes of an input, where all are known."""
        return self.inputs[position].sizes if position < len(self.inputs) else None

    def count(self, name: str, default: int) -> int:
        """An attribute that is one number."""
        return int(self.node.attribute(name, default))


Rule = Callable[[Operands], str | None]

#: By operator of the standard: what is wrong with the shapes of a node, or None.
RULES: dict[str, Rule] = {}


def _rule(*operators: str) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(operators, rule))
        return rule

    return register


def _differ(*sizes: int | None) -> bool:
    return len({size for size in sizes if size is not None}) > 1


def _stretches(small: Shape | None, large: Shape | None) -> bool:
    """Whether one shape may be broadcast to another that does not change."""
    if small is None or large is None or len(small) > len(large):
        return small is None or large is None
    pairs = zip(reversed(small), reversed(large), strict=False)
    return all(not (isinstance(a, int) and isinstance(b, int)) or a in (1, b) for a, b in pairs)


def _convolution(o: Operands, weight: int = 1, bias: int = 2) -> str | None:
    group = o.count("group", 1)
    channels, columns, filters = o.size(0, 1), o.size(weight, 1), o.size(weight, 0)
    if columns is not None and _differ(channels, columns * group):
        return f"the filters take {columns * group} channels and the data has {channels}"
    if filters is not None and group and filters % group:
        return f"{filters} filters cannot be split into {group} groups"
    if _differ(o.size(bias, 0), filters):
        return f"there are {filters} filters and {o.size(bias, 0)} biases"
    kernel, shape = o.node.attribute("kernel_shape", []), o.shape(weight)
    if kernel and shape is not None:
        for given, size in zip(kernel, shape[2:], strict=False):
            if isinstance(size, int) and size != given:
                return f"kernel_shape says {given} where the filters have {size}"
    return _too_small(o)


def _too_small(o: Operands) -> str | None:
    data, result = o.sizes(0), o.outputs[0].shape if o.outputs else None
    if data is None or result is None or 0 in data:
        return None
    if any(isinstance(size, int) and size < 1 for size in result[2:]):
        return "the kernel is larger than the padded map"
    return None


@_rule("ConvTranspose")
def _transposed_convolution(o: Operands) -> str | None:
    group = o.count("group", 1)
    channels, rows, columns = o.size(0, 1), o.size(1, 0), o.size(1, 1)
    if _differ(channels, rows):
        return f"the filters take {rows} channels and the data has {channels}"
    if rows is not None and group and rows % group:
        return f"{rows} channels cannot be split into {group} groups"
    if columns is not None and _differ(o.size(2, 0), columns * group):
        return f"there are {columns * group} output channels and {o.size(2, 0)} biases"
    return None


@_rule("Gemm")
def _gemm(o: Operands) -> str | None:
    result = o.outputs[0].shape if o.outputs else None
    if _stretches(o.shape(2), result):
        return None
    return f"C cannot be broadcast to the product, {in_words(result)}"


@_rule("PRelu")
def _slope(o: Operands) -> str | None:
    pairs = zip(reversed(o.shape(0) or ()), reversed(o.shape(1) or ()), strict=False)
    # Older ones have one slope a channel; ONNX Runtime broadcasts the data too.
    if o.opset < 7 or all(a == 1 or _stretches((b,), (a,)) for a, b in pairs):
        return None
    return "the slope cannot be broadcast to the data"


@_rule("InstanceNormalization")
def _instance_normalization(o: Operands) -> str | None:
    channels = o.size(0, 1)
    if _differ(channels, o.size(1, 0)) or _differ(channels, o.size(2, 0)):
        return f"the data has {channels} channels"
    return None


@_rule("LayerNormalization")
def _layer_normalization(o: Operands) -> str | None:
    for position, name in ((1, "scale"), (2, "bias")):
        if not _stretches(o.shape(position), o.shape(0)):
            return f"the {name} cannot be broadcast to the data"
    return None


@_rule("GroupNormalization")
def _group_normalization(o: Operands) -> str | None:
    channels, groups = o.size(0, 1), o.count("num_groups", 0)
    if groups < 1:
        return None
    if channels is not None and channels % groups:
        return f"{channels} channels cannot be split into {groups} groups"
    wanted = channels if o.opset >= 21 else groups
    if _differ(wanted, o.size(1, 0)) or _differ(wanted, o.size(2, 0)):
        return f"scale and bias should have {wanted} elements"
    return None


@_rule("Reshape")
def _reshape(o: Operands) -> str | None:
    before, after = o.sizes(0), o.outputs[0].sizes if o.outputs else None
    if before is None or after is None or prod(before) == prod(after):
        return None
    return f"{prod(before):,} elements cannot become {in_words(after)}, {prod(after):,} elements"


@_rule("GatherElements")
def _gather_elements(o: Operands) -> str | None:
    data, indices = o.shape(0), o.shape(1)
    if data is None or indices is None:
        return None
    if len(data) != len(indices):
        return "data and indices differ in their number of axes"
    axis = o.count("axis", 0) % max(1, len(data))
    for place, (size, wanted) in enumerate(zip(data, indices, strict=True)):
        if place != axis and isinstance(size, int) and isinstance(wanted, int) and wanted > size:
            return f"indices ask for {wanted} along axis {place}"
    return None


@_rule("ScatterElements")
def _scatter_elements(o: Operands) -> str | None:
    indices, updates = o.sizes(1), o.sizes(2)
    if indices is None or updates is None or indices == updates:
        return None
    return "indices and updates differ in shape"


@_rule("ScatterND")
def _scatter_nd(o: Operands) -> str | None:
    data, indices, updates = o.sizes(0), o.sizes(1), o.sizes(2)
    if data is None or not indices or updates is None:
        return None
    if indices[-1] > len(data):
        return f"indices have {indices[-1]} numbers each and the data has {len(data)} axes"
    wanted = (*indices[:-1], *data[indices[-1] :])
    return None if updates == wanted else f"updates should be {in_words(wanted)}"


_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


@_rule("GRU", "LSTM", "RNN")
def _recurrent(o: Operands) -> str | None:
    hidden = o.count("hidden_size", 0) or o.size(2, 2)
    if _differ(o.size(0, 2), o.size(1, 2)):
        return f"W takes {o.size(1, 2)} features and the data has {o.size(0, 2)}"
    if hidden is None:
        return None
    rows = _GATES[o.node.op_type] * hidden
    if _differ(o.size(1, 1), rows) or _differ(o.size(2, 1), rows):
        return f"W and R should have {rows} rows for {hidden} hidden features"
    if _differ(o.size(2, 2), hidden):
        return f"R takes {o.size(2, 2)} features and the state has {hidden}"
    if _differ(o.size(3, 1), 2 * rows):
        return f"B should have {2 * rows} elements"
    return None


@_rule("Einsum")
def _einsum(o: Operands) -> str | None:
    equation = str(o.node.attribute("equation", "")).replace(" ", "")
    terms = equation.split("->")[0].split(",")
    if "." in equation or len(terms) != len(o.inputs):
        return None
    sizes: dict[str, int] = {}
    for position, term in enumerate(terms):
        shape = o.shape(position)
        if shape is None or len(shape) != len(term):
            continue
        for label, size in zip(term, shape, strict=True):
            if not isinstance(size, int) or size == 1:
                continue
            if sizes.setdefault(label, size) != size:
                return f"index {label} of {equation} is {sizes[label]} and {size}"
    return None


@_rule("DepthToSpace")
def _depth_to_space(o: Operands) -> str | None:
    block, channels = o.count("blocksize", 1), o.size(0, 1)
    if block < 1 or channels is None or channels % (block * block) == 0:
        return None
    return f"{channels} channels cannot be split into blocks of {block}×{block}"


@_rule("SpaceToDepth")
def _space_to_depth(o: Operands) -> str | None:
    block = o.count("blocksize", 1)
    for axis in (2, 3):
        size = o.size(0, axis)
        if block > 0 and size is not None and size % block:
            return f"{size} positions cannot be split into blocks of {block}"
    return None


@_rule("DequantizeLinear", "QuantizeLinear")
def _quantization(o: Operands) -> str | None:
    data, scale = o.shape(0), o.sizes(1)
    if data is None or scale is None or len(scale) != 1 or o.count("block_size", 0):
        return None
    size = o.size(0, o.count("axis", 1))
    if scale == (1,) or not _differ(size, scale[0]):
        return None
    return f"there are {scale[0]} scales for an axis of {size}"


RULES.update(
    Conv=_convolution,
    QLinearConv=partial(_convolution, weight=3, bias=8),
    ConvInteger=partial(_convolution, bias=99),
    DeformConv=partial(_convolution, bias=3),
)


def misfit(operands: Operands) -> str | None:
    """What is wrong with the shapes of a node of the standard; None if nothing is known to be."""
    rule = RULES.get(operands.node.op_type) if operands.node.standard else None
    try:
        return None if rule is None else rule(operands)
    except (IndexError, ValueError, TypeError, ArithmeticError):
        return None  # attributes that make no sense are not a matter of shapes


def in_words(shape: Shape | None) -> str:
    """A shape as messages write it: 1×3×8×8, ? for what is unknown, "one number" for a scalar."""
    if shape is None:
        return "?"
    return "×".join("?" if size is None else str(size) for size in shown(shape)) or "one number"
