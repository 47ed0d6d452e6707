"""The networks that are proven on a GPU, with a rewrite for each, and what a wrong one is like."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

MODELS = Path(__file__).resolve().parents[1] / "models"

#: Network and exact rewrite: every bundled network, and every network of the zoo that has a site.
CASES = {
    "models": (
        ("lenet5", "fc-to-conv"),
        ("vgg_small", "fc-to-conv"),
        ("gap_net", "global-pool"),
        ("gap_net", "pool-first"),
    ),
    "zoo": (
        ("cifar_base_kw_dynreshape", "fc-to-conv"),
        ("derived_mnist8_qdq", "fc-to-conv"),
        ("marabou_mnist_maxpool2", "fc-to-conv"),
        ("marabou_traffic64", "fc-to-conv"),
        ("mesonet_deepfake", "fc-to-conv"),
        ("mnist8_cntk", "fc-to-conv"),
        ("mtcnn_rnet", "fc-to-conv"),
        ("winml_imageclassifier_cifar10", "fc-to-conv"),
        ("zkml_lenet_small", "fc-to-conv"),
    ),
}

#: Networks that take minutes for each comparison in software.
LARGE = ("mesonet_deepfake",)

#: Random samples of a comparison: a GPU in software takes seconds for each of the larger networks.
SAMPLES = 2


def path_of(place: str, name: str) -> Path:
    """The file of a network of `CASES`; that of one of the zoo where ONNXSHARE_ZOO says."""
    folder = MODELS if place == "models" else Path(os.environ["ONNXSHARE_ZOO"], "models")
    return folder / f"{name}.onnx"


def spoilt(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the halves of its largest weight exchanged along the longest axis."""
    wrong = onnx.ModelProto()
    wrong.CopyFrom(model)
    largest = max(_weights(wrong), key=lambda tensor: int(np.prod(tensor.dims)))
    array = numpy_helper.to_array(largest)
    axis = int(np.argmax(array.shape))
    turned = np.roll(array, array.shape[axis] // 2, axis)
    largest.CopyFrom(numpy_helper.from_array(turned, largest.name))
    return wrong


def _weights(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every stored tensor of rank 2 and more."""
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    held = (held.t for node in nodes for held in node.attribute if held.HasField("t"))
    yield from (tensor for tensor in (*model.graph.initializer, *held) if len(tensor.dims) >= 2)
