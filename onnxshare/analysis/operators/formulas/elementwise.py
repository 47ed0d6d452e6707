"""Element-wise operators, normalization, pooling, reductions, interpolation and layout: what
computes without multiply-accumulates."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

from onnxshare.analysis.operators.operator import Context, Work
from onnxshare.analysis.results import Sharing


def normalization(context: Context, slots: tuple[int, ...] = (1, 2)) -> Work:
    """Batch, instance, layer, group and RMS normalization: each output element uses the scale and
    the shift (where there is one) once."""
    elements = context.per_sample(context.output)
    stored = [position for position in slots if context.constant(position) is not None]
    scale = context.weights(stored[0]) if stored else 0
    uses = dict.fromkeys(stored, elements)
    return Work.of(uses, extra=2 * elements, sharing=_spatial(elements, scale))


def _spatial(elements: int, weights: int) -> Sharing:
    return Sharing(spatial=max(1, elements // weights) if weights else 1)


def elementwise(context: Context) -> Work:
    """Element-wise operators: each output element uses one element of each constant operand."""
    alone = len(context.inputs) == 1
    return _operands(context, () if alone else range(len(context.constants)))


def quantized_elementwise(context: Context) -> Work:
    """com.microsoft QLinearAdd and QLinearMul: as Add, with the operands as inputs 0 and 3."""
    return _operands(context, (0, 1, 3, 4), times=1)


def _operands(context: Context, slots: Iterable[int], times: int = 0) -> Work:
    elements = context.per_sample(context.output)
    uses = context.used(dict.fromkeys(slots, elements))
    sharing = _spatial(elements, max(map(context.weights, uses), default=0))
    return Work.of(uses, 0, elements * (times or max(1, len(context.inputs) - 1)), sharing)


def split_activation(context: Context) -> Work:
    """com.microsoft BiasSplitGelu: a bias, then one half times the GELU of the other."""
    elements = context.per_sample(context.input(0))
    uses = context.used({1: elements})
    return Work.of(uses, extra=elements + 2 * context.per_sample(context.output))


def bias(context: Context) -> Work:
    """Add of an FC's bias: each output element uses one bias, even where all share a single one."""
    elements = context.per_sample(context.output)
    return Work(connections=elements, extra_flops=elements)


def slope(context: Context) -> Work:
    """PRelu: each output element uses one slope (a single one counts as a weight too)."""
    elements, stored = context.per_sample(context.output), context.weights(1)
    sharing = _spatial(elements, stored)
    return Work(elements if stored else 0, sharing, extra_flops=2 * elements)


def embedding(context: Context) -> Work:
    """Gather from a constant table: only the rows that are looked up are used."""
    return Work(connections=context.per_sample(context.output) if context.weights(0) else 0)


def pooling(context: Context) -> Work:
    """Pooling: one operation per element under the kernel."""
    kernel = context.node.attribute("kernel_shape")
    window = prod(kernel) if kernel else 1
    return Work(extra_flops=context.per_sample(context.output) * window)


def reduction(context: Context) -> Work:
    """Global pooling and reductions: one operation per input element."""
    return Work(extra_flops=context.per_sample(context.input(0)))


def softmax(context: Context) -> Work:
    """Softmax and its like: exponential, sum and division per element."""
    return Work(extra_flops=3 * context.per_sample(context.output))


def biased_softmax(context: Context) -> Work:
    """com.microsoft BiasSoftmax: as Softmax, after a bias or mask is added."""
    elements = context.per_sample(context.output)
    return Work.of(context.used({1: elements}), extra=4 * elements)


def response_normalization(context: Context) -> Work:
    """LRN: a window of squares, a power and a division per element."""
    return Work(extra_flops=(context.number("size", 1) + 2) * context.per_sample(context.output))


#: Source elements along one axis that an interpolated element is made of.
_TAPS = {"linear": 2, "bilinear": 2, "cubic": 4, "bicubic": 4}


def interpolation(context: Context) -> Work:
    """Resize, Upsample: a weighted sum of 2 (linear) or 4 (cubic) elements along each axis whose
    size changes."""
    data, output = context.input(0), context.output
    taps = _TAPS.get(str(context.node.attribute("mode", "nearest")), 0)
    axes = sum(before != after for before, after in zip(data, output, strict=True))
    return Work(extra_flops=2 * taps**axes * context.per_sample(output) if taps and axes else 0)


def grid_sample(context: Context) -> Work:
    """GridSample: as Resize, along all spatial axes; a stored volume is a table that is looked up,
    whose elements outside are read as if they were inside."""
    output = context.output
    taps = _TAPS.get(str(context.node.attribute("mode", "linear")), 0)
    reads = max(1, taps) ** (len(output) - 2) * context.per_sample(output)
    return Work(reads if context.weights(0) else 0, extra_flops=2 * reads if taps else 0)


def join(context: Context) -> Work:
    """Concat, Pad and their like: each element of a joined constant is passed on once; Slice and
    Split pass on what they cut out, Expand and Tile each element as often as they repeat it."""
    if context.node.op_type in ("Expand", "Tile"):
        return Work(connections=context.per_sample(context.output) if context.weights(0) else 0)
    if context.node.op_type in ("Slice", "Split"):
        cut = sum(prod(sizes) for sizes in context.outputs if sizes is not None)
        return Work(connections=cut if context.weights(0) else 0)
    return Work(connections=sum(c.elements for c in context.constants if c is not None))


def nothing(context: Context) -> Work:
    """Layout, shape and control operators: no arithmetic, whatever the shapes."""
    return Work()


def data_dependent(context: Context) -> Work:
    """Operators that compare or decode as long as their data asks for: no multiply-accumulates,
    and an unknown number of other operations."""
    return Work(extra_flops=None)
