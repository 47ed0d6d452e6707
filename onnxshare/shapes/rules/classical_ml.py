"""Shapes of the operators of classical machine learning that onnx does not infer, as standard
operators of the same shapes (https://onnx.ai/onnx/operators/#ai-onnx-ml)."""

from __future__ import annotations

from onnx import TensorProto

from onnxshare.shapes.rules.substitute import Body, NoRule, Rule, same


def _floats(body: Body) -> None:
    """The data as it is, in float32."""
    body.output(0, body.op("Cast", body.input(0), to=TensorProto.FLOAT))


def _side_by_side(body: Body) -> None:
    """FeatureVectorizer: the features of all inputs."""
    count = len(body.node.input)
    parts = [body.op("Cast", body.input(at), to=TensorProto.FLOAT) for at in range(count)]
    body.output(0, body.op("Concat", *parts, axis=-1))


def _columns(body: Body, count: int) -> str:
    """A row of so many numbers for each row of the data."""
    rows = body.op("Cast", body.sum(body.input(0), -1, keepdims=1), to=TensorProto.FLOAT)
    return body.op("Expand", rows, body.integers(1, count))


def _regressor(body: Body) -> None:
    body.output(0, _columns(body, body.attribute("targets", 1)))


def _support_vector_classifier(body: Body) -> None:
    """Labels, and a score for each class; without probabilities for each pair of them, as in ONNX
    Runtime, or both of two."""
    labels, strings = (body.attribute(f"classlabels_{kind}", []) for kind in ("ints", "strings"))
    classes = len(labels) or len(strings)
    if not classes:
        raise NoRule
    pairs = body.attribute("vectors_per_class", []) and not body.attribute("prob_a", [])
    scores = max(2, classes * (classes - 1) // 2) if pairs else classes
    label = body.sum(body.input(0), -1)
    kind = TensorProto.INT64 if labels else TensorProto.STRING
    body.output(0, body.op("Cast", label, to=kind))
    body.output(1, _columns(body, scores))


RULES: dict[tuple[str, str], Rule] = {
    ("ai.onnx.ml", name): rule
    for rule, names in {
        same(0): "Imputer",
        _floats: "Scaler Normalizer",
        _side_by_side: "FeatureVectorizer",
        _regressor: "LinearRegressor",
        lambda body: body.output(0, _columns(body, 1)): "SVMRegressor",
        _support_vector_classifier: "SVMClassifier",
    }.items()
    for name in names.split()
}
