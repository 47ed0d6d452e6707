"""`onnxshare diff`: what changed between two models."""

from __future__ import annotations

import io
import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

import onnxshare
from onnxshare import Difference
from onnxshare.report.diff import print_difference
from tests.builders import Array, constant, info, model, node, random_array

Cli = Callable[..., CompletedProcess[str]]

W0, W1, W2 = random_array(8, 6), random_array(6, 6, seed=1), random_array(6, 4, seed=2)
BIAS = random_array(6, seed=3)


def stored(name: str, array: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.ascontiguousarray(array), name)


def net(
    *,
    weights: dict[str, Array] | None = None,
    nodes: list[onnx.NodeProto] | None = None,
    inputs: dict[str, Any] | None = None,
) -> onnx.ModelProto:
    """x · w0 + b, Relu, · w1, Relu, · w2."""
    return model(
        nodes
        or [
            node("MatMul", "x w0", "m0", name="fc0"),
            node("Add", "m0 b", "a0", name="add"),
            node("Relu", "a0", "r0", name="relu0"),
            node("MatMul", "r0 w1", "m1", name="fc1"),
            node("Relu", "m1", "r1", name="relu1"),
            node("MatMul", "r1 w2", "y", name="fc2"),
        ],
        inputs or {"x": ["n", 8]},
        ["y"],
        [
            stored(name, array)
            for name, array in (weights or {"w0": W0, "b": BIAS, "w1": W1, "w2": W2}).items()
        ],
    )


def changed_net(change: Callable[[onnx.ModelProto], None]) -> onnx.ModelProto:
    built = net()
    change(built)
    return built


def layers(found: Difference) -> dict[str, str]:
    return {str(item.after or item.before): item.change for item in found.layers}


def weights(found: Difference) -> dict[str, tuple[str, str | None]]:
    return {str(item.before or item.after): (item.change, item.after) for item in found.weights}


# No difference.


def test_nothing_changed() -> None:
    found = onnxshare.diff(net(), net())
    assert not found.differs
    assert (found.layers, found.weights, found.ports, found.model, found.notes) == ((),) * 5
    assert (found.same_layers, found.same_weights) == (6, 4)
    assert all(total.before == total.after for total in found.totals)


@pytest.mark.parametrize("name", ["vgg_small", "gap_net", "lenet5-torchscript"])
def test_a_file_and_itself_in_memory(bundled: Path, name: str) -> None:
    path = bundled / f"{name}.onnx"
    found = onnxshare.diff(path, path.read_bytes())
    assert not found.differs
    assert not onnxshare.diff(onnx.load(path), path).differs


# Weights. What NumPy makes of the first matrix, and what is said of it.

CASES: dict[str, tuple[str, Any, tuple[str, str | None]]] = {
    "other values": ("w1", W1 + np.float32(0.5), ("changed", "w1")),
    "transposed in place": ("w1", W1.T, ("transposed", "w1")),
    "other order": ("w1", W1[::-1], ("reordered", "w1")),
    "half precision": ("w1", W1.astype(np.float16), ("retyped", "w1")),
    "fewer outputs": ("w2", W2[:, :-1], ("resized", "w2")),
    "-0.0": ("b", np.where(BIAS[0] == BIAS, np.float32(-0.0), BIAS), ("changed", "b")),
}


@pytest.mark.parametrize("name", CASES)
def test_a_weight(name: str) -> None:
    key, array, expected = CASES[name]
    given = {"w0": W0, "b": BIAS, "w1": W1, "w2": W2} | {key: np.ascontiguousarray(array)}
    found = onnxshare.diff(net(), net(weights=given))
    assert weights(found) == {key: expected}
    assert found.differs
    assert [item.matched_by for item in found.layers] == ["name"] * len(found.layers)


