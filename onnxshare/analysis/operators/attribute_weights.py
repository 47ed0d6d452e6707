"""Weights that stand in a node's attributes, or in fewer elements than they have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import prod

import onnx
from onnx import TensorProto

from onnxshare.analysis.operators.operator import FLOATS, NARROW, PARAM, AttributeWeight, Operator
from onnxshare.graph.index import Node, Stored

#: The element type of weights of so many bits.
_TYPES = {2: TensorProto.UINT2, 4: TensorProto.UINT4, 8: TensorProto.UINT8}

#: The first weight of MatMulNBitsQkv.
_FIRST_PROJECTION = 3


def as_read(node: Node, operator: Operator, constants: dict[int, Stored]) -> dict[int, Stored]:
    """The stored tensors of a node, by constant input, as its operator reads them: unpacked, and
    with the numbers in its attributes under negative slots."""
    found = dict(constants)
    if operator.unpack is not None:
        for position, stored in constants.items():
            param = operator.role(position, stored, stored.dtype) == PARAM
            if param and stored.dtype not in FLOATS:
                found[position] = operator.unpack(node, stored, position)
    return found | dict(_attribute_weight(node, operator))


def unknown(node: Node, operator: Operator) -> Operator:
    """The row of an operator that nobody knows, with the tensors in its attributes that may be
    weights: several floats, or elements of a narrow type."""
    names = [
        attribute.name
        for attribute in node.proto.attribute
        if attribute.type == onnx.AttributeProto.TENSOR
        and prod(attribute.t.dims) > 1
        and attribute.t.data_type in FLOATS | NARROW
    ]
    return replace(operator, attribute_weight=tuple(AttributeWeight((name,)) for name in names))


def _attribute_weight(node: Node, operator: Operator) -> Iterator[tuple[int, Stored]]:
    given = {attribute.name: attribute for attribute in node.proto.attribute}
    for slot, numbers in enumerate(operator.attribute_weight, start=1):
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


def _shape(node: Node, numbers: AttributeWeight, dims: tuple[int, ...]) -> tuple[int, ...]:
    for name in numbers.rows:
        value = node.attribute(name)
        rows = value if isinstance(value, int) else len(value or ())
        if name == "vectors_per_class" and rows and all(isinstance(n, int) for n in value):
            rows = sum(value)
        if rows and len(dims) == 1 and dims[0] % rows == 0:
            return rows, dims[0] // rows
    return dims


def packed_matrix(node: Node, stored: Stored, position: int) -> Stored:
    """MatMulNBits, MatMulBnb4: a [N, K] matrix of a few bits, padded to whole blocks."""
    shape = int(node.attribute("N", 0)), int(node.attribute("K", 0))
    return _of_bits(stored, shape, int(node.attribute("bits", 4)))


def packed_projection(node: Node, stored: Stored, position: int) -> Stored:
    """MatMulNBitsQkv: a [Nq, K] matrix, then two [Nkv, K] ones, padded to whole blocks."""
    columns = int(node.attribute("Nq" if position == _FIRST_PROJECTION else "Nkv", 0))
    return _of_bits(stored, (columns, int(node.attribute("K", 0))), int(node.attribute("bits", 4)))


def packed_floats(node: Node, stored: Stored, position: int) -> Stored:
    """MatMulBlockQuantizedFp4Weight: two 4-bit floats in each byte of the last axis."""
    if stored.dtype != TensorProto.UINT8 or not stored.shape:
        return stored
    shape = (*stored.shape[:-1], 2 * stored.shape[-1])
    return replace(stored, shape=shape, dtype=TensorProto.FLOAT4E2M1)


def packed_blob(node: Node, stored: Stored, position: int) -> Stored:
    """MatMulFpQ4: blocks of 4-bit weights, each with its scale in float32, and perhaps a zero
    point; the last block of a column is padded."""
    block, extra = {0: (32, 4), 1: (32, 5), 2: (64, 4)}.get(
        int(node.attribute("blk_quant_type", 1)), (0, 1)
    )
    blocks = stored.elements // (block // 2 + extra)
    return _of_bits(stored, (blocks * block,), 4) if block else stored


def packed_experts(node: Node, stored: Stored, position: int) -> Stored:
    """QMoE: several weights in each byte of the last axis; each of its layers may have another
    width."""
    bits = int(node.attribute("expert_weight_bits", 4))
    layer = {2: "fc1", 5: "fc2", 8: "fc3"}.get(position, "fc1")
    bits = int(node.attribute(f"{layer}_expert_weight_bits", bits))
    return _packed_rows(stored, bits)


def packed_rows(node: Node, stored: Stored, position: int) -> Stored:
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
