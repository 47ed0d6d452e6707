"""Builds networks of other forms than images with one result: text in one dimension, volumes in
three, and a board game's trunk with a policy and a value head.

The weights are random: the files show the forms, not how well they do. ``python models/forms.py``
writes ``forms/*.onnx``, byte for byte; it needs only numpy and onnx.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FOLDER = Path(__file__).parent / "forms"
SEED = 1989

Sizes = Sequence[int | str]


class Net:
    """A graph that grows layer by layer, with seeded random weights."""

    def __init__(self, name: str, data: str, sizes: Sizes) -> None:
        self.name = name
        self.inputs = [helper.make_tensor_value_info(data, TensorProto.FLOAT, sizes)]
        self.outputs: list[onnx.ValueInfoProto] = []
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._rng = np.random.default_rng(SEED)

    def plain(self, op_type: str, reads: str, result: str, **attributes: Any) -> str:
        """A layer without weights."""
        self.nodes.append(helper.make_node(op_type, [reads], [result], name=result, **attributes))
        return result

    def weighted(
        self, op_type: str, reads: str, result: str, *shape: int, **attributes: Any
    ) -> str:
        """A layer with a weight of this shape, outputs first, and a bias."""
        scale = np.sqrt(np.prod(shape[1:]))
        values = {
            f"{result}.weight": self._rng.standard_normal(shape) / scale,
            f"{result}.bias": self._rng.standard_normal(shape[0]) / 10,
        }
        for name, array in values.items():
            self.weights.append(numpy_helper.from_array(array.astype(np.float32), name))
        self.nodes.append(
            helper.make_node(op_type, [reads, *values], [result], name=result, **attributes)
        )
        return result

    def conv(self, reads: str, result: str, *shape: int) -> str:
        """A convolution that keeps the sizes of its map, and a ReLU."""
        pads = [size // 2 for size in shape[2:]] * 2
        made = self.weighted("Conv", reads, result, *shape, pads=pads)
        return self.plain("Relu", made, f"{result}.relu")

    def fc(self, reads: str, result: str, inputs: int, outputs: int) -> str:
        """A fully connected layer."""
        return self.weighted("Gemm", reads, result, outputs, inputs, transB=1)

    def give(self, result: str, *sizes: int | str) -> None:
        """Make a result an output."""
        self.outputs.append(helper.make_tensor_value_info(result, TensorProto.FLOAT, sizes))

    def model(self) -> onnx.ModelProto:
        """The net, checked."""
        graph = helper.make_graph(self.nodes, self.name, self.inputs, self.outputs, self.weights)
        opsets = [helper.make_opsetid("", 17)]
        made = helper.make_model(
            graph, opset_imports=opsets, ir_version=8, producer_name="onnxshare"
        )
        onnx.checker.check_model(made, full_check=True)
        return made


def text_1d() -> onnx.ModelProto:
    """40 tokens of 16 features: two convolutions of kernel 3 over time, then two FCs."""
    net = Net("text_1d", "tokens", ["batch", 16, 40])
    at = net.conv("tokens", "conv1", 32, 16, 3)
    at = net.plain("MaxPool", at, "pool1", kernel_shape=[2], strides=[2])
    at = net.conv(at, "conv2", 32, 32, 3)
    at = net.plain("MaxPool", at, "pool2", kernel_shape=[2], strides=[2])
    at = net.plain("Flatten", at, "flat")
    at = net.plain("Relu", net.fc(at, "fc1", 32 * 10, 64), "fc1.relu")
    net.give(net.fc(at, "logits", 64, 5), "batch", 5)
    return net.model()


def volume_3d() -> onnx.ModelProto:
    """Volumes of 16×16×16: two 3×3×3 convolutions, then two FCs."""
    net = Net("volume_3d", "volume", ["batch", 1, 16, 16, 16])
    at = net.conv("volume", "conv1", 8, 1, 3, 3, 3)
    at = net.plain("MaxPool", at, "pool1", kernel_shape=[2] * 3, strides=[2] * 3)
    at = net.conv(at, "conv2", 16, 8, 3, 3, 3)
    at = net.plain("MaxPool", at, "pool2", kernel_shape=[2] * 3, strides=[2] * 3)
    at = net.plain("Flatten", at, "flat")
    at = net.plain("Relu", net.fc(at, "fc1", 16 * 4 * 4 * 4, 32), "fc1.relu")
    net.give(net.fc(at, "logits", 32, 4), "batch", 4)
    return net.model()


def policy_value() -> onnx.ModelProto:
    """A 9×9 board of 4 planes: a trunk of two 3×3 convolutions; a policy for 81 moves and a pass,
    and a value, as the ends of AlphaGo Zero are built (Silver et al., 2017)."""
    net = Net("policy_value", "board", ["batch", 4, 9, 9])
    trunk = net.conv(net.conv("board", "conv1", 16, 4, 3, 3), "conv2", 16, 16, 3, 3)
    at = net.plain("Flatten", net.conv(trunk, "policy.conv", 2, 16, 1, 1), "policy.flat")
    net.give(net.fc(at, "policy", 2 * 81, 82), "batch", 82)
    at = net.plain("Flatten", net.conv(trunk, "value.conv", 1, 16, 1, 1), "value.flat")
    at = net.plain("Relu", net.fc(at, "value.fc1", 81, 32), "value.fc1.relu")
    net.give(net.plain("Tanh", net.fc(at, "value.fc2", 32, 1), "value"), "batch", 1)
    return net.model()


FORMS = (text_1d, volume_3d, policy_value)


def main() -> None:
    """Write the networks."""
    parser = argparse.ArgumentParser(description="Build networks of other forms.")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where to write them")
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for form in FORMS:
        onnx.save(form(), folder / f"{form.__name__}.onnx")


if __name__ == "__main__":
    main()
