"""Transforms of signals, geometry, losses and optimisers."""

from __future__ import annotations

from dataclasses import replace
from math import ceil, log2, prod

from onnxshare.analysis.operators.operator import Context, Unknown, Work


def _fast_transform(size: int) -> int:
    """Operations of a Fourier transform of `size` points: 5 n log₂ n, the count that is customary
    for fast ones (Cooley and Tukey, 1965; http://www.fftw.org/speed)."""
    return 5 * size * ceil(log2(size)) if size > 1 else 0


def fourier_transform(context: Context) -> Work:
    """DFT: a transform along one axis for each position of the others."""
    if context.has(2):
        raise Unknown  # the axis is data, as far as is known here
    data, output = context.input(0), context.output
    given = context.node.attribute("axis")
    if given is None and len(data) != 3:
        raise Unknown  # the default is another one before opset 20
    axis = 1 if given is None else int(given)
    size = max(data[axis], output[axis])
    others = context.per_sample(data) // (data[axis] * data[-1])
    return Work(extra_flops=others * _fast_transform(size))


def short_time_transform(context: Context) -> Work:
    """STFT: per frame the product with the window, which each frame uses once, and a transform."""
    frames, size = context.output[1], context.input(2)[0]
    work = Work(frames * context.weights(2), extra_flops=frames * (size + _fast_transform(size)))
    return work.of_rows(context.share(context.output[0]))


def affine_grid(context: Context) -> Work:
    """AffineGrid: a matrix of d · (d + 1) times each position of the grid."""
    axes = context.output[-1]
    coordinates = context.per_sample(context.output)
    return Work.of(context.used({0: coordinates * (axes + 1)}), coordinates * axes, coordinates)


def determinant(context: Context) -> Work:
    """Det and com.microsoft Inverse: elimination, 2/3 n³ operations for the determinant and 2 n³
    for the inverse (Golub and Van Loan, "Matrix Computations", section 3.2)."""
    data = context.input(0)
    size = data[-1]
    matrices = context.per_sample(data) // size**2
    cubes = 2 * size**3
    return Work(extra_flops=matrices * (cubes if context.node.op_type == "Inverse" else cubes // 3))


def columns_to_image(context: Context) -> Work:
    """Col2Im: one addition per element of the columns."""
    return Work(extra_flops=context.per_sample(context.input(0)))


def loss(context: Context) -> Work:
    """NegativeLogLikelihoodLoss: per target one score, times the weight of its class."""
    targets = context.per_sample(context.input(1))
    return Work.of(context.used({2: targets}), extra=2 * targets)


def softmax_loss(context: Context) -> Work:
    """SoftmaxCrossEntropyLoss: the softmax of all scores, its logarithm, and the loss."""
    work = loss(context)
    scores = 4 * context.per_sample(context.input(0))
    return replace(work, extra_flops=scores + (work.extra_flops or 0))


#: Operations per optimised element: decay, moments, root and step.
_STEPS = {"Adagrad": 7, "Adam": 13, "Momentum": 6}


def optimiser(context: Context) -> Work:
    """Adagrad, Adam, Momentum: a fixed number of operations per optimised element."""
    kind = context.node.op_type
    groups = 4 if kind == "Adam" else 3
    count = (len(context.inputs) - 2) // groups
    elements = sum(prod(context.input(2 + position)) for position in range(count))
    used = sum(stored.elements for stored in context.constants if stored is not None)
    return Work(connections=used, extra_flops=_STEPS[kind] * elements)
