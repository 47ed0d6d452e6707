"""Names and serialized types of tensors: messages of our own say what onnx's say."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from onnxshare.shapes import types

TYPES = {
    "float": helper.make_tensor_type_proto(TensorProto.FLOAT, [1, 2, 3]),
    "symbols": helper.make_tensor_type_proto(TensorProto.INT64, ["n", None, 4]),
    "no rank": helper.make_tensor_type_proto(TensorProto.FLOAT16, None),
    "no element type": onnx.TypeProto(tensor_type=onnx.TypeProto.Tensor()),
    "a sequence": helper.make_sequence_type_proto(
        helper.make_tensor_type_proto(TensorProto.FLOAT, [5])
    ),
    "no type": None,
}


def graph(copies: int) -> onnx.GraphProto:
    """All of these types, as inputs, inner tensors and outputs, between other things."""
    made = onnx.GraphProto(name="g", doc_string="text")
    made.node.append(helper.make_node("Relu", ["x"], ["y"]))
    made.initializer.append(helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0]))
    for field in (made.input, made.output, made.value_info):
        for number in range(copies):
            for name, kind in TYPES.items():
                value = field.add(name=f"{len(field)} {name} {number} é")
                if kind is not None:
                    value.type.CopyFrom(kind)
                    value.doc_string = "more text"
    return made


@pytest.mark.parametrize("copies", [1, 200], ids=["few", "many"])
def test_values_come_in_order_with_their_types(copies: int) -> None:
    built = graph(copies)
    assert (len(built.value_info) >= types._MANY) is (copies == 200)
    wanted = [
        (value.name, value.type.SerializeToString())
        for field in (built.input, built.value_info, built.output)
        for value in field
    ]
    assert list(types.named_types(built)) == wanted
    kinds = [onnx.TypeProto.FromString(key) for _, key in wanted[: len(TYPES)]]
    assert kinds == [kind or onnx.TypeProto() for kind in TYPES.values()]
