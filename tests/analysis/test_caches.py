"""Language models that keep keys and values: how many there are is past plus new."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import onnxshare
from tests.builders import constant, info, model, node, random_array, run, tensor

MS = "com.microsoft"
HEADS: dict[str, list[int | str]] = {n: ["b", 4, "s", 8] for n in "qkv"}
ROWS: dict[str, list[int | str]] = {n: ["b", "s", 32] for n in "qkv"}
PAST: dict[str, list[int | str]] = {n: ["b", 4, "p", 8] for n in ("pk", "pv")}
KEYS: dict[str, list[int | str]] = {"k": ["b", "s", 16], "pk": ["b", "p", 16]}


def product(*nodes: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Nodes that make `nk`, and the product of k with it."""
    turned = node("Transpose", "nk", "kt", perm=[0, 2, 1])
    return [*nodes, turned, node("MatMul", "k kt", "y")]


def layers() -> onnx.NodeProto:
    """Three layers whose caches are stacked, in a Loop."""
    body = helper.make_graph(
        [
            node("Gather", "pks i", "pk"), node("Gather", "wks i", "wk"),
            node("MatMul", "st wk", "k"), node("Concat", "pk k", "nk1", axis=1),
            node("Transpose", "nk1", "kt", perm=[0, 2, 1]), node("MatMul", "st kt", "a"),
            node("MatMul", "a nk1", "st2"), node("Identity", "c", "c2"),
        ],
        "layer",
        [info("i", [], TensorProto.INT64), info("c", [], TensorProto.BOOL), info("st", None)],
        [info("c2", [], TensorProto.BOOL), info("st2", None), info("nk1", None)],
    )  # fmt: skip
    return node("Loop", "three _ x", "y nk", body=body)


