"""What Loop, Scan and SequenceMap make of constants and sizes, trip by trip, and how many trips a
Loop makes. What a body reads of data is unknown in it, and so is what depends on that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from onnxshare.graph.nodes import Node, Scope
from onnxshare.io.tensors import Array

#: The most elements that a trip may make of one tensor.
_MOST_ELEMENTS = 65_536

#: Work of a trip besides that of its nodes.
_TRIP = 20

#: Operators whose body is run here; the branches of an If are followed by name.
LOOPS = frozenset(("Loop", "Scan", "SequenceMap"))


class Evaluator(Protocol):
    """What a body is run by: `constant_values.Values`."""

    def find(self, scope: Scope, name: str) -> Any:
        """The value of a tensor, a list for a sequence; None if it is not known."""

    def shape(self, scope: Scope, name: str) -> tuple[int, ...] | None:
        """The sizes of a tensor, if they are known."""

    def within(self, body: Scope, given: dict[str, Any]) -> Evaluator:
        """Another one, for a trip through a body whose inputs have these values."""

    def spend(self, work: int) -> bool:
        """Whether so much work may still be done."""


def run(values: Evaluator, node: Node, body: Scope) -> list[Any]:
    """What is known of each output of a Loop, a Scan or a SequenceMap."""
    runners = {"Loop": _loop, "Scan": _scan, "SequenceMap": _map}
    found = runners[node.op_type](values, node, body)
    return [*found, *[None] * len(node.outputs)][: len(node.outputs)]


def loop_trips(values: Evaluator, node: Node, body: Scope) -> int | None:
    """How often a Loop runs its body; None where data decides that, or it would take too long to
    find out."""
    most, goes_on = _limit(values, node), _starts(values, node)
    if most is None or goes_on is None or len(body.graph.input) < 2:
        return None
    if not goes_on or _keeps_going(values, body):
        return (most if goes_on else 0) if most >= 0 else None
    return _trips(values, node, body, most)[0]


def _limit(values: Evaluator, node: Node) -> int | None:
    """The trip count that a Loop is given; −1 for none, None for an unknown one."""
    if not node.input(0):
        return -1
    return _number(values.find(node.scope, node.inputs[0]))


def _starts(values: Evaluator, node: Node) -> bool | None:
    found = values.find(node.scope, node.inputs[1]) if node.input(1) else np.array(True)
    return _truth(found)


def _number(value: Any) -> int | None:
    if not isinstance(value, np.ndarray) or value.size != 1 or value.dtype.kind not in "iu":
        return None
    return max(0, int(value.reshape(-1)[0]))


def _truth(value: Any) -> bool | None:
    known = isinstance(value, np.ndarray) and value.size == 1
    return bool(value.reshape(-1)[0]) if known else None


def _keeps_going(values: Evaluator, body: Scope) -> bool:
    """Whether the condition is what it was before the loop, or a constant that is true."""
    name = body.graph.output[0].name
    while (node := body.producers.get(name)) is not None and node.op_type == "Identity":
        name = node.inputs[0]
    return name == body.graph.input[1].name or bool(_truth(values.find(body, name)))


def _trips(
    values: Evaluator, node: Node, body: Scope, most: int, *, until_unknown: bool = False
) -> tuple[int | None, list[list[Any]]]:
    """The number of trips and what each made, the condition left out. Ends early, without a
    number, at a trip of which nothing is known if that is wanted."""
    states = [values.find(node.scope, name) if name else None for name in node.inputs[2:]]
    goes_on, made = _starts(values, node), list[list[Any]]()
    while goes_on and len(made) != most:
        trip = np.array(len(made), np.int64)
        results = _step(values, body, [trip, np.array(True), *states])
        if not results:
            return None, made
        goes_on, results = _truth(results[0]), results[1:]
        made.append(results)
        if until_unknown and all(value is None for value in results):
            return None, made
        states = results[: len(states)]
    return (None if goes_on is None else len(made)), made


def _step(values: Evaluator, body: Scope, given: Sequence[Any]) -> list[Any] | None:
    """What a body makes of its inputs; None where that would be too much work."""
    if not values.spend(_TRIP + len(body.nodes)):
        return None
    names = [value.name for value in body.graph.input]
    inner = values.within(body, dict(zip(names, given, strict=False)))
    found = [inner.find(body, value.name) for value in body.graph.output]
    return [value if _elements(value) <= _MOST_ELEMENTS else None for value in found]


def _elements(value: Any) -> int:
    return sum(map(_elements, value)) if isinstance(value, list) else getattr(value, "size", 0)


def _loop(values: Evaluator, node: Node, body: Scope) -> list[Any]:
    most = _limit(values, node)
    if most is None or len(body.graph.input) < 2:
        return []
    count, made = _trips(values, node, body, most, until_unknown=True)
    states = len(node.inputs) - 2
    if count is None:
        return []
    if not made:
        return [values.find(node.scope, name) if name else None for name in node.inputs[2:]]
    columns = list(zip(*made, strict=True))
    last = [column[-1] for column in columns[: max(0, states)]]
    return [*last, *(_stacked(column, 0) for column in columns[max(0, states) :])]


def _stacked(parts: Sequence[Any], axis: int, *, backwards: bool = False) -> Array | None:
    if not all(isinstance(part, np.ndarray) for part in parts):
        return None
    if len({part.shape for part in parts}) != 1 or not -parts[0].ndim - 1 <= axis <= parts[0].ndim:
        return None
    if sum(part.size for part in parts) > _MOST_ELEMENTS:
        return None
    return np.stack(parts[::-1] if backwards else parts, axis)


def _scan(values: Evaluator, node: Node, body: Scope) -> list[Any]:
    """From opset 9 on: there is no batch."""
    count = int(node.attribute("num_scan_inputs", 0))
    kept = len(node.inputs) - count
    if "" in node.inputs or not 0 < count <= len(node.inputs):
        return []
    states = [values.find(node.scope, name) for name in node.inputs[:kept]]
    read = [values.find(node.scope, name) for name in node.inputs[kept:]]
    axes = _each(node, "scan_input_axes", count)
    back = _each(node, "scan_input_directions", count)
    shape = values.shape(node.scope, node.inputs[kept])
    if shape is None or not -len(shape) <= axes[0] < len(shape):
        return []
    steps, made = shape[axes[0]], list[list[Any]]()
    for step in range(steps):
        parts = [
            None if data is None else np.take(data, steps - 1 - step if turned else step, axis)
            for data, axis, turned in zip(read, axes, back, strict=True)
        ]
        results = _step(values, body, [*states, *parts])
        if results is None or all(value is None for value in results):
            return []
        made.append(results)
        states = results[:kept]
    if not made:
        return []
    columns = list(zip(*made, strict=True))
    axes = _each(node, "scan_output_axes", len(columns) - kept)
    back = _each(node, "scan_output_directions", len(columns) - kept)
    stacked = [
        _stacked(column, axis, backwards=bool(turned))
        for column, axis, turned in zip(columns[kept:], axes, back, strict=True)
    ]
    return [*(column[-1] for column in columns[:kept]), *stacked]


def _each(node: Node, name: str, count: int) -> list[int]:
    """An attribute with a number for each scanned tensor; 0 where it is not given."""
    given = [int(number) for number in node.attribute(name, [])]
    return given if len(given) == count else [0] * count


def _map(values: Evaluator, node: Node, body: Scope) -> list[Any]:
    """A SequenceMap: the body runs for each element of the first sequence."""
    read = [values.find(node.scope, name) for name in node.inputs]
    if not isinstance(read[0], list):
        return []
    made = []
    for place in range(len(read[0])):
        parts = [item[place : place + 1] if isinstance(item, list) else [item] for item in read]
        results = _step(values, body, [part[0] if part else None for part in parts])
        if results is None or any(value is None for value in results):
            return []
        made.append(results)
    return [list(column) for column in zip(*made, strict=True)] if made else []