def test_how_far_values_are_apart() -> None:
    """By NumPy: the largest difference, and that over the largest element before."""
    other = W1 + random_array(6, 6, seed=9) / 100
    given = {"w0": W0, "b": BIAS, "w1": other, "w2": W2}
    (item,) = onnxshare.diff(net(), net(weights=given)).weights
    apart = np.abs(W1.astype(np.float64) - other).max()
    assert item.max_abs == pytest.approx(apart)
    assert item.max_rel == pytest.approx(apart / np.abs(W1).max())
    found = onnxshare.diff(net(), net(weights=given))
    assert layers(found) == {"fc1": "changed"}
    assert [(c.field, c.before, c.after) for c in found.layers[0].changes] == [
        ("weights", "w1", "w1")
    ]


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [
        ([1, np.nan], [1, np.nan], None),
        ([1, np.nan], [1.5, np.nan], 0.5),
        ([1, np.nan], [1, 2], np.inf),
        ([np.inf, 1], [np.inf, 3], 2),
        ([0.0, 1], [-0.0, 1], 0),
    ],
    ids=str,
)
def test_no_numbers(one: list[float], other: list[float], apart: float | None) -> None:
    def build(values: list[float]) -> onnx.ModelProto:
        return model(
            [node("Mul", "x w", "y")],
            {"x": ["n", 2]},
            ["y"],
            [stored("w", np.array(values, np.float32))],
        )

    found = onnxshare.diff(build(one), build(other))
    assert [item.max_abs for item in found.weights] == ([] if apart is None else [apart])
    json.dumps(found.to_dict())


def test_renamed_weights() -> None:
    given = {"zero": W0, "b": BIAS, "one": W1, "w2": W2}
    nodes = list(net().graph.node)
    nodes[0].input[1], nodes[3].input[1] = "zero", "one"
    found = onnxshare.diff(net(), net(weights=given, nodes=nodes))
    assert weights(found) == {"w0": ("renamed", "zero"), "w1": ("renamed", "one")}
    assert found.layers == ()  # they read the same


def test_names_that_changed_places() -> None:
    """The content says which is which, whatever the names say."""
    one, other = random_array(6, 6, seed=5), random_array(6, 6, seed=6)
    nodes = [node("MatMul", "x w0", "h", name="fc0"), node("MatMul", "h w1", "y", name="fc1")]

    def build(first: Array, second: Array) -> onnx.ModelProto:
        return net(weights={"w0": first, "w1": second}, nodes=list(nodes), inputs={"x": ["n", 6]})

    found = onnxshare.diff(build(one, other), build(other, one))
    assert weights(found) == {"w0": ("renamed", "w1"), "w1": ("renamed", "w0")}
    assert {(item.before, item.after, item.matched_by) for item in found.layers} == {
        ("fc0", "fc1", "weights"),
        ("fc1", "fc0", "weights"),
    }


def test_zeros_are_not_taken_for_a_renamed_weight() -> None:
    """Equal for no deep reason: the name comes first."""
    zeros = np.zeros(6, np.float32)

    def build(names: list[str], last: Array) -> onnx.ModelProto:
        nodes = [node("Add", "x " + names[0], "h"), node("Add", "h " + names[1], "y")]
        return net(weights={names[0]: zeros, names[1]: last}, nodes=nodes, inputs={"x": ["n", 6]})

    found = onnxshare.diff(build(["a", "b"], BIAS), build(["a", "b"], zeros))
    assert weights(found) == {"b": ("changed", "b")}
    found = onnxshare.diff(build(["a", "b"], zeros), build(["a", "c"], zeros))
    assert weights(found) == {"b": ("renamed", "c")}


def test_a_few_numbers_belong_to_their_name() -> None:
    """The same three numbers stand in many places: names come first."""
    one, other = np.array([1, 2, 3], np.float32), np.array([4, 5, 6], np.float32)

    def build(names: list[str], *values: Array) -> onnx.ModelProto:
        nodes = [node("Add", "x " + names[0], "h"), node("Add", "h " + names[1], "y")]
        return net(
            weights=dict(zip(names, values, strict=True)), nodes=nodes, inputs={"x": ["n", 3]}
        )

    found = onnxshare.diff(build(["a", "b"], one, other), build(["a", "c"], other, one))
    assert weights(found) == {
        "a": ("changed", "a"),
        "b": ("removed", None),
        "c": ("added", "c"),
    }


def test_merged_and_copied() -> None:
    nodes = [node("MatMul", "x w0", "h", name="fc0"), node("MatMul", "h w1", "y", name="fc1")]
    twice = net(weights={"w0": W1, "w1": W1}, nodes=list(nodes), inputs={"x": ["n", 6]})
    nodes[1].input[1] = "w0"
    once = net(weights={"w0": W1}, nodes=list(nodes), inputs={"x": ["n", 6]})
    assert weights(onnxshare.diff(twice, once)) == {"w1": ("merged", "w0")}
    found = onnxshare.diff(once, twice)
    assert [(item.change, item.before, item.after) for item in found.weights] == [
        ("copied", "w0", "w1")
    ]


