"""Heads in the bodies of If, Loop and Scan: rewritten and proven, judged by ONNX Runtime alone, or
refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxshare
from onnxshare.io.node_reader import all_nodes
from onnxshare.rewrites import Rewrite
from onnxshare.runtime.limits import RunLimits
from rewrites.head_as_maps.fc_weights import moved_weight
from tests.rewrites.checking import run

HERE: dict[str, Any] = {"provider": "cpu", "run_limits": RunLimits(in_process=True)}
FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL

#: Features of a map [4, 6, 5], and outputs of an FC.
C, H, W = 4, 6, 5
K, OUT = C * H * W, 3

#: What lays weights out as kernels.
MOVED = "rewrites.head_as_maps.kernels.moved_weight"

node: Any = helper.make_node


def weight(*shape: int, seed: int = 1) -> Any:
    values = np.random.default_rng(seed).standard_normal(shape) / np.sqrt(K)
    return values.astype(np.float32)


def graph(nodes: Sequence[onnx.NodeProto], ins: Any, outs: Any, stored: Any) -> onnx.GraphProto:
    """A graph; of its inputs and outputs the shapes, or types and shapes, are given by name."""
    given, made = [
        [
            helper.make_tensor_value_info(n, *(v if isinstance(v, tuple) else (FLOAT, v)))
            for n, v in side.items()
        ]
        for side in (ins, outs)
    ]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()]
    return helper.make_graph(list(nodes), "g", given, made, tensors)


TRUNK = [node("Conv", ["x", "k"], ["c"], name="conv"), node("Relu", ["c"], ["m"], name="relu")]
KERNEL = {"k": weight(C, 2, 3, 3)}
IMAGE = {"x": ["n", 2, H + 2, W + 2]}
FC = {"W": weight(OUT, K), "B": weight(OUT)}


def head(tag: str, data: str = "m", weights: str = "W") -> list[onnx.NodeProto]:
    return [
        node("Flatten", [data], [f"f{tag}"], name=f"flat{tag}"),
        node("Gemm", [f"f{tag}", weights, "B"], [f"y{tag}"], name=f"fc{tag}", transB=1),
    ]


def branch(tag: str, nodes: Sequence[onnx.NodeProto], **stored: Any) -> onnx.GraphProto:
    return graph(nodes, {}, {f"y{tag}": ["n", OUT]}, stored)


def choice(
    then: onnx.GraphProto, other: onnx.GraphProto, nodes: Any, **stored: Any
) -> onnx.ModelProto:
    """An If on the sign of the sum of the image."""
    chosen = [
        *nodes,
        node("ReduceSum", ["x"], ["sum"], keepdims=0),
        node("Greater", ["sum", "zero"], ["positive"]),
        node("If", ["positive"], ["y"], name="choice", then_branch=then, else_branch=other),
    ]
    given = {**stored, "zero": np.float32(0)}
    return model(graph(chosen, IMAGE, {"y": ["n", OUT]}, given))


def model(made: onnx.GraphProto, opset: int = 17) -> onnx.ModelProto:
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


PLAIN = [
    node("ReduceMean", ["x"], ["r"], axes=[2, 3], keepdims=0),
    node("MatMul", ["r", "V"], ["ye"]),
]


def trunk_inside() -> onnx.ModelProto:
    then = branch("t", [*TRUNK, *head("t")], **KERNEL, **FC)
    return choice(then, branch("e", PLAIN, V=weight(2, OUT)), [])


def map_outside() -> onnx.ModelProto:
    then = branch("t", head("t"), **FC)
    other = branch("e", head("e", weights="V"), V=weight(OUT, K, seed=2), B=weight(OUT))
    return choice(then, other, TRUNK, **KERNEL)


def weights_outside() -> onnx.ModelProto:
    """One weight for both branches; the sigmoid is on one side only."""
    other = branch("e", [*head("z"), node("Sigmoid", ["yz"], ["ye"])])
    return choice(branch("t", head("t")), other, TRUNK, **KERNEL, **FC)


def weight_turned_outside() -> onnx.ModelProto:
    turn = node("Transpose", ["WT"], ["W"], perm=[1, 0])
    stored = {**KERNEL, "WT": FC["W"].T.copy(), "B": FC["B"]}
    other = branch("e", [*head("z"), node("Tanh", ["yz"], ["ye"])])
    return choice(branch("t", head("t")), other, [*TRUNK, turn], **stored)


def one_in_another() -> onnx.ModelProto:
    other = branch("b", [*head("c"), node("Relu", ["yc"], ["yb"])])
    branches = {"then_branch": branch("a", head("a")), "else_branch": other}
    inner = node("If", ["positive"], ["yt"], name="inner", **branches)
    return choice(branch("t", [inner]), branch("e", head("e")), TRUNK, **KERNEL, **FC)


def every_frame() -> onnx.ModelProto:
    """A Scan over frames [T, N, C, H, W], whose answers are added up."""
    nodes = [*TRUNK, *head("z"), node("Add", ["s", "yz"], ["t"]), node("Tanh", ["yz"], ["o"])]
    ends = {"t": ["n", OUT], "o": ["n", OUT]}
    body = graph(nodes, {"s": ["n", OUT], **IMAGE}, ends, {})
    scan = node("Scan", ["s0", "frames"], ["sum", "y"], body=body, num_scan_inputs=1, name="frames")
    ins = {"s0": ["n", OUT], "frames": [4, *IMAGE["x"]]}
    outs = {"sum": ["n", OUT], "y": [4, "n", OUT]}
    return model(graph([scan], ins, outs, {**KERNEL, **FC}))


LOOP: dict[str, Any] = {"i": (INT64, []), "go": (BOOL, [])}


def repeated() -> onnx.ModelProto:
    """A Loop that adds the same answer up; the map comes from outside."""
    nodes = [*head("z"), node("Add", ["s", "yz"], ["t"]), node("Identity", ["go"], ["on"])]
    body = graph(nodes, {**LOOP, "s": ["n", OUT]}, {"on": (BOOL, []), "t": ["n", OUT]}, FC)
    loop = node("Loop", ["times", "", "s0"], ["y"], body=body, name="steps")
    stored = {**KERNEL, "times": np.int64(3)}
    return model(graph([*TRUNK, loop], {**IMAGE, "s0": ["n", OUT]}, {"y": ["n", OUT]}, stored))


def carried_map() -> onnx.ModelProto:
    """A Loop that carries the map from step to step."""
    nodes = [
        *head("z", "p"), node("Add", ["s", "yz"], ["t"]), node("Sigmoid", ["p"], ["q"]),
        node("Identity", ["go"], ["on"]),
    ]  # fmt: skip
    shape = ["n", C, H, W]
    ends = {"on": (BOOL, []), "q": shape, "t": ["n", OUT]}
    body = graph(nodes, {**LOOP, "p": shape, "s": ["n", OUT]}, ends, {})
    loop = node("Loop", ["times", "", "m", "s0"], ["last", "y"], body=body, name="steps")
    stored = {**KERNEL, **FC, "times": np.int64(2)}
    return model(graph([*TRUNK, loop], {**IMAGE, "s0": ["n", OUT]}, {"y": ["n", OUT]}, stored))


def shape_computed_inside() -> onnx.ModelProto:
    """TorchScript's `view(x.shape[0], -1)` in a branch, two FCs, constants as nodes."""
    nodes = [
        node("Shape", ["m"], ["s"]), node("Gather", ["s", "first"], ["b"]),
        node("Concat", ["b", "rest"], ["size"], axis=0), node("Reshape", ["m", "size"], ["f"]),
        node("Constant", [], ["Wc"], value=numpy_helper.from_array(weight(K, 4))),
        node("MatMul", ["f", "Wc"], ["h"]), node("Relu", ["h"], ["r"]),
        node("Gemm", ["r", "V"], ["yt"]),
    ]  # fmt: skip
    then = branch("t", nodes, V=weight(4, OUT), first=np.array([0]), rest=np.array([-1]))
    plain = branch("e", PLAIN, V=weight(2, OUT))
    return choice(then, plain, TRUNK, **KERNEL)


