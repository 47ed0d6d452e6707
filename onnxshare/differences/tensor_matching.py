"""Which stored tensor of model B is which of model A, and what happened to it.

Matched in this order, each tensor once: the same name and bytes; the same bytes under another
name; the same name; the same elements in another order or other dims, under another name; the same
numbers once quantized ones are dequantized; a tensor and its rounded form. Small tensors, and those
whose elements are all alike, are equal to others for no deep reason: the same bytes under another
name count only at last. What is left was added or removed, or merged with an equal one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from onnxshare.analysis.rows import dtype_name
from onnxshare.differences.model_side import Side, pair
from onnxshare.differences.results import WeightChange
from onnxshare.differences.tensor_matching_keys import (
    LEAST,
    bag_of,
    distance,
    holder_in,
    rearranged,
    rounded,
    size_of,
    telling_hash,
)
from onnxshare.weights.index import IndexedTensor

#: So many quantized tensors of one size are compared with one in floats.
_TRIED = 32


@dataclass
class Matching:
    """Which tensor is which, by key.

    Attributes:
        partner: key in A → key in B, for tensors that are the same one.
        same_values: key in A → key in B, also for merged ones, where readers see the same.
        changes: what changed.
        same: how many stayed as they were.
    """

    partner: dict[str, str] = field(default_factory=dict)
    same_values: dict[str, str] = field(default_factory=dict)
    changes: list[WeightChange] = field(default_factory=list)
    same: int = 0


def match(a: Side, b: Side) -> Matching:
    """Match the stored tensors of two models and say what changed; cost is linear in their size."""
    return _Matcher(a, b).run()


class _Matcher:
    def __init__(self, a: Side, b: Side) -> None:
        self.a, self.b = a, b
        self.left = dict.fromkeys(a.tensors.values())
        self.right = dict.fromkeys(b.tensors.values())
        self.found = Matching()

    def run(self) -> Matching:
        self._pair(lambda tensor: (tensor.key, tensor.content.hash), self._keep)
        self._pair(telling_hash, self._rename)
        self._pair(lambda tensor: tensor.key, self._compare)
        self._pair(bag_of, self._moved)
        self._pair(self._same_numbers(), self._requantized)
        self._pair_rounded()
        self._pair(lambda tensor: tensor.content.hash, self._rename)
        self._leave()
        return self.found

    def _pair(
        self,
        key: Callable[[IndexedTensor], Any],
        act: Callable[[IndexedTensor, IndexedTensor], None],
    ) -> None:
        for one, other in pair(self.left, self.right, (key, key)):
            self.found.partner[one.key] = other.key
            act(one, other)

    def _keep(self, one: IndexedTensor, other: IndexedTensor) -> None:
        self.found.same += 1
        self.found.same_values[one.key] = other.key

    def _rename(self, one: IndexedTensor, other: IndexedTensor) -> None:
        self.found.same_values[one.key] = other.key
        self._add("renamed", one, other)

    def _moved(self, one: IndexedTensor, other: IndexedTensor) -> None:
        change, permutation = rearranged(one, other)
        self._add(change, one, other, permutation=permutation)

    def _same_numbers(self) -> Callable[[IndexedTensor], Any]:
        """What is equal for tensors that stand for the same numbers, perhaps in another order; None
        of those whose form none has on the other side, or where neither is quantized."""
        ours, theirs = ([tensor.numbers for tensor in side] for side in (self.left, self.right))
        told = {one.form for one in (*ours, *theirs) if one.quantized}
        told &= {one.form for one in ours} & {one.form for one in theirs}

        def key(tensor: IndexedTensor) -> Any:
            numbers = tensor.numbers
            if numbers.form not in told or tensor.stored.elements < LEAST:
                return None
            known = numbers.content
            return None if known.uniform else (numbers.form, known.bag)

        return key

    def _pair_rounded(self) -> None:
        """Pair what is left of both sides where one tensor is the rounded form of another; of many
        of one size only so many are tried."""
        waiting: dict[Any, list[IndexedTensor]] = {}
        for other in self.right:
            waiting.setdefault(size_of(other), []).append(other)
        for one in list(self.left):
            alike = waiting.get(size_of(one), [])
            for other in alike[:_TRIED]:
                if self._rounded(one, other):
                    alike.remove(other)
                    del self.left[one], self.right[other]
                    self.found.partner[one.key] = other.key
                    break

    def _rounded(self, one: IndexedTensor, other: IndexedTensor) -> bool:
        """Note that one of two tensors is the rounded form of the other; False where none is."""
        forth = other.numbers.quantized is not None
        floats, quantized = (one, other) if forth else (other, one)
        found = rounded(floats, quantized)
        if found is None:
            return False
        order = found.order
        if order is not None and forth:
            order = tuple(order.index(axis) for axis in range(len(order)))
        figures = {"max_abs": found.max_abs, "max_rel": found.max_rel}
        change = "quantized" if forth else "dequantized"
        self._add(change, one, other, permutation=order, **figures)
        return True

    def _requantized(self, one: IndexedTensor, other: IndexedTensor) -> None:
        if not self._same_once_dequantized(one, other):
            self._compare(one, other)

    def _same_once_dequantized(self, one: IndexedTensor, other: IndexedTensor) -> bool:
        """Note two tensors that stand for the same numbers; False where they do not."""
        left, right = one.numbers, other.numbers
        if not (left.quantized or right.quantized) or left.form != right.form:
            return False
        order = None
        if left.content.hash != right.content.hash:
            order = left.permutation_to(right) if left.content.bag == right.content.bag else None
            if order is None:
                return False
        self._add("requantized", one, other, permutation=order)
        return True

    def _compare(self, one: IndexedTensor, other: IndexedTensor) -> None:
        """Two tensors of one name and of other bytes."""
        left, right = one.stored, other.stored
        if bag_of(one, least=2) == bag_of(other, least=2) is not None:
            self._moved(one, other)
            return
        if self._same_once_dequantized(one, other) or self._rounded(one, other):
            return
        change = "changed"
        if left.dtype != right.dtype:
            change = "retyped"
        elif left.shape != right.shape:
            change = "resized"
        figures: tuple[float | None, float | None] = (None, None)
        if left.shape == right.shape:
            figures = distance(one, other)
        self._add(change, one, other, max_abs=figures[0], max_rel=figures[1])

    def _leave(self) -> None:
        """What is left over: added, removed, or held by an equal tensor."""
        find = holder_in(self.b)
        for one in self.left:
            other = find(one)
            if other is None:
                self._add("removed", one, None)
                continue
            permutation = None
            if one.content.hash == other.content.hash:
                self.found.same_values[one.key] = other.key
            else:
                permutation = rearranged(one, other)[1]
            self._add("merged", one, other, permutation=permutation)
        find = holder_in(self.a)
        for other in self.right:
            held = find(other)
            self._add("added" if held is None else "copied", held, other)

    def _add(
        self, change: str, one: IndexedTensor | None, other: IndexedTensor | None, **figures: Any
    ) -> None:
        stored = [None if side is None else side.stored for side in (one, other)]
        before, after = (None if item is None else item.name for item in stored)
        old, new = (None if item is None else dtype_name(item.dtype) for item in stored)
        dims, others = (None if item is None else item.shape for item in stored)
        parameter = before in self.a.parameters or after in self.b.parameters
        self.found.changes.append(
            WeightChange(change, before, after, parameter, (old, new), (dims, others), **figures)
        )


def by_importance(changes: Iterable[WeightChange]) -> tuple[WeightChange, ...]:
    """Parameters before other tensors, else in the order found."""
    return tuple(sorted(changes, key=lambda change: not change.parameter))