#: nodes, inputs, stored tensors, and MACs of `s` new tokens and `n` keys in all. Scores and their
#: sum over values are two products of 32 features each.
CASES: dict[str, tuple[list[onnx.NodeProto], dict[str, Any], list[onnx.TensorProto], str]] = {
    "joined": (product(node("Concat", "pk k", "nk", axis=1)), KEYS, [], "16*s*n"),
    "time first": (
        [node("MatMul", "x w", "k"), node("Transpose", "k", "kt", perm=[1, 0, 2]),
         node("Concat", "pk kt", "nk", axis=0), node("Transpose", "nk", "kq", perm=[1, 2, 0]),
         node("MatMul", "x kq", "y")],
        {"x": ["b", "s", 16], "pk": ["p", "b", 16]}, [tensor("w", 16, 16)], "256*s+16*s*n",
    ),
    "groups repeated by Expand": (
        [node("Concat", "pk k", "nk", axis=2), node("Shape", "nk", "z"),
         node("Gather", "z zero", "b0"), node("Gather", "z two", "t"),
         node("Concat", "b0 two two t eight", "wide", axis=0), node("Unsqueeze", "nk two", "u"),
         node("Expand", "u wide", "e"), node("Concat", "b0 four t eight", "flat", axis=0),
         node("Reshape", "e flat", "all"), node("Transpose", "all", "kt", perm=[0, 1, 3, 2]),
         node("MatMul", "q kt", "y")],
        {"q": ["b", 4, "s", 8], "k": ["b", 2, "s", 8], "pk": ["b", 2, "p", 8]},
        [constant("zero", [0]), constant("two", [2]), constant("four", [4]),
         constant("eight", [8])], "32*s*n",
    ),
    "MultiHeadAttention": (
        [helper.make_node("MultiHeadAttention", ["q", "k", "v", "", "", "", "pk", "pv"],
                          ["y", "nk", "nv"], domain=MS, num_heads=4)],
        {**ROWS, **PAST}, [], "64*s*n",
    ),
    "com.microsoft Attention": (
        [helper.make_node("Attention", ["q", "w", "b0", "", "past"], ["y", "nk"], domain=MS,
                          num_heads=4, unidirectional=1)],
        {"q": ["b", "s", 32], "past": [2, "b", 4, "p", 8]},
        [tensor("w", 32, 96), tensor("b0", 96)], "3072*s+64*s*n",
    ),
    "Attention": (
        [helper.make_node("Attention", ["q", "k", "v", "", "pk", "pv"], ["y", "nk", "nv"])],
        {**HEADS, **PAST}, [], "64*s*n",
    ),
    "Attention of rows, two groups": (
        [helper.make_node("Attention", ["q", "k", "v", "", "pk", "pv"], ["y", "nk", "nv"],
                          q_num_heads=4, kv_num_heads=2)],
        {"q": ["b", "s", 32], "k": ["b", "s", 16], "v": ["b", "s", 16],
         "pk": ["b", 2, "p", 8], "pv": ["b", 2, "p", 8]}, [], "64*s*n",
    ),
    "Attention, values of another size": (
        [helper.make_node("Attention", ["q", "k", "v", "", "pk", "pv"], ["y", "nk", "nv"],
                          is_causal=1)],
        {**HEADS, "v": ["b", 4, "s", 6], **PAST, "pv": ["b", 4, "p", 6]}, [], "56*s*n",
    ),
    "the last six": (
        product(node("Concat", "pk k", "all", axis=1), node("Slice", "all back end one", "nk")),
        KEYS, [constant("back", [-6]), constant("end", [2**62]), constant("one", [1])],
        "16*s*min(n,6)",
    ),
    "a buffer that is written into": (
        product(node("Shape", "k", "z"), node("Expand", "place z", "at"),
                node("ScatterElements", "buffer at k", "nk", axis=1)),
        {"k": ["b", "s", 16], "buffer": ["b", 64, 16]}, [constant("place", [[[0]]])], "16*s*64",
    ),
    "through a sequence": (
        product(node("SequenceConstruct", "pk k", "q"),
                node("ConcatFromSequence", "q", "nk", axis=1)), KEYS, [], "16*s*n",
    ),
    "of three layers in a Loop": (
        [layers()], {"x": ["b", "s", 16], "pks": [3, "b", "p", 16]},
        [constant("three", 3), tensor("wks", 3, 16, 16)], "3*(256*s+2*16*s*n)",
    ),
    "a state of a convolution": (
        [node("Concat", "old x", "xx", axis=2), node("Conv", "xx k", "y", group=16),
         node("Slice", "xx back end two", "nk")],
        {"x": ["b", 16, "s"], "old": ["b", 16, 3]},
        [tensor("k", 16, 1, 4), constant("back", [-3]), constant("end", [2**62]),
         constant("two", [2])], "64*s",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("new", "past"), [(1, 31), (4, 0)], ids=["decode", "prefill"])
@pytest.mark.parametrize("name", CASES)
def test_keys_are_past_and_new(name: str, new: int, past: int) -> None:
    nodes, inputs, stored, macs = CASES[name]
    outputs = [out for out in ("y", "nk", "nv") if any(out in n.output for n in nodes)]
    built = model(nodes, inputs, outputs, stored, opset=23, ir_version=10, domains=[MS])
    sizes = {"b": 1, "s": new, "p": past}
    symbols = {size for dims in inputs.values() for size in dims}
    report = onnxshare.inspect(built, dims={s: n for s, n in sizes.items() if s in symbols})
    feed = {n: random_array(*(sizes.get(str(d), d) for d in dims)) for n, dims in inputs.items()}
    results = dict(zip(outputs, run(built, **feed), strict=True))
    found = {out.name: out.shape for facts in report.nodes for out in facts.outputs}
    assert {out: found[out] for out in outputs} == {o: np.shape(r) for o, r in results.items()}
    assert report.totals.macs == eval(macs, {"s": new, "n": new + past, "min": min})
    assert report.totals.peak_activation_bytes is not None