REWRITTEN: list[Callable[[], onnx.ModelProto]] = [
    trunk_inside, map_outside, weights_outside, weight_turned_outside, one_in_another, every_frame,
    repeated, carried_map, shape_computed_inside,
]  # fmt: skip


def assert_equal(a: onnx.ModelProto, b: onnx.ModelProto) -> None:
    """On images of both signs, so that both branches of an If are taken."""
    for sign in (1, -1):
        random = np.random.default_rng(3)
        feeds = {
            value.name: (
                random.standard_normal([d.dim_value or 2 for d in value.type.tensor_type.shape.dim])
                + sign
            ).astype(np.float32)
            for value in a.graph.input
        }
        for old, new in zip(run(a, feeds), run(b, feeds), strict=True):
            np.testing.assert_allclose(new, old, rtol=1e-4, atol=1e-5)


def operators(proto: onnx.ModelProto) -> list[str]:
    return [item.op_type for item in all_nodes(proto.graph.node)]


def stored_bytes(proto: onnx.ModelProto) -> int:
    graphs = [proto.graph, *(a.g for n in all_nodes(proto.graph.node) for a in n.attribute)]
    tensors = [t for g in graphs for t in g.initializer if t.data_type == FLOAT]
    return sum(4 * int(np.prod(t.dims)) for t in tensors)


