"""Weights that stand in a node's attributes, or in fewer elements than they have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import onnx
from onnx import TensorProto

from onnxshare.analysis.roles import PARAM, Held, Operator
from onnxshare.analysis.work import FLOATS
from onnxshare.graph import Node, Stored

#: The element type of weights of so many bits.
_TYPES = {
    2: TensorProto.UINT2,
    4: TensorProto.UINT4,
    8: TensorProto.UINT8,
}


def as_read(node: Node, operator: Operator, constants: dict[int, Stored]) -> dict[int, Stored]:
    """The stored tensors of a node as its operator reads them: unpacked, and with the numbers in
    its attributes under negative slots.

    Args:
        node: the node.
        operator: its row in the table of operators.
        constants: the stored tensor that each constant input carries.
    """
    found = dict(constants)
    if operator.unpack is not None:
        for position, stored in constants.items():
            if (
                stored.dtype not in FLOATS
                and operator.role(position, stored, stored.dtype) == PARAM
            ):
                found[position] = operator.unpack(node, stored)
    return found | dict(_held(node, operator))


def _held(node: Node, operator: Operator) -> Iterator[tuple[int, Stored]]:
    given = {attribute.name: attribute for attribute in node.proto.attribute}
    for slot, numbers in enumerate(operator.held, start=1):
        for name in numbers.attributes:
            tensor = _tensor(given[name]) if name in given else None
            if tensor is None or not all(tensor.dims):
                continue
            key = f"{node.scope.path}:{node.position}.{name}"
            shape = _shape(node, numbers, tuple(tensor.dims))
            yield -slot, Stored(key, f"{node.name}.{name}", tensor.data_type, shape, tensor)


def _tensor(attribute: onnx.AttributeProto) -> onnx.TensorProto | None:
    if attribute.type == onnx.AttributeProto.TENSOR:
        return attribute.t
    if attribute.type == onnx.AttributeProto.FLOATS:
        count = len(attribute.floats)
        return TensorProto(data_type=TensorProto.FLOAT, dims=[count], float_data=attribute.floats)
    return None


def _shape(node: Node, numbers: Held, dims: tuple[int, ...]) -> tuple[int, ...]:
    for name in numbers.rows:
        value = node.attribute(name)
        rows = value if isinstance(value, int) else len(value or ())
        if rows and len(dims) == 1 and dims[0] % rows == 0:
            return rows, dims[0] // rows
    return dims


def packed_matrix(node: Node, stored: Stored) -> Stored:
    """MatMulNBits, MatMulBnb4: a [N, K] matrix of a few bits, padded to whole blocks."""
    shape = int(node.attribute("N", 0)), int(node.attribute("K", 0))
    return _of_bits(stored, shape, int(node.attribute("bits", 4)))


def packed_experts(node: Node, stored: Stored) -> Stored:
    """QMoE: several weights in each byte of the last axis."""
    bits = int(node.attribute("expert_weight_bits", 4))
    return _packed_rows(stored, bits)


def packed_rows(node: Node, stored: Stored) -> Stored:
    """GatherBlockQuantized: bytes hold several weights, other types are what they are."""
    if stored.dtype != TensorProto.UINT8:
        return stored
    return _packed_rows(stored, int(node.attribute("bits", 4)))


def _packed_rows(stored: Stored, bits: int) -> Stored:
    if bits not in _TYPES or not stored.shape:
        return stored
    return _of_bits(stored, (*stored.shape[:-1], stored.shape[-1] * 8 // bits), bits)


def _of_bits(stored: Stored, shape: tuple[int, ...], bits: int) -> Stored:
    return replace(stored, shape=shape, dtype=_TYPES.get(bits, TensorProto.UINT8))
