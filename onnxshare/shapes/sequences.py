"""The tensors that a sequence holds: onnx's inference knows neither how many there are nor, where
they differ, their sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from onnxshare.graph.constant_values import Values
from onnxshare.graph.index import Graph, Node, Scope
from onnxshare.graph.loop_values import loop_trips

#: Sizes and type of a tensor seen from a scope; None where one is unknown.
Known = Callable[[Scope, str], tuple[tuple[int, ...], int] | None]

#: Sizes and type of each tensor of a sequence.
Elements = tuple[tuple[tuple[int, ...], int], ...]

#: The most tensors of a sequence that are followed.
_MOST = 1024

#: What makes a sequence of something else.
_MAKERS = frozenset(("SequenceConstruct", "SequenceEmpty", "SplitToSequence"))

#: What makes a tensor of a sequence.
_READERS = frozenset(("SequenceAt", "ConcatFromSequence"))


class Sequences:
    """The sequences of a graph, by scope path and name, as far as they are known."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self.found: dict[tuple[str, str], Elements] = {}
        #: Whether the last look found new ones.
        self.changed = False
        #: Whether there are sequences at all.
        self.any = any(op_type in _MAKERS for _, op_type in graph.operators)

    def lengths(self) -> dict[tuple[str, str], int]:
        """How many tensors each holds."""
        return {key: len(elements) for key, elements in self.found.items()}

    def of(self, scope: Scope, name: str) -> Elements | None:
        """The tensors of a sequence seen from a scope."""
        home = scope.home(name) if name else None
        return None if home is None else self.found.get((home.path, name))

    def follow(
        self, known: Known, values: Values
    ) -> Iterator[tuple[Scope, str, tuple[tuple[int, ...], int]]]:
        """Look at all nodes with what is known of tensors by now; yields what follows for tensors
        that are made of sequences, and for what a body is given of one."""
        before = len(self.found)
        for node in self._graph.nodes() if self.any else ():
            made = self._make(node, known, values)
            for name, elements in zip(node.outputs, made, strict=False):
                if name and elements is not None and len(elements) <= _MOST:
                    self.found[node.scope.path, name] = elements
            if node.op_type in _READERS and known(node.scope, node.outputs[0]) is None:
                taken = self._take(node, values)
                if taken is not None:
                    yield node.scope, node.outputs[0], taken
            elif node.op_type == "SequenceMap":
                yield from self._given(node, known)
        self.changed = len(self.found) > before

    def _make(self, node: Node, known: Known, values: Values) -> list[Elements | None]:
        """The sequences that a node makes, one for each output that is one."""
        scope, op_type = node.scope, node.op_type
        if op_type == "SequenceEmpty":
            return [()]
        if op_type == "SequenceConstruct":
            found = [known(scope, name) for name in node.inputs]
            return [tuple(one for one in found if one is not None)] if all(found) else []
        if op_type == "SplitToSequence":
            return [_parts(node, known, values)]
        if op_type == "If":
            return self._chosen(node, values)
        if op_type == "Loop":
            return self._collected(node, known, values)
        if op_type == "SequenceMap":
            return self._mapped(node, known)
        before = self.of(scope, node.input(0))
        if before is None:
            return []
        if op_type in ("Identity", "Optional", "OptionalGetElement"):
            return [before]
        if op_type == "SequenceErase":
            place = _place(node, 1, len(before), values)
            return [None if place is None else before[:place] + before[place + 1 :]]
        new = known(scope, node.input(1)) if op_type == "SequenceInsert" else None
        place = _place(node, 2, len(before), values)
        return [None if new is None or place is None else (*before[:place], new, *before[place:])]

    def _chosen(self, node: Node, values: Values) -> list[Elements | None]:
        """Of the branch that runs, or of all where they agree."""
        branches = self._graph.subgraphs(node)
        taken = branches.get(values.branch(node) or "")
        found = [
            [self.of(scope, value.name) for value in scope.graph.output]
            for scope in ([taken] if taken is not None else branches.values())
        ]
        return [each[0] if len(set(each)) == 1 else None for each in zip(*found, strict=False)]

    def _collected(self, node: Node, known: Known, values: Values) -> list[Elements | None]:
        """States of a Loop: what they start with, and what each trip puts in."""
        body = self._graph.subgraphs(node).get("body")
        states = [self.of(node.scope, name) for name in node.inputs[2:]]
        if body is None or not any(state is not None for state in states):
            return []
        trips = loop_trips(values, node, body)
        names = [value.name for value in body.graph.input][2:]
        results = [value.name for value in body.graph.output][1:]
        made: list[Elements | None] = []
        for start, name, result in zip(states, names, results, strict=False):
            put, at = [], body.producers.get(result)
            while at is not None and at.op_type == "SequenceInsert" and len(at.inputs) == 2:
                put.append(known(body, at.inputs[1]))
                result = at.inputs[0]
                at = body.producers.get(result)
            new = tuple(one for one in reversed(put) if one is not None)
            if start is None or trips is None or result != name or len(new) < len(put):
                made.append(None)
            else:
                made.append((*start, *new * min(trips, _MOST + 1)))
        return made

    def _mapped(self, node: Node, known: Known) -> list[Elements | None]:
        """What a SequenceMap makes of equal tensors."""
        body = self._graph.subgraphs(node).get("body")
        first = self.of(node.scope, node.inputs[0])
        if body is None or first is None or len(set(first)) > 1:
            return []
        found = (known(body, value.name) for value in body.graph.output)
        return [None if one is None else (one,) * len(first) for one in found]

    def _given(
        self, node: Node, known: Known
    ) -> Iterator[tuple[Scope, str, tuple[tuple[int, ...], int]]]:
        """What the body of a SequenceMap is given: an element where all are equal."""
        body = self._graph.subgraphs(node).get("body")
        for name, value in zip(node.inputs, body.graph.input if body else (), strict=False):
            elements = self.of(node.scope, name)
            inner = known(node.scope, name) if elements is None else None
            if elements is not None and len(set(elements)) == 1:
                inner = elements[0]
            if body is not None and inner is not None and known(body, value.name) is None:
                yield body, value.name, inner

    def _take(self, node: Node, values: Values) -> tuple[tuple[int, ...], int] | None:
        """The tensor that a node makes of a sequence."""
        elements = self.of(node.scope, node.inputs[0])
        if not elements:
            return None
        if node.op_type == "SequenceAt":
            if len(set(elements)) == 1:
                return elements[0]
            place = _place(node, 1, len(elements), values)
            return None if place is None else elements[place : place + 1][0]
        (first, dtype), axis = elements[0], int(node.attribute("axis", 0))
        stacked = bool(node.attribute("new_axis", 0))
        axis += len(first) + stacked if axis < 0 else 0
        if stacked:
            same = len(set(elements)) == 1 and 0 <= axis <= len(first)
            return ((*first[:axis], len(elements), *first[axis:]), dtype) if same else None
        others = {(*sizes[:axis], *sizes[axis + 1 :]) for sizes, _ in elements}
        if len(others) > 1 or not 0 <= axis < len(first):
            return None
        joined = sum(sizes[axis] for sizes, _ in elements)
        return (*first[:axis], joined, *first[axis + 1 :]), dtype


