"""Networks whose figures are published: the `light_*` models of the onnx wheel, whose weights are
made by ConstantOfShape nodes.

Every figure is derived layer by layer from the papers' descriptions, in `networks.py`; the MACs
also from the shapes that ONNX Runtime has when it runs the file.
"""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

import onnxshare
from tests.analysis.layers import Conv, Fc, Layers, Norm
from tests.analysis.networks import NETWORKS


def weighted(layers: Layers) -> list[Conv | Fc]:
    return [layer for layer in layers if not isinstance(layer, Norm)]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_derivation_gives_the_published_figures(name: str) -> None:
    """The list of layers is right: it gives the published figures without our analyser."""
    published, layers = NETWORKS[name], NETWORKS[name].layers
    assert sum(layer.params for layer in layers) == published.params
    norms = [layer for layer in layers if isinstance(layer, Norm)]
    assert sum(norm.statistics for norm in norms) == published.statistics
    assert sum(layer.macs for layer in weighted(layers)) == published.macs
    assert sum(layer.params for layer in layers if isinstance(layer, Fc)) == published.fc_params
    assert len(weighted(layers)) == published.depth


@pytest.mark.parametrize("name", NETWORKS)
def test_published_figures(name: str, onnx_light: Path) -> None:
    published = NETWORKS[name]
    totals = onnxshare.inspect(onnx_light / f"{published.file}.onnx").totals
    assert totals.params == published.params
    assert totals.statistics == published.statistics
    assert totals.macs == published.macs
    assert totals.weight_layers == published.depth
    assert totals.fc_params == published.fc_params
    assert totals.fc_after_conv_params == published.fc_params
    assert totals.param_bytes == 4 * published.params
    assert totals.connections == sum(layer.uses for layer in published.layers)


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_one_by_one(name: str, onnx_light: Path) -> None:
    published = NETWORKS[name]
    report = onnxshare.inspect(onnx_light / f"{published.file}.onnx")
    found = [(f.params, f.macs) for f in report.nodes if f.op_type in ("Conv", "Gemm")]
    wanted = [(layer.params, layer.macs) for layer in weighted(published.layers)]
    assert sorted(found) == sorted(wanted)


def shapes_at_run_time(path: Path, names: set[str]) -> dict[str, tuple[int, ...]]:
    """The shapes that tensors have when ONNX Runtime runs a model: their Shape is put out."""
    model = onnx.load(path)
    for position, name in enumerate(sorted(names)):
        model.graph.node.append(helper.make_node("Shape", [name], [f"size{position}"]))
        value = helper.make_tensor_value_info(f"size{position}", onnx.TensorProto.INT64, None)
        model.graph.output.append(value)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feed = {item.name: np.zeros(item.shape, np.float32) for item in session.get_inputs()}
    sizes = session.run([f"size{position}" for position in range(len(names))], feed)
    return {
        name: tuple(int(size) for size in np.asarray(shape))
        for name, shape in zip(sorted(names), sizes, strict=True)
    }


@pytest.mark.parametrize("name", NETWORKS)
def test_macs_from_the_shapes_of_onnx_runtime(name: str, onnx_light: Path) -> None:
    """Every output element of a convolution adds one product per element of a filter, and every one
    of an FC one per input: counted from what ONNX Runtime ran on, node by node."""
    path = onnx_light / f"{NETWORKS[name].file}.onnx"
    layers = [node for node in onnx.load(path).graph.node if node.op_type in ("Conv", "Gemm")]
    names = {tensor for node in layers for tensor in (node.input[1], node.output[0])}
    shapes = shapes_at_run_time(path, names)
    counted = {}
    for node in layers:
        weight, output = shapes[node.input[1]], shapes[node.output[0]]
        by_output = node.op_type == "Conv" or any(
            a.name == "transB" and a.i for a in node.attribute
        )
        products = prod(weight[1:]) if by_output else weight[0]
        counted[node.output[0]] = prod(output) * products
    report = onnxshare.inspect(path)
    told = {
        facts.outputs[0].name: facts.macs
        for facts in report.nodes
        if facts.op_type in ("Conv", "Gemm")
    }
    assert told == counted
    assert report.totals.macs == sum(counted.values())


@pytest.mark.parametrize(
    ("file", "feature_map", "fcs"),
    [
        pytest.param(
            "light_bvlc_alexnet",
            (256, (6, 6)),
            [(9216, 4096), (4096, 4096), (4096, 1000)],
            id="AlexNet: fc6 is 9216x4096",
        ),
        pytest.param(
            "light_vgg19",
            (512, (7, 7)),
            [(25_088, 4096), (4096, 4096), (4096, 1000)],
            id="VGG-19: fc6 holds 102,764,544",
        ),
    ],
)
def test_heads(
    file: str,
    feature_map: tuple[int, tuple[int, ...]],
    fcs: list[tuple[int, int]],
    onnx_light: Path,
) -> None:
    (head,) = onnxshare.inspect(onnx_light / f"{file}.onnx").heads
    assert (head.channels, head.spatial) == feature_map
    assert [(fc.in_features, fc.out_features) for fc in head.fcs] == fcs
    assert [fc.params for fc in head.fcs] == [(i + 1) * o for i, o in fcs]


@pytest.mark.parametrize(
    "file", ["light_resnet50", "light_inception_v1", "light_inception_v2", "light_shufflenet"]
)
def test_nothing_to_share_after_a_global_pool(file: str, onnx_light: Path) -> None:
    """Their heads average the map first: one position, one FC, no rewrite that saves weights."""
    report = onnxshare.inspect(onnx_light / f"{file}.onnx")
    (head,) = report.heads
    assert head.spatial == (1, 1)
    assert set(head.rewrites) == {"fc-to-conv", "fc-to-gap"}
    assert "refused" in head.rewrites["fc-to-gap"]


@pytest.mark.parametrize("file", ["light_squeezenet", "light_densenet121"])
def test_no_head_where_there_is_no_fc(file: str, onnx_light: Path) -> None:
    report = onnxshare.inspect(onnx_light / f"{file}.onnx")
    assert report.heads == ()
    assert report.totals.fc_params == 0
