"""Convolutions of all kinds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import prod

from onnxshare.analysis.operators.operator import Context, Sizes, Work
from onnxshare.analysis.results import Sharing


def convolution(context: Context, weight: int = 1, bias: int = 2) -> Work:
    """Conv: each of the P output positions of all rows uses all weights and biases once.

    connections = P · (Cout · Cin/group · K + Cout); MACs = P · Cout · Cin/group · K.
    """
    output, kernel = context.output, context.input(weight)
    positions = _positions(context, output)
    macs = positions * prod(kernel)
    stored = context.weights(weight) + context.weights(bias)
    data = context.inputs[0]  # only the dense form asks for all its sizes
    return Work(
        connections=positions * stored,
        sharing=Sharing(spatial=positions if stored else 1),
        macs=macs,
        extra_flops=positions * output[1] if context.has(bias) else 0,
        unshared=macs,
        dense=None if data is None else context.per_sample(data) * context.per_sample(output),
    )


def _positions(context: Context, sizes: Sizes) -> int:
    """Positions of a map, those of all its rows that belong to one sample."""
    return context.share(sizes[0]) * prod(sizes[2:])


def fused_convolution(context: Context) -> Work:
    """com.microsoft FusedConv and NhwcFusedConv: as Conv; input 3 is added to the result."""
    work = convolution(context)
    if not context.has(3):
        return work
    elements, positions = context.per_sample(context.output), _positions(context, context.output)
    uses = {slot: positions * context.weights(slot) for slot in (1, 2)}
    uses |= context.used({3: elements})
    extra = (work.extra_flops or 0) + elements
    return replace(work, connections=sum(uses.values()), uses=uses, extra_flops=extra)


def channels_last(formula: Callable[[Context], Work]) -> Callable[[Context], Work]:
    """A formula for a node whose data has its channels last."""

    def turned(sizes: Sizes | None) -> Sizes | None:
        return sizes if sizes is None else (sizes[0], sizes[-1], *sizes[1:-1])

    def work(context: Context) -> Work:
        inputs = (turned(context.inputs[0]), *context.inputs[1:])
        outputs = tuple(map(turned, context.outputs))
        return formula(replace(context, inputs=inputs, outputs=outputs))

    return work


def quantized_convolution(context: Context) -> Work:
    """QLinearConv: as Conv, with the weight as input 3 and the bias as input 8."""
    formula = partial(convolution, weight=3, bias=8)
    if context.node.attribute("channels_last", 0):  # com.microsoft only
        return channels_last(formula)(context)
    return formula(context)


def deformable_convolution(context: Context) -> Work:
    """DeformConv: as Conv, with the bias as input 3; each tap is interpolated between four pixels
    (in 2-D), 2 · 4 operations, and multiplied with its mask, where there is one."""
    work, kernel = convolution(context, bias=3), context.input(1)
    axes = len(kernel) - 2
    taps = _positions(context, context.output) * context.input(0)[1] * prod(kernel[2:])
    each = 2 * 2**axes + context.has(4)
    return replace(work, extra_flops=(work.extra_flops or 0) + taps * each)


def transposed_convolution(context: Context, bias: int = 2) -> Work:
    """ConvTranspose: each input position uses each weight of its channel once.

    MACs = P_in · Cin · Cout/group · K, those cut off by pads included.
    """
    positions, output = _positions(context, context.input(0)), context.output
    macs = positions * prod(context.input(1))
    biased = _positions(context, output) * context.weights(bias)
    uses = {1: positions * context.weights(1), bias: biased}
    return Work.of(
        uses,
        macs,
        context.per_sample(output) if context.has(bias) else 0,
        Sharing(spatial=positions if any(uses.values()) else 1),
        unshared=macs,
        dense=context.per_sample(context.input(0)) * context.per_sample(output),
    )
