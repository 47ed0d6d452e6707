"""Right rewrites must pass and wrong ones must not, whatever the net and whatever the inputs.

The rewrite, an FC turned into a convolution, is made here by hand: nothing of `rewrites` is used.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxshare
from benchmarks.spoilt_rewrites import (
    HERE,
    INPUTS,
    MUTANTS,
    NETS,
    inputs,
    liveliest,
    net,
    spoilt,
    wrong,
)
from onnxshare.comparison.compare import compare as compare_models
from onnxshare.comparison.measure import Measurement
from onnxshare.comparison.results import Comparison
from onnxshare.runtime.session import run_model
from onnxshare.samples.samples import Samples

Array = np.ndarray[Any, np.dtype[Any]]


def compare(*models: onnx.ModelProto, **options: Any) -> Comparison:
    return compare_models(*models, run_limits=HERE, **options)


SETTINGS = [(name, kind) for name in NETS for kind in INPUTS]


@pytest.fixture
def _only_verdicts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where two models part is tested in `test_inner_tensors.py`; it takes half the time."""
    monkeypatch.setattr(Measurement, "parting", lambda *_: None)


@pytest.mark.usefixtures("_only_verdicts")
@pytest.mark.parametrize(("name", "kind"), SETTINGS)
def test_a_right_rewrite_passes_and_wrong_ones_do_not(name: str, kind: str) -> None:
    """On inputs that are all zero nothing moves, so nothing can pass. A ReLU that is dead by far
    leaves float32 too few digits to call a wrong scale different; it must not pass."""
    original, samples = net(name, "fc"), inputs(kind, NETS[name][1])
    # Whatever the budget, zeros show nothing.
    right = compare(
        original, net(name, "conv"), samples=samples, budget=1 if kind == "zeros" else 10
    )
    assert right.verdict == ("inconclusive" if kind == "zeros" else "equivalent"), right.reason
    channel = liveliest(original, samples)
    for mutant in MUTANTS:
        model = net(name, "conv", mutant, channel)
        result = compare(original, model, samples=samples, budget=1)
        assert not result.passed, f"{mutant}: {result.verdict}: {result.reason}"
        if kind != "zeros" and name != "dead relu":
            assert result.verdict == "different", f"{mutant}: {result.reason}"


def test_a_mutant_in_a_channel_that_a_relu_keeps_still_needs_the_tensor_before_it() -> None:
    original, samples = net("relu", "fc"), inputs("normal", 5)
    assert samples is not None
    values = run_model(original, samples.arrays, provider="cpu", run_limits=HERE)["y"]
    dead = int(np.flatnonzero(values.max(axis=0) == 0)[0])
    spoilt = net("relu", "conv", "scale", dead)
    blind = compare(original, spoilt, samples=samples)
    assert "channels of 'y' barely changed, and could not be judged" in blind.reason
    seen = compare(original, spoilt, samples=samples, tensors=["logits"])
    assert seen.verdict == "different"


@pytest.mark.parametrize("name", ["saturated softmax", "dead relu"])
def test_the_tensor_before_a_blind_output_is_looked_for_and_found(name: str) -> None:
    original, samples = net(name, "fc"), inputs("normal", NETS[name][1])
    if name == "dead relu":
        # A bias of -1e4 leaves float32 too few digits to see 1 %: shift it less here.
        for model in (original, right := net(name, "conv")):
            _shift_bias(model, 1e4 - 100)
    else:
        right = net(name, "conv")
    found = compare(original, right, samples=samples)
    assert found.verdict == "equivalent", found.reason
    assert [row.name for row in found.outputs] == ["y", "logits"]
    seen = compare(original, right, samples=samples, tensors=["logits"])
    assert seen.verdict == "equivalent", seen.reason
    assert [row.internal for row in seen.outputs] == [False, True]
    for mutant in MUTANTS:
        spoilt = net(name, "conv", mutant)
        if name == "dead relu":
            _shift_bias(spoilt, 1e4 - 100)
        result = compare(original, spoilt, samples=samples, tensors=["logits"])
        assert result.verdict == "different", f"{mutant}: {result.reason}"


def _shift_bias(model: onnx.ModelProto, by: float) -> None:
    for tensor in model.graph.initializer:
        if tensor.name in ("fc.b", "conv.b"):
            moved = numpy_helper.to_array(tensor) + np.float32(by)
            tensor.CopyFrom(numpy_helper.from_array(moved, tensor.name))