def test_constants_that_moved_into_the_file() -> None:
    """A Constant node or an initializer: the tensor is the same."""
    built = net(weights={"w0": W0, "b": BIAS, "w2": W2})
    built.graph.node.insert(0, node("Constant", "", "w1", value=stored("", W1), name="c"))
    found = onnxshare.diff(net(), built)
    assert (found.weights, found.layers) == ((), ())
    assert found.differs  # and it is said in general
    assert "not compared" in found.notes[0]


def test_sparse_and_huge_constants() -> None:
    def build(value: float, place: int) -> onnx.ModelProto:
        sparse = helper.make_sparse_tensor(
            constant("s", [1.0, 2.0], np.float32), constant("i", [0, place]), [8, 6]
        )
        built = model(
            [
                node("MatMul", "x s", "h"),
                node(
                    "ConstantOfShape",
                    "dims",
                    "huge",
                    value=stored("", np.array([value], np.float32)),
                ),
                node("ReduceSum", "huge", "y", keepdims=0),
            ],
            {"x": ["n", 8]},
            ["h", "y"],
            [constant("dims", [2**40, 2**10])],
        )
        built.graph.sparse_initializer.append(sparse)
        return built

    assert not onnxshare.diff(build(1, 5), build(1, 5)).differs
    assert weights(onnxshare.diff(build(1, 5), build(1, 6))) == {"s": ("changed", "s")}
    assert weights(onnxshare.diff(build(1, 5), build(2, 5))) == {"huge": ("changed", "huge")}


# Nodes.


def rewire(built: onnx.ModelProto) -> None:
    built.graph.node[4].input[0] = "r0"  # relu1 reads relu0


def drop_bias(built: onnx.ModelProto) -> None:
    del built.graph.node[1]
    built.graph.node[1].input[0] = "m0"
    del built.graph.initializer[1]


def insert(built: onnx.ModelProto) -> None:
    built.graph.node.insert(3, node("Tanh", "r0", "t", name="tanh"))
    built.graph.node[4].input[0] = "t"


def other_operator(built: onnx.ModelProto) -> None:
    built.graph.node[2].op_type = "Tanh"


def attribute(built: onnx.ModelProto) -> None:
    built.graph.node[2].op_type = "Elu"
    built.graph.node[2].attribute.append(helper.make_attribute("alpha", 0.5))


def rename_nodes(built: onnx.ModelProto) -> None:
    for place, item in enumerate(built.graph.node):
        item.name = f"other_{place}"


def rename_everything(built: onnx.ModelProto) -> None:
    rename_nodes(built)
    for item in built.graph.node:
        for names in (item.input, item.output):
            names[:] = [name if name in ("x", "y") else f"{name}'" for name in names]
    for tensor in built.graph.initializer:
        tensor.name += "'"


def other_output(built: onnx.ModelProto) -> None:
    del built.graph.node[5:]
    built.graph.node[4].output[0] = "y"
    del built.graph.initializer[3]


NODES: dict[str, tuple[Callable[[onnx.ModelProto], None], dict[str, str]]] = {
    "another input": (rewire, {"relu1": "changed"}),
    "one less": (drop_bias, {"relu0": "changed", "add": "removed"}),
    "one more": (insert, {"tanh": "added", "fc1": "changed"}),
    "another operator": (other_operator, {"relu0": "changed"}),
    "an attribute": (attribute, {"relu0": "changed"}),
    "other names": (rename_nodes, {f"other_{place}": "renamed" for place in range(6)}),
    "all other names": (rename_everything, {f"other_{place}": "renamed" for place in range(6)}),
    "another end": (other_output, {"fc2": "removed"}),
}


@pytest.mark.parametrize("name", NODES)
def test_nodes(name: str) -> None:
    change, expected = NODES[name]
    found = onnxshare.diff(net(), changed_net(change))
    assert layers(found) == expected
    assert found.same_layers == 6 - sum(item.before is not None for item in found.layers)
    back = onnxshare.diff(changed_net(change), net())
    turned = {"added": "removed", "removed": "added"}
    assert sorted(item.change for item in back.layers) == sorted(
        turned.get(change, change) for change in expected.values()
    )


