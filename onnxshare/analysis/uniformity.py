"""How close the weights of an FC are to being constant over space, where GAP would be exact."""

from __future__ import annotations

from math import prod

import numpy as np

from onnxshare.analysis.fc import weight_by_output
from onnxshare.analysis.heads import Head, Root
from onnxshare.io.tensors import Array
from onnxshare.values import Values

#: Weights looked at for the figure that `inspect` shows; more would not change it visibly.
_SAMPLE = 2**22


def uniformity(head: Head, values: Values) -> float | None:
    """Share of the weights' energy that is constant over space, over all FCs that read the map.

    With W[f, c, s] and its mean over space m[f, c]: Σ S·m² / Σ W². It is 1 where GAP is exact, and
    1/S (S positions) in expectation for independent random weights. Large layers are judged by
    evenly spaced outputs.

    Returns:
        The share, or None if the weights cannot be read or are all zero.
    """
    constant = total = 0.0
    for root in head.roots:
        weight = spatial_weight(root, head, values, _SAMPLE)
        if weight is None:
            return None
        wide = weight.astype(np.float64)
        constant += float((wide.mean(axis=2) ** 2).sum()) * wide.shape[2]
        total += float((wide**2).sum())
    return min(1.0, constant / total) if total > 0 else None


def spatial_weight(
    root: Root, head: Head, values: Values, at_most: int | None = None
) -> Array | None:
    """The weight of an FC that reads a map as [out, C, positions], bit for bit.

    Args:
        root: the FC and the order of its columns.
        head: its head.
        values: where the weight is read from.
        at_most: take evenly spaced outputs only, so that about so many elements are returned.
    """
    weight = weight_by_output(root.layer, values)
    if weight is None or root.order is None:
        return None
    if at_most is not None and weight.size > at_most:
        rows = max(1, at_most // weight.shape[1])
        weight = weight[np.linspace(0, weight.shape[0] - 1, rows).astype(int)]
    ordered = np.empty_like(weight, order="C")
    ordered[:, root.order] = weight
    return ordered.reshape(len(weight), head.channels, prod(head.spatial))