def as_convolution(model: onnx.ModelProto, fc: dict[str, Any], mutant: str) -> onnx.ModelProto:
    """Turn one FC of a real model into a convolution on its input, shaped as a map again."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    index, node = _find(graph, fc)
    known = _constants(graph)
    weight = known[node.input[1]]
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    rows = weight if transposed else weight.T
    out, (height, width) = len(rows), fc["spatial"]
    last = fc["layout"] == "NHWC"
    shape = [height, width, fc["C"]] if last else [fc["C"], height, width]
    kernel = rows.reshape(out, *shape)
    kernel = kernel.transpose(0, 3, 1, 2) if last else kernel
    bias = known[node.input[2]].reshape(-1) if len(node.input) > 2 else np.zeros(out, np.float32)
    if mutant == "bias" and len(node.input) <= 2:
        _drop_added_bias(graph, node.output[0])
    kernel, bias = wrong(kernel, bias, mutant)
    new = helper.make_node
    nodes = [new("Reshape", [node.input[0], "new.shape"], ["new.map"])]
    source = "new.map"
    if last:
        nodes.append(new("Transpose", [source], ["new.first"], perm=[0, 3, 1, 2]))
        source = "new.first"
    nodes.append(new("Conv", [source, "new.kernel", "new.bias"], ["new.scores"]))
    nodes.append(new("Reshape", ["new.scores", "new.flat"], [node.output[0]]))
    for name, values in {
        "new.shape": np.array([-1, *shape]),
        "new.flat": np.array([-1, out]),
        "new.kernel": kernel.astype(np.float32),
        "new.bias": bias.astype(np.float32),
    }.items():
        graph.initializer.append(numpy_helper.from_array(values, name))
    del graph.node[index]
    for offset, item in enumerate(nodes):
        graph.node.insert(index + offset, item)
    return changed


def _find(graph: onnx.GraphProto, fc: dict[str, Any]) -> tuple[int, onnx.NodeProto]:
    for index, node in enumerate(graph.node):
        if node.op_type == fc["op"] and fc["name"] in (node.name, *node.output, node.input[1]):
            return index, node
    raise AssertionError(f"no node {fc['name']}")


def _constants(graph: onnx.GraphProto) -> dict[str, Array]:
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            known[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        elif node.op_type == "Reshape" and set(node.input) <= known.keys():
            known[node.output[0]] = known[node.input[0]].reshape(known[node.input[1]])
    return known


def _drop_added_bias(graph: onnx.GraphProto, name: str) -> None:
    for node in graph.node:
        if node.op_type == "Add" and name in node.input:
            output = node.output[0]
            node.CopyFrom(helper.make_node("Identity", [name], [output]))
            return
    raise AssertionError(f"nothing is added to {name}")


@pytest.mark.usefixtures("_only_verdicts")
@pytest.mark.parametrize(
    "name",
    [
        "mnist8_cntk",
        "winml_imageclassifier_cifar10",
        "marabou_mnist_maxpool2",
        "cifar_base_kw_dynreshape",
        "zkml_lenet_small",
        "mtcnn_rnet",
        "marabou_traffic64",
    ],
)
def test_real_models(zoo: Path, name: str) -> None:
    rows = json.loads((zoo / "manifest.json").read_text())
    row = next(row for row in rows if row["name"] == name)
    model = onnx.load(zoo / row["file"])
    fc = row["fc_after_conv"][0]
    right = compare(model, as_convolution(model, fc, ""))
    # The same function may even come out bit for bit.
    assert right.verdict in ("equivalent", "identical"), right.reason
    for mutant in MUTANTS:
        spoilt = compare(model, as_convolution(model, fc, mutant))
        assert spoilt.verdict == "different", f"{mutant}: {spoilt.reason}"


def test_two_swapped_rows_of_a_hundred_are_caught_though_the_classes_agree() -> None:
    random = np.random.default_rng(3)
    weight = random.standard_normal((100, 64)).astype(np.float32)
    bias = np.full(100, -50.0, np.float32)
    bias[0] = 50.0  # class 0 always wins
    order = np.arange(100)
    order[[41, 42]] = order[[42, 41]]
    info = helper.make_tensor_value_info
    models = []
    for rows in (np.arange(100), order):
        graph = helper.make_graph(
            [helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)],
            "rows",
            [info("x", TensorProto.FLOAT, ["n", 64])],
            [info("y", TensorProto.FLOAT, ["n", 100])],
            [numpy_helper.from_array(weight[rows], "w"), numpy_helper.from_array(bias[rows], "b")],
        )
        models.append(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        )
    values = random.standard_normal((200, 64)).astype(np.float32)
    result = compare(*models, samples=Samples({"x": values}))
    assert result.verdict == "different"
    assert result.outputs[0].argmax_agreement == 1.0


@pytest.mark.usefixtures("_only_verdicts")
@pytest.mark.parametrize(
    ("name", "rewrite"),
    [
        ("marabou_mnist_maxpool2", "fc-to-conv"),
        ("zkml_lenet_small", "fc-to-conv"),
    ],
)
def test_spoilt_rewrites_of_real_models(zoo: Path, name: str, rewrite: str) -> None:
    """The whole, every rewrite on every model: benchmarks/validation_rates.py."""
    model = onnx.load(zoo / "models" / f"{name}.onnx")
    result = onnxshare.rewrite(model, [rewrite], provider="cpu", validate=False)
    assert result.changes
    right = compare(model, result.model)
    assert right.passed, right.reason
    count = 0
    for how, mutant in spoilt(model, result.model):
        count += 1
        found = compare(model, mutant)
        assert not found.passed, f"{how}: {found.reason}"
    assert count >= 4
