"""What identifies the stored tensors of two models, and how their elements were rearranged."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from onnxshare.differences.side import Side
from onnxshare.io.tensors import Array, release
from onnxshare.weights.content import HIGHEST_RANK, permutation_between, same_bits

#: Fewer elements are not matched by their content alone: too many are alike by chance.
LEAST = 16


def size_of(side: Side, key: str) -> tuple[int, int]:
    """Type and number of the elements that a tensor stands for."""
    meaning = side.meaning(key)
    return meaning.dtype, prod(meaning.shape)


def twins(side: Side) -> Callable[[Side, str], str | None]:
    """Finds the tensor of a side that holds the same as one of the other, in any order."""
    same = {telling_hash(side, key): key for key in reversed(side.tensors)}
    alike = {bag_of(side, key): key for key in reversed(side.tensors)}

    def twin(other: Side, key: str) -> str | None:
        hashed, bag = telling_hash(other, key), bag_of(other, key)
        if hashed is None or bag is None:
            return None
        return same.get(hashed) or alike.get(bag)

    return twin


def telling_hash(side: Side, key: str) -> str | None:
    """The hash of a tensor that is not equal to others for no deep reason."""
    known = side.contents[key]
    return None if known.uniform or side.tensors[key].elements < LEAST else known.hash


def bag_of(side: Side, key: str, least: int = LEAST) -> Any:
    """Type, number and digest of the elements in any order; None where they tell too little."""
    stored, known = side.tensors[key], side.contents[key]
    if known.uniform and least == LEAST:
        return None
    return None if stored.elements < least else (stored.dtype, stored.elements, known.bag)


def rearranged(a: Side, b: Side, one: str, other: str) -> tuple[str, tuple[int, ...] | None]:
    """How the elements of a tensor were rearranged."""
    if a.contents[one].uniform:
        return "reshaped", None
    left, right = a.array(one), b.array(other)
    if left is None or right is None or left.dtype.kind == "O":
        return "reordered", None
    try:
        if left.size and same_bits(left.reshape(-1), right.reshape(-1)):
            return "reshaped", None
        permutation = permutation_between(left, right, HIGHEST_RANK)
        if permutation is not None:
            return "transposed", permutation
        for rows in {right.shape[0], left.shape[0]}:
            one_way, way_back = _as_matrix(left, rows), _as_matrix(right, left.size // rows)
            if (
                one_way is not None
                and way_back is not None
                and same_bits(one_way, way_back, (1, 0))
            ):
                return "transposed and reshaped", None
        return "reordered", None
    finally:
        release(left)
        release(right)


def _as_matrix(array: Array, rows: int) -> Array | None:
    return array.reshape(rows, -1) if rows and array.size % rows == 0 else None
