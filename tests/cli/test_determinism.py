"""The same model gives the same bytes, whatever the seed of hashes; rows are in graph order."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from tests.builders import info, model, node, tensor

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
BUNDLED = Path(__file__).parents[2] / "models"


def _nested() -> onnx.ModelProto:
    """An If with FCs in both branches, between nodes, several inputs and outputs."""
    branches: dict[str, Any] = {
        f"{name}_branch": helper.make_graph(
            [
                node("MatMul", f"h {name}.w", f"{name}.m"),
                node("Add", f"{name}.m {name}.b", f"{name}.out"),
            ],
            name,
            [],
            [info(f"{name}.out", None)],
            [tensor(f"{name}.w", 4, 4), tensor(f"{name}.b", 4)],
        )
        for name in ("then", "else")
    }
    nodes = [
        node("Conv", "image k", "map"),
        node("ReduceMean", "map", "pooled", axes=[2, 3], keepdims=0),
        node("Add", "pooled side", "h"),
        helper.make_node("If", ["c"], ["chosen"], name="choice", **branches),
        node("Sigmoid", "chosen", "y"),
        node("Tanh", "h", "z"),
        node("Custom", "h", "q", domain="my.own"),
    ]
    inputs = [
        info("image", ["n", 3, "rows", "columns"]),
        info("side", ["n", 4]),
        info("c", [], TensorProto.BOOL),
    ]
    weights = [tensor("k", 4, 3, 3, 3), tensor("idle", 7)]
    return model(nodes, inputs, ["z", "y", "q"], weights, domains=["my.own"])


def _with_functions() -> onnx.ModelProto:
    bodies = [
        helper.make_function(
            "local",
            name,
            ["a", "b"],
            ["r"],
            [node("MatMul", "a b", "t"), node(op_type, "t", "r")],
            [helper.make_opsetid("", 17)],
        )
        for name, op_type in (("F", "Relu"), ("G", "Tanh"))
    ]
    calls = [
        helper.make_node(name, [f"t{i}", f"w{i}"], [f"t{i + 1}"], domain="local")
        for i, name in enumerate("FGFG")
    ]
    weights = [tensor(f"w{i}", 4, 4) for i in range(4)]
    return model(calls, {"t0": ["n", 4]}, ["t4"], weights, functions=bodies, domains=["local"])


MODELS = {
    "subgraphs": _nested,
    "functions": _with_functions,
    "a head": BUNDLED / "vgg_small.onnx",
    "branches": LIGHT / "light_squeezenet.onnx",
}


def _inspect(path: Path, seed: int, *options: str) -> bytes:
    words = [sys.executable, "-m", "onnxshare", "inspect", str(path), *options]
    done = subprocess.run(
        words,
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": str(seed), "COLUMNS": "100"},
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("source", MODELS.values(), ids=MODELS)
def test_two_runs_print_the_same_bytes_in_graph_order(source: object, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    if isinstance(source, Path):
        path = source
    else:
        onnx.save(source(), path)  # type: ignore[operator]
    printed = {_inspect(path, seed, "--format", "json") for seed in (0, 31)}
    assert len(printed) == 1
    assert len({_inspect(path, seed, "--all") for seed in (0, 31)}) == 1
    report = json.loads(printed.pop().partition(b"\nwarning:")[0])
    names = [row["name"] for row in report["nodes"] if not row["scope"]]
    main = onnx.load(path)
    if not main.functions:
        expected = [
            proto.name or f"{proto.op_type}_{position}"
            for position, proto in enumerate(main.graph.node)
        ]
        assert names == expected


def test_nodes_of_a_subgraph_follow_the_node_that_holds_them(tmp_path: Path) -> None:
    path = tmp_path / "nested.onnx"
    onnx.save(_nested(), path)
    report = json.loads(_inspect(path, 7, "--format", "json").partition(b"\nwarning:")[0])
    rows = [(row["scope"], row["op_type"]) for row in report["nodes"]]
    inside = ["choice.then_branch"] * 2 + ["choice.else_branch"] * 2
    start = rows.index(("", "If"))
    found = [scope for scope, _ in rows[start + 1 : start + 5]]
    assert sorted(found) == sorted(inside)
    assert rows[start + 5 :] == [("", "Sigmoid"), ("", "Tanh"), ("", "Custom")]
