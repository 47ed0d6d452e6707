"""Networks that other people trained, against the zoo's manifest, which was counted without us."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto

import onnxshare
from onnxshare.analysis.results import Inspection
from tests.analysis import zoo_roles


@dataclass(frozen=True)
class Beside:
    """What the manifest's naive sum holds beside parameters, and what it does not see."""

    statistics: int = 0
    constants: int = 0
    quantization: int = 0
    constants_in_nodes: int = 0


#: The manifest sums every floating-point initializer, and of the quantized net every quantized one.
MODELS = {
    "mnist8_cntk": Beside(),
    "winml_imageclassifier_cifar10": Beside(),
    "marabou_mnist_maxpool2": Beside(),
    "marabou_traffic64": Beside(constants=2),  # Rescaling: one factor, one offset
    "cifar_base_kw_dynreshape": Beside(),
    "mesonet_deepfake": Beside(statistics=2 * (8 + 8 + 16 + 16)),  # four batch normalizations
    "mtcnn_rnet": Beside(),
    "zkml_lenet_small": Beside(),
    # Ten tensors are quantized (four activations, three weights, three biases), each with a
    # scale and a zero point; the Reshape's input shares those of the second ReLU, so do both pools.
    "derived_mnist8_qdq": Beside(quantization=2 * (4 + 3 + 3)),
    "silero_vad_half": Beside(constants_in_nodes=2),  # the exponents of two Pow
}

SIZES = {"silero_vad_half": {"input": (1, 576)}}

WITH_HEADS = [name for name in MODELS if name != "silero_vad_half"]


def manifest(zoo: Path, name: str) -> dict[str, Any]:
    rows: list[dict[str, Any]] = json.loads((zoo / "manifest.json").read_text())
    return next(row for row in rows if row["name"] == name)


def inspect(zoo: Path, name: str) -> Inspection:
    return onnxshare.inspect(zoo / "models" / f"{name}.onnx", input_shapes=SIZES.get(name))


def test_every_model_of_the_zoo_is_tested(zoo: Path) -> None:
    rows = json.loads((zoo / "manifest.json").read_text())
    assert {row["name"] for row in rows} == set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_what_the_manifest_sums_has_a_role_each(name: str, zoo: Path) -> None:
    totals, beside = inspect(zoo, name).totals, MODELS[name]
    assert totals.statistics == beside.statistics
    assert totals.quantization == beside.quantization
    assert totals.constants == beside.constants + beside.constants_in_nodes
    assert totals.unused == 0
    naive = totals.params + totals.statistics + beside.constants + totals.quantization
    assert naive == manifest(zoo, name)["params"]


@pytest.mark.parametrize("name", MODELS)
def test_totals_are_those_of_roles_written_by_hand(name: str, zoo: Path) -> None:
    """Every stored tensor has a role in `zoo_roles.py`; its sums know nothing of our analyser."""
    path, report = zoo / "models" / f"{name}.onnx", inspect(zoo, name)
    by_hand = zoo_roles.sums(path)
    totals = report.totals
    for role in (
        zoo_roles.PARAMS,
        zoo_roles.STATISTICS,
        zoo_roles.CONSTANTS,
        zoo_roles.QUANTIZATION,
    ):
        assert getattr(totals, role) == by_hand[role], role
    assert {w.name: w.params for w in report.weights} == zoo_roles.parameters(path)


def test_why_the_quantized_net_holds_20_more(zoo: Path) -> None:
    """Its 6,014 are the 5,994 of the net it was made from, and a scale and a zero point each for
    its ten quantized tensors."""
    initializers = onnx.load(zoo / "models" / "derived_mnist8_qdq.onnx").graph.initializer
    scales = [tensor for tensor in initializers if tensor.data_type == TensorProto.FLOAT]
    points = [tensor for tensor in initializers if tensor.name.endswith("zero_point")]
    assert (len(scales), len(points)) == (10, 10)
    assert manifest(zoo, "derived_mnist8_qdq")["params"] == 5_994 + 10 + 10
    totals = inspect(zoo, "derived_mnist8_qdq").totals
    assert totals.params == manifest(zoo, "mnist8_cntk")["params"] == 5_994
    # Weights of 1 byte (two convolutions, the FC), biases of 4.
    assert totals.param_bytes == (200 + 3_200 + 2_560) + 4 * (8 + 16 + 10)


