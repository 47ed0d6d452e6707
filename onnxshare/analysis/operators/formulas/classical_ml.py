"""Models of classical machine learning (domain ai.onnx.ml), whose weights stand in attributes.

The slots of those weights are negative: −1 is the first attribute that the operator's row names.
"""

from __future__ import annotations

from collections import Counter

from onnxshare.analysis.operators.operator import Context, Unknown, Work


def linear(context: Context) -> Work:
    """LinearClassifier, LinearRegressor: each row uses every coefficient and intercept once."""
    rows = context.rows()
    uses = {slot: rows * context.weights(slot) for slot in (-1, -2)}
    return Work.of(uses, uses[-1], uses[-2], unshared=uses[-1])


def support_vectors(context: Context) -> Work:
    """SVMClassifier, SVMRegressor: each row is compared with every support vector, a product or a
    squared difference per feature, and the results are summed with the coefficients (Chang and Lin,
    "LIBSVM")."""
    rows = context.rows()
    uses = {slot: rows * context.weights(slot) for slot in (-1, -2, -3, -4, -5)}
    return Work.of(uses, uses[-1] + uses[-2], uses[-3])


def scaler(context: Context) -> Work:
    """Scaler: each element uses one offset and one factor."""
    elements = context.per_sample(context.input(0))
    return Work.of(context.used({-1: elements, -2: elements}), extra=2 * elements)


def normalizer(context: Context) -> Work:
    """Normalizer: the norm of each row, and a division per element."""
    return Work(extra_flops=2 * context.per_sample(context.input(0)))


def text_frequencies(context: Context) -> Work:
    """TfIdfVectorizer: each count is multiplied with the weight of its n-gram, where there are
    weights."""
    if context.constant(-1) is None:
        return Work(extra_flops=None)
    return Work.of({-1: context.per_sample(context.output)}, extra=None)


def tree_ensemble(context: Context) -> Work:
    """TreeEnsembleClassifier, TreeEnsembleRegressor: a row ends in one leaf of each tree and adds
    that leaf's weights; how many thresholds it is compared with depends on the row.

    Raises:
        Unknown: leaves hold different numbers of weights, so the uses depend on the row too.
    """
    node = context.node
    prefix = "class" if node.op_type.endswith("Classifier") else "target"
    trees = node.attribute(f"{prefix}_treeids", [])
    leaves = Counter(zip(trees, node.attribute(f"{prefix}_nodeids", []), strict=True))
    return _leaves(context, len(set(trees)), set(leaves.values()))


def tree_ensemble_of_tensors(context: Context) -> Work:
    """TreeEnsemble: as the older ones; each leaf holds one weight."""
    return _leaves(context, len(context.node.attribute("tree_roots", [])), {1})


def _leaves(context: Context, trees: int, weights_per_leaf: set[int]) -> Work:
    if len(weights_per_leaf) > 1:
        raise Unknown
    rows = context.rows()
    uses = {-1: rows * trees * sum(weights_per_leaf), -2: rows * context.weights(-2)}
    return Work.of(uses, extra=None)
