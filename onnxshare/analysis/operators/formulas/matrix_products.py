"""Matrix products: fully connected layers, whatever they are called."""

from __future__ import annotations

from itertools import chain
from math import prod

from onnxshare.analysis.operators.operator import Context, Sizes, Unknown, Work
from onnxshare.analysis.results import Sharing


def gemm(context: Context, left: int = 0, right: int = 1, bias: int = 2) -> Work:
    """Gemm: rows · in · out multiply-accumulates."""
    a, b = context.input(left), context.input(right)
    inner = a[0] if context.node.attribute("transA", 0) else a[1]
    if inner != (b[1] if context.node.attribute("transB", 0) else b[0]):
        raise Unknown
    return product(context, left, right, bias, inner)


def matmul(context: Context, left: int = 0, right: int = 1, bias: int = 99) -> Work:
    """MatMul: every output element is a product over the inner size. com.microsoft has it with a
    bias, with a weight [N, K] in blocks of a few bits (MatMulNBits), and with differences of rows
    (CDist)."""
    return product(context, left, right, bias, context.input(left)[-1])


def fused_matmul(context: Context) -> Work:
    """com.microsoft FusedMatMul: as MatMul, either operand transposed."""
    if context.number("transBatchA"):
        raise Unknown  # the rows stand before the batch
    inner = context.input(0)[-2 if context.node.attribute("transA", 0) else -1]
    return product(context, 0, 1, 99, inner)


def product(context: Context, left: int, right: int, bias: int, inner: int) -> Work:
    """Every output element adds `inner` products; a stored operand's elements are used in as many
    as there are rows of the other."""
    results = context.per_sample(context.output)
    macs = results * inner
    uses = context.used({left: macs, right: macs})
    if len(uses) == 2:  # a weight that is computed from two
        return Work.of(uses, macs)
    if not uses:
        return Work(macs=macs, extra_flops=results if context.has(bias) else 0)
    (weight,) = uses
    data = left if weight == right else right
    uses |= context.used({bias: results})
    return Work.of(
        uses,
        macs,
        results if context.has(bias) else 0,
        Sharing(token=max(1, macs // max(1, context.weights(weight)))),
        unshared=macs,
        dense=context.per_sample(context.input(data)) * results,
    )


def einsum(context: Context) -> Work:
    """Einsum: one multiply-accumulate per combination of all its indices and further operand; a
    stored operand's elements are used once in each output element that they reach."""
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
    stored = sum(map(context.weights, uses))
    sharing = Sharing(token=max(1, sum(uses.values()) // stored) if stored else 1)
    extra = combinations if len(terms) == 1 else 0
    return Work.of(uses, combinations * (len(terms) - 1), extra, sharing)


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
    """com.microsoft MoE and QMoE: each token goes through the layers of its k best experts; the
    arguments are the positions of their biases (their weights stand before)."""
    data = context.input(0)
    tokens = context.per_sample(data) // data[-1]
    chosen = context.number("k", 1)
    step = 1 if first == 3 else 2  # the quantized form has its scales in between
    total = context.input(first - step)[0]
    uses, macs, added = {}, 0, 0
    for bias in (first, second, third):
        weight = bias - step
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
    return Work.of(uses, macs, added)
