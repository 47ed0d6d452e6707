"""Builds a small family as an efficient architecture search has it: children that share one set of
weights (Pham et al., "Efficient Neural Architecture Search via Parameter Sharing", 2018).

The super network has four nodes; node n has weights for each operation that it may do. A child
chooses per node which earlier node it reads and what it does, and its file has the weights of these
choices only. The weights are random: the family shows what is shared, not how well it classifies.

``python models/enas.py`` writes ``enas/child-*.onnx``; it needs only numpy and onnx.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

FOLDER = Path(__file__).parent / "enas"
CHANNELS, CLASSES, SIDE, SEED = 8, 10, 16, 1802
KERNELS = {"conv3": 3, "conv5": 5}
NODES = 4


@dataclass(frozen=True)
class Choice:
    """What a child does at one node: which earlier node it reads (0 is the stem), and how."""

    reads: int
    operation: str


#: Five children, as a controller may have sampled them.
CHILDREN: tuple[tuple[Choice, ...], ...] = (
    (Choice(0, "conv3"), Choice(1, "conv3"), Choice(2, "conv5"), Choice(3, "pool")),
    (Choice(0, "conv3"), Choice(1, "pool"), Choice(1, "conv5"), Choice(3, "conv3")),
    (Choice(0, "conv5"), Choice(1, "conv3"), Choice(0, "conv3"), Choice(3, "conv3")),
    (Choice(0, "conv3"), Choice(0, "conv5"), Choice(2, "conv5"), Choice(2, "conv5")),
    (Choice(0, "pool"), Choice(1, "conv3"), Choice(2, "pool"), Choice(3, "conv3")),
)


def shared_weights() -> dict[str, npt.NDArray[np.float32]]:
    """All weights of the super network, by the name that they have in every child."""
    rng = np.random.default_rng(SEED)
    shapes: dict[str, tuple[int, ...]] = {
        "stem.weight": (CHANNELS, 1, 3, 3),
        "stem.bias": (CHANNELS,),
    }
    for node in range(1, NODES + 1):
        for operation, kernel in KERNELS.items():
            name = f"node{node}.{operation}"
            shapes[f"{name}.weight"] = (CHANNELS, CHANNELS, kernel, kernel)
            shapes[f"{name}.bias"] = (CHANNELS,)
    shapes["classifier.weight"] = (CLASSES, CHANNELS)
    shapes["classifier.bias"] = (CLASSES,)
    return {
        name: (rng.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:])))).astype(np.float32)
        for name, shape in shapes.items()
    }


def child(choices: tuple[Choice, ...]) -> onnx.ModelProto:
    """One child with its weights."""
    nodes = [
        helper.make_node(
            "Conv", ["image", "stem.weight", "stem.bias"], ["stem"], name="stem", pads=[1, 1, 1, 1]
        ),
        helper.make_node("Relu", ["stem"], ["node0"], name="stem.relu"),
    ]
    for number, choice in enumerate(choices, start=1):
        nodes += _node(number, choice)
    nodes += [
        helper.make_node("GlobalAveragePool", [f"node{NODES}"], ["pooled"], name="pooled"),
        helper.make_node("Flatten", ["pooled"], ["features"], name="features"),
        helper.make_node(
            "Gemm",
            ["features", "classifier.weight", "classifier.bias"],
            ["logits"],
            name="classifier",
            transB=1,
        ),
    ]
    read = {name for node in nodes for name in node.input}
    weights = [
        numpy_helper.from_array(array, name)
        for name, array in shared_weights().items()
        if name in read
    ]
    graph = helper.make_graph(
        nodes,
        "child",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        weights,
    )
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="onnxshare")
    onnx.checker.check_model(model, full_check=True)
    return model


def _node(number: int, choice: Choice) -> list[onnx.NodeProto]:
    name, data, result = f"node{number}.{choice.operation}", f"node{choice.reads}", f"node{number}"
    if choice.operation == "pool":
        around = {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1, 1, 1, 1]}
        return [helper.make_node("MaxPool", [data], [result], name=name, **around)]
    pads = [KERNELS[choice.operation] // 2] * 4
    inputs = [data, f"{name}.weight", f"{name}.bias"]
    return [
        helper.make_node("Conv", inputs, [f"{name}.sum"], name=name, pads=pads),
        helper.make_node("Relu", [f"{name}.sum"], [result], name=f"{name}.relu"),
    ]


def main() -> None:
    """Write the children."""
    parser = argparse.ArgumentParser(description="Build the children of a small search.")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where to write them")
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for number, choices in enumerate(CHILDREN, start=1):
        onnx.save(child(choices), folder / f"child-{number}.onnx")


if __name__ == "__main__":
    main()
