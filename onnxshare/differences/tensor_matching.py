"""Which stored tensor of model B is which of model A, and what happened to it.

Matched in this order, each tensor once: the same name and bytes; the same bytes under another
name; the same name; the same elements in another order or other dims, under another name; the same
numbers once quantised ones are dequantised; a tensor and its rounded form. Small tensors, and those
whose elements are all alike, are equal to others for no deep reason: the same bytes under another
name count only at last. What is left was added or removed, or merged with an equal one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from onnxshare.analysis.rows import dtype_name
from onnxshare.differences.model_side import Side
from onnxshare.differences.results import WeightChange
from onnxshare.differences.tensor_matching_keys import (
    LEAST,
    bag_of,
    distance,
    first,
    head_maps,
    rearranged,
    rounded,
    size_of,
    telling_hash,
)
from onnxshare.weights.equal_dequantized import Numbers, permutation

#: So many quantised tensors of one size are compared with one in floats.
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


Key = Callable[[Side, str], Any]


class _Matcher:
    def __init__(self, a: Side, b: Side) -> None:
        self.a, self.b = a, b
        self.left, self.right = dict.fromkeys(a.tensors), dict.fromkeys(b.tensors)
        self.found = Matching()
        self.known: dict[tuple[bool, str], Numbers] = {}

    def run(self) -> Matching:
        self._pair(lambda side, key: (key, side.contents[key].hash), self._keep)
        self._pair(telling_hash, self._rename)
        self._pair(lambda side, key: key, self._compare)
        self._pair(bag_of, self._moved)
        self._pair(self._same_numbers(), self._requantised)
        self._pair_rounded()
        self._pair(lambda side, key: side.contents[key].hash, self._rename)
        self._leave()
        return self.found

    def _pair(self, key: Key, act: Callable[[str, str], None]) -> None:
        """Pair what is left of both sides, in order, by a key; None matches nothing."""
        waiting: dict[Any, list[str]] = {}
        for name in self.right:
            waiting.setdefault(key(self.b, name), []).append(name)
        waiting.pop(None, None)
        for names in waiting.values():
            names.reverse()
        for name in list(self.left):
            names = waiting.get(key(self.a, name), [])
            if names:
                other = names.pop()
                del self.left[name], self.right[other]
                self.found.partner[name] = other
                act(name, other)

    def _keep(self, one: str, other: str) -> None:
        self.found.same += 1
        self.found.same_values[one] = other

    def _rename(self, one: str, other: str) -> None:
        self.found.same_values[one] = other
        self._add("renamed", one, other)

    def _moved(self, one: str, other: str) -> None:
        change, permutation = rearranged(self.a, self.b, one, other)
        self._add(change, one, other, permutation=permutation)

    def _same_numbers(self) -> Key:
        """What is equal for tensors that stand for the same numbers, perhaps in another order; None
        of those whose form none has on the other side, or where neither is quantised."""
        forms = [
            {side.meaning(key).form for key in left}
            for side, left in ((self.a, self.left), (self.b, self.right))
        ]
        told = {
            side.meaning(key).form
            for side, left in ((self.a, self.left), (self.b, self.right))
            for key in left
            if key in side.readings
        }
        told &= forms[0] & forms[1]

        def key(side: Side, name: str) -> Any:
            form = side.meaning(name).form
            if form not in told or side.tensors[name].elements < LEAST:
                return None
            numbers = self._numbers(side, name).content
            return None if numbers.uniform else (form, numbers.bag)

        return key

    def _numbers(self, side: Side, key: str) -> Numbers:
        place = side is self.b, key
        if place not in self.known:
            self.known[place] = side.numbers(key)
        return self.known[place]

    def _pair_rounded(self) -> None:
        """Pair what is left of both sides where one tensor is the rounded form of another; of many
        of one size only so many are tried."""
        waiting: dict[Any, list[str]] = {}
        for other in self.right:
            waiting.setdefault(size_of(self.b, other), []).append(other)
        for one in list(self.left):
            alike = waiting.get(size_of(self.a, one), [])
            for other in alike[:_TRIED]:
                if self._rounded(one, other):
                    alike.remove(other)
                    del self.left[one], self.right[other]
                    self.found.partner[one] = other
                    break

    def _rounded(self, one: str, other: str) -> bool:
        """Note that one of two tensors is the rounded form of the other; False where none is."""
        forth = other in self.b.readings
        quantised, key = (self.b, other) if forth else (self.a, one)
        floats, name = (self.a, one) if forth else (self.b, other)
        reading = quantised.readings.get(key)
        if reading is None or name in floats.readings:
            return False
        numbers = floats.array(name) if size_of(floats, name) == size_of(quantised, key) else None
        found = None
        if numbers is not None and numbers.size >= LEAST:
            found = rounded(numbers, reading, quantised.read(reading.stored))
        if found is None:
            return False
        order = found.order
        if order is not None and forth:
            order = tuple(order.index(axis) for axis in range(len(order)))
        figures = {"max_abs": found.max_abs, "max_rel": found.max_rel}
        change = "quantised" if forth else "dequantised"
        self._add(change, one, other, permutation=order, **figures)
        return True

    def _requantised(self, one: str, other: str) -> None:
        if not self._same_once_dequantised(one, other):
            self._compare(one, other)

    def _same_once_dequantised(self, one: str, other: str) -> bool:
        """Note two tensors that stand for the same numbers; False where they do not."""
        if not (one in self.a.readings or other in self.b.readings):
            return False
        if self.a.meaning(one).form != self.b.meaning(other).form:
            return False
        order, ends = None, (self._numbers(self.a, one), self._numbers(self.b, other))
        if ends[0].content.hash != ends[1].content.hash:
            order = permutation(*ends) if ends[0].content.bag == ends[1].content.bag else None
            if order is None:
                return False
        self._add("requantised", one, other, permutation=order)
        return True

    def _compare(self, one: str, other: str) -> None:
        """Two tensors of one name and of other bytes."""
        left, right = self.a.tensors[one], self.b.tensors[other]
        if bag_of(self.a, one, least=2) == bag_of(self.b, other, least=2) is not None:
            self._moved(one, other)
            return
        if self._same_once_dequantised(one, other) or self._rounded(one, other):
            return
        change = "changed"
        if left.dtype != right.dtype:
            change = "retyped"
        elif left.shape != right.shape:
            change = "resized"
        figures: tuple[float | None, float | None] = (None, None)
        if left.shape == right.shape:
            arrays = self.a.array(one), self.b.array(other)
            if self.a.contents[one].uniform and self.b.contents[other].uniform:
                arrays = first(arrays[0]), first(arrays[1])
            figures = distance(*arrays)
        self._add(change, one, other, max_abs=figures[0], max_rel=figures[1])

    def _leave(self) -> None:
        """What is left over: added, removed, or held by an equal tensor."""
        head_map = head_maps(self.b)
        for key in self.left:
            held = head_map(self.a, key)
            if held is None:
                self._add("removed", key, None)
                continue
            permutation = None
            if self.a.contents[key].hash == self.b.contents[held].hash:
                self.found.same_values[key] = held
            else:
                permutation = rearranged(self.a, self.b, key, held)[1]
            self._add("merged", key, held, permutation=permutation)
        head_map = head_maps(self.a)
        for key in self.right:
            held = head_map(self.b, key)
            self._add("added" if held is None else "copied", held, key)

    def _add(self, change: str, one: str | None, other: str | None, **figures: Any) -> None:
        left = None if one is None else self.a.tensors[one]
        right = None if other is None else self.b.tensors[other]
        self.found.changes.append(
            WeightChange(
                change=change,
                before=None if left is None else left.name,
                after=None if right is None else right.name,
                parameter=(left is not None and left.name in self.a.parameters)
                or (right is not None and right.name in self.b.parameters),
                dtype=(
                    None if left is None else dtype_name(left.dtype),
                    None if right is None else dtype_name(right.dtype),
                ),
                shape=(
                    None if left is None else left.shape,
                    None if right is None else right.shape,
                ),
                **figures,
            )
        )


def by_importance(changes: Iterable[WeightChange]) -> tuple[WeightChange, ...]:
    """Parameters before other tensors, else in the order found."""
    return tuple(sorted(changes, key=lambda change: not change.parameter))
