"""Operators of classical machine learning, in the domain ai.onnx.ml
(https://onnx.ai/onnx/operators/#ai-onnx-ml), whose weights stand in attributes.

Parameters are what is multiplied with or added to data: coefficients, intercepts, support vectors,
the weights of leaves, offsets and factors. The thresholds of a tree are only compared with data:
they are constants. Labels, vocabularies and the structure of a tree are neither.
"""

from __future__ import annotations

from collections.abc import Callable

from onnxshare.analysis.operators.formulas import classical_ml
from onnxshare.analysis.operators.operator import (
    CONSTANT,
    AttributeWeight,
    Context,
    Operator,
    Work,
)
from onnxshare.analysis.operators.tables.standard import ACTIVATION, EMBEDDING, LAYOUT

_CLASSES = ("intercepts", "classlabels_ints", "classlabels_strings")


def _row(kind: str, work: Callable[[Context], Work], *weights: AttributeWeight) -> Operator:
    return Operator(kind, "", work, attribute_weight=weights)


def _linear(*rows: str) -> Operator:
    coefficients = AttributeWeight(("coefficients",), rows=rows)
    return _row("fc", classical_ml.linear, coefficients, AttributeWeight(("intercepts",)))


def _trees(leaves: str) -> Operator:
    return _row(
        "other",
        classical_ml.tree_ensemble,
        AttributeWeight((leaves, f"{leaves}_as_tensor")),
        AttributeWeight(("base_values", "base_values_as_tensor")),
        AttributeWeight(("nodes_values", "nodes_values_as_tensor"), CONSTANT),
    )


_LEARNED: dict[str, Operator] = {
    "LinearClassifier": _linear(*_CLASSES),
    "LinearRegressor": _linear("targets"),
    "SVMClassifier SVMRegressor": _row(
        "fc",
        classical_ml.support_vectors,
        AttributeWeight(("support_vectors",), rows=("n_supports", "vectors_per_class")),
        *(AttributeWeight((name,)) for name in ("coefficients", "rho", "prob_a", "prob_b")),
    ),
    "TreeEnsembleClassifier": _trees("class_weights"),
    "TreeEnsembleRegressor": _trees("target_weights"),
    "TreeEnsemble": _row(
        "other",
        classical_ml.tree_ensemble_of_tensors,
        AttributeWeight(("leaf_weights",)),
        AttributeWeight(("base_values",)),
        AttributeWeight(("nodes_splits",), CONSTANT),
    ),
    "Scaler": _row(
        "norm", classical_ml.scaler, AttributeWeight(("offset",)), AttributeWeight(("scale",))
    ),
    "Normalizer": Operator("norm", "", classical_ml.normalizer),
    "ArrayFeatureExtractor": EMBEDDING,
    "Binarizer Imputer": ACTIVATION,
    "CastMap CategoryMapper DictVectorizer FeatureVectorizer LabelEncoder OneHotEncoder "
    "ZipMap": LAYOUT,
}

ROWS: dict[tuple[str, str], Operator] = {
    ("ai.onnx.ml", name): row for names, row in _LEARNED.items() for name in names.split()
}
