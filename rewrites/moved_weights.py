"""Weights that were moved, not computed anew: the claim, and the proof that it holds.

A rewrite states which constant of the old model became which constant of the new one, and in what
order. The claim is checked byte by byte, a block of rows at a time, before anything is run. It
says nothing about whether the order is the right one: that is for the runs to show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from onnxshare.graph.constant_values import Values
from onnxshare.graph.index import Graph
from onnxshare.io.load import Model, all_tensors
from onnxshare.io.tensors import Array, element_count, release
from onnxshare.weights.content import same_bits

if TYPE_CHECKING:
    from onnxshare.comparison.results import WeightProof

#: Bytes that are compared at once.
_STEP = 2**22

#: Elements up to which a new constant is looked for among the old ones.
_SMALL = 2**20

_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)


@dataclass(frozen=True)
class Moved:
    """A constant of the old model that became one of the new model, bit for bit.

    Both are taken as matrices of as many rows as the source has (one, if it is a vector). Column
    k of the source, or of its transpose, is column order[k] of the target; where only some columns
    were taken, k counts those.

    Attributes:
        source: the old tensor: stored, or made from a stored one by layout nodes alone.
        target: the new tensor.
        transposed: whether the source, as a matrix of its rows, is taken transposed.
        order: where each column went; None if it stayed where it was.
        source_scope, target_scope: paths of the graphs they are in; "" is the main graph.
        columns: which columns of the source were taken, ascending; None for all.
    """

    source: str
    target: str
    transposed: bool = False
    order: Array | None = field(default=None, repr=False, compare=False)
    source_scope: str = ""
    target_scope: str = ""
    columns: Array | None = field(default=None, repr=False, compare=False)


class _Index:
    """The constants of a model, by the path of their graph and their name."""

    def __init__(self, model: Model) -> None:
        self.graph = Graph(model)
        self._values = Values(self.graph)

    def value(self, path: str, name: str) -> Array | None:
        scope = next((scope for scope in self.graph.scopes if scope.path == path), None)
        return None if scope is None else self._values.get(scope, name)


def prove_weights(
    steps: Sequence[tuple[Model, Model, tuple[Moved, ...]]],
) -> tuple[WeightProof, str | None]:
    """Check the claims of a chain of changes, each with the model before and after.

    Returns:
        How many tensors were moved, and which were computed; and the first claim that does not
        hold, as text, or None. A tensor that keeps its name claims to keep its values.
    """
    from onnxshare.comparison.results import WeightProof  # inspections do not need it

    count = 0
    computed: dict[str, None] = {}
    known: _Index | None = None
    for before, after, claims in steps:
        kept, fresh = _unclaimed(before, after, claims)
        old_names = {tensor.name for tensor in before.skeleton.graph.initializer}
        changed = next((name for name in fresh if name in old_names), None)
        if changed is not None:
            return WeightProof(count, tuple(computed)), f"weight '{changed}' lost its values"
        count += kept
        computed.update(dict.fromkeys(fresh))
        if not claims:
            known = None
            continue
        old = known if known is not None and known.graph.model is before else _Index(before)
        new = _Index(after)
        for claim in claims:
            problem = _check(claim, old, new)
            if problem is not None:
                return WeightProof(count, tuple(computed)), problem
            count += 1
        known = new
    left = {tensor.name for tensor in steps[-1][1].skeleton.graph.initializer} if steps else set()
    return WeightProof(count, tuple(name for name in computed if name in left)), None


def _unclaimed(before: Model, after: Model, claims: tuple[Moved, ...]) -> tuple[int, list[str]]:
    """Floating-point constants, new or changed, that no claim covers: how many hold the bytes of
    an old one in their order, as operands do that were only given more axes; and the others."""
    old = {tensor.name: tensor for tensor in before.skeleton.graph.initializer}
    claimed = {claim.target for claim in claims}
    fresh = [
        tensor
        for tensor in after.skeleton.graph.initializer
        if tensor.data_type in _FLOATS
        and tensor.name not in claimed
        and not (tensor.name in old and tensor == old[tensor.name])
    ]
    sizes = {(tensor.data_type, element_count(tensor)) for tensor in fresh}
    known = {
        before.read(tensor).tobytes()
        for tensor in (all_tensors(before.skeleton) if fresh else ())
        if (tensor.data_type, element_count(tensor)) in sizes and element_count(tensor) <= _SMALL
    }
    others = [
        tensor.name
        for tensor in fresh
        if element_count(tensor) > _SMALL or after.read(tensor).tobytes() not in known
    ]
    return len(fresh) - len(others), others


def _check(claim: Moved, old: _Index, new: _Index) -> str | None:
    source = old.value(claim.source_scope, claim.source)
    target = new.value(claim.target_scope, claim.target)
    if source is None or target is None:
        missing = claim.source if source is None else claim.target
        return f"weight '{missing}' is not there, although it is said to have been moved"
    if not _holds(source, target, claim):
        return f"weight '{claim.target}' is not '{claim.source}' moved as it is said to be"
    return None


def _holds(source: Array, target: Array, claim: Moved) -> bool:
    if claim.transposed:
        if source.ndim < 2:
            return False
        source = source.reshape(len(source), -1).T
    rows = len(source) if source.ndim > 1 else 1
    old, columns, order = source.reshape(rows, -1), claim.columns, claim.order
    if columns is not None:
        if not _ascend(columns, old.shape[1]):
            return False
        if columns[-1] - columns[0] + 1 == columns.size:  # side by side: a view will do
            old, columns = old[:, columns[0] : columns[-1] + 1], None
    width = old.shape[1] if columns is None else columns.size
    if source.dtype != target.dtype or target.size != rows * width:
        return False
    if order is not None and not np.array_equal(np.sort(order), np.arange(width)):
        return False  # no permutation: some column is lost
    if order is not None and np.array_equal(order, np.arange(width)):
        order = None
    new = target.reshape(rows, -1)
    if order is None and columns is None:
        return same_bits(old, new)
    step = max(1, _STEP // max(1, old[:1].nbytes))
    for start in range(0, rows, step):
        taken, part = old[start : start + step], new[start : start + step]
        taken = taken if columns is None else taken[:, columns]
        if not same_bits(taken, part if order is None else part[:, order]):
            return False
        release(part)
    return True


def _ascend(columns: Array, count: int) -> bool:
    """Whether these are numbers of columns, each once and in order."""
    return bool(
        columns.size and columns[0] >= 0 and columns[-1] < count and np.all(np.diff(columns) > 0)
    )
