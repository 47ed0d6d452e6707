"""Settings of nodes that some opsets hold in an attribute and others in a stored input: axes,
parts, limits, pads. Two nodes with equal settings do the same, however they are written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from onnx import defs

from onnxshare.graph.attribute_defaults import schema_defaults
from onnxshare.graph.index import Graph, Node
from onnxshare.graph.operator_traits import Effect, traits_of

#: Sizes of the first input and output of a node; None where they are not known.
Sizes = Sequence[int | str | None] | None

#: The most elements of a setting.
_MOST = 4096

#: A setting as all forms of it are written, from its value or None, the node, and its sizes.
Form = Callable[[Any, Node, Sizes], Any]


def _reduced(value: Any, node: Node, sizes: Sizes) -> Any:
    """Axes of a reduction, in any order; all where none are named."""
    if value is None or not len(value):
        if node.attribute("noop_with_empty_axes", 0):
            return ()
        value = range(len(sizes)) if sizes is not None else None
    return None if value is None else _axes(value, sizes)


def _axes(value: Any, sizes: Sizes) -> Any:
    """Axes counted from the first."""
    numbers = [int(axis) for axis in value]
    if sizes is None and min(numbers, default=0) < 0:
        return None
    return tuple(sorted(axis % len(sizes) if axis < 0 and sizes else axis for axis in numbers))


def _squeezed(value: Any, node: Node, sizes: Sizes) -> Any:
    if value is None:
        return tuple(at for at, size in enumerate(sizes) if size == 1) if sizes else None
    return _axes(value, sizes)


def _parts(value: Any, node: Node, sizes: Sizes) -> Any:
    if value is not None:
        return tuple(map(int, value))
    axis, count = int(node.attribute("axis", 0)), len(node.outputs)
    size = sizes[axis] if sizes is not None and -len(sizes) <= axis < len(sizes) else None
    return (size // count,) * count if isinstance(size, int) and size % count == 0 else None


def _steps(value: Any, node: Node, sizes: Sizes) -> Any:
    """All steps are 1 unless others are given."""
    return () if value is None or all(step == 1 for step in value) else tuple(map(int, value))


def _ordered(value: Any, node: Node, sizes: Sizes) -> Any:
    return None if value is None else tuple(map(int, value))


def _limit(default: float) -> Form:
    def form(value: Any, node: Node, sizes: Sizes) -> Any:
        if value is None or not len(value):
            return default
        return max(-_LARGEST, min(_LARGEST, float(value[0])))

    return form


def _named_axes(value: Any, node: Node, sizes: Sizes) -> Any:
    effect = traits_of(node).effect
    if effect is Effect.REDUCTION:
        return _reduced(value, node, sizes)
    return (_squeezed if node.op_type == "Squeeze" else _ordered)(value, node, sizes)


def _axis(value: Any, node: Node, sizes: Sizes) -> Any:
    if node.op_type == "OneHot" and sizes is not None:  # the axis is one of the result
        sizes = (*sizes, None)
    return None if value is None else _axes(value, sizes)


_LARGEST = float(np.finfo(np.float32).max)

#: By the name that the standard gives to an input: how it is compared.
_FORMS: dict[str, Form] = {
    "axes": _named_axes,
    "split": _parts,
    "starts": _ordered,
    "ends": _ordered,
    "steps": _steps,
    "pads": _ordered,
    "constant_value": _limit(0.0),
    "min": _limit(-_LARGEST),
    "max": _limit(_LARGEST),
}

#: Inputs whose attribute had another name.
_ATTRIBUTES = {"constant_value": "value"}

#: The attribute `axis` of any operator; no input holds it.
_AXIS = ("axis", 99, _axis)


@cache
def _settings(op_type: str) -> tuple[tuple[str, int, Form], ...]:
    """(attribute, input, form) of each setting of an operator of the standard."""
    try:
        inputs = defs.get_schema(op_type).inputs
    except defs.SchemaError:
        return ()
    return tuple(
        (_ATTRIBUTES.get(given.name, given.name), position, _FORMS[given.name])
        for position, given in enumerate(inputs)
        if given.name in _FORMS
    )


def _of(node: Node) -> tuple[tuple[str, int, Form], ...]:
    return (*_settings(node.op_type), _AXIS) if node.standard else ()


def has_settings(node: Node) -> bool:
    """Whether a node may set something in one of two ways."""
    return len(_of(node)) > 1 or node.attribute("axis") is not None


def equal_settings(
    one: tuple[Node, Graph, Sizes], other: tuple[Node, Graph, Sizes]
) -> tuple[set[str], set[int]]:
    """The attributes and the inputs in which two nodes of one operator need not be compared,
    because they set the same."""
    attributes: set[str] = set()
    inputs: set[int] = set()
    for name, position, form in _of(one[0]):
        found = [_setting(name, position, form, *side) for side in (one, other)]
        if found[0] is not None and found[0] == found[1]:
            attributes.add(name)
            inputs.add(position)
    return attributes, inputs


def _setting(name: str, position: int, form: Form, node: Node, graph: Graph, sizes: Sizes) -> Any:
    """One setting of a node; None where it is computed, or too large to look at."""
    given: Any = node.attribute(name, None)
    if given is None:
        given = schema_defaults(node.op_type, "", graph.opset).get(name)
    if node.input(position):
        stored = graph.stored(node.scope, node.inputs[position])
        if stored is None or stored.tensor is None or stored.elements > _MOST:
            return None
        given = graph.model.read(stored.tensor).reshape(-1).tolist()
    elif given is not None and not isinstance(given, list):
        given = [given]
    try:
        return form(given, node, sizes)
    except (TypeError, ValueError):
        return None  # an attribute of the wrong kind
