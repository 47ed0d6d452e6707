"""FCs behind every kind of operator after a convolution: found, counted, and followed or refused.

Whatever the operator makes, the FC reads all of it: its weights are 5 per element and 5 biases. A
convolution whose kernel is the whole map is the same sum; ONNX Runtime says whether it is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import onnxshare
from onnxshare.analysis.heads.head import ONE_POSITION
from tests.builders import Array, constant, model, node, random_array, run, tensor

MICROSOFT = "com.microsoft"
IN_PROCESS = onnxshare.RunLimits(in_process=True)

#: The operator, its other operands, and its attributes.
Case = tuple[str, list[onnx.TensorProto], dict[str, Any]]

POSITIVE = np.abs(random_array(4, 1, 1)) + 0.5


def floats(name: str, values: Any) -> onnx.TensorProto:
    return constant(name, values, np.float32)


def unary(names: str, **attributes: Any) -> dict[str, Case]:
    return {name: (name, [], attributes) for name in names.split()}


def by_axes(axes: list[int], **attributes: Any) -> dict[str, Case]:
    names = "Mean Sum Max Min Prod L1 L2 LogSumExp SumSquare".split()
    return {
        f"Reduce{name} {axes} {attributes}": (f"Reduce{name}", [constant("o", axes)], attributes)
        for name in names
    }


#: What is followed: the FC becomes a convolution.
FOLLOWED: dict[str, Case] = {
    **unary("Abs Asinh Atan Ceil Celu Clip Cos Cosh Dropout Elu Erf Exp Floor Gelu HardSigmoid"),
    **unary("HardSwish Identity LeakyRelu Mish Neg Reciprocal Relu Round Selu Shrink Sigmoid Sign"),
    **unary("Sin Sinh Softplus Softsign Tan Tanh ThresholdedRelu"),
    **unary("Softmax LogSoftmax Hardmax LpNormalization MeanVarianceNormalization"),
    **unary("LRN", size=3),
    **unary("MaxPool AveragePool LpPool", kernel_shape=[2, 2]),
    **unary("DepthToSpace SpaceToDepth", blocksize=2),
    **unary("Transpose", perm=[0, 2, 3, 1]),
    **unary("Trilu"),
    **by_axes([3]),
    **by_axes([3], keepdims=0),
    **by_axes([1]),
    **{f"{name} {MICROSOFT}": (name, [], {"domain": MICROSOFT})
       for name in ("Gelu", "QuickGelu", "FastGelu")},
    "BiasGelu": ("BiasGelu", [tensor("o", 6)], {"domain": MICROSOFT}),
    **{name: (name, [floats("o", POSITIVE)], {})
       for name in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean", "PRelu")},
    "Mod": ("Mod", [floats("o", POSITIVE)], {"fmod": 1}),
    "CumSum": ("CumSum", [constant("o", 3)], {}),
    "LayerNormalization": ("LayerNormalization", [tensor("o", 6)], {}),
    "RMSNormalization": ("RMSNormalization", [tensor("o", 6)], {}),
    "InstanceNormalization": ("InstanceNormalization", [tensor("o", 4), tensor("p", 4)], {}),
    "GroupNormalization": (
        "GroupNormalization", [tensor("o", 4), tensor("p", 4)], {"num_groups": 2},
    ),
    "Tile": ("Tile", [constant("o", [1, 1, 1, 2])], {}),
    "Pad": ("Pad", [constant("o", [0, 0, 1, 1, 0, 0, 1, 1])], {}),
    "CenterCropPad": ("CenterCropPad", [constant("o", [4, 8])], {"axes": [2, 3]}),
    "Slice": ("Slice", [constant("o", [1]), constant("p", [5]), constant("q", [3])], {}),
    "Gather": ("Gather", [constant("o", [0, 2, 2])], {"axis": 2}),
    "Reshape": ("Reshape", [constant("o", [0, 2, -1, 6])], {}),
    "Unsqueeze": ("Unsqueeze", [constant("o", [1])], {}),
    "Resize": ("Resize", [floats("o", []), floats("p", [1, 1, 2, 2])], {}),
    "ReverseSequence": (
        "ReverseSequence", [constant("o", [3, 3])], {"batch_axis": 0, "time_axis": 1},
    ),
    "GridSample": ("GridSample", [floats("o", random_array(2, 3, 3, 2) / 3)], {}),
    "MatMul": ("MatMul", [tensor("o", 6, 6)], {}),
    "Compress": ("Compress", [constant("o", [True, False, True, True], bool)], {"axis": 1}),
}  # fmt: skip

#: What makes one position of a map: there is nothing to share.
POOLED: dict[str, Case] = {
    **unary("GlobalAveragePool GlobalMaxPool GlobalLpPool"),
    **by_axes([2, 3]),
    **by_axes([2, 3], keepdims=0),
}

#: What is refused, before or after the Flatten, and a part of the reason.
REFUSED: dict[str, tuple[Case, bool, str]] = {
    "custom": (("Thing", [], {"domain": "custom"}), False, "Thing 'between' makes is not known"),
    "custom, flat": (("Thing", [], {"domain": "custom"}), True, "is not known beforehand"),
    "Det": (("Det", [], {}), False, "Det 'between'), which cannot be followed"),
    **{
        f"{name}, flat": ((name, operands, attributes), True, f"({name} 'between')")
        for name, operands, attributes in [
            ("Softmax", [], {}),
            ("CumSum", [constant("o", 1)], {}),
            ("LayerNormalization", [tensor("o", 144)], {}),
            ("Tile", [constant("o", [1, 2])], {}),
            ("Pad", [constant("o", [0, 1, 0, 1])], {}),
            ("ReduceL2", [constant("o", [1])], {}),
            ("Gather", [constant("o", [3, 1, 4])], {"axis": 1}),
            ("Trilu", [], {}),
        ]
    },
    "BiasGelu, flat": (
        ("BiasGelu", [tensor("o", 144)], {"domain": MICROSOFT}), True, "'o' of node 'between'",
    ),
}  # fmt: skip


def behind(case: Case, *, flat: bool = False, columns: int | None = None) -> onnx.ModelProto:
    """Conv, the operator, Flatten, Gemm; the Flatten before the operator if `flat` is set."""
    op_type, operands, attributes = case
    names = " ".join(["flat" if flat else "map", *(item.name for item in operands)])
    between = node(op_type, names, "made", **{"name": "between", **attributes})
    nodes = [node("Conv", "x k", "map", pads=[1] * 4), between]
    nodes.insert(1 if flat else 2, node("Flatten", "map" if flat else "made", "flat"))
    new = {"RMSNormalization": 23, "GroupNormalization": 21}
    how: dict[str, Any] = {"opset": new.get(op_type, 20), "ir_version": 10}
    weights = [tensor("k", 4, 3, 3, 3), *operands]
    if columns is None:
        last = "made" if flat else "flat"
        trunk = model(nodes, {"x": [2, 3, 6, 6]}, [last], weights, domains=[MICROSOFT], **how)
        columns = run(trunk, x=IMAGES)[0].shape[1]
    nodes.append(node("Gemm", f"{'made' if flat else 'flat'} w b", "y", name="fc", transB=1))
    weights += [tensor("w", 5, columns), tensor("b", 5)]
    domains = [MICROSOFT, "custom"]
    return model(nodes, {"x": [2, 3, 6, 6]}, ["y"], weights, domains=domains, **how)


IMAGES: Array = random_array(2, 3, 6, 6, seed=3)


@pytest.mark.parametrize("name", FOLLOWED)
def test_it_is_found_counted_and_followed(name: str) -> None:
    built = behind(FOLLOWED[name])
    (weight,) = (item for item in built.graph.initializer if item.name == "w")
    report = onnxshare.inspect(built)
    assert report.totals.fc_after_conv_params == 5 * weight.dims[1] + 5
    result = onnxshare.rewrite(built, ["fc-to-conv"], run_limits=IN_PROCESS)
    assert isinstance(result.model, onnx.ModelProto)
    assert "Gemm" not in [item.op_type for item in result.model.graph.node]
    (before,), (after,) = run(built, x=IMAGES), run(result.model, x=IMAGES)
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", POOLED)
def test_pooled_maps_have_nothing_to_share(name: str) -> None:
    (head,) = onnxshare.inspect(behind(POOLED[name])).heads
    assert [fc.node for fc in head.fcs] == ["fc"]
    assert head.rewrites["fc-to-conv"] == {"refused": ONE_POSITION, "nothing_to_do": True}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_followed_is_refused_with_a_reason(name: str) -> None:
    case, flat, reason = REFUSED[name]
    custom = case[2].get("domain") == "custom"
    built = behind(case, flat=flat, columns=144 if custom else None)
    report = onnxshare.inspect(built)
    (head,) = report.heads
    assert [fc.node for fc in head.fcs] == ["fc"]
    assert reason in head.rewrites["fc-to-conv"]["refused"]
    (weight,) = (item for item in built.graph.initializer if item.name == "w")
    assert report.totals.fc_after_conv_params == 5 * weight.dims[1] + 5


def test_check_finds_the_head_behind_a_sine() -> None:
    found = onnxshare.check(behind(FOLLOWED["Sin"]), select=["convolution-form"])
    assert [finding.node for finding in found.findings] == ["fc"]


def test_a_branch_that_reads_the_map_is_after_it() -> None:
    """What a subgraph captures counts: the data goes through it."""
    branches = {
        f"{name}_branch": onnx.helper.make_graph(
            [node(op_type, "map", name)], name, [],
            [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)],
        )
        for name, op_type in (("then", "Sin"), ("else", "Cos"))
    }  # fmt: skip
    nodes = [
        node("Conv", "x k", "map", pads=[1] * 4),
        node("If", "chosen", "made", **branches),
        node("Flatten", "made", "flat"),
        node("Gemm", "flat w", "y", name="fc", transB=1),
    ]
    weights = [tensor("k", 4, 3, 3, 3), tensor("w", 5, 144), constant("chosen", True, bool)]
    report = onnxshare.inspect(model(nodes, {"x": [2, 3, 6, 6]}, ["y"], weights))
    assert report.totals.fc_after_conv_params == 720


def test_a_shape_is_no_data() -> None:
    """An FC that reads only the sizes of a map does not come after a convolution."""
    nodes = [
        node("Conv", "x k", "map"),
        node("Shape", "map", "sizes"),
        node("Cast", "sizes", "floats", to=1),
        node("Reshape", "floats to", "rows"),
        node("Gemm", "rows w", "y", name="fc"),
    ]
    weights = [tensor("k", 4, 3, 3, 3), tensor("w", 4, 5), constant("to", [1, 4])]
    report = onnxshare.inspect(model(nodes, {"x": ["n", 3, 6, 6]}, ["y", "map"], weights))
    assert report.heads == ()
