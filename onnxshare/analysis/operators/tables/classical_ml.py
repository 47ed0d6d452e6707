"""Operators of classical machine learning, in the domain ai.onnx.ml
(https://onnx.ai/onnx/operators/#ai-onnx-ml), whose weights stand in attributes.

Parameters are what is multiplied with or added to data: coefficients, intercepts, support vectors,
the weights of leaves, offsets and factors. The thresholds of a tree are only compared with data:
they are constants. Labels, vocabularies and the structure of a tree are neither.
"""

from __future__ import annotations

from onnxshare.analysis.operators.formulas import classical_ml, elementwise
from onnxshare.analysis.operators.operator import CONSTANT, AttributeWeight, Operator
from onnxshare.analysis.operators.tables.standard import EMBEDDING, LAYOUT

_CLASSES = ("intercepts", "classlabels_ints", "classlabels_strings")

_SUPPORT_VECTORS = Operator(
    "fc",
    (),
    classical_ml.support_vectors,
    attribute_weight=(
        AttributeWeight(("support_vectors",), rows=("n_supports",)),
        AttributeWeight(("coefficients",)),
        AttributeWeight(("rho",)),
        AttributeWeight(("prob_a",)),
        AttributeWeight(("prob_b",)),
    ),
)


def _trees(leaves: str) -> Operator:
    return Operator(
        "other",
        (),
        classical_ml.tree_ensemble,
        attribute_weight=(
            AttributeWeight((leaves, f"{leaves}_as_tensor")),
            AttributeWeight(("base_values", "base_values_as_tensor")),
            AttributeWeight(("nodes_values", "nodes_values_as_tensor"), CONSTANT),
        ),
    )


_LEARNED: dict[str, Operator] = {
    "LinearClassifier": Operator(
        "fc",
        (),
        classical_ml.linear,
        attribute_weight=(
            AttributeWeight(("coefficients",), rows=_CLASSES),
            AttributeWeight(("intercepts",)),
        ),
    ),
    "LinearRegressor": Operator(
        "fc",
        (),
        classical_ml.linear,
        attribute_weight=(
            AttributeWeight(("coefficients",), rows=("targets",)),
            AttributeWeight(("intercepts",)),
        ),
    ),
    "SVMClassifier SVMRegressor": _SUPPORT_VECTORS,
    "TreeEnsembleClassifier": _trees("class_weights"),
    "TreeEnsembleRegressor": _trees("target_weights"),
    "TreeEnsemble": Operator(
        "other",
        (),
        classical_ml.tree_ensemble_of_tensors,
        attribute_weight=(
            AttributeWeight(("leaf_weights",)),
            AttributeWeight(("base_values",)),
            AttributeWeight(("nodes_splits",), CONSTANT),
        ),
    ),
    "Scaler": Operator(
        "norm",
        (),
        classical_ml.scaler,
        attribute_weight=(AttributeWeight(("offset",)), AttributeWeight(("scale",))),
    ),
    "Normalizer": Operator("norm", (), classical_ml.normaliser),
    "ArrayFeatureExtractor": EMBEDDING,
    "Binarizer Imputer": Operator("elementwise", (), elementwise.elementwise),
    "CastMap CategoryMapper DictVectorizer FeatureVectorizer LabelEncoder OneHotEncoder "
    "ZipMap": LAYOUT,
}

ROWS: dict[tuple[str, str], Operator] = {
    ("ai.onnx.ml", name): row for names, row in _LEARNED.items() for name in names.split()
}
