"""The tensors that sequences hold: how many, of which sizes; ONNX Runtime says what is right."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

import onnxshare
from tests.builders import constant, info, model, node, random_array, run, tensor

#: A 3x3 kernel on 8x8 maps has 36 positions of 4·3·9 multiplications.
ROW = 36 * 108


def body(
    *nodes: onnx.NodeProto, given: str, results: str, sequence: bool = False
) -> onnx.GraphProto:
    """The body of a Loop, or with no `i` among what is given, of a SequenceMap."""
    kinds = {"i": TensorProto.INT64, "c": TensorProto.BOOL, "c2": TensorProto.BOOL}
    scalars = {"i", "c", "c2"}

    def value(name: str) -> onnx.ValueInfoProto:
        if sequence and name not in scalars:
            kind = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
            return helper.make_value_info(name, helper.make_sequence_type_proto(kind))
        return info(name, [] if name in scalars else None, kinds.get(name, TensorProto.FLOAT))

    return helper.make_graph(
        nodes, "body", list(map(value, given.split())), list(map(value, results.split()))
    )


CONV = node("Conv", "r k", "y")
INSERTED = body(
    node("Gather", "x i", "f", axis=1), node("SequenceInsert", "q f", "q2"),
    node("Identity", "c", "c2"), given="i c q", results="c2 q2", sequence=True,
)  # fmt: skip
MAPPED = body(node("Conv", "e k", "o"), given="e", results="o")
ADDED = body(node("Add", "e add", "o"), given="e add", results="o")

#: What makes y of x, n×8×3×8×8 with n = 1; the MACs of Conv nodes, each on some maps of a sample.
CASES: dict[str, tuple[list[onnx.NodeProto], int]] = {
    "joined": ([node("SequenceConstruct", "x x", "q"), node("ConcatFromSequence", "q", "c", axis=1),
                node("Reshape", "c maps", "r"), CONV], 16 * ROW),
    "stacked": ([node("SequenceConstruct", "x x x", "q"),
                 node("ConcatFromSequence", "q", "c", axis=-1, new_axis=1),
                 node("Transpose", "c", "t", perm=[0, 1, 5, 2, 3, 4]),
                 node("Reshape", "t maps", "r"), CONV], 24 * ROW),
    "taken out": ([node("SplitToSequence", "x", "q", axis=1, keepdims=0),
                   node("SequenceAt", "q at2", "r"), CONV], ROW),
    "unequal parts": ([node("SplitToSequence", "x parts", "q", axis=1),
                       node("SequenceAt", "q minus", "c"), node("Reshape", "c maps", "r"), CONV],
                      5 * ROW),
    "parts of a length": ([node("SplitToSequence", "x three", "q", axis=1),
                           node("SequenceAt", "q at2", "c"), node("Reshape", "c maps", "r"), CONV],
                          2 * ROW),
    "put in and taken out": ([node("SequenceEmpty", "", "q0"), node("SequenceInsert", "q0 x", "q1"),
                              node("Slice", "x zero two one", "f"),
                              node("SequenceInsert", "q1 f at0", "q2"),
                              node("SequenceErase", "q2 minus", "q"),
                              node("ConcatFromSequence", "q", "c", axis=1),
                              node("Reshape", "c maps", "r"), CONV], 2 * ROW),
    "each mapped": ([node("SplitToSequence", "x", "q", axis=1, keepdims=0),
                     node("SequenceMap", "q", "p", body=MAPPED),
                     node("ConcatFromSequence", "p", "y", axis=0)], 8 * ROW),
    "mapped with a tensor": ([node("SplitToSequence", "x", "q", axis=1, keepdims=0),
                              node("SequenceMap", "q add", "p", body=ADDED),
                              node("ConcatFromSequence", "p", "r", axis=0), CONV], 8 * ROW),
    "collected by a Loop": ([node("SequenceEmpty", "", "q0"),
                             node("Loop", "five _ q0", "q", body=INSERTED),
                             node("ConcatFromSequence", "q", "r", axis=0), CONV], 5 * ROW),
    "passed on": ([node("SequenceConstruct", "x x", "q0"), node("Identity", "q0", "q"),
                   node("ConcatFromSequence", "q", "c", axis=2),
                   node("Reshape", "c maps", "r"), CONV], 16 * ROW),
}  # fmt: skip

STORED = [
    constant("maps", [-1, 3, 8, 8]), tensor("k", 4, 3, 3, 3), constant("at0", 0),
    constant("at2", 2), constant("minus", -1), constant("parts", [1, 2, 5]), constant("three", 3),
    constant("zero", [0]), constant("one", [1]), constant("two", [2]), constant("five", 5),
    tensor("add", 1, 3, 8, 8),
]  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_tensors_of_sequences(name: str) -> None:
    nodes, macs = CASES[name]
    built = model(nodes, {"x": ["n", 8, 3, 8, 8]}, ["y"], STORED, opset=17)
    (result,) = run(built, x=random_array(1, 8, 3, 8, 8))
    report = onnxshare.inspect(built)
    found = {out.name: out.shape for facts in report.nodes for out in facts.outputs}
    assert found["y"] == result.shape
    assert report.totals.macs == macs
    assert report.totals.peak_activation_bytes is not None


def test_a_sequence_takes_the_memory_of_its_tensors() -> None:
    """x is 24 floats, the sequence two of it, y two in one: 24 + 48, then 48 + 48."""
    nodes = [node("SequenceConstruct", "x x", "q"), node("ConcatFromSequence", "q", "y", axis=0)]
    totals = onnxshare.inspect(model(nodes, {"x": [1, 24]}, ["y"])).totals
    assert totals.peak_activation_bytes == 4 * 96


@pytest.mark.parametrize("data", ["at", "parts"])
def test_what_data_decides_stays_unknown(data: str) -> None:
    nodes = [
        node("SplitToSequence", "x parts" if data == "parts" else "x fixed", "q", axis=1),
        node("SequenceAt", "q at", "c"),
        node("Reshape", "c maps", "r"),
        CONV,
    ]
    inputs = [info("x", ["n", 8, 3, 8, 8]), info("at", [], TensorProto.INT64)]
    inputs += [info("parts", [3], TensorProto.INT64)] if data == "parts" else []
    stored = [t for t in STORED if t.name in ("maps", "k")] + [constant("fixed", [1, 2, 5])]
    report = onnxshare.inspect(model(nodes, inputs, ["y"], stored))
    assert report.totals.macs is None
    assert any("is unknown" in line for line in report.warnings)
