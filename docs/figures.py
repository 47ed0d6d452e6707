"""The pictures of "What is weight sharing?", drawn from what onnxshare counts.

Run `python -m docs.figures` to write them again; `tests/docs/test_figures.py` says where that is
due.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import onnxshare
from onnxshare.report.page.charts import standalone
from onnxshare.report.page.treemap import color
from onnxshare.report.plot.picture import Box, Picture, Shape, Words, svg

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"

_LEFT, _WIDE, _ROW, _BAR = 250, 760, 26, 18


@dataclass(frozen=True)
class Bar:
    """A row of a chart: how many there are of what; a heading where there is no value."""

    label: str
    value: int | None = None
    role: str = "good"


def bars(title: str, rows: Sequence[Bar], scale: Callable[[float], float] = math.log10) -> Picture:
    """A chart whose bars are as long as the logarithm of their values, or another scale."""
    most = scale(max(row.value or 1 for row in rows))
    height = 44 + _ROW * len(rows)

    def shapes() -> Iterator[Shape]:
        yield Words((16, 26), title, size=14, bold=True)
        for number, row in enumerate(rows):
            top = 40 + _ROW * number
            base = top + _BAR - 5
            if row.value is None:
                yield Words((16, base), row.label, bold=True)
                continue
            length = max(2.0, (_WIDE - _LEFT - 130) * scale(row.value) / most)
            yield Words((_LEFT - 10, base), row.label, anchor="end")
            yield Box((_LEFT, top), (length, _BAR), row.role)
            yield Words((_LEFT + length + 8, base), f"{row.value:,}")

    return Picture(_WIDE, height, title, tuple(shapes()))


def stored_and_used() -> Picture:
    """LeNet-5's layers: what each stores, and how often it uses that."""
    nodes = onnxshare.inspect(ROOT / "models" / "lenet5.onnx").nodes
    layers = [node for node in nodes if node.params and node.connections]
    rows: list[Bar] = []
    for number, node in enumerate(layers, 1):
        role = color(node.params, node.connections)
        kind = "convolution" if node.kind == "conv" else "fully connected"
        rows += [
            Bar(f"Layer {number}, {kind}: {node.sharing_ratio:,.0f}×"),
            Bar("parameters stored", node.params, "unknown"),
            Bar("uses in one inference", node.connections, role),
        ]
    return bars("LeNet-5: stored once, used many times (logarithmic)", rows)


def three_forms() -> Picture:
    """The same outputs from a convolution, from one whose positions share nothing, and densely."""
    rows: list[Bar] = []
    cases = [("One filter of 3×3", 1, 3, [0] * 4), ("Ten filters of 5×5, padded", 10, 5, [2] * 4)]
    for label, filters, size, pads in cases:
        (node,) = onnxshare.inspect(_convolution(filters, size, pads)).nodes
        assert node.dense_params is not None
        assert node.unshared_params is not None
        rows += [
            Bar(f"{label} over an image of 3×32×32"),
            Bar("dense: each output sees all", node.dense_params, "once"),
            Bar("local: weights per position", node.unshared_params, "u1"),
            Bar("shared: one set, with biases", node.params, color(node.params, node.connections)),
        ]
    return bars("Locality and sharing: weights of three layers (logarithmic)", rows)


def first_fc() -> Picture:
    """VGG's first FC, 7×7×512 to 4,096, as it is, as a convolution, and after pooling."""
    forms = [
        ("FC on the flattened map", _product(512 * 49, 4096)),
        ("7×7 convolution: equal, and it slides", _convolution_of(4096, 512, 7)),
        ("global pooling, then an FC", _product(512, 4096)),
    ]
    rows = []
    for label, model in forms:
        node = next(node for node in onnxshare.inspect(model).nodes if node.params)
        rows.append(Bar(label, node.params, color(node.params, node.connections)))
    return bars("The first FC of VGG, 7×7×512 → 4,096: weights", rows, float)


def vgg19() -> Picture:
    """Where the weights of VGG-19 are, in the model of the onnx package."""
    light = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    report = onnxshare.inspect(light / "light_vgg19.onnx")
    return standalone(replace(report, model=replace(report.model, path="VGG-19")))


def _convolution(filters: int, size: int, pads: list[int]) -> onnx.ModelProto:
    weights = [
        numpy_helper.from_array(np.zeros((filters, 3, size, size), np.float32), "w"),
        numpy_helper.from_array(np.zeros(filters, np.float32), "b"),
    ]
    return _model(
        [helper.make_node("Conv", ["x", "w", "b"], ["y"], pads=pads)], [3, 32, 32], weights
    )


def _convolution_of(filters: int, channels: int, size: int) -> onnx.ModelProto:
    nodes = [*_filled([filters, channels, size, size]), helper.make_node("Conv", ["x", "w"], ["y"])]
    return _model(nodes, [channels, size, size])


def _product(inputs: int, outputs: int) -> onnx.ModelProto:
    return _model(
        [*_filled([inputs, outputs]), helper.make_node("MatMul", ["x", "w"], ["y"])], [inputs]
    )


def _filled(dims: list[int]) -> list[onnx.NodeProto]:
    """A weight that takes no space in the file."""
    shape = numpy_helper.from_array(np.array(dims, np.int64), "dims")
    return [
        helper.make_node("Constant", [], ["dims"], value=shape),
        helper.make_node("ConstantOfShape", ["dims"], ["w"]),
    ]


def _model(
    nodes: list[onnx.NodeProto], sizes: list[int], weights: Sequence[onnx.TensorProto] = ()
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "figure",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, *sizes])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


FIGURES = {
    "stored-and-used": stored_and_used,
    "three-forms": three_forms,
    "first-fc": first_fc,
    "vgg19-treemap": vgg19,
}


def main() -> None:
    """Write all pictures."""
    for name, draw in FIGURES.items():
        (IMAGES / f"{name}.svg").write_text(svg(draw()), encoding="utf-8")


if __name__ == "__main__":
    main()
