"""Models that no runtime can run are errors that name the node; what may be right is none."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxshare
from onnxshare.errors import ModelError, UsageError
from tests.builders import constant, info, model, node, random_array, tensor


@dataclass(frozen=True)
class Unfit:
    """A node that cannot work: its operator, the sizes of its inputs and of its weights."""

    op_type: str
    data: tuple[int, ...]
    weights: tuple[tuple[int, ...] | list[int], ...] = ()  # a list: the integers themselves
    attributes: dict[str, Any] = field(default_factory=dict)
    says: str = ""
    opset: int = 17
    outputs: str = "y"
    dtype: Any = np.float32

    def build(self) -> onnx.ModelProto:
        names = [f"w{i}" for i in range(len(self.weights))]
        weights = [
            constant(name, sizes)
            if isinstance(sizes, list)
            else numpy_helper.from_array((random_array(*sizes) * 50).astype(self.dtype), name)
            for name, sizes in zip(names, self.weights, strict=True)
        ]
        unfit = node(
            self.op_type, " ".join(["x", *names]), self.outputs, name="guilty", **self.attributes
        )
        inputs = [info("x", self.data, helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype)))]
        return model([unfit], inputs, ["y"], weights, opset=self.opset)


C = Unfit
UNFIT = {
    # What onnx's strict inference sees.
    "MatMul: inner sizes": C("MatMul", (1, 4), ((5, 3),), says="1×4, 5×3"),
    "MatMul: stacks": C("MatMul", (2, 3, 4), ((3, 4, 5),), says="2×3×4, 3×4×5"),
    "Gemm: inner sizes": C("Gemm", (1, 4), ((5, 3),)),
    "Gemm: inner sizes, transposed": C("Gemm", (1, 4), ((4, 3),), {"transB": 1}),
    "Gemm: three axes": C("Gemm", (1, 4, 1), ((4, 3),)),
    "Add: broadcasting": C("Add", (1, 4), ((3,),), says="1×4, 3"),
    "Sum: broadcasting": C("Sum", (2, 4), ((4,), (3, 4))),
    "Concat: other sizes": C("Concat", (1, 4), ((1, 3),), {"axis": 0}),
    "Concat: number of axes": C("Concat", (1, 4), ((4,),), {"axis": 0}),
    "Conv: number of axes": C("Conv", (1, 3, 8), ((4, 3, 3, 3),)),
    "MaxPool: number of axes": C("MaxPool", (1, 3, 8), (), {"kernel_shape": [2, 2]}),
    "BatchNormalization: scale": C("BatchNormalization", (1, 3, 8), ((4,), (3,), (3,), (3,))),
    "BatchNormalization: variance": C("BatchNormalization", (1, 3, 8), ((3,), (3,), (3,), (4,))),
    "Reshape: does not divide": C("Reshape", (1, 4), ([-1, 3],)),
    "Transpose: axes": C("Transpose", (2, 4), (), {"perm": [0, 2, 1]}),
    "Squeeze: of two": C("Squeeze", (2, 4), ([0],)),
    "Gather: axis": C("Gather", (2, 4), ([0],), {"axis": 2}),
    "Split: sum": C("Split", (2, 4), ([3, 2],), {"axis": 1}, outputs="y z"),
    "Expand": C("Expand", (2, 4), ([3, 4],)),
    "Tile": C("Tile", (2, 4), ([1, 1, 1],)),
    "Slice: axis": C("Slice", (2, 4), ([0], [1], [4])),
    "TopK: of four": C("TopK", (2, 4), ([9],), outputs="y z"),
    "ReduceMean: axis": C("ReduceMean", (2, 3), (), {"axes": [3]}),
    "Softmax: axis": C("Softmax", (2, 4), (), {"axis": 3}),
    "MatMulInteger": C("MatMulInteger", (1, 4), ((5, 3),), dtype=np.int8),
    # What it does not.
    "Gemm: C": C("Gemm", (1, 4), ((4, 3), (4,)), says="C cannot be broadcast"),
    "Gemm: C of more rows": C("Gemm", (1, 4), ((4, 3), (4, 3)), says="C cannot be broadcast"),
    "PRelu": C("PRelu", (1, 4, 3), ((4,),), says="slope"),
    "PRelu: larger, and does not fit": C("PRelu", (4, 3), ((2, 4, 4),), says="slope"),
    "Conv: channels": C("Conv", (1, 3, 8, 8), ((4, 2, 3, 3),), says="take 2 channels"),
    "Conv: channels of groups": C("Conv", (1, 6, 8), ((4, 2, 3),), {"group": 2}, "take 4"),
    "Conv: groups": C("Conv", (1, 4, 8, 8), ((3, 2, 3, 3),), {"group": 2}, "into 2 groups"),
    "Conv: bias": C("Conv", (1, 3, 8, 8), ((4, 3, 3, 3), (3,)), says="3 biases"),
    "Conv: small map": C("Conv", (1, 3, 2, 2), ((4, 3, 3, 3),), says="larger than the padded"),
    "Conv: kernel_shape": C("Conv", (1, 3, 8), ((4, 3, 3),), {"kernel_shape": [5]}, "says 5"),
    "ConvInteger": C("ConvInteger", (1, 3, 8, 8), ((4, 2, 3, 3),), says="take 2", dtype=np.uint8),
    "ConvTranspose: channels": C("ConvTranspose", (1, 3, 8), ((4, 2, 3),), says="take 4"),
    "ConvTranspose: bias": C("ConvTranspose", (1, 4, 8), ((4, 2, 3), (4,)), says="4 biases"),
    "InstanceNormalization": C("InstanceNormalization", (1, 3, 8), ((4,), (4,)), says="3 channels"),
    "LayerNormalization: scale": C("LayerNormalization", (1, 3, 8), ((7,),), says="scale"),
    "LayerNormalization: bias": C("LayerNormalization", (1, 3, 8), ((8,), (7,)), says="bias"),
    "GroupNormalization: scale": C(
        "GroupNormalization", (1, 4, 8), ((3,), (3,)), {"num_groups": 2}, "4 elements", 21
    ),
    "GroupNormalization: groups": C(
        "GroupNormalization", (1, 4, 8), ((4,), (4,)), {"num_groups": 3}, "3 groups", 21
    ),
    "Reshape: elements": C("Reshape", (1, 4), ([3, 2],), says="4 elements cannot become 3×2"),
    "Gather: beyond the end": C("Gather", (2, 4), ([0, 2],), says="from 0 to 2 along an axis of 2"),
    "Gather: before the start": C("Gather", (2, 4), ([-3],), says="from -3 to -3"),
    "GatherElements": C("GatherElements", (2, 4), ([[0, 0, 0, 0, 0]],), says="5 along axis 1"),  # type: ignore[list-item]
    "LSTM: features": C(
        "LSTM", (3, 1, 4), ((1, 20, 6), (1, 20, 5)), {"hidden_size": 5}, "W takes 6"
    ),
    "LSTM: state": C("LSTM", (3, 1, 4), ((1, 20, 4), (1, 20, 6)), {"hidden_size": 5}, "R takes 6"),
    "LSTM: bias": C(
        "LSTM", (3, 1, 4), ((1, 20, 4), (1, 20, 5), (1, 20)), {"hidden_size": 5}, "40 elements"
    ),
    "GRU: gates": C("GRU", (3, 1, 4), ((1, 20, 4), (1, 15, 5)), {"hidden_size": 5}, "15 rows"),
    "RNN: features": C("RNN", (3, 1, 4), ((1, 5, 6), (1, 5, 5)), {"hidden_size": 5}, "W takes 6"),
    "Einsum": C("Einsum", (2, 4), ((5, 3),), {"equation": "ab,bc->ac"}, "index b"),
    "DepthToSpace": C("DepthToSpace", (1, 3, 4, 4), (), {"blocksize": 2}, "3 channels"),
    "SpaceToDepth": C("SpaceToDepth", (1, 3, 4, 4), (), {"blocksize": 3}, "4 positions"),
}


@pytest.mark.parametrize("unfit", UNFIT.values(), ids=UNFIT)
def test_an_unfit_model_is_an_error_as_it_is_for_onnx_runtime(unfit: Unfit) -> None:
    built = unfit.build()
    with pytest.raises(ModelError) as error:
        onnxshare.inspect(built)
    line = str(error.value)
    assert f"'guilty' ({unfit.op_type})" in line
    assert "×".join(map(str, unfit.data)) in line
    assert unfit.says in line
    assert "\n" not in line
    with pytest.raises(Exception):  # noqa: B017, PT011 (its errors have no common class)
        _run(built, np.ones(unfit.data, unfit.dtype))


def _run(built: onnx.ModelProto, data: Any) -> None:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(
        built.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    session.run(None, {"x": data})


def test_exit_code_and_line(tmp_path: Path) -> None:
    path = tmp_path / "unfit.onnx"
    onnx.save(UNFIT["MatMul: inner sizes"].build(), path)
    words = [sys.executable, "-m", "onnxshare", "inspect", str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "unfit.onnx: node 'guilty' (MatMul): 1×4, 5×3 do not fit" in done.stderr


def _branch(name: str, *nodes: onnx.NodeProto) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), name, [], [info(f"{name}.out", None)])


def test_a_node_of_a_subgraph_is_named() -> None:
    chosen = helper.make_node(
        "If",
        ["c"],
        ["y"],
        name="choice",
        then_branch=_branch("a", node("MatMul", "x w", "a.out", name="guilty")),
        else_branch=_branch("b", node("Identity", "x", "b.out")),
    )
    inputs = [info("x", [1, 4]), info("c", [], TensorProto.BOOL)]
    with pytest.raises(ModelError, match=r"node 'guilty' \(MatMul\): 1×4, 5×3 do not fit"):
        onnxshare.inspect(model([chosen], inputs, ["y"], [tensor("w", 5, 3)]))


def test_a_rule_applies_in_subgraphs_and_functions() -> None:
    body = helper.make_function(
        "local",
        "Layer",
        ["a", "b"],
        ["r"],
        [node("Conv", "a b", "r")],
        [helper.make_opsetid("", 17)],
    )
    call = helper.make_node("Layer", ["x", "w"], ["y"], domain="local")
    built = model(
        [call],
        {"x": [1, 3, 8, 8]},
        ["y"],
        [tensor("w", 4, 2, 3, 3)],
        functions=[body],
        domains=["local"],
    )
    with pytest.raises(ModelError, match=r"\(Conv\): 1×3×8×8, 4×2×3×3 do not fit"):
        onnxshare.inspect(built)


def test_one_of_several_nodes_without_a_name() -> None:
    nodes = [node("MatMul", "x v", "h", name=""), node("MatMul", "h w", "y", name="")]
    built = model(nodes, {"x": [1, 4]}, ["y"], [tensor("v", 4, 6), tensor("w", 5, 3)])
    with pytest.raises(ModelError, match=r"node 'MatMul_1' \(MatMul\): 1×6, 5×3 do not fit"):
        onnxshare.inspect(built)


def test_partly_known_shapes_are_enough() -> None:
    built = model(
        [node("Conv", "x w", "y")], {"x": ["n", 3, "h", "w"]}, ["y"], [tensor("w", 4, 2, 3, 3)]
    )
    with pytest.raises(ModelError, match=r"n×3×h×w, 4×2×3×3 do not fit"):
        onnxshare.inspect(built)


def test_a_size_given_by_the_user_may_be_what_does_not_fit() -> None:
    built = model(
        [node("Conv", "x w", "y")], {"x": ["n", 3, "h", "w"]}, ["y"], [tensor("w", 4, 3, 3, 3)]
    )
    assert onnxshare.inspect(built, input_shapes={"x": (1, 3, 3, 3)}).totals.macs == 108
    with pytest.raises(ModelError, match=r"larger than the padded map.*input_shapes"):
        onnxshare.inspect(built, input_shapes={"x": (1, 3, 2, 2)})


def test_a_lying_value_info_is_no_error() -> None:
    """Were it believed, the MatMul could not fit."""
    nodes = [node("Relu", "x", "h"), node("MatMul", "h w", "y")]
    built = model(nodes, {"x": [1, 4]}, ["y"], [tensor("w", 4, 3)])
    built.graph.value_info.append(info("h", [1, 5]))
    report = onnxshare.inspect(built)
    assert report.totals.macs == 12
    assert [w for w in report.warnings if "'h' (1×5, and it is 1×4)" in w]


@pytest.mark.parametrize("declared", [[2, 5], [2, 4, 1]], ids=["size", "number of axes"])
def test_a_lying_output_is_a_warning_as_for_onnx_runtime(declared: list[int]) -> None:
    built = model([node("Relu", "x", "y")], {"x": [2, 4]}, [])
    built.graph.output.append(info("y", declared))
    assert any("declares a wrong shape for 'y'" in w for w in onnxshare.inspect(built).warnings)
    _run(built, np.ones((2, 4), np.float32))


def test_what_is_declared_for_another_batch_is_no_lie() -> None:
    built = model([node("Relu", "x", "h"), node("Relu", "h", "y")], {"x": ["n", 4]}, ["y"])
    built.graph.value_info.append(info("h", [8, 4]))
    assert not onnxshare.inspect(built).warnings


def test_a_lying_value_info_after_an_unknown_operator_is_no_error() -> None:
    nodes = [node("Custom", "x", "h", domain="my.own"), node("MatMul", "h w", "y")]
    built = model(nodes, {"x": [1, 4]}, ["y"], [tensor("w", 4, 3)], domains=["my.own"])
    built.graph.value_info.append(info("h", [1, 5]))
    assert onnxshare.inspect(built).nodes[1].macs is None


def test_a_lying_value_info_that_a_convolution_cannot_take_is_named() -> None:
    nodes = [node("Custom", "x", "h", domain="my.own"), node("Conv", "h w", "y")]
    built = model(nodes, {"x": [1, 4]}, ["y"], [tensor("w", 4, 3, 3)], domains=["my.own"])
    built.graph.value_info.append(info("h", [1, 5, 9]))
    report = onnxshare.inspect(built)
    assert report.nodes[1].macs is None
    assert any("may declare a wrong shape" in warning for warning in report.warnings)


def test_a_model_of_a_fixed_batch_behind_a_symbolic_one_is_no_error() -> None:
    """Traced with four samples, and told that the batch is free: it fits for four."""
    nodes = [node("Reshape", "x to", "r"), node("Gemm", "r w", "y")]
    weights = [constant("to", [4, 6]), tensor("w", 6, 2)]
    built = model(nodes, {"x": ["n", 6]}, ["y"], weights)
    report = onnxshare.inspect(built)
    assert any("Reshape" in w and "fixed batch" in w for w in report.warnings)
    _run(built, np.ones((4, 6), np.float32))


DANGLING = {
    "main graph": model([node("Add", "x ghost", "y", name="guilty")], {"x": [1]}, ["y"]),
    "cycle": model(
        [node("Add", "x b", "a", name="guilty"), node("Relu", "a", "b")], {"x": [1]}, ["a"]
    ),
    "subgraph": model(
        [
            helper.make_node(
                "If",
                ["c"],
                ["y"],
                then_branch=_branch("a", node("Add", "x ghost", "a.out", name="guilty")),
                else_branch=_branch("b", node("Identity", "x", "b.out")),
            )
        ],
        [info("x", [1]), info("c", [], TensorProto.BOOL)],
        ["y"],
    ),
    "a name of the other branch": model(
        [
            helper.make_node(
                "If",
                ["c"],
                ["y"],
                then_branch=_branch("a", node("Identity", "x", "a.out")),
                else_branch=_branch("b", node("Relu", "a.out", "b.out", name="guilty")),
            )
        ],
        [info("x", [1]), info("c", [], TensorProto.BOOL)],
        ["y"],
    ),
}


@pytest.mark.parametrize("built", DANGLING.values(), ids=DANGLING)
def test_a_tensor_that_nothing_produces_is_an_error(built: onnx.ModelProto) -> None:
    with pytest.raises(ModelError, match="node 'guilty'"):
        onnxshare.inspect(built)


def test_a_function_that_reads_what_nothing_produces() -> None:
    body = helper.make_function(
        "local", "F", ["a"], ["r"], [node("Add", "a ghost", "r")], [helper.make_opsetid("", 17)]
    )
    built = model(
        [helper.make_node("F", ["x"], ["y"], domain="local")],
        {"x": [1]},
        ["y"],
        functions=[body],
        domains=["local"],
    )
    with pytest.raises(ModelError, match="ghost"):
        onnxshare.inspect(built)


@pytest.mark.parametrize("where", ["main", "branch"])
def test_an_output_that_nothing_produces(where: str) -> None:
    if where == "main":
        built = model([node("Relu", "x", "h")], {"x": [1]}, ["ghost"])
    else:
        chosen = helper.make_node(
            "If",
            ["c"],
            ["y"],
            then_branch=helper.make_graph([], "a", [], [info("ghost", None)]),
            else_branch=_branch("b", node("Identity", "x", "b.out")),
        )
        built = model([chosen], [info("x", [1]), info("c", [], TensorProto.BOOL)], ["y"])
    with pytest.raises(ModelError, match="output 'ghost' is produced by no node"):
        onnxshare.inspect(built)


def test_what_follows_from_a_node_that_does_not_fit_one_sample_is_unknown() -> None:
    """The size before the convolution follows from the batch, so that it is no proof; onnx's
    inference says that an output has no positions, and goes on."""
    built = model(
        [
            node("Reshape", "x to", "r"),
            node("Conv", "r w", "h", strides=[4]),
            node("Conv", "h v", "y", pads=[2, 2]),
        ],
        {"x": ["n", "t"]},
        ["y"],
        [tensor("w", 2, 1, 16), tensor("v", 3, 2, 3), constant("to", [1, 1, -1])],
    )
    report = onnxshare.inspect(built, input_shapes={"x": (None, 12)})
    convolutions = [facts for facts in report.nodes if facts.op_type == "Conv"]
    assert [facts.macs for facts in convolutions] == [None, None]
    assert any("the kernel is larger" in warning for warning in report.warnings)
    report = onnxshare.inspect(built, input_shapes={"x": (None, 24)})
    assert report.totals.macs == 3 * 32 + 5 * 18
    with pytest.raises(UsageError, match="cannot have"):
        onnxshare.inspect(built, input_shapes={"x": (None, 10**20)})