def _place(node: Node, position: int, count: int, values: Values) -> int | None:
    """The place in a sequence that an input says; behind the last, or the last, where it is left
    out, for a node that puts a tensor in or takes one out."""
    if not node.input(position):
        return count if node.op_type == "SequenceInsert" else count - 1
    found = values.integers(node.scope, node.inputs[position])
    if not found:
        return None
    place = found[0] + count if found[0] < 0 else found[0]
    return place if 0 <= place < count + (node.op_type == "SequenceInsert") else None


def _parts(node: Node, known: Known, values: Values) -> Elements | None:
    """What a SplitToSequence makes: parts of one position, whose axis goes unless it is kept; of
    as many as a number says, or of each its own."""
    data, axis = known(node.scope, node.inputs[0]), int(node.attribute("axis", 0))
    if data is None or not -len(data[0]) <= axis < len(data[0]):
        return None
    sizes, dtype = data
    axis %= len(sizes)
    before, length, behind = sizes[:axis], sizes[axis], sizes[axis + 1 :]
    if length > _MOST:
        return None
    if not node.input(1):
        kept = (1,) if int(node.attribute("keepdims", 1)) else ()
        return (((*before, *kept, *behind), dtype),) * length
    split = values.get(node.scope, node.inputs[1])
    if split is None or split.dtype.kind not in "iu":
        return None
    lengths = _lengths(split.reshape(-1).tolist(), length, one=split.ndim == 0)
    return tuple(((*before, part, *behind), dtype) for part in lengths)


def _lengths(split: Sequence[int], length: int, *, one: bool) -> Sequence[int]:
    if not one or split[0] < 1:
        return split
    full, rest = divmod(length, split[0])
    return [*chain([split[0]] * full), *([rest] if rest else [])]
