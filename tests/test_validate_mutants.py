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

from onnxshare.inputs import Samples, random_samples
from onnxshare.runtime.session import run_model
from onnxshare.validate import compare

Array = np.ndarray[Any, np.dtype[Any]]

MUTANTS = ("axes", "bias", "scale", "height-width", "rows")

#: Name → channels, side of the feature map, factor on the weights, constant in the bias, tail.
NETS: dict[str, tuple[int, int, float, float, str]] = {
    "plain": (8, 4, 1.0, 0.0, ""),
    "K = 25,088": (512, 7, 1.0, 0.0, ""),
    "softmax": (16, 5, 1.0, 0.0, "Softmax"),
    "saturated softmax": (16, 5, 300.0, 0.0, "Softmax"),
    "relu": (16, 5, 1.0, 0.0, "Relu"),
    "dead relu": (16, 5, 1.0, -1e4, "Relu"),
    "bias of a million": (16, 5, 1.0, 1e6, ""),
}

INPUTS = ("mixture", "normal", "images", "tiny", "zeros")


def wrong(kernel: Array, bias: Array, mutant: str, channel: int = 0) -> tuple[Array, Array]:
    """Spoil a kernel [out, C, H, W] and its bias in one of the ways that rewrites go wrong."""
    kernel, bias = kernel.copy(), bias.copy()
    other = (channel + 1) % len(kernel)
    if mutant == "axes":
        out, c, h, w = kernel.shape
        kernel = kernel.reshape(out, h, w, c).transpose(0, 3, 1, 2)
    elif mutant == "bias":
        bias[:] = 0
    elif mutant == "scale":
        kernel[channel] *= 1.01
        bias[channel] *= 1.01
    elif mutant == "height-width":
        kernel = kernel.transpose(0, 1, 3, 2)
    elif mutant == "rows":
        kernel[[channel, other]] = kernel[[other, channel]]
        bias[[channel, other]] = bias[[other, channel]]
    return np.ascontiguousarray(kernel), bias


def net(name: str, form: str, mutant: str = "", channel: int = 0) -> onnx.ModelProto:
    """Conv, ReLU, pooling and a head: an FC, or the h×w convolution that equals it."""
    channels, side, scale, constant, tail = NETS[name]
    random = np.random.default_rng(7)
    count = channels * side * side
    weights = {
        "w": random.standard_normal((channels, 3, 3, 3)) / np.sqrt(27),
        "b": random.standard_normal(channels) / 10,
    }
    fc = random.standard_normal((10, count)) / np.sqrt(count) * scale
    bias = random.standard_normal(10) + constant
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["r"]),
        node("MaxPool", ["r"], ["map"], kernel_shape=[2, 2], strides=[2, 2]),
    ]
    if form == "fc":
        weights |= {"fc.w": fc, "fc.b": bias}
        nodes.append(node("Flatten", ["map"], ["flat"]))
        nodes.append(node("Gemm", ["flat", "fc.w", "fc.b"], ["logits"], transB=1))
    else:
        kernel, shift = wrong(fc.reshape(10, channels, side, side), bias, mutant, channel)
        weights |= {"conv.w": kernel, "conv.b": shift}
        nodes.append(node("Conv", ["map", "conv.w", "conv.b"], ["scores"]))
        nodes.append(node("Flatten", ["scores"], ["logits"]))
    nodes.append(node(tail or "Identity", ["logits"], ["y"]))
    stored = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "net",
        [info("x", TensorProto.FLOAT, ["n", 3, 2 * side, 2 * side])],
        [info("y", TensorProto.FLOAT, ["n", 10])],
        stored,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def inputs(kind: str, side: int) -> Samples | None:
    random = np.random.default_rng(11)
    shape = (32, 3, 2 * side, 2 * side)
    if kind == "mixture":
        return None
    values: Array = {
        "normal": random.standard_normal(shape),
        "images": random.integers(0, 256, shape),
        "tiny": random.standard_normal(shape) / 1000,
        "zeros": np.zeros(shape),
    }[kind]
    return Samples({"x": values.astype(np.float32)}, None, kind, False)


def liveliest(model: onnx.ModelProto, samples: Samples | None) -> int:
    """The output that moves most: a mutant of one that never moves is the same function."""
    chosen = samples or random_samples(model)
    return int(run_model(model, chosen.arrays, provider="cpu")["y"].std(axis=0).argmax())


#: Where the outputs do not move, a right rewrite cannot be told to be right.
BLIND = (
    {
        (name, kind)
        for name in NETS
        for kind in INPUTS
        if kind == "zeros" or name in ("dead relu", "bias of a million")
    }
    | {("saturated softmax", kind) for kind in INPUTS}
    | {("relu", "tiny")}
)


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("name", NETS)
def test_a_right_rewrite_passes_and_wrong_ones_do_not(name: str, kind: str) -> None:
    original, samples = net(name, "fc"), inputs(kind, NETS[name][1])
    right = compare(original, net(name, "conv"), samples=samples, provider="cpu")
    allowed = {"equivalent", "inconclusive"} if (name, kind) in BLIND else {"equivalent"}
    assert right.verdict in allowed, right.reason
    channel = liveliest(original, samples)
    for mutant in MUTANTS:
        model = net(name, "conv", mutant, channel)
        spoilt = compare(original, model, samples=samples, provider="cpu")
        assert not spoilt.passed, f"{mutant}: {spoilt.verdict}: {spoilt.reason}"
        if (name, kind) not in BLIND:
            assert spoilt.verdict == "different", f"{mutant}: {spoilt.reason}"


def test_a_mutant_in_a_channel_that_a_relu_keeps_still_needs_the_tensor_before_it() -> None:
    original, samples = net("relu", "fc"), inputs("normal", 5)
    assert samples is not None
    values = run_model(original, samples.arrays, provider="cpu")["y"]
    dead = int(np.flatnonzero(values.max(axis=0) == 0)[0])
    spoilt = net("relu", "conv", "scale", dead)
    blind = compare(original, spoilt, samples=samples, provider="cpu")
    assert "channels of 'y' hardly moved, and could not be judged" in blind.reason
    seen = compare(original, spoilt, samples=samples, provider="cpu", tensors=["logits"])
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
    found = compare(original, right, samples=samples, provider="cpu")
    assert found.verdict == "equivalent", found.reason
    assert [row.name for row in found.outputs] == ["y", "logits"]
    seen = compare(original, right, samples=samples, provider="cpu", tensors=["logits"])
    assert seen.verdict == "equivalent", seen.reason
    assert [row.internal for row in seen.outputs] == [False, True]
    for mutant in MUTANTS:
        spoilt = net(name, "conv", mutant)
        if name == "dead relu":
            _shift_bias(spoilt, 1e4 - 100)
        result = compare(original, spoilt, samples=samples, provider="cpu", tensors=["logits"])
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
    right = compare(model, as_convolution(model, fc, ""), provider="cpu")
    # The same function may even come out bit for bit.
    assert right.verdict in ("equivalent", "identical"), right.reason
    for mutant in MUTANTS:
        spoilt = compare(model, as_convolution(model, fc, mutant), provider="cpu")
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
    result = compare(*models, samples=Samples({"x": values}), provider="cpu")
    assert result.verdict == "different"
    assert result.outputs[0].argmax_agreement == 1.0
