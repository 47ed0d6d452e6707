"""Shapes of classical machine learning; ONNX Runtime says what is right."""

from __future__ import annotations

from typing import Any

import onnx
import pytest
from onnx import helper

import onnxshare
from tests.builders import model, node, random_array, run, tensor

ML = "ai.onnx.ml"


def learned(
    op_type: str, outputs: str = "y", inputs: str = "x", **held: Any
) -> tuple[onnx.NodeProto, str]:
    return node(op_type, inputs, outputs, domain=ML, **held), outputs


def classifier(classes: int, *, probabilities: bool, pairs: bool) -> tuple[onnx.NodeProto, str]:
    """Two vectors of 4 features for each class."""
    count = classes * (classes - 1) // 2
    held: dict[str, Any] = {"classlabels_ints": list(range(classes))}
    if pairs:
        held["support_vectors"] = [1.0] * (8 * classes)
        held["vectors_per_class"] = [2] * classes
    if probabilities:
        held.update(prob_a=[1.0] * count, prob_b=[0.0] * count)
    held["coefficients"] = [1.0] * (2 * classes * (classes - 1) if pairs else 4 * classes)
    held["rho"] = [0.1] * (count if pairs else 1)
    return learned(
        "SVMClassifier", "label y", kernel_type="LINEAR", kernel_params=[0.1, 0.0, 3.0], **held
    )


VECTORS: dict[str, Any] = {
    "kernel_type": "RBF", "kernel_params": [0.1, 0.0, 3.0], "coefficients": [1.0, 2.0],
    "support_vectors": [1.0] * 8, "rho": [0.1],
}  # fmt: skip

CASES = {
    "Scaler": learned("Scaler", offset=[0.0] * 4, scale=[1.0] * 4),
    "Scaler, one for all": learned("Scaler", offset=[0.0], scale=[1.0]),
    "Imputer": learned("Imputer", imputed_value_floats=[0.0] * 4),
    "Normalizer": learned("Normalizer", norm="L2"),
    "FeatureVectorizer": learned("FeatureVectorizer", inputs="x x", inputdimensions=[4, 4]),
    "LinearRegressor": learned(
        "LinearRegressor", coefficients=[1.0] * 12, intercepts=[0.0] * 3, targets=3
    ),
    "LinearClassifier": learned(
        "LinearClassifier", "label y", coefficients=[1.0] * 12, intercepts=[0.0] * 3,
        classlabels_ints=[0, 1, 2],
    ),
    "SVMRegressor": learned("SVMRegressor", n_supports=2, **VECTORS),
    **{
        f"SVMClassifier of {classes}, {probabilities=}, {pairs=}": classifier(
            classes, probabilities=probabilities, pairs=pairs
        )
        for classes in (2, 3, 4, 5)
        for probabilities in (False, True)
        for pairs in (False, True)
    },
}  # fmt: skip


def of(*nodes: onnx.NodeProto, outputs: str, stored: list[onnx.TensorProto]) -> onnx.ModelProto:
    built = model(nodes, {"x": ["n", 4]}, outputs.split(), stored)
    built.opset_import.append(helper.make_opsetid(ML, 3))
    return built


@pytest.mark.parametrize("name", CASES)
def test_shapes(name: str) -> None:
    made, outputs = CASES[name]
    built = of(made, outputs=outputs, stored=[])
    results = run(built, x=random_array(1, 4))
    (facts,) = onnxshare.inspect(built).nodes
    assert [out.shape for out in facts.outputs] == [result.shape for result in results]
    assert [out.dtype for out in facts.outputs] == [str(result.dtype) for result in results]


def test_what_is_behind_a_pipeline_is_known() -> None:
    nodes = [
        node("Imputer", "x", "a", domain=ML, imputed_value_floats=[0.0] * 4),
        node("Scaler", "a", "b", domain=ML, offset=[0.0] * 4, scale=[1.0] * 4),
        node("Normalizer", "b", "c", domain=ML, norm="L1"),
        node("MatMul", "c w", "y"),
    ]
    totals = onnxshare.inspect(of(*nodes, outputs="y", stored=[tensor("w", 4, 3)])).totals
    assert (totals.macs, totals.peak_activation_bytes) == (12, 32)


def test_support_vector_machines_are_of_one_kind() -> None:
    machines = (
        CASES["SVMRegressor"],
        learned(
            "SVMClassifier", "label y", classlabels_ints=[0, 1], vectors_per_class=[1, 1], **VECTORS
        ),
    )
    kinds = {
        onnxshare.inspect(of(made, outputs=outputs, stored=[])).nodes[0].kind
        for made, outputs in machines
    }
    assert kinds == {"fc"}