@pytest.mark.parametrize("name", WITH_HEADS)
def test_heads(name: str, zoo: Path) -> None:
    wanted = manifest(zoo, name)
    (after_conv,) = wanted["fc_after_conv"]
    (head,) = inspect(zoo, name).heads
    assert (head.channels, list(head.spatial)) == (after_conv["C"], after_conv["spatial"])
    assert head.layout == after_conv["layout"]
    assert head.uniformity == pytest.approx(after_conv["uniformity"], abs=0.00005)
    assert [fc.in_features for fc in head.fcs][:1] == after_conv["W"][:1]
    shapes = [[fc.in_features, fc.out_features] for fc in head.fcs]
    assert sorted(shapes) == sorted(fc["W"] for fc in wanted["all_fc"])


@pytest.mark.parametrize("name", WITH_HEADS)
def test_all_fcs_are_known_as_such(name: str, zoo: Path) -> None:
    report, wanted = inspect(zoo, name), manifest(zoo, name)["all_fc"]
    fcs = [facts for facts in report.nodes if facts.kind == "fc"]
    assert sorted(facts.op_type for facts in fcs) == sorted(fc["op"] for fc in wanted)
    assert {facts.sharing_ratio for facts in fcs} == {1.0}
    with_biases = sum(fc["params"] + fc["W"][1] for fc in wanted)
    assert report.totals.fc_params == report.totals.fc_after_conv_params == with_biases


@pytest.mark.parametrize("name", MODELS)
def test_reported_shapes_are_those_of_onnx_runtime(name: str, zoo: Path) -> None:
    import numpy as np
    import onnxruntime as ort

    path = zoo / "models" / f"{name}.onnx"
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    feed = {
        input_name: np.zeros(sizes, np.float32)
        for input_name, sizes in manifest(zoo, name)["run_in"].items()
    }
    if name == "silero_vad_half":
        feed["state"] = np.zeros((2, 1, 128), np.float32)
    results = session.run(None, feed)
    report = inspect(zoo, name)
    reported = {out.name: out.shape for facts in report.nodes for out in facts.outputs}
    for output, result in zip(session.get_outputs(), results, strict=True):
        assert reported[output.name] == np.asarray(result).shape


def test_a_net_whose_sizes_are_computed_is_counted_whole(zoo: Path) -> None:
    """Silero's voice detector computes its pads and the ranks of its Ifs from shapes.

    576 samples and 64 of padding; frames of 256 every 128 give 4 positions; the encoder's strides
    of 1, 2, 2, 1 leave 4, 2, 1 and 1; one step of an LSTM cell of 128; one output.
    """
    positions = (576 + 64 - 256) // 128 + 1
    convolutions = [  # positions, filters, channels, kernel, bias
        (positions, 258, 1, 256, 0),
        (4, 128, 129, 3, 1),
        (2, 64, 128, 3, 1),
        (1, 64, 64, 3, 1),
        (1, 128, 64, 3, 1),
        (1, 1, 128, 1, 1),
    ]
    lstm = 4 * 128 * (128 + 128)
    report = inspect(zoo, "silero_vad_half")
    totals = report.totals
    assert totals.macs == lstm + sum(p * f * c * k for p, f, c, k, _ in convolutions)
    cell = lstm + 2 * 4 * 128
    assert totals.params == cell + sum(f * (c * k + bias) for _, f, c, k, bias in convolutions)
    # The cell's gates are cut out of its tensors and joined in another order. They count at the
    # cell, which stands in both branches of an If: one step, one use, one layer.
    holders = {facts.op_type for facts in report.nodes if facts.params}
    assert holders == {"Conv", "LSTM"}
    assert totals.weight_layers == len(convolutions) + 1
    assert totals.connections == cell + sum(
        p * f * (c * k + bias) for p, f, c, k, bias in convolutions
    )


def test_without_sizes_the_same_net_is_unknown_and_not_zero(zoo: Path) -> None:
    report = onnxshare.inspect(zoo / "models" / "silero_vad_half.onnx")
    assert (report.totals.macs, report.totals.connections) == (None, None)
    assert report.totals.params == manifest(zoo, "silero_vad_half")["params"]
    assert any("'sequence': " in warning for warning in report.warnings)
