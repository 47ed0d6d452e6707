"""Models with local functions keep them, but for those that a rewrite reaches into."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import onnxshare
from tests.rewrites.checking import feeds, interface, run
from tests.rewrites.forms import C, H, K, Net, W

DOMAIN = "my.layers"


def function(name: str, inputs: list[str], output: str, *nodes: onnx.NodeProto, **more: Any) -> Any:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_function(DOMAIN, name, inputs, [output], list(nodes), opsets, **more)


NODE = helper.make_node

#: x · sigmoid(x), in two nodes.
SWISH = function(
    "Swish", ["x"], "y", NODE("Sigmoid", ["x"], ["s"], name="s"), NODE("Mul", ["x", "s"], ["y"])
)
#: Two swishes in a row: a function that calls another.
TWICE = function(
    "Twice",
    ["x"],
    "y",
    NODE("Swish", ["x"], ["t"], domain=DOMAIN),
    NODE("Swish", ["t"], ["y"], domain=DOMAIN),
)
#: A whole head: Flatten and Gemm.
HEAD = function(
    "Head",
    ["x", "w", "b"],
    "y",
    NODE("Flatten", ["x"], ["f"]),
    NODE("Gemm", ["f", "w", "b"], ["y"], name="inner"),
)
#: LeakyRelu with a slope that the caller gives.
SLOPE = NODE("LeakyRelu", ["x"], ["y"])
SLOPE.attribute.append(
    onnx.AttributeProto(name="alpha", ref_attr_name="a", type=onnx.AttributeProto.FLOAT)
)
SLOPED = function("Sloped", ["x"], "y", SLOPE, attributes=["a"])
#: Nothing calls it.
IDLE = function("Idle", ["x"], "y", NODE("Neg", ["x"], ["y"]))


def finish(net: Net, *functions: Any) -> onnx.ModelProto:
    graph = helper.make_graph(net._nodes, "net", net._inputs, net._outputs, net._stored)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(
        graph, opset_imports=opsets, ir_version=8, functions=[*functions, IDLE]
    )
    onnx.checker.check_model(model)
    return model


def call(net: Net, name: str, *inputs: str, **attributes: Any) -> str:
    return net.node(name, *inputs, domain=DOMAIN, **attributes)


def outside() -> onnx.ModelProto:
    """Calls before and after the head, none in it."""
    net = Net(seed=2)
    x = call(net, "Twice", net.trunk())
    x = call(net, "Sloped", call(net, "Swish", x), a=0.25)
    y = call(net, "Swish", net.node("Softmax", net.gemm(net.node("Flatten", x), K, 5), axis=1))
    net.rows(y, 5)
    return finish(net, SWISH, TWICE, SLOPED)


def inside() -> onnx.ModelProto:
    """The head is in a function; another function is called beside it."""
    net = Net(seed=3)
    x = call(net, "Twice", net.trunk())
    net.rows(call(net, "Head", x, net.weight(K, 5), net.weight(5)), 5)
    return finish(net, SWISH, TWICE, HEAD)


def in_a_subgraph() -> onnx.ModelProto:
    """A call in the branches of an If, and a head outside."""
    net = Net(seed=4)
    x = net.gemm(net.flat(), K, 5)
    inner = helper.make_tensor_value_info("inner", net.elem, ["n", 5])
    body = helper.make_graph([NODE("Swish", [x], ["inner"], domain=DOMAIN)], "g", [], [inner])
    net.rows(net.node("If", net.stored(np.array(True)), then_branch=body, else_branch=body), 5)
    return finish(net, SWISH)


def between() -> onnx.ModelProto:
    """A function between two FCs: it becomes part of the head."""
    net = Net(seed=5)
    hidden = call(net, "Sloped", net.gemm(net.flat(), K, 6), a=0.25)
    net.rows(call(net, "Swish", net.gemm(hidden, 6, 5)), 5)
    return finish(net, SWISH, SLOPED)


def names(model: onnx.ModelProto) -> list[str]:
    return [function.name for function in model.functions]


def calls(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node if node.domain == DOMAIN]


@pytest.mark.parametrize(
    ("model", "kept", "called", "note"),
    [
        pytest.param(
            outside(),
            ["Swish", "Twice", "Sloped", "Idle"],
            ["Twice", "Swish", "Sloped", "Swish"],
            None,
            id="outside",
        ),
        pytest.param(inside(), ["Swish", "Twice", "Idle"], ["Twice"], "'Head'", id="inside"),
        pytest.param(in_a_subgraph(), ["Swish", "Idle"], [], None, id="in a subgraph"),
        pytest.param(between(), ["Swish", "Idle"], ["Swish"], "'Sloped'", id="between"),
    ],
)
def test_functions_are_kept(
    model: onnx.ModelProto, kept: list[str], called: list[str], note: str | None
) -> None:
    before = model.SerializeToString(deterministic=True)
    result = onnxshare.rewrite(model, ["fc-to-conv"], provider="cpu")
    assert model.SerializeToString(deterministic=True) == before
    assert result.passed
    new = result.model
    assert names(new) == kept
    assert calls(new) == called
    assert not {"Gemm", "MatMul"} & {node.op_type for node in new.graph.node}
    for item in new.functions:
        old = next(f for f in model.functions if f.name == item.name)
        assert item.SerializeToString() == old.SerializeToString()
    old_nodes = [node.SerializeToString() for node in model.graph.node]
    for node in new.graph.node:
        if node.domain == DOMAIN or node.op_type == "If":
            assert node.SerializeToString() in old_nodes
    assert interface(new) == interface(model)
    onnx.checker.check_model(new)
    notes = [text for change in result.changes for text in change.notes]
    assert len(notes) == (0 if note is None else 1)
    assert note is None or note in notes[0]
    for batch in (1, 3):
        given = feeds(model, batch)
        for a, b in zip(run(model, given), run(new, given), strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5)


def test_what_is_inside_a_call_and_read_outside_keeps_it_expanded() -> None:
    """No rewrite does this today; a call must not hide a tensor that something reads."""
    from onnxshare.graph.onnx_sandbox import inline_functions
    from rewrites.restore_functions import refold

    model = outside()
    rewritten = inline_functions(model, "m")
    inner = rewritten.graph.node[3].output[0]
    rewritten.graph.node.append(NODE("Identity", [inner], ["seen"]))
    rewritten.graph.output.append(helper.make_tensor_value_info("seen", 1, ["n", C, H, W]))
    notes = refold(model, rewritten, "m")
    assert calls(rewritten) == ["Swish", "Sloped", "Swish"]
    assert notes == (
        "local function 'Twice' is expanded where it is called for what was rewritten",
    )
    onnx.checker.check_model(rewritten)