def test_everything_under_another_name() -> None:
    found = onnxshare.diff(net(), changed_net(rename_everything))
    assert weights(found) == {
        "w0": ("renamed", "w0'"),
        "w1": ("renamed", "w1'"),
        "w2": ("renamed", "w2'"),
        "b": ("renamed", "b'"),
    }
    assert [item.change for item in found.layers] == ["renamed"] * 6


def test_a_default_that_is_written_out_is_no_change() -> None:
    def build(**attributes: Any) -> onnx.ModelProto:
        return model([node("Elu", "x", "y", **attributes)], {"x": ["n", 8]}, ["y"])

    found = onnxshare.diff(build(), build(alpha=1.0))
    assert found.layers == ()
    assert found.differs
    (item,) = onnxshare.diff(build(), build(alpha=0.5)).layers
    assert [(c.field, c.before, c.after) for c in item.changes] == [("alpha", 1.0, 0.5)]


def test_the_work_of_a_layer() -> None:
    wide = {"x": ["n", 3, 8]}
    found = onnxshare.diff(net(), net(inputs=wide))
    by_name = {
        item.after: {c.field: (c.before, c.after) for c in item.changes} for item in found.layers
    }
    assert by_name["fc0"]["macs"] == (48, 144)
    assert by_name["fc0"]["output"] == ("1×6", "1×3×6")
    totals = {total.name: total for total in found.totals}
    before, after = 48 + 36 + 24, 3 * (48 + 36 + 24)
    assert (totals["macs"].before, totals["macs"].after) == (before, after)
    assert (totals["macs"].delta, totals["macs"].ratio) == (after - before, 3)
    assert [(port.side, port.name, port.change) for port in found.ports] == [
        ("input", "x", "changed")
    ]


def conditional(negate: bool) -> onnx.ModelProto:
    """If c then -x else x; negate: else -x too."""
    branches = []
    for name, op_type in (("then", "Neg"), ("else", "Neg" if negate else "Identity")):
        inner = [node(op_type, "x", f"{name}.y")]
        branches.append(helper.make_graph(inner, name, [], [info(f"{name}.y", None)]))
    chosen = node("If", "c", "y", name="if", then_branch=branches[0], else_branch=branches[1])
    return model([chosen], [info("x", ["n", 4]), info("c", [], TensorProto.BOOL)], ["y"])


def test_inside_a_subgraph() -> None:
    assert not onnxshare.diff(conditional(False), conditional(False)).differs
    found = onnxshare.diff(conditional(False), conditional(True))
    assert [(item.before, item.after, item.op_type) for item in found.layers] == [
        ("if.else_branch/Identity:else.y", "if.else_branch/Neg:else.y", "Neg")
    ]


def test_what_a_subgraph_returns() -> None:
    """The same nodes, and another one's result."""

    def build(result: str) -> onnx.ModelProto:
        inner = [node("Neg", "x", "p"), node("Abs", "x", "q")]
        branch = helper.make_graph(inner, "then", [], [info(result, None)])
        other = helper.make_graph([node("Identity", "x", "r")], "else", [], [info("r", None)])
        chosen = node("If", "c", "y", name="if", then_branch=branch, else_branch=other)
        return model([chosen], [info("x", ["n", 4]), info("c", [], TensorProto.BOOL)], ["y"])

    (item,) = onnxshare.diff(build("p"), build("q")).layers
    assert [(c.field, c.before, c.after) for c in item.changes] == [
        ("outputs of then_branch", ["p"], ["q"])
    ]


# The model itself.


def versions(built: onnx.ModelProto) -> None:
    built.ir_version = 9
    built.opset_import[0].version = 18
    built.producer_name = "other"
    built.metadata_props.add(key="k", value="v")


def test_the_model_itself() -> None:
    found = onnxshare.diff(net(), changed_net(versions))
    assert [(change.field, change.before, change.after) for change in found.model] == [
        ("ir_version", 8, 9),
        ("opset ai.onnx", 17, 18),
        ("producer", "", "other"),
        ("metadata k", None, "v"),
    ]
    assert found.layers == ()


def test_ports() -> None:
    built = net()
    built.graph.output.append(info("r1", None))
    built.graph.input.append(info("mask", ["n"]))
    built.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    found = onnxshare.diff(net(), built)
    assert [(port.side, port.name, port.change) for port in found.ports] == [
        ("input", "x", "changed"),
        ("input", "mask", "added"),
        ("output", "r1", "added"),
    ]


