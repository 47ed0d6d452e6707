"""Matrix products: fully connected layers, whatever they are called."""

from __future__ import annotations

from itertools import chain
from math import prod

from onnxshare.analysis.operators.operator import Context, Sizes, Unknown, Work
from onnxshare.analysis.results import Sharing


def gemm(context: Context, left: int = 0, right: int = 1, bias: int = 2) -> Work:
    """Gemm: rows · in · out multiply-accumulates (https://onnx.ai/onnx/operators/onnx__Gemm.html)."""
    a, b = context.input(left), context.input(right)
    inner = a[0] if context.node.attribute("transA", 0) else a[1]
    if inner != (b[1] if context.node.attribute("transB", 0) else b[0]):
        raise Unknown
    return product(context, left, right, bias, inner)


def matmul(context: Context, left: int = 0, right: int = 1, bias: int = 99) -> Work:
    """MatMul: every output element is a product over the inner size
    (https://onnx.ai/onnx/operators/onnx__MatMul.html)."""
    return product(context, left, right, bias, context.input(left)[-1])


def fused_matmul(context: Context) -> Work:
    """com.microsoft FusedMatMul: as MatMul, either operand transposed
    (https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md)."""
    if context.node.attribute("transBatchA", 0):
        raise Unknown  # the rows stand before the batch
    inner = context.input(0)[-2 if context.node.attribute("transA", 0) else -1]
    return product(context, 0, 1, 99, inner)


def block_matmul(context: Context) -> Work:
    """com.microsoft MatMulNBits and MatMulBnb4: as MatMul with a [K, N] weight, which is stored in
    blocks of a few bits (https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md)."""
    return product(context, 0, 1, 5, context.input(0)[-1])


def quantised_matmul(context: Context) -> Work:
    """QLinearMatMul: as MatMul, with the right operand as input 3."""
    return matmul(context, right=3)


def quantised_gemm(context: Context) -> Work:
    """com.microsoft QGemm: as Gemm, with the weight as input 3 and the bias as input 6."""
    return gemm(context, right=3, bias=6)


def dynamically_quantised_matmul(context: Context) -> Work:
    """com.microsoft DynamicQuantizeMatMul: as MatMul, with the bias as input 4."""
    return matmul(context, bias=4)


def integer_matmul_to_float(context: Context) -> Work:
    """com.microsoft MatMulIntegerToFloat: as MatMul, with the bias as input 6."""
    return matmul(context, bias=6)


def activated_matmul(context: Context) -> Work:
    """com.microsoft GemmFastGelu: as MatMul, with the bias as input 2."""
    return matmul(context, bias=2)


def ordered_matmul(context: Context) -> Work:
    """com.microsoft QOrderedMatMul: as MatMul, with the weight as input 2 and the bias as 5."""
    return matmul(context, right=2, bias=5)


def product(context: Context, left: int, right: int, bias: int, inner: int) -> Work:
    """Every output element adds `inner` products; a stored operand's elements are used in as many
    as there are rows of the other."""
    results = context.per_sample(context.output)
    macs = results * inner
    constant = [side for side in (left, right) if context.constant(side) is not None]
    if len(constant) == 2:  # a weight that is computed from two
        return Work(connections=2 * macs, uses={left: macs, right: macs}, macs=macs)
    if not constant:
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


def distances(context: Context) -> Work:
    """com.microsoft CDist: rows · rows · features, a difference, its square and their sum each
    (https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md)."""
    return product(context, 0, 1, 99, context.input(0)[-1])


def einsum(context: Context) -> Work:
    """Einsum: one multiply-accumulate per combination of all its indices and further operand; a
    stored operand's elements are used once in each output element that they reach
    (https://onnx.ai/onnx/operators/onnx__Einsum.html)."""
    equation = str(context.node.attribute("equation", "")).replace(" ", "")
    written, _, result = equation.partition("->")
    terms = written.split(",")
    if len(terms) != len(context.inputs):
        raise Unknown
    sizes: dict[str, int] = {}
    axes = [_axes(term, context.input(at), sizes) for at, term in enumerate(terms)]
    # Without "->", the indices that appear once are kept.
    kept = _kept(result, sizes) if "->" in equation else _implicit(axes)
    share = prod(context.output) // context.per_sample(context.output) if context.output else 1
    combinations = prod(sizes.values()) // share
    uses = {
        at: prod(sizes[axis] for axis in {*term, *kept}) // share
        for at, term in enumerate(axes)
        if context.constant(at) is not None
    }
    if len(uses) == len(terms):
        uses = {}
    stored = sum(context.weights(at) for at in uses)
    return Work(
        connections=sum(uses.values()),
        uses=uses,
        sharing=Sharing(token=max(1, sum(uses.values()) // stored) if stored else 1),
        macs=combinations * (len(terms) - 1),
        extra_flops=combinations if len(terms) == 1 else 0,
    )


def _axes(term: str, sizes: Sizes, known: dict[str, int]) -> list[str]:
    """The indices of a term; those of an ellipsis are counted from its end."""
    before, dots, after = term.partition("...")
    wide = len(sizes) - len(before) - len(after)
    if wide < 0 or (wide and not dots):
        raise Unknown
    axes = [*before, *(f".{wide - position}" for position in range(wide)), *after]
    for axis, size in zip(axes, sizes, strict=True):
        known[axis] = max(known.get(axis, 1), size)
    return axes


def _kept(result: str, known: dict[str, int]) -> list[str]:
    dots = [axis for axis in known if axis.startswith(".")] if "..." in result else []
    return [*dots, *result.replace("...", "")]


def _implicit(axes: list[list[str]]) -> list[str]:
    flat = list(chain.from_iterable(axes))
    return [axis for axis in flat if axis.startswith(".") or flat.count(axis) == 1]


def experts(context: Context, first: int = 3, second: int = 5, third: int = 7) -> Work:
    """com.microsoft MoE: each token goes through the layers of its k best experts; the arguments
    are the positions of their biases (their weights stand before)
    (https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md)."""
    data = context.input(0)
    tokens = context.per_sample(data) // data[-1]
    chosen = int(context.node.attribute("k", 1))
    step = 1 if first == 3 else 2  # the quantised form has its scales in between
    layers = {bias: bias - step for bias in (first, second, third)}
    total = context.input(first - step)[0]
    uses, macs, added = {}, 0, 0
    for bias, weight in layers.items():
        if not context.has(weight):
            continue
        stored = context.weights(weight)
        if not stored and step == 2:
            raise Unknown  # how many weights are in a byte is told only of stored ones
        size = stored or prod(context.input(weight))
        macs += tokens * chosen * (size // total)
        uses[weight] = tokens * chosen * (stored // total)
        uses[bias] = tokens * chosen * (context.weights(bias) // total)
        added += uses[bias]
    return Work(
        connections=sum(uses.values()),
        uses=uses,
        macs=macs,
        extra_flops=added,
    )


def quantised_experts(context: Context) -> Work:
    """com.microsoft QMoE: as MoE, with scales between each weight and its bias."""
    return experts(context, first=4, second=7, third=10)