@pytest.mark.parametrize("build", REWRITTEN)
def test_rewritten_and_back(build: Callable[[], onnx.ModelProto]) -> None:
    original = build()
    before = original.SerializeToString(deterministic=True)
    there = onnxshare.rewrite(original, ["fc-to-conv"], **HERE)
    assert original.SerializeToString(deterministic=True) == before
    done = [site for site in there.sites if site.refused is None]
    assert len(done) == len(there.changes) > 0
    assert there.passed
    onnx.checker.check_model(there.model)
    expected = operators(original).count("Gemm") + operators(original).count("MatMul")
    left = expected - sum(
        "ye" in n.output and n.op_type == "MatMul" for n in all_nodes(original.graph.node)
    )
    assert "Gemm" not in operators(there.model)
    assert operators(there.model).count("Conv") == operators(original).count("Conv") + left
    assert stored_bytes(there.model) <= stored_bytes(original) + 4 * K * 4  # of a Constant node
    assert_equal(original, there.model)
    back = onnxshare.rewrite(there.model, ["conv-to-fc"], **HERE)
    assert back.passed
    assert "Gemm" in operators(back.model)
    assert_equal(original, back.model)


def test_sites_are_named_by_their_body_and_chosen_by_that_name() -> None:
    original = one_in_another()
    result = onnxshare.rewrite(original, ["fc-to-conv"], node="choice.then_branch/*", **HERE)
    assert [site.node for site in result.sites] == [
        "choice.then_branch/inner.else_branch/fcc",
        "choice.then_branch/inner.then_branch/fca",
    ]
    assert operators(result.model).count("Gemm") == 1
    assert_equal(original, result.model)


def test_exact_pooling_in_a_body() -> None:
    constant = np.repeat(weight(OUT, C), H * W, axis=1)
    original = choice(
        branch("t", head("t"), W=constant, B=weight(OUT)),
        branch("e", PLAIN, V=weight(2, OUT)),
        TRUNK,
        **KERNEL,
    )
    result = onnxshare.rewrite(original, ["fc-to-gap"], **HERE)
    assert result.passed
    assert "GlobalAveragePool" in operators(result.model)
    assert_equal(original, result.model)


def flattened_outside() -> onnx.ModelProto:
    flat = node("Flatten", ["m"], ["f"])
    then = branch("t", [node("Gemm", ["f", "W", "B"], ["yt"], transB=1)])
    other = branch(
        "e", [node("Gemm", ["f", "W", "B"], ["q"], transB=1), node("Relu", ["q"], ["ye"])]
    )
    return choice(then, other, [*TRUNK, flat], **KERNEL, **FC)


def weight_computed() -> onnx.ModelProto:
    turn = node("Mul", ["W0", "sum"], ["W"])
    given = {**KERNEL, "W0": FC["W"], "B": FC["B"]}
    made = choice(branch("t", head("t")), branch("e", head("e")), [*TRUNK, turn], **given)
    made.graph.node.insert(2, made.graph.node[3])  # the sum comes first
    del made.graph.node[4]
    return made


@pytest.mark.parametrize(
    ("build", "options", "reason"),
    [
        (flattened_outside, {}, "'f' is flattened outside of If 'choice', whose body reads it"),
        (weight_computed, {}, "its weight 'W' is computed outside of If 'choice'"),
        (map_outside, {"fully_convolutional": True}, "whose outputs keep their sizes"),
        (one_in_another, {"fully_convolutional": True}, "whose outputs keep their sizes"),
    ],
)
def test_refused(build: Callable[[], onnx.ModelProto], options: Any, reason: str) -> None:
    result = onnxshare.rewrite(build(), ["fc-to-conv"], **options, **HERE)
    assert result.changes == ()
    assert result.sites
    assert all(reason in str(site.refused) for site in result.sites)


def test_what_is_not_exact_is_refused_in_a_body() -> None:
    result = onnxshare.rewrite(map_outside(), ["fc-to-gap"], **HERE)
    assert result.changes == ()
    assert all("nothing can be fitted: use" in str(site.refused) for site in result.sites)


@pytest.mark.parametrize("build", [map_outside, every_frame, carried_map])
def test_a_wrong_order_of_weights_in_a_body_does_not_pass(
    build: Callable[[], onnx.ModelProto], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MOVED, lambda *given: np.ascontiguousarray(moved_weight(*given)[..., ::-1]))
    result = onnxshare.rewrite(build(), ["fc-to-conv"], **HERE)
    assert result.changes
    assert not result.passed


def test_a_branch_that_no_sample_takes_is_proven_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sum of squares is never below zero: nothing shows in the outputs."""

    def never() -> onnx.ModelProto:
        made = choice(
            branch("t", head("t"), **FC), branch("e", PLAIN, V=weight(2, OUT)), TRUNK, **KERNEL
        )
        made.graph.node[2].op_type = "ReduceSumSquare"
        made.graph.node[3].op_type = "Less"
        return made

    assert onnxshare.rewrite(never(), ["fc-to-conv"], **HERE).passed
    monkeypatch.setattr(
        MOVED, lambda *given: np.ascontiguousarray(moved_weight(*given)[..., ::-1, :])
    )
    result = onnxshare.rewrite(never(), ["fc-to-conv"], **HERE)
    assert not result.passed


def test_other_rewrites_stay_outside() -> None:
    assert [rewrite.name for rewrite in onnxshare.rewrites.ALL if rewrite.in_bodies] == [
        "fc-to-gap",
        "fc-to-conv",
        "conv-to-fc",
    ]
    assert not Rewrite.in_bodies
