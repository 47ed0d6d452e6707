"""Shapes of operators in versions that onnx's inference does not know (before opset 7) or counts
wrongly (pools before 22 that round up, STFT), as newer operators of the same shapes
(https://github.com/onnx/onnx/blob/main/docs/Changelog.md)."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, numpy_helper

from onnxshare.graph.index import Graph
from onnxshare.shapes.rules.substitute import Body, NoRule, Rule, applied, same

#: The opset in which pools got a version that onnx counts as runtimes do.
NEWEST = 22


def _cast(body: Body) -> None:
    """The type is given by name."""
    to = dict(TensorProto.DataType.items()).get(body.attribute("to", ""))
    if to is None:
        raise NoRule
    body.output(0, body.op("Cast", body.input(0), to=to))


def _concat(body: Body) -> None:
    parts = [body.input(position) for position in range(len(body.node.input))]
    body.output(0, body.op("Concat", *parts, axis=body.attribute("axis", 1)))


def _reshape(body: Body) -> None:
    body.output(0, body.op("Reshape", body.input(0), body.integers(*body.attribute("shape", []))))


def _pad(body: Body) -> None:
    pads = body.attribute("paddings", body.attribute("pads", []))
    if not pads:
        raise NoRule
    body.output(0, body.op("Pad", body.input(0), body.integers(*pads)))


def _split(body: Body) -> None:
    count, parts = len(body.node.output), body.attribute("split", [])
    sizes = [body.integers(*parts)] if parts else [body.input(1)] if body.has(1) else []
    equal = {} if sizes else {"num_outputs": count}
    axis = body.attribute("axis", 0)
    body.outputs(body.ops(count, "Split", body.input(0), *sizes, axis=axis, **equal))


def _upsample(body: Body) -> None:
    """[N, C, H, W] with a factor for each of the last two."""
    factors = [1.0, 1.0, body.attribute("height_scale", 1.0), body.attribute("width_scale", 1.0)]
    scales = body.op("Constant", value=numpy_helper.from_array(np.array(factors, np.float32)))
    body.output(0, body.op("Resize", body.input(0), "", scales))


def _pool(body: Body) -> None:
    window = body.attributes("kernel_shape", "strides", "pads", "auto_pad")
    if "kernel_shape" not in window:
        raise NoRule
    body.output(0, body.op("MaxPool", body.input(0), **window))


def _rounded_up(body: Body) -> None:
    """Before opset 22, onnx counts a last window that starts in the padding at the end; runtimes
    leave it out in every opset."""
    names = "kernel_shape strides pads dilations auto_pad ceil_mode storage_order".split()
    window = body.attributes(*names)
    if not window.get("ceil_mode"):
        raise NoRule
    op_type = body.node.op_type
    if op_type != "MaxPool":
        window.pop("storage_order", None)
    body.outputs(body.ops(len(body.node.output), op_type, body.input(0), **window))


def _short_time_transform(body: Body) -> None:
    """One half of the spectrum unless the other is wanted too: onnx counts both where the attribute
    is left out."""
    inputs = [body.input(at) if body.has(at) else "" for at in range(4)]
    body.output(0, body.op("STFT", *inputs, onesided=body.attribute("onesided", 1)))


def _gru(body: Body) -> None:
    inputs = [body.input(position) for position in range(3)]
    attributes = body.attributes("hidden_size", "direction")
    body.outputs(body.ops(2, "GRU", *inputs, **attributes))


#: Rules for the versions before 6.
_RULES: dict[Rule, str] = {
    # Operators of two inputs stretch the second to the first.
    same(0, 0): "Abs Add BatchNormalization Ceil Clip Div Dropout Elu Exp Floor HardSigmoid "
    "InstanceNormalization LeakyRelu Log Max Mean Min Mul Neg PRelu Reciprocal Relu Selu Sigmoid "
    "Sqrt Sub Sum Tanh",
    _cast: "Cast",
    lambda body: body.output(0, body.gemm()): "Gemm",
}

#: Those that got it in another version than 6.
_OTHERS: dict[str, tuple[int, Rule]] = {
    "Concat": (4, _concat),
    "GRU": (3, _gru),
    "GlobalLpPool": (2, applied("GlobalAveragePool", 0)),
    "LpPool": (2, _pool),
    "Pad": (2, _pad),
    "Reshape": (5, _reshape),
    "Split": (2, _split),
    "Upsample": (7, _upsample),
}


#: The operators that are counted wrongly before opset 22 where they round up.
_POOLS = frozenset((("", "AveragePool"), ("", "LpPool"), ("", "MaxPool")))


def rules(opset: int) -> dict[tuple[str, str], Rule]:
    """The rules that hold under an opset; few from 7 on."""
    found = {"STFT": (opset + 1, _short_time_transform)}
    found |= {name: (6, rule) for rule, names in _RULES.items() for name in names.split()} | _OTHERS
    return {("", name): rule for name, (known, rule) in found.items() if opset < known}


def rules_of_pools(graph: Graph) -> dict[tuple[str, str], Rule]:
    """The rules that a graph needs because one of its pools rounds up."""
    pools = _POOLS & graph.operators.keys() if graph.opset < NEWEST else ()
    if not pools or not any(
        (node.domain, node.op_type) in pools and node.attribute("ceil_mode", 0)
        for node in graph.nodes()
    ):
        return {}
    return dict.fromkeys(pools, _rounded_up)
