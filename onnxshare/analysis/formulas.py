"""One small function per kind of operator: uses of weights and arithmetic for one sample.

Connections follow LeCun et al., "Gradient-based learning applied to document recognition", 1998:
one per use of a weight or bias in one output element. MACs count multiply-accumulates without
the bias.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from onnxshare.analysis.results import Sharing
from onnxshare.analysis.work import Context, Unknown, Work


def convolution(context: Context, weight: int = 1, bias: int = 2) -> Work:
    """Conv: each of the P output positions uses all weights and biases once.

    connections = P · (Cout · Cin/group · K + Cout); MACs = P · Cout · Cin/group · K
    (https://onnx.ai/onnx/operators/onnx__Conv.html).
    """
    output, kernel = context.output, context.input(weight)
    positions = prod(output[2:])
    macs = positions * prod(kernel)
    stored = context.weights(weight) + context.weights(bias)
    return Work(
        connections=positions * stored,
        sharing=Sharing(spatial=positions if stored else 1),
        macs=macs,
        extra_flops=positions * output[1] if context.has(bias) else 0,
        unshared=macs,
        dense=context.per_sample(context.input(0)) * context.per_sample(output),
    )


def channels_last_convolution(context: Context) -> Work:
    """com.microsoft NhwcConv and NhwcFusedConv: as Conv, the channels of the output last."""
    turned = tuple(
        sizes if sizes is None else (sizes[0], sizes[-1], *sizes[1:-1]) for sizes in context.outputs
    )
    return convolution(replace(context, outputs=turned))


def integer_convolution(context: Context) -> Work:
    """ConvInteger: as Conv, without bias."""
    return convolution(context, bias=99)


def quantised_convolution(context: Context) -> Work:
    """QLinearConv: as Conv, with the weight as input 3 and the bias as input 8."""
    return convolution(context, weight=3, bias=8)


def transposed_convolution(context: Context) -> Work:
    """ConvTranspose: each input position uses each weight of its channel once.

    MACs = P_in · Cin · Cout/group · K, those cut off by pads included
    (https://onnx.ai/onnx/operators/onnx__ConvTranspose.html).
    """
    positions, output = prod(context.input(0)[2:]), context.output
    macs = positions * prod(context.input(1))
    uses = {1: positions * context.weights(1), 2: prod(output[2:]) * context.weights(2)}
    return Work(
        connections=sum(uses.values()),
        uses=uses,
        sharing=Sharing(spatial=positions if any(uses.values()) else 1),
        macs=macs,
        extra_flops=context.per_sample(output) if context.has(2) else 0,
        unshared=macs,
        dense=context.per_sample(context.input(0)) * context.per_sample(output),
    )


def gemm(context: Context, left: int = 0, right: int = 1, bias: int = 2) -> Work:
    """Gemm: rows · in · out multiply-accumulates (https://onnx.ai/onnx/operators/onnx__Gemm.html)."""
    a, b = context.input(left), context.input(right)
    inner = a[0] if context.node.attribute("transA", 0) else a[1]
    if inner != (b[1] if context.node.attribute("transB", 0) else b[0]):
        raise Unknown
    return _product(context, left, right, bias, inner)


def matmul(context: Context, left: int = 0, right: int = 1, bias: int = 99) -> Work:
    """MatMul: every output element is a product over the inner size
    (https://onnx.ai/onnx/operators/onnx__MatMul.html)."""
    return _product(context, left, right, bias, context.input(left)[-1])


def quantised_matmul(context: Context) -> Work:
    """QLinearMatMul: as MatMul, with the right operand as input 3."""
    return matmul(context, right=3)


def quantised_gemm(context: Context) -> Work:
    """com.microsoft QGemm: as Gemm, with the weight as input 3 and the bias as input 6."""
    return gemm(context, right=3, bias=6)


def _product(context: Context, left: int, right: int, bias: int, inner: int) -> Work:
    results = context.per_sample(context.output)
    macs = results * inner
    constant = [side for side in (left, right) if context.constant(side) is not None]
    if len(constant) != 1:
        return Work(macs=macs, extra_flops=results if context.has(bias) else 0)
    weight = constant[0]
    data = left if weight == right else right
    uses = {weight: macs}
    if context.constant(bias) is not None:
        uses[bias] = results
    return Work(
        connections=sum(uses.values()),
        uses=uses,
        sharing=Sharing(token=max(1, macs // max(1, context.weights(weight)))),
        macs=macs,
        extra_flops=results if context.has(bias) else 0,
        unshared=macs,
        dense=context.per_sample(context.input(data)) * results,
    )


def einsum(context: Context) -> Work:
    """Einsum: one multiply-accumulate per combination of all its indices and further operand
    (https://onnx.ai/onnx/operators/onnx__Einsum.html)."""
    equation = str(context.node.attribute("equation", "")).replace(" ", "")
    terms = equation.split("->")[0].split(",")
    if "..." in equation or len(terms) != len(context.inputs):
        raise Unknown
    sizes: dict[str, int] = {}
    for position, term in enumerate(terms):
        sizes.update(zip(term, context.input(position), strict=True))
    total = prod(sizes.values())
    share = prod(context.output) // context.per_sample(context.output) if context.output else 1
    products = total // share * max(1, len(terms) - 1)
    constants = sum(context.constant(position) is not None for position in range(len(terms)))
    return Work(connections=products * constants if constants < len(terms) else 0, macs=products)


def recurrent(context: Context) -> Work:
    """RNN, GRU, LSTM: every step uses W, R, B and the peepholes once
    (https://onnx.ai/onnx/operators/onnx__LSTM.html)."""
    data = context.input(0)
    steps = data[1] if context.node.attribute("layout", 0) else data[0]
    weights, recurrence = context.input(1), context.input(2)
    peepholes = 7 if context.node.op_type == "LSTM" else 99
    stored = sum(context.weights(position) for position in (1, 2, 3, peepholes))
    extra = steps * weights[0] * weights[1] * 3  # bias, activation, gate product
    return Work(
        connections=steps * stored,
        sharing=Sharing(temporal=steps if stored else 1),
        macs=steps * (prod(weights) + prod(recurrence)),
        extra_flops=extra,
        unshared=steps * (prod(weights) + prod(recurrence)),
    )


def normalisation(context: Context) -> Work:
    """Batch, instance, layer, group and RMS normalisation: each output element uses the scale
    and the shift (where there is one) once."""
    elements = context.per_sample(context.output)
    slots = [position for position in (1, 2) if context.constant(position) is not None]
    scale = context.weights(slots[0]) if slots else 0
    return Work(
        connections=elements * len(slots),
        sharing=Sharing(spatial=max(1, elements // scale) if scale else 1),
        extra_flops=2 * elements,
    )


def elementwise(context: Context) -> Work:
    """Element-wise operators: each output element uses one element of each constant operand."""
    elements = context.per_sample(context.output)
    alone = len(context.inputs) == 1
    slots = [] if alone else [i for i, c in enumerate(context.constants) if c is not None]
    largest = max((context.weights(position) for position in slots), default=0)
    return Work(
        connections=elements * len(slots),
        uses=dict.fromkeys(slots, elements),
        sharing=Sharing(spatial=max(1, elements // largest) if largest else 1),
        extra_flops=elements * max(1, len(context.inputs) - 1),
    )


def bias(context: Context) -> Work:
    """Add of an FC's bias: each output element uses one bias, even where all share a single one."""
    elements = context.per_sample(context.output)
    return Work(connections=elements, extra_flops=elements)


def slope(context: Context) -> Work:
    """PRelu: each output element uses one slope (a single one counts as a weight too)."""
    elements, stored = context.per_sample(context.output), context.weights(1)
    return Work(
        connections=elements if stored else 0,
        sharing=Sharing(spatial=max(1, elements // stored) if stored else 1),
        extra_flops=2 * elements,
    )


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


def response_normalisation(context: Context) -> Work:
    """LRN: a window of squares, a power and a division per element."""
    size = int(context.node.attribute("size", 1))
    return Work(extra_flops=(size + 2) * context.per_sample(context.output))


def join(context: Context) -> Work:
    """Concat, Pad and their like: each element of a joined constant is passed on once; Slice and
    Split pass on what they cut out."""
    if context.node.op_type in ("Slice", "Split"):
        cut = sum(prod(sizes) for sizes in context.outputs if sizes is not None)
        return Work(connections=cut if context.weights(0) else 0)
    return Work(connections=sum(c.elements for c in context.constants if c is not None))


def nothing(context: Context) -> Work:
    """Layout, shape and control operators: no arithmetic, whatever the shapes."""
    return Work()
