"""Right rewrites and wrong ones, made by hand: nothing of `rewrites` is used here.

The right one turns an FC into the convolution that equals it; the wrong ones are what goes wrong in
doing so, as functions of kernel and bias.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxshare.runtime.limits import RunLimits
from onnxshare.runtime.session import run_model
from onnxshare.samples.samples import Samples, random_samples

Array = np.ndarray[Any, np.dtype[Any]]

#: Small nets that cannot harm anyone run in this process.
HERE = RunLimits(in_process=True)

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
    values = run_model(model, chosen.arrays, provider="cpu", run_limits=HERE)["y"]
    return int(values.std(axis=0).argmax())


def spoilt(
    original: onnx.ModelProto, rewritten: onnx.ModelProto
) -> Iterator[tuple[str, onnx.ModelProto]]:
    """A rewritten model corrupted in its new nodes and weights, one way at a time, with its
    name."""
    old = {node.SerializeToString() for node in original.graph.node}
    stored = {tensor.name: place for place, tensor in enumerate(rewritten.graph.initializer)}
    for index, node in enumerate(rewritten.graph.node):
        if node.SerializeToString() in old:
            continue
        if node.op_type in ("GlobalAveragePool", "AveragePool"):
            yield f"{node.name}: largest instead of mean", _with_node(rewritten, index)
        for name in node.input[1:]:
            place = stored.get(name)
            if place is None or rewritten.graph.initializer[place].data_type != TensorProto.FLOAT:
                continue
            values = numpy_helper.to_array(rewritten.graph.initializer[place])
            for way, changed in _ways(values):
                if not np.array_equal(changed, values):
                    yield f"{name}: {way}", _with_tensor(rewritten, place, changed)


def _ways(values: Array) -> Iterator[tuple[str, Array]]:
    flat = values.reshape(len(values), -1) if values.ndim > 1 else values.reshape(-1, 1)
    if len(flat) > 1:
        order = np.arange(len(flat))
        order[[0, 1]] = order[[1, 0]]
        yield "two rows swapped", flat[order].reshape(values.shape)
    scaled = flat.copy()
    row = int(np.abs(flat).sum(axis=1).argmax())
    scaled[row] *= np.float32(1.01)
    yield "a row larger by 1 %", scaled.reshape(values.shape)
    if values.ndim > 1 and values.shape[1] > 1:
        yield "columns turned round", np.ascontiguousarray(flat[:, ::-1]).reshape(values.shape)
    if values.ndim == 1:
        yield "left out", np.zeros_like(values)


def _with_tensor(model: onnx.ModelProto, place: int, values: Array) -> onnx.ModelProto:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    tensor = changed.graph.initializer[place]
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))
    return changed


def _with_node(model: onnx.ModelProto, index: int) -> onnx.ModelProto:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    node = changed.graph.node[index]
    node.op_type = node.op_type.replace("Average", "Max")
    kept = [item for item in node.attribute if item.name != "count_include_pad"]
    del node.attribute[:]
    node.attribute.extend(kept)
    return changed
