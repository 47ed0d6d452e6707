"""How close the weights of an FC are to being constant over space, where GAP would be exact."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np

from onnxshare.analysis.fc import weight_by_output
from onnxshare.analysis.heads import Head, Root
from onnxshare.graph.constant_values import Values
from onnxshare.io.tensors import Array

#: Weights looked at for the figure that `inspect` shows; more would not change it visibly.
_SAMPLE = 2**19

#: Elements of a weight that are looked at together.
_PIECE = 2**22


def uniformity(head: Head, values: Values) -> float | None:
    """Share of the weights' energy that is constant over space, over all FCs that read the map.

    With W[f, c, s] and its mean over space m[f, c]: Σ S·m² / Σ W². It is 1 where GAP is exact, and
    1/S (S positions) in expectation for independent random weights. Large layers are judged by
    evenly spaced outputs
    or channels.

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
        at_most: return only about so many elements: evenly spaced outputs or channels,
            whichever lie together in the file, so that the rest is not even read.
    """
    weight = weight_by_output(root.layer, values) if root.layer.arithmetic == "float" else None
    if weight is None or root.order is None:
        return None
    positions = prod(head.spatial)
    place = np.empty_like(root.order)  # the column of each element of a sample
    place[root.order] = np.arange(root.order.size)
    columns = place.reshape(head.channels, positions)
    if at_most is not None and weight.size > at_most:
        share = at_most / weight.size
        if root.layer.stored_by_output:
            weight = weight[_spaced(len(weight), share)]
        else:
            columns = columns[_spaced(head.channels, share)]
    ordered = weight[:, columns.reshape(-1)]
    return np.asarray(ordered.reshape(len(weight), len(columns), positions))


def weight_pieces(root: Root, head: Head, values: Values) -> Iterator[Array] | None:
    """The weight of an FC that reads a map, some outputs at a time, each piece as
    `spatial_weight` gives it; None if it cannot be read.

    A piece takes a bounded amount of memory, because a file of no size can ask for large weights.
    """
    weight = weight_by_output(root.layer, values)
    if weight is None or root.order is None:
        return None
    place = np.empty_like(root.order)
    place[root.order] = np.arange(root.order.size)
    shape = (-1, head.channels, prod(head.spatial))
    rows = max(1, _PIECE // max(1, weight.shape[1]))
    return (
        weight[start : start + rows][:, place].reshape(shape)
        for start in range(0, len(weight), rows)
    )


def _spaced(count: int, share: float) -> Array:
    """Evenly spaced numbers below `count`: this share of them, and at least one."""
    return np.linspace(0, count - 1, max(1, int(count * share))).astype(int)
