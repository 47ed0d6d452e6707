"""FCs in 8 bits, and fused ones: the convolution that computes the same sums, with the same scales.

    QGemm, QLinearMatMul → QLinearConv:  y = zy + round(sx·sw / sy · Σ (x − zx)(w − zw) + b)
    MatMulInteger → ConvInteger:         y = Σ (x − zx)(w − zw)
    MatMulIntegerToFloat, DynamicQuantizeMatMul → ConvInteger, Cast, Mul, Add, the latter with a
    DynamicQuantizeLinear before it:     y = sx·sw · Σ (x − zx)(w − zw) + b

Sums of integers are the same in any order, so nothing differs but how the last factor is rounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from onnx import TensorProto

from onnxshare.analysis.heads.fully_connected import FullyConnected
from onnxshare.analysis.heads.head import Subject
from onnxshare.io.tensors import Array
from rewrites.edits.node_emitter import Emitter
from rewrites.edits.node_uses import values_of
from rewrites.refusal import Refusal

#: Data in signed and weights in unsigned 8 bits: ONNX Runtime has no QLinearConv for these.
_NO_KERNEL = (TensorProto.INT8, TensorProto.UINT8)

#: Arithmetic → at which inputs the scale of the weight and the bias are.
_TO_FLOATS = {"scaled": (3, 6), "dynamic": (2, 4)}

#: Arithmetic → at which input the zero point of the weight is.
_WEIGHT_ZERO = {"integer": 3, "scaled": 5, "dynamic": 3}

_EIGHT_BITS = (TensorProto.INT8, TensorProto.UINT8)

#: Activations that ONNX Runtime fuses → the attributes that they take, in the order of
#: activation_alpha, activation_beta, activation_gamma.
_ACTIVATIONS = {
    "Relu": (),
    "Tanh": (),
    "Sigmoid": (),
    "Softplus": (),
    "Softsign": (),
    "LeakyRelu": ("alpha", "", ""),
    "Elu": ("alpha", "", ""),
    "ThresholdedRelu": ("alpha", "", ""),
    "HardSigmoid": ("alpha", "beta", ""),
    "Selu": ("alpha", "", "gamma"),
}


def check_integers(subject: Subject, layer: FullyConnected, *, parts: int) -> None:
    """Make sure that a convolution can compute an FC that reads so many maps in 8 bits.

    Raises:
        Refusal: it cannot.
    """
    graph, node = subject.graph, layer.node
    weight = graph.source(graph.main, layer.weight)
    data_type = subject.probe.shapes.dtype(graph.main, layer.data)
    types = (data_type, weight.dtype if weight else None)
    if graph.opset < 10:
        raise Refusal("there is no convolution in 8 bits below opset 10")
    if layer.arithmetic == "dynamic" and (parts > 1 or data_type != TensorProto.FLOAT):
        raise Refusal(f"'{node.name}' quantizes several maps by one range, or other than floats")
    if layer.arithmetic in ("scaled", "dynamic"):
        _check_scaled(subject, layer)
    if layer.arithmetic != "quantized":
        _zero_points(subject, layer)
        return
    if parts > 1:
        raise Refusal(f"the results of '{node.name}' are rounded: sums of several are not the same")
    if types == _NO_KERNEL or not all(item in _EIGHT_BITS for item in types):
        raise Refusal(f"there is no convolution of the element types of '{node.name}'")
    if layer.alpha != 1 or layer.beta != 1:
        raise Refusal(f"'{node.name}' has a factor in addition to its scales")
    *_, result_scale, result_zero = _result(layer)
    if not result_scale or not result_zero:
        raise Refusal(f"the result of '{node.name}' is not quantized")
    for name in (node.inputs[1], node.inputs[2], result_scale, result_zero):
        if _elements(subject, name) != 1:
            raise Refusal(f"'{name}' of '{node.name}' is computed, or one per row")
    for name in node.inputs[4:6]:
        if _elements(subject, name) not in (1, layer.out_features):
            raise Refusal(f"'{name}' of '{node.name}' is not one per output")


@dataclass(frozen=True)
class Data:
    """The data of an FC in integers: its tensor, and the names of its scale and zero point."""

    name: str
    scale: str = ""
    zero: str = ""


def quantized(out: Emitter, layer: FullyConnected, name: str) -> Data:
    """The data of an FC, quantized first where the FC does so itself."""
    node = layer.node
    if layer.arithmetic == "integer":
        return Data(name, zero=layer.node.input(2))
    if layer.arithmetic == "scaled":
        return Data(name, node.inputs[2], layer.node.input(4))
    if layer.arithmetic == "dynamic":
        wanted = [f"{layer.data}_{what}" for what in ("quantized", "scale", "zero_point")]
        return Data(*out.emit_several(node, "DynamicQuantizeLinear", [name], wanted))
    if layer.arithmetic == "quantized":
        return Data(name, *node.inputs[1:3])
    return Data(name)


def with_scales(
    subject: Subject, out: Emitter, layer: FullyConnected, data: Data, kernel: list[str]
) -> tuple[str, list[str]]:
    """The operator and the inputs of the convolution in 8 bits, given the kernel, and perhaps the
    bias."""
    weight, *bias = kernel
    if layer.arithmetic == "quantized":
        scales = [_flat(subject, out, name) for name in layer.node.inputs[4:6]]
        ends = [data.scale, data.zero, weight, *scales, *_result(layer)]
        return "QLinearConv", [data.name, *ends, *bias]
    zero = _zero_points(subject, layer)
    if not isinstance(zero, str):  # several are subtracted from the sums
        single = zero.ndim == 0
        zero = out.constant(zero, f"{layer.weight}_zero_point") if single else ""
    inputs = [data.name, weight, data.zero, zero]
    while not inputs[-1]:
        inputs.pop()
    return "ConvInteger", inputs


def less_zero_points(
    subject: Subject,
    out: Emitter,
    layer: FullyConnected,
    data: Data,
    sums: str,
    sizes: tuple[int, ...],
    wanted: str,
) -> str:
    """What a ConvInteger over a map of these sizes makes, where each output f has a zero point z:

    Σ (x - x₀) · (W[f] - z[f]) = Σ (x - x₀) · W[f] - z[f] · Σ (x - x₀).
    """
    zero = "" if layer.arithmetic not in _WEIGHT_ZERO else _zero_points(subject, layer)
    if isinstance(zero, str) or zero.ndim == 0:
        return sums
    node, dtype = layer.node, zero.dtype
    ones = out.constant(np.ones((1, *sizes), dtype), f"{layer.weight}_ones")
    inputs = [data.name, ones, *filter(None, [data.zero])]
    kernel: dict[str, object] = {"kernel_shape": list(sizes[1:])}
    whole = out.emit(node, "ConvInteger", inputs, f"{wanted}_data", kernel)
    shape = (layer.out_features, *(1 for _ in sizes[1:]))
    points = out.constant(zero.astype(np.int32).reshape(shape), f"{layer.weight}_zero_points")
    extra = out.emit(node, "Mul", [whole, points], f"{wanted}_extra")
    return out.emit(node, "Sub", [sums, extra], wanted)


def to_floats(
    subject: Subject,
    out: Emitter,
    layer: FullyConnected,
    data: Data,
    sums: str,
    wanted: str,
    rank: int,
) -> str:
    """Make sums of integers, as a map `[N, F, 1, …]` of so many spatial axes, floats: times both
    scales, plus the bias."""
    node = layer.node
    if layer.arithmetic not in _TO_FLOATS:
        return sums
    weight_scale, bias = (
        _column(subject, out, layer, layer.node.input(place), rank)
        for place in _TO_FLOATS[layer.arithmetic]
    )
    sums = out.emit(node, "Cast", [sums], f"{wanted}_float", {"to": TensorProto.FLOAT})
    scale = out.emit(node, "Mul", [data.scale, weight_scale], f"{wanted}_scale")
    result = out.emit(node, "Mul", [sums, scale], wanted if not bias else f"{wanted}_scaled")
    return out.emit(node, "Add", [result, bias], wanted) if bias else result


def fused_attributes(layer: FullyConnected) -> dict[str, object]:
    """The attributes of an activation that is fused to an FC.

    Raises:
        Refusal: the activation is unknown.
    """
    names = _ACTIVATIONS.get(layer.activation or "")
    if names is None:
        raise Refusal(f"the activation {layer.activation} of '{layer.node.name}' is unknown")
    found: dict[str, object] = {}
    for name, slot in zip(names, ("alpha", "beta", "gamma"), strict=False):
        value = layer.node.attribute(f"activation_{slot}")
        if name and value is not None:
            found[name] = float(value)
    return found


def _result(layer: FullyConnected) -> tuple[str, str]:
    """Scale and zero point of the result; "" where they are left out."""
    first = 7 if layer.node.op_type == "QGemm" else 6
    return layer.node.input(first), layer.node.input(first + 1)


def _elements(subject: Subject, name: str) -> int | None:
    stored = subject.graph.source(subject.graph.main, name)
    return None if stored is None else stored.elements


def _flat(subject: Subject, out: Emitter, name: str) -> str:
    """A scale or zero point as QLinearConv takes it: a single element, or `[out]`."""
    stored = subject.graph.source(subject.graph.main, name)
    if stored is None or len(stored.shape) < 2:
        return name
    return out.constant(values_of(subject, subject.graph.main, name).reshape(-1), f"{name}_map")


def _zero_points(subject: Subject, layer: FullyConnected) -> str | Array:
    """The zero point of the weight of a MatMulInteger as ConvInteger takes it, one element: its
    name, "" where it is left out, or its value, where it is the same for every output; else those
    of all outputs.

    Raises:
        Refusal: they are computed.
    """
    name = layer.node.input(_WEIGHT_ZERO[layer.arithmetic])
    if not name or _elements(subject, name) == 1:
        return name
    value = subject.probe.values.get(subject.graph.main, name)
    if value is None or value.size != layer.out_features:
        raise Refusal(f"'{name}' of '{layer.node.name}' is computed, or not one per output")
    several = bool(np.any(value != value.reshape(-1)[0]))
    return value.reshape(-1) if several else value.reshape(-1)[:1].reshape(())


def _check_scaled(subject: Subject, layer: FullyConnected) -> None:
    """Make sure that scales and bias of sums that become floats are one, or one per output."""
    counts = (1, layer.out_features)
    for place in _TO_FLOATS[layer.arithmetic]:
        name = layer.node.input(place)
        if name and _elements(subject, name) not in counts:
            raise Refusal(f"'{name}' of '{layer.node.name}' is computed, or not one per output")
    if layer.arithmetic == "scaled":
        sizes = subject.probe.shapes.sizes(subject.graph.main, layer.node.inputs[2])
        if sizes is None or prod(sizes) != 1 or len(sizes) > 1:
            raise Refusal(f"the scale of the data of '{layer.node.name}' is not one number")


def _column(subject: Subject, out: Emitter, layer: FullyConnected, name: str, rank: int) -> str:
    """A constant per output, along the channels of a map; "" where it is left out."""
    if not name or _elements(subject, name) == 1:
        return name
    value = values_of(subject, subject.graph.main, name)
    shape = (layer.out_features, *(1 for _ in range(rank)))
    return out.move(value.reshape(shape), f"{name}_map", name)
