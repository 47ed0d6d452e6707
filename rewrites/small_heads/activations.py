"""Element-wise functions between fully connected layers, with their derivatives.

Only functions whose formula the ONNX operator specification gives in a line are here
(https://onnx.ai/onnx/operators/); a head with any other is fitted without looking inside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from onnxshare.analysis.heads import element_order
from onnxshare.analysis.heads.fully_connected import per_feature
from onnxshare.analysis.heads.head import Subject
from onnxshare.graph.index import Node
from onnxshare.graph.operator_traits import traits_of
from onnxshare.io.tensors import Array
from rewrites.small_heads.sufficient_statistics import Floats


@dataclass(frozen=True)
class Activation:
    """A function of each element of `[N, F]`, and its derivative there."""

    value: Callable[[Floats], Floats]
    slope: Callable[[Floats], Floats]


def activation(subject: Subject, node: Node, features: int) -> Activation | None:
    """The function that a node computes on `[N, features]`; None if it is not known here."""
    if not node.standard:
        return None
    if node.op_type in _PLAIN:
        return _PLAIN[node.op_type](node)
    if node.op_type == "Dropout":
        return None if element_order.trains(node) else _linear(1.0, 0.0)
    constants = [subject.probe.values.get(node.scope, name) for name in node.inputs if name]
    known = [value for value in constants if value is not None]
    if node.op_type == "Clip":
        return _clip(node, [_scalar(subject, node, place) for place in (1, 2)])
    if node.op_type == "PRelu" and len(known) == 1:
        slope = per_feature(known[0], features)
        return None if slope is None else _leaky(slope.astype(np.float64))
    if node.op_type == "BatchNormalization":
        return _normalize(node, constants[1:5], features)
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return _integers(node, constants[1:])
    if traits_of(node).linear and len(node.inputs) == 2 and len(known) == 1:
        first = constants[0] is None
        operand = per_feature(known[0], features)
        return None if operand is None else _arithmetic(node.op_type, operand, data_first=first)
    return None


def compose(steps: tuple[Activation, ...]) -> Activation:
    """Several functions, one after the other; the derivative by the chain rule."""

    def value(x: Floats) -> Floats:
        for step in steps:
            x = step.value(x)
        return x

    def slope(x: Floats) -> Floats:
        found = np.ones_like(x)
        for step in steps:
            found = found * step.slope(x)
            x = step.value(x)
        return found

    return Activation(value, slope)


def _number(node: Node, name: str, default: float) -> float:
    return float(node.attribute(name, default))


def _leaky(alpha: float | Floats) -> Activation:
    return Activation(
        lambda x: np.where(x > 0, x, alpha * x), lambda x: np.where(x > 0, 1.0, alpha)
    )


def _elu(alpha: float, gamma: float = 1.0, scale: float = 1.0) -> Activation:
    """γ·x for x > 0, γ·α·(exp(x / s) − 1) below."""

    def below(x: Floats) -> Floats:
        return np.exp(np.minimum(x, 0.0) / scale)

    return Activation(
        lambda x: gamma * np.where(x > 0, x, alpha * (below(x) - 1)),
        lambda x: gamma * np.where(x > 0, 1.0, alpha / scale * below(x)),
    )


def _sigmoid(x: Floats) -> Floats:
    # In two halves, so that neither overflows.
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small))


def _hard(alpha: float, beta: float) -> Activation:
    def inside(x: Floats) -> Floats:
        return ((alpha * x + beta > 0) & (alpha * x + beta < 1)).astype(np.float64)

    return Activation(lambda x: np.clip(alpha * x + beta, 0.0, 1.0), lambda x: alpha * inside(x))


def _swish(node: Node) -> Activation:
    alpha = _number(node, "alpha", 1.0)

    def slope(x: Floats) -> Floats:
        gate = _sigmoid(alpha * x)
        return gate + alpha * x * gate * (1 - gate)

    return Activation(lambda x: x * _sigmoid(alpha * x), slope)


def _hard_swish(node: Node) -> Activation:
    hard = _hard(1 / 6, 0.5)
    return Activation(lambda x: x * hard.value(x), lambda x: hard.value(x) + x * hard.slope(x))


def _clip(node: Node, limits: list[float | str | None]) -> Activation | None:
    low, high = limits
    if isinstance(low, str) or isinstance(high, str):
        return None
    low = low if low is not None else node.attribute("min", -np.inf)
    high = high if high is not None else node.attribute("max", np.inf)
    bottom, top = float(low), float(high)
    return Activation(
        lambda x: np.minimum(np.maximum(x, bottom), top),
        lambda x: ((x > bottom) & (x < top)).astype(np.float64),
    )


def _scalar(subject: Subject, node: Node, place: int) -> float | str | None:
    """An optional scalar input: its value, None where it is left out, or a word where unknown."""
    if len(node.inputs) <= place or not node.inputs[place]:
        return None
    value = subject.probe.values.get(node.scope, node.inputs[place])
    return "unknown" if value is None or value.size != 1 else float(value.reshape(()))


def _normalize(node: Node, parts: list[Array | None], features: int) -> Activation | None:
    if element_order.trains(node) or any(
        part is None or part.shape != (features,) for part in parts
    ):
        return None
    scale, shift, mean, variance = (np.asarray(part, np.float64) for part in parts)
    factor = scale / np.sqrt(variance + _number(node, "epsilon", 1e-5))
    return _linear(factor, shift - mean * factor)


def _integers(node: Node, parts: list[Array | None]) -> Activation | None:
    """One step of 8 bits per tensor: to integers, round(x / scale) + zero point, or back."""
    known = [part for part in parts if part is not None and part.size == 1]
    if len(known) != 2 or len(parts) != 2 or known[1].dtype.kind not in "iu":
        return None
    scale, zero = (float(part.reshape(())) for part in known)
    if node.op_type == "DequantizeLinear":
        return _linear(scale, -zero * scale)
    low, high = np.iinfo(known[1].dtype).min, np.iinfo(known[1].dtype).max

    def value(x: Floats) -> Floats:
        return np.clip(np.rint(x / scale) + zero, low, high)

    def slope(x: Floats) -> Floats:
        return np.where((x > (low - zero) * scale) & (x < (high - zero) * scale), 1 / scale, 0.0)

    return Activation(value, slope)


def _linear(factor: float | Floats, offset: float | Floats) -> Activation:
    return Activation(lambda x: x * factor + offset, lambda x: np.broadcast_to(factor, x.shape))


def _arithmetic(op_type: str, operand: Array, *, data_first: bool) -> Activation | None:
    value = operand.astype(np.float64)
    if op_type == "Add":
        return _linear(1.0, value)
    if op_type == "Mul":
        return _linear(value, 0.0)
    if op_type == "Sub":
        return _linear(1.0, -value) if data_first else _linear(-1.0, value)
    if op_type == "Div" and data_first and (value != 0).all():
        return _linear(1 / value, 0.0)
    return None


_PLAIN: dict[str, Callable[[Node], Activation]] = {
    "Identity": lambda node: _linear(1.0, 0.0),
    "Relu": lambda node: _leaky(0.0),
    "LeakyRelu": lambda node: _leaky(_number(node, "alpha", 0.01)),
    "Elu": lambda node: _elu(_number(node, "alpha", 1.0)),
    "Celu": lambda node: _elu(_number(node, "alpha", 1.0), scale=_number(node, "alpha", 1.0)),
    "Selu": lambda node: _elu(
        _number(node, "alpha", 1.67326319217681884765625),
        _number(node, "gamma", 1.05070102214813232421875),
    ),
    "Sigmoid": lambda node: Activation(_sigmoid, lambda x: _sigmoid(x) * (1 - _sigmoid(x))),
    "HardSigmoid": lambda node: _hard(_number(node, "alpha", 0.2), _number(node, "beta", 0.5)),
    "Tanh": lambda node: Activation(np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "Softplus": lambda node: Activation(
        lambda x: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))), _sigmoid
    ),
    "Softsign": lambda node: Activation(
        lambda x: x / (1 + np.abs(x)), lambda x: 1 / (1 + np.abs(x)) ** 2
    ),
    "Swish": _swish,
    "HardSwish": _hard_swish,
    "Neg": lambda node: _linear(-1.0, 0.0),
}
