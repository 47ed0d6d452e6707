"""Tensors before what hides them: where two models end alike, what goes into that end.

An output behind a ReLU that is 0 throughout, a saturated softmax or an ArgMax hardly moves, so
equal values prove nothing. But where both models end in the same operators with the same
attributes, the tensors that go into these stand for each other, whatever their names; if they
agree and move, the outputs are the same function of them. They can only speak for the models:
paired in error, they would differ, and then nothing follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

#: Operators of one data input that lose information, element by element or along an axis.
_HIDING = frozenset(
    "Relu LeakyRelu Clip ThresholdedRelu HardSigmoid HardSwish Sigmoid Tanh Softmax LogSoftmax "
    "Hardmax ArgMax ArgMin TopK Sign Round Floor Ceil Cast Greater GreaterOrEqual Less "
    "LessOrEqual Equal Not Erf Elu Selu Celu Softplus Softsign Gelu Mish Exp Log Sqrt "
    "Transpose".split()
)

#: Operators that keep the elements in their order.
_KEEPING = frozenset("Identity Flatten Reshape Squeeze Unsqueeze".split())


@dataclass(frozen=True)
class _End:
    """What stands between a tensor and an output: operators from the output backwards."""

    tensor: str
    steps: tuple[bytes, ...]


def before_the_end(
    a: onnx.ModelProto, b: onnx.ModelProto, *, hidden: bool = True
) -> dict[str, tuple[str, str]]:
    """Per output the tensors of A and B that go into the same last operators; only outputs where
    something hides them, unless `hidden` is false."""
    ends = [_ends(proto) for proto in (a, b)]
    found = {}
    for name, ours in ends[0].items():
        theirs = ends[1].get(name)
        if theirs is None or (hidden and not ours.steps):
            continue
        if ours.steps == theirs.steps:
            found[name] = (ours.tensor, theirs.tensor)
    return found


def _ends(proto: onnx.ModelProto) -> dict[str, _End]:
    makers = {name: node for node in proto.graph.node for name in node.output if name}
    stored = {tensor.name: tensor for tensor in proto.graph.initializer}
    return {value.name: _end(value.name, makers, stored) for value in proto.graph.output}


def _end(
    name: str, makers: Mapping[str, onnx.NodeProto], stored: Mapping[str, onnx.TensorProto]
) -> _End:
    steps: list[bytes] = []
    while (node := makers.get(name)) is not None and node.domain in ("", "ai.onnx"):
        step = b"" if node.op_type in _KEEPING else _step(node, name, makers, stored)
        if step is None or node.input[0] not in makers:
            break
        if step:
            steps.append(step)
        name = node.input[0]
    return _End(name, tuple(steps))


def _step(
    node: onnx.NodeProto,
    name: str,
    makers: Mapping[str, onnx.NodeProto],
    stored: Mapping[str, onnx.TensorProto],
) -> bytes | None:
    """All that says what a node does but for its names; None where it is not one to look behind."""
    if node.op_type not in _HIDING:
        return None
    parts = [node.op_type.encode(), str(list(node.output).index(name)).encode()]
    attributes = sorted(node.attribute, key=lambda item: item.name)
    parts += [item.SerializeToString(deterministic=True) for item in attributes]
    for operand in node.input[1:]:
        value = _value(operand, makers, stored)
        if value is None:
            return None
        parts.append(value)
    return b"\0".join(parts)


def _value(
    name: str, makers: Mapping[str, onnx.NodeProto], stored: Mapping[str, onnx.TensorProto]
) -> bytes | None:
    """The bytes of a small constant; None for anything else."""
    tensor = stored.get(name)
    maker = makers.get(name)
    if tensor is None and maker is not None and maker.op_type == "Constant":
        tensor = next((a.t for a in maker.attribute if a.name == "value"), None)
    if not name:
        return b""
    if tensor is None or tensor.data_location == onnx.TensorProto.EXTERNAL:
        return None
    return onnx.numpy_helper.to_array(tensor).tobytes() if _small(tensor) else None


def _small(tensor: onnx.TensorProto) -> bool:
    size = 1
    for dim in tensor.dims:
        size *= dim
    return size <= 16
