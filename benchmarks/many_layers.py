"""Folding hundreds of BatchNormalizations, or merging hundreds of pairs of equal tensors, against
looking at the model once.

Chains of Conv, BatchNormalization and Relu, whose kernels are equal in pairs for the merging. What
a look costs (shapes, values, heads) is the unit;
were the model looked at again after each change, the ratio would grow with the number of layers.

Run: python benchmarks/many_layers.py
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from paired import ratio

import onnxshare
from rewrites.base import study

CHANNELS, SIDE = 8, 8


def main() -> None:
    print("| layers | rewrite | rewrite all / look once (middle half) |")
    print("|---:|---|---:|")
    for layers in (30, 100, 300):
        for rewrite, pairs in (("fold-batchnorm", False), ("share", True)):
            model = chain(layers, pairs=pairs)
            result = ratio(
                lambda model=model, name=rewrite: onnxshare.rewrite(model, [name], validate=False),
                lambda model=model: study(onnxshare.load(model)),
                pairs=7,
            )
            print(f"| {layers} | {rewrite} | {result} |", flush=True)


def chain(layers: int, *, pairs: bool = False) -> onnx.ModelProto:
    """Conv, BatchNormalization and Relu, so many times; each second kernel equals the one before,
    if requested."""
    random = np.random.default_rng(0)
    stored: list[onnx.TensorProto] = []
    nodes: list[onnx.NodeProto] = []
    last = "x"
    for layer in range(layers):
        if not (pairs and layer % 2):
            kernel = random.standard_normal((CHANNELS, CHANNELS, 3, 3)) / CHANNELS
        stored.append(numpy_helper.from_array(kernel.astype(np.float32), f"w{layer}"))
        parts = [f"{name}{layer}" for name in ("scale", "shift", "mean", "variance")]
        for name in parts:
            values = (0.5 + random.random(CHANNELS)).astype(np.float32)
            stored.append(numpy_helper.from_array(values, name))
        nodes += [
            helper.make_node("Conv", [last, f"w{layer}"], [f"c{layer}"], pads=[1] * 4),
            helper.make_node("BatchNormalization", [f"c{layer}", *parts], [f"n{layer}"]),
            helper.make_node("Relu", [f"n{layer}"], [f"r{layer}"]),
        ]
        last = f"r{layer}"
    sizes = ["n", CHANNELS, SIDE, SIDE]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes)],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, sizes)],
        stored,
    )
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


if __name__ == "__main__":
    main()