def test_the_order_of_outputs() -> None:
    def build(*outputs: str) -> onnx.ModelProto:
        nodes = [node("Neg", "x", "p", name="a"), node("Abs", "x", "q", name="b")]
        return model(nodes, {"x": ["n", 4]}, list(outputs))

    (port,) = onnxshare.diff(build("p", "q"), build("q", "p")).ports
    assert [(c.field, c.before, c.after) for c in port.changes] == [
        ("order", ["p", "q"], ["q", "p"])
    ]


def test_an_output_made_elsewhere() -> None:
    def build(*outputs: str) -> onnx.ModelProto:
        nodes = [node("Neg", "x", outputs[0], name="a"), node("Abs", "x", outputs[1], name="b")]
        return model(nodes, {"x": ["n", 4]}, ["p", "q"])

    found = onnxshare.diff(build("p", "q"), build("q", "p"))
    assert [[(c.field, c.before, c.after) for c in port.changes] for port in found.ports] == [
        [("made by", "a", "b")],
        [("made by", "b", "a")],
    ]


def test_what_is_not_compared_is_said() -> None:
    built = net()
    built.graph.node[0].doc_string = "a word"
    found = onnxshare.diff(net(), built)
    assert found.differs
    assert found.layers == ()
    assert "not compared" in found.notes[0]


@pytest.mark.parametrize("seed", range(20))
def test_any_change_is_seen(seed: int) -> None:
    """One random change of the graph of a bundled form: never "no differences"."""
    chance = random.Random(seed)
    built = net()
    kind = seed % 4
    if kind == 0:
        tensor = chance.choice(built.graph.initializer)
        data = bytearray(tensor.raw_data)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        tensor.raw_data = bytes(data)
    elif kind == 1:
        del built.graph.node[5]
        built.graph.output[0].name = chance.choice(["r1", "m1", "a0"])
    elif kind == 2:
        chance.choice(built.graph.node[2::2]).op_type = "Tanh"
    else:
        chance.choice(built.graph.node).metadata_props.add(key="k", value="v")
    found = onnxshare.diff(net(), built)
    assert found.differs
    if kind < 3:
        assert not found.notes


# Before and after a rewrite: the weights are found again.


@pytest.mark.parametrize(
    ("rewrite", "expected"),
    [
        ("fc-to-conv", {"reshaped"}),
        ("share", set()),
        ("pool-first", set()),
    ],
)
def test_rewrites_of_a_bundled_model(bundled: Path, rewrite: str, expected: set[str]) -> None:
    path = bundled / "vgg_small.onnx"
    result = onnxshare.rewrite(path, [rewrite], validate=False)
    found = onnxshare.diff(path, result.model)
    assert {item.change for item in found.weights if item.parameter} == expected
    assert found.differs == bool(expected)
    assert {item.change for item in found.layers} <= {"changed", "added", "removed"}
    params = next(total for total in found.totals if total.name == "params")
    assert params.delta == 0


def test_a_transposed_head(lenet: onnx.ModelProto) -> None:
    """Gemm without transB → convolution: the same weights, transposed and reshaped."""
    built = onnx.ModelProto()
    built.CopyFrom(lenet)
    for item in built.graph.node:
        if item.op_type == "Gemm":
            del item.attribute[:]
    for tensor in built.graph.initializer:
        if tensor.name in ("f5.w", "f6.w", "out.w"):
            tensor.CopyFrom(stored(tensor.name, numpy_helper.to_array(tensor).T))
    found = onnxshare.diff(lenet, built)
    assert {name: change for name, (change, _) in weights(found).items()} == dict.fromkeys(
        ("f5.w", "f6.w", "out.w"), "transposed"
    )
    result = onnxshare.rewrite(built, ["fc-to-conv"], validate=False)
    found = onnxshare.diff(built, result.model)
    assert {item.change for item in found.weights if item.parameter} == {"transposed and reshaped"}


def test_share(tmp_path: Path) -> None:
    nodes = [node("MatMul", "x w0", "h", name="fc0"), node("MatMul", "h w1", "y", name="fc1")]
    built = net(weights={"w0": W0, "w1": W0.T}, nodes=nodes)
    result = onnxshare.rewrite(built, ["share"], validate=False)
    found = onnxshare.diff(built, result.model)
    (item,) = [item for item in found.weights if item.parameter]
    assert (item.change, item.permutation) == ("merged", (1, 0))


