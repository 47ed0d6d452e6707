"""What is no difference: defaults that are written out, and equal constants under other names."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import onnxshare
from tests.builders import constant, model, node, tensor

#: operator and inputs, attributes of both models, attributes of the second one only.
SAME: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "Conv, strides": ("Conv", "x k", {}, {"strides": [1, 1]}),
    "Conv, pads": ("Conv", "x k", {}, {"pads": [0, 0, 0, 0]}),
    "Conv, dilations": ("Conv", "x k", {}, {"dilations": [1, 1]}),
    "Conv, kernel_shape": ("Conv", "x k", {}, {"kernel_shape": [3, 2]}),
    "Conv, group": ("Conv", "x k", {}, {"group": 1}),
    "Conv, auto_pad": ("Conv", "x k", {}, {"auto_pad": "NOTSET"}),
    "Conv, VALID": ("Conv", "x k", {}, {"auto_pad": "VALID"}),
    "ConvTranspose, VALID": ("ConvTranspose", "x t", {}, {"auto_pad": "VALID"}),
    "MaxPool, VALID": ("MaxPool", "x", {"kernel_shape": [2, 2]}, {"auto_pad": "VALID"}),
    "ReduceMean": ("ReduceMean", "x", {"keepdims": 0}, {"axes": [0, 1, 2, 3]}),
    "ReduceMax, turned": ("ReduceMax", "x", {"keepdims": 0}, {"axes": [-1, -3, -2, -4]}),
    "ReduceMin, kept": ("ReduceMin", "x", {}, {"axes": [3, 2, 1]}),  # axis 0 has one position
    "Conv, all": (
        "Conv", "x k", {},
        {"strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1], "kernel_shape": [3, 2]},
    ),
    "ConvTranspose": (
        "ConvTranspose", "x t", {"strides": [2, 2]},
        {"output_padding": [0, 0], "kernel_shape": [3, 2], "dilations": [1, 1]},
    ),
    "MaxPool": (
        "MaxPool", "x", {"kernel_shape": [2, 2]},
        {"strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1], "ceil_mode": 0},
    ),
    "AveragePool": (
        "AveragePool", "x", {"kernel_shape": [2, 2]}, {"strides": [1, 1], "count_include_pad": 0},
    ),
    "LpPool": ("LpPool", "x", {"kernel_shape": [2, 2]}, {"p": 2, "strides": [1, 1]}),
    "Transpose": ("Transpose", "x", {}, {"perm": [3, 2, 1, 0]}),
    "Softmax": ("Softmax", "x", {}, {"axis": -1}),
    "Gemm": ("Gemm", "rows w", {}, {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}),
    "Flatten": ("Flatten", "x", {}, {"axis": 1}),
    "LeakyRelu": ("LeakyRelu", "x", {}, {"alpha": 0.01}),
    "LSTM": (
        "LSTM", "steps lw lr", {"hidden_size": 2},
        {"direction": "forward", "activations": ["Sigmoid", "Tanh", "Tanh"], "input_forget": 0},
    ),
}  # fmt: skip

#: The same, where the second says something else.
OTHER: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "strides": ("Conv", "x k", {}, {"strides": [2, 2]}),
    "one stride": ("Conv", "x k", {}, {"strides": [1, 2]}),
    "pads": ("Conv", "x k", {}, {"pads": [0, 0, 1, 0]}),
    "dilations": ("Conv", "x k", {}, {"dilations": [1, 2]}),
    "SAME_UPPER": ("Conv", "x k", {}, {"auto_pad": "SAME_UPPER"}),
    "axes": ("ReduceMean", "x", {}, {"axes": [1, 2]}),
    "axes of one size": ("ReduceMean", "x", {"axes": [2]}, {"axes": [3]}),
    "perm": ("Transpose", "x", {}, {"perm": [0, 1, 3, 2]}),
    "Softmax": ("Softmax", "x", {}, {"axis": 1}),
    "alpha": ("LeakyRelu", "x", {}, {"alpha": 0.02}),
    "activations": (
        "LSTM", "steps lw lr", {"hidden_size": 2}, {"activations": ["Sigmoid", "Relu", "Tanh"]},
    ),
}  # fmt: skip

DATA = {"x": [1, 3, 8, 8], "rows": [1, 5], "steps": [4, 1, 3]}
WEIGHTS = {
    "k": (4, 3, 3, 2), "t": (3, 4, 3, 2), "w": (5, 2), "lw": (1, 8, 3), "lr": (1, 8, 2),
}  # fmt: skip


def one(op_type: str, inputs: str, attributes: dict[str, Any]) -> onnx.ModelProto:
    """One node, which has a name."""
    read = inputs.split()
    built = node(op_type, inputs, "y", **attributes)
    built.name = "only"
    return model(
        [built],
        {name: dims for name, dims in DATA.items() if name in read},
        ["y"],
        [tensor(name, *dims) for name, dims in WEIGHTS.items() if name in read],
    )


@pytest.mark.parametrize("turned", [False, True], ids=["written out", "left out"])
@pytest.mark.parametrize("name", SAME)
def test_a_default_written_out_is_no_change(name: str, turned: bool) -> None:
    op_type, inputs, both, second = SAME[name]
    pair = [one(op_type, inputs, both), one(op_type, inputs, {**both, **second})]
    layers = onnxshare.diff(*(reversed(pair) if turned else pair)).layers
    assert not layers


@pytest.mark.parametrize("name", OTHER)
def test_another_attribute_is_a_change(name: str) -> None:
    op_type, inputs, both, second = OTHER[name]
    pair = [one(op_type, inputs, both), one(op_type, inputs, {**both, **second})]
    (change,) = onnxshare.diff(*pair).layers
    assert {item.field for item in change.changes} >= set(second)


def scaled(values: dict[str, Any], *names: str, dtype: Any = np.float32) -> onnx.ModelProto:
    """A chain of products with constants."""
    nodes = []
    for place, name in enumerate(names):
        nodes.append(node("Mul", f"h{place} {name}", f"h{place + 1}"))
        nodes[-1].name = f"step {place}"
    stored = [constant(name, value, dtype) for name, value in values.items()]
    return model(nodes, {"h0": [1, 8]}, [f"h{len(names)}"], stored)


HALF = {"a": 0.5, "b": 0.5}


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        pytest.param(scaled(HALF, "a", "b"), scaled({"a": 0.5}, "a", "a"), 0, id="merged"),
        pytest.param(scaled({"a": 0.5}, "a", "a"), scaled(HALF, "a", "b"), 0, id="copied"),
        pytest.param(scaled(HALF, "a", "b"), scaled(HALF, "b", "a"), 0, id="exchanged"),
        pytest.param(scaled(HALF, "a", "b"), scaled({"c": 0.5}, "c", "c"), 0, id="another name"),
        pytest.param(
            scaled({"a": 0.5, "b": 2.0}, "a", "b"), scaled({"a": 0.5, "b": 2.0}, "b", "a"), 2,
            id="exchanged, and not equal",
        ),
        pytest.param(
            scaled(HALF, "a", "b"), scaled({"a": 0.5, "b": [0.5]}, "a", "b"), 1,
            id="another shape",
        ),
        pytest.param(
            scaled({"a": [0.5] * 8, "b": [0.5] * 8, "c": [0.5] * 8}, "a", "b", "c"),
            scaled({"a": [0.5] * 8}, "a", "a", "a"), 0, id="three vectors",
        ),
    ],
)  # fmt: skip
def test_equal_constants(before: onnx.ModelProto, after: onnx.ModelProto, changed: int) -> None:
    assert len(onnxshare.diff(before, after).layers) == changed


def test_inputs_left_out_at_the_end_are_no_difference() -> None:
    clips = [one("Clip", inputs, {}) for inputs in ("x", "x _", "x _ _")]
    assert not any(onnxshare.diff(clips[0], other).layers for other in clips)


def _model(
    op_type: str, held: dict[str, object], stored: dict[str, object], opset: int
) -> onnx.ModelProto:
    """One node that reads x and these constants; `_` leaves an input out."""
    results = "y z" if op_type == "Split" else "y"
    made = node(op_type, " ".join(["x", *stored]), results, name="n", **held)
    constants = [
        constant(name, value, np.float32 if name in ("low", "high", "fill") else np.int64)
        for name, value in stored.items()
        if name != "_"
    ]
    return model([made], {"x": [1, 4, 6, 8]}, results.split(), constants, opset=opset)


#: operator; attributes, stored inputs and opset of both forms.
FORMS: dict[str, tuple[str, tuple[Any, Any, int], tuple[Any, Any, int]]] = {
    "axes as attribute and as input": (
        "ReduceSum", ({"axes": [2, 3]}, {}, 11), ({}, {"axes": [2, 3]}, 13),
    ),
    "axes in another order": ("ReduceMax", ({"axes": [2, 3]}, {}, 17), ({"axes": [3, 2]}, {}, 17)),
    "axes counted from the last": (
        "ReduceMean", ({"axes": [-1]}, {}, 17), ({}, {"axes": [3]}, 18),
    ),
    "all axes written out": ("ReduceSum", ({}, {}, 13), ({}, {"axes": [0, 1, 2, 3]}, 13)),
    "an axis counted from the last": ("Softmax", ({"axis": -1}, {}, 13), ({"axis": 3}, {}, 13)),
    "an axis of ArgMax": ("ArgMax", ({"axis": -3}, {}, 13), ({"axis": 1}, {}, 13)),
    "a default axis counted from the first": ("Softmax", ({}, {}, 13), ({"axis": 3}, {}, 13)),
    "a default axis of an older opset": ("Softmax", ({}, {}, 11), ({"axis": -3}, {}, 11)),
    "a default axis of normalization": (
        "LpNormalization", ({}, {}, 13), ({"axis": 3, "p": 2}, {}, 13),
    ),
    "a default axis that is not the last": ("ArgMin", ({}, {}, 13), ({"axis": -4}, {}, 13)),
    "no axes": ("ReduceProd", ({}, {}, 17), ({}, {"axes": []}, 18)),
    "Unsqueeze": ("Unsqueeze", ({"axes": [1]}, {}, 11), ({}, {"axes": [1]}, 13)),
    "Squeeze": ("Squeeze", ({"axes": [0]}, {}, 11), ({}, {"axes": [0]}, 13)),
    "Squeeze, all": ("Squeeze", ({}, {}, 13), ({}, {"axes": [0]}, 13)),
    "Clip": (
        "Clip", ({"min": 0.0, "max": 6.0}, {}, 10), ({}, {"low": 0.0, "high": 6.0}, 13),
    ),
    "Clip, one limit": ("Clip", ({"min": 0.0}, {}, 10), ({}, {"low": 0.0}, 13)),
    "Pad": (
        "Pad", ({"pads": [0, 0, 1, 1] * 2}, {}, 10),
        ({"mode": "constant"}, {"pads": [0, 0, 1, 1] * 2, "fill": 0.0}, 13),
    ),
    "Slice": (
        "Slice", ({"starts": [0], "ends": [2], "axes": [2]}, {}, 9),
        ({}, {"starts": [0], "ends": [2], "axes": [2], "steps": [1]}, 13),
    ),
    "Split": ("Split", ({"axis": 1}, {}, 13), ({"axis": 1}, {"parts": [2, 2]}, 13)),
    "Split, as attribute": (
        "Split", ({"axis": 2, "split": [2, 4]}, {}, 11), ({"axis": 2}, {"parts": [2, 4]}, 13),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_settings_in_an_attribute_and_in_a_stored_input(name: str) -> None:
    op_type, one, other = FORMS[name]
    pair = _model(op_type, *one), _model(op_type, *other)
    assert not onnxshare.diff(*pair).layers
    assert not onnxshare.diff(*reversed(pair)).layers


@pytest.mark.parametrize(
    ("op_type", "one", "other"),
    [
        ("ReduceSum", ({"axes": [2, 3]}, {}, 11), ({}, {"axes": [1, 3]}, 13)),
        ("ReduceSum", ({}, {}, 13), ({"noop_with_empty_axes": 1}, {}, 13)),
        ("ReduceSum", ({}, {}, 13), ({}, {"axes": [1, 2]}, 13)),
        ("Clip", ({"min": 0.0}, {}, 10), ({}, {"low": 0.5}, 13)),
        ("Clip", ({"min": 0.0}, {}, 10), ({}, {"low": 0.0, "high": 6.0}, 13)),
        ("Pad", ({"pads": [0, 0, 1, 1] * 2}, {}, 10),
         ({}, {"pads": [0, 0, 1, 1] * 2, "fill": 1.0}, 13)),
        ("Slice", ({"starts": [0], "ends": [6], "axes": [2]}, {}, 9),
         ({}, {"starts": [0], "ends": [6], "axes": [2], "steps": [2]}, 13)),
        ("Split", ({"axis": 1}, {}, 13), ({"axis": 1}, {"parts": [1, 3]}, 13)),
        ("Softmax", ({}, {}, 13), ({"axis": 2}, {}, 13)),
        ("ArgMin", ({}, {}, 13), ({"axis": 3}, {}, 13)),
        ("Transpose", ({"perm": [0, 2, 3, 1]}, {}, 13), ({"perm": [0, 3, 1, 2]}, {}, 13)),
    ],
    ids=str,
)  # fmt: skip
def test_other_settings_are_a_change(
    op_type: str, one: tuple[Any, Any, int], other: tuple[Any, Any, int]
) -> None:
    (change,) = onnxshare.diff(_model(op_type, *one), _model(op_type, *other)).layers
    assert change.change == "changed"


def _resized_by(inputs: tuple[str, ...]) -> onnx.ModelProto:
    built = onnx.helper.make_node("Resize", inputs, ["y"], "only", mode="nearest")
    stored = {"none": [], "void": [], "twice": [1, 1, 2, 2], "whole": [0, 0, 0, 0, 1, 1, 1, 1]}
    weights = [constant(name, values, np.float32) for name, values in stored.items()]
    weights.append(constant("sizes", [1, 3, 16, 16]))
    read = [item for item in weights if item.name in inputs]
    return model([built], {"x": DATA["x"]}, ["y"], read, opset=13)


@pytest.mark.parametrize(
    ("one", "other", "changed"),
    [
        (("x", "", "twice"), ("x", "none", "twice"), False),
        (("x", "", "", "sizes"), ("x", "none", "void", "sizes"), False),
        (("x", "", "", "sizes"), ("x", "none", "none", "sizes"), False),
        (("x", "whole", "", "sizes"), ("x", "", "", "sizes"), True),
        (("x", "", "twice"), ("x", "", "", "sizes"), True),
    ],
)
def test_an_empty_input_of_resize_says_nothing(
    one: tuple[str, ...], other: tuple[str, ...], changed: bool
) -> None:
    pair = [_resized_by(inputs) for inputs in (one, other)]
    assert bool(onnxshare.diff(*pair).layers) == changed
    assert bool(onnxshare.diff(*reversed(pair)).layers) == changed