# The command line.


def report(found: Difference, **how: Any) -> str:
    text = io.StringIO()
    print_difference(found, Console(file=text, width=120, highlight=False), **how)
    return text.getvalue()


def test_words() -> None:
    text = report(onnxshare.diff(net(), changed_net(drop_bias)))
    assert "Nodes: 1 changed, 1 removed; 4 as before" in text
    assert "- add  Add, 6 parameters" in text
    assert "~ relu0  Relu: inputs [a0] → [m0]" in text
    assert "- b  6 float32: removed" in text
    assert "114" in next(line for line in text.splitlines() if line.startswith("parameters "))
    assert report(onnxshare.diff(net(), net())).endswith("No differences.\n")


def test_hostile_names_do_nothing() -> None:
    built = net()
    built.graph.node[0].name = "[red]\x1b[31m\n"
    built.metadata_props.add(key="\x1b]0;x\x07", value="\n\n")
    text = report(onnxshare.diff(net(), built))
    assert "\x1b" not in text
    assert "[red]\\x1b[31m\\n" in text


def many(count: int, op_type: str) -> onnx.ModelProto:
    nodes = [node(op_type, f"t{i}", f"t{i + 1}", name=f"n{i}") for i in range(count)]
    return model(nodes, {"t0": ["n", 4]}, [f"t{count}"])


def test_long_lists_are_cut_unless_asked() -> None:
    found = onnxshare.diff(many(50, "Relu"), many(50, "Tanh"))
    assert len(found.layers) == 50
    assert "and 30 more: --all shows them" in report(found)
    assert report(found, every=True).count("operator Relu → Tanh") == 50


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    one, other = tmp_path / "a.onnx", tmp_path / "b.onnx"
    onnx.save(net(), one)
    onnx.save(changed_net(drop_bias), other)
    return one, other


def test_exit_codes(cli: Cli, pair: tuple[Path, Path], tmp_path: Path) -> None:
    one, other = pair
    assert cli("diff", one, other).returncode == 0
    assert cli("diff", one, other, "--exit-code").returncode == 1
    assert cli("diff", one, one, "--exit-code").returncode == 0
    broken = tmp_path / "c.onnx"
    broken.write_bytes(one.read_bytes()[:50])
    ran = cli("diff", one, broken)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert len(ran.stderr.splitlines()) == 1
    assert "c.onnx" in ran.stderr
    assert cli("diff", one).returncode == 2


def test_json(cli: Cli, pair: tuple[Path, Path]) -> None:
    ran = cli("diff", *pair, "--format", "json")
    found = json.loads(ran.stdout)
    assert ran.stderr == ""
    assert found["schema_version"] == 1
    assert set(found) == {
        *("schema_version", "a", "b", "differs", "totals", "layers", "weights", "ports", "dims"),
        *("model", "same_layers", "same_weights", "notes"),
    }
    assert found == json.loads(json.dumps(onnxshare.diff(*pair).to_dict()))


def test_it_runs_nothing(pair: tuple[Path, Path]) -> None:
    script = (
        "import sys\nfrom onnxshare.cli.main import run\n"
        f"code = run(['diff', {str(pair[0])!r}, {str(pair[1])!r}])\n"
        "sys.exit(code or ('onnxruntime' in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True).returncode == 0


def test_missing_external_data_is_one_line(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    onnx.save(net(), path, save_as_external_data=True, location="d", size_threshold=0)
    (tmp_path / "d").unlink()
    ran = cli("diff", path, path)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert len(ran.stderr.splitlines()) == 1


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells the peak")
def test_memory_does_not_follow_the_weights(tmp_path: Path) -> None:
    """Two models of 96 MB each: resident memory grows by less than one of them."""
    large = random_array(4_000, 3_000)
    for name, values in (("a", large), ("b", large + 1)):
        nodes = [node("MatMul", "x w", "h"), node("MatMul", "h v", "y")]
        given = {"w": values, "v": values.T.copy()}
        onnx.save(net(weights=given, nodes=nodes, inputs={"x": ["n", 4_000]}), tmp_path / name)
    script = (
        "import re, onnxshare\n"
        f"onnxshare.diff({str(tmp_path / 'a')!r}, {str(tmp_path / 'b')!r})\n"
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) * 1024 < 2 * large.nbytes + 100 * 2**20
