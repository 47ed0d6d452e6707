"""Which node of model B is which of model A, and what changed in it.

Matched in this order, each node once: the same name and operator, then the same first output and
operator, unless the weights say that it is another node; the same weights; the same name or first
output with another operator; at last, nodes of one operator that stand in order between the same
matched nodes. Of the attributes of two nodes, a default that is written out is the default.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import onnx

from onnxshare.analysis.results import NodeFacts
from onnxshare.differences.model_side import Side, pair
from onnxshare.differences.node_settings import (
    equal_settings,
    has_settings,
)
from onnxshare.differences.results import Change, LayerChange, field_changes
from onnxshare.differences.tensor_matching import Matching
from onnxshare.graph.attribute_defaults import attribute_value, schema_defaults
from onnxshare.graph.index import Graph, Node, Scope
from onnxshare.io.node_reader import STANDARD_DOMAINS, value_of


def attribute_changes(left: Node, right: Node, before: Graph, after: Graph) -> list[Change]:
    """The attributes that differ between two nodes of one operator, subgraphs left out, whose nodes
    are compared; the graphs tell the versions of operators and the shapes of weights."""
    # A version without an attribute does what the default of the one that brought it says.
    first, second = _defaults(left, before.proto), _defaults(right, after.proto)
    old = {**second, **first, **_given(left, before)}
    new = {**first, **second, **_given(right, after)}
    return field_changes(old, new)


#: Lists that say what an operator does without them where they are this number again and again.
_NEUTRAL = {"strides": 1, "dilations": 1, "pads": 0, "output_padding": 0}

#: The functions that a recurrent cell has without saying so.
_ACTIVATIONS = {"GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"], "RNN": ["Tanh"]}


def _is_default(node: Node, attribute: onnx.AttributeProto, graph: Graph) -> bool:
    """Whether an attribute says what the node would do without it, where that is in no schema
    because it depends on the other attributes and the weights."""
    name, value = attribute.name, value_of(attribute)
    items = list(value) if isinstance(value, (list, tuple)) else []
    if name in _NEUTRAL:
        return set(items) == {_NEUTRAL[name]}
    if name == "kernel_shape":
        read = node.input(3 if node.op_type == "QLinearConv" else 1)
        weight = graph.source(node.scope, read) if read else None
        return weight is not None and items == list(weight.shape)[2:]
    if name == "auto_pad":  # VALID is not a padding, unless sizes of the output decide on it
        return value in ("VALID", b"VALID") and not node.attribute("output_shape", [])
    if name == "perm":
        return items == list(range(len(items)))[::-1]
    if name == "split":
        return len(items) == len(node.outputs) and len(set(items)) == 1
    if name == "activations":
        own = _ACTIVATIONS.get(node.op_type, [])
        said = [item.decode() if isinstance(item, bytes) else item for item in items]
        return bool(own) and said in (own, own * 2)
    return False


def _defaults(node: Node, model: onnx.ModelProto) -> dict[str, Any]:
    domain = "" if node.proto.domain in STANDARD_DOMAINS else node.proto.domain
    for opset in model.opset_import:
        known = "" if opset.domain in STANDARD_DOMAINS else opset.domain
        if known == domain:
            return schema_defaults(node.op_type, domain, opset.version)
    return {}


def _given(node: Node, graph: Graph) -> dict[str, Any]:
    return {
        attribute.name: attribute_value(attribute)
        for attribute in node.proto.attribute
        if not attribute.HasField("g") and not attribute.graphs
        if not (node.standard and _is_default(node, attribute, graph))
    }


Key = Callable[[Side, int], Any]

#: Where the value of an input comes from.
Origin = tuple[Any, ...]


class Layers:
    """Matches the nodes of two models, whose tensors are matched already."""

    def __init__(self, a: Side, b: Side, weights: Matching) -> None:
        self._a, self._b, self._weights = a, b, weights
        self._left = dict.fromkeys(range(len(a.nodes)))
        self._right = dict.fromkeys(range(len(b.nodes)))
        self._partner: dict[int, tuple[int, str]] = {}
        self._changed = {
            (change.before, change.after)
            for change in weights.changes
            if change.change not in ("renamed", "merged", "copied")
        }
        self._shapes = _shapes_of(a), _shapes_of(b)
        self._match()
        self._places = [
            {id(node): place for place, (node, _) in enumerate(side.nodes)} for side in (a, b)
        ]

    def changes(self) -> tuple[tuple[LayerChange, ...], int]:
        """The nodes that changed, in the order of B, then those that went; and how many stayed."""
        sources = {other: (one, by) for one, (other, by) in self._partner.items()}
        found, same = [], 0
        for place in range(len(self._b.nodes)):
            if place not in sources:
                found.append(_alone("added", self._b.nodes[place][1]))
                continue
            one, by = sources[place]
            change = self._compare(one, place, by)
            same += change is None
            found += [] if change is None else [change]
        found += [_alone("removed", self._a.nodes[place][1]) for place in self._left]
        return tuple(found), same

    def origins_match(self, one: Origin | None, other: Origin | None) -> bool:
        """Whether a value of A comes from where one of B does, or from a tensor that holds the
        same."""
        if self._translated(one) == other:
            return True
        if one is None or other is None or one[0] != "tensor" or other[0] != "tensor":
            return False
        left, right = self._a.tensors[one[1]], self._b.tensors[other[1]]
        return left.content.hash == right.content.hash

    def _all_match(self, old: Sequence[Origin | None], new: Sequence[Origin | None]) -> bool:
        return len(old) == len(new) and all(map(self.origins_match, old, new))

    def origin(self, side: Side, scope: Scope, name: str) -> Origin | None:
        """Where the value of a name comes from: a tensor, a node's output, an input."""
        if not name:
            return None
        home = scope.home(name)
        if home is None:
            return None
        key = f"{home.path}:{name}"
        if key in side.tensors:
            return ("tensor", key)
        node = home.producers.get(name)
        if node is None:
            return ("input", home.path, name)
        place = self._places[side is self._b].get(id(node))
        return ("node", place, node.outputs.index(name))

    def _translated(self, origin: Origin | None) -> Origin | None:
        if origin is None or origin[0] == "input":
            return origin
        if origin[0] == "tensor":
            known = self._weights.same_values.get(origin[1]) or self._weights.partner.get(origin[1])
            return ("tensor", known)
        partner = self._partner.get(origin[1])
        return ("node", None if partner is None else partner[0], origin[2])

    # Matching.

    def _match(self) -> None:
        self._pair("name", _named, unless=self._moved)
        self._pair("output", _output, unless=self._moved)
        self._pair("weights", self._by_weight)
        self._pair("name", lambda side, place: _named(side, place, any_operator=True))
        self._pair("output", lambda side, place: _output(side, place, any_operator=True))
        segments = {id(self._a): self._segments(0), id(self._b): self._segments(1)}

        def position(side: Side, place: int) -> Any:
            node = side.nodes[place][0]
            return segments[id(side)][place], node.scope.path, node.proto.domain, node.op_type

        self._pair("position", position)

    def _pair(
        self, by: str, key: Key, unless: Callable[[int, int], bool] = lambda one, other: False
    ) -> None:
        keys = partial(key, self._a), partial(key, self._b)
        for one, other in pair(self._left, self._right, keys, unless):
            self._partner[one] = (other, by)

    def _by_weight(self, side: Side, place: int) -> str | None:
        """The main weight of a node, by its key in B."""
        main = _main_weight(side, place)
        if main is None or side is self._b:
            return main
        return self._weights.same_values.get(main) or self._weights.partner.get(main)

    def _moved(self, one: int, other: int) -> bool:
        """Whether the weights of both say that they are not the same node."""
        left, right = _main_weight(self._a, one), _main_weight(self._b, other)
        if left is None or right is None:
            return False
        return self._weights.same_values.get(left, right) != right

    def _segments(self, side: int) -> list[int]:
        """For each node the last matched one before it, as a place in B; -1 before all."""
        matched = {(other if side else one): other for one, (other, _) in self._partner.items()}
        last, found = -1, []
        for place in range(len((self._b if side else self._a).nodes)):
            last = matched.get(place, last)
            found.append(last)
        return found

    # Comparing.

    def _compare(self, one: int, other: int, by: str) -> LayerChange | None:
        (left, old), (right, new) = self._a.nodes[one], self._b.nodes[other]
        changes = field_changes(_fields(old), _fields(new))
        if old.op_type == new.op_type:  # attributes of two operators have nothing in common
            changes += attribute_changes(left, right, self._a.graph, self._b.graph)
        same, skipped = self._settings(left, right, old.op_type == new.op_type)
        if _reduces_all(left, old) and _reduces_all(right, new):
            same, skipped = same | {"axes"}, skipped | {1}
        changes = [change for change in changes if change.field not in same]
        changes += self._inputs(left, right, skipped)
        changes += self._results(left, right)
        changes += self._values(left, right)
        before, after = old.path, new.path
        if not changes and (before == after or not (left.proto.name or right.proto.name)):
            return None
        return LayerChange(
            change="changed" if changes else "renamed",
            before=before,
            after=after,
            op_type=new.op_type,
            params=new.params,
            matched_by=by,
            changes=tuple(changes),
        )

    def _settings(self, left: Node, right: Node, alike: bool) -> tuple[set[str], set[int]]:
        """The attributes and inputs that set the same in both."""
        if not alike or not (has_settings(left) or has_settings(right)):
            return set(), set()
        one, other = (
            (node, side.graph, shapes.get(node.input(0)))
            for node, side, shapes in (
                (left, self._a, self._shapes[0]),
                (right, self._b, self._shapes[1]),
            )
        )
        return equal_settings(one, other)

    def _inputs(self, left: Node, right: Node, skipped: Collection[int]) -> list[Change]:
        old = [
            self.origin(self._a, left.scope, name)
            for name in _present(left, self._a.graph, skipped)
        ]
        new = [
            self.origin(self._b, right.scope, name)
            for name in _present(right, self._b.graph, skipped)
        ]
        if self._all_match(old, new):
            return []
        return [Change("inputs", list(left.inputs), list(right.inputs))]

    def _results(self, left: Node, right: Node) -> list[Change]:
        """What the subgraphs of a node return."""
        old, new = self._a.graph.subgraphs(left), self._b.graph.subgraphs(right)
        found = []
        for name in dict.fromkeys([*old, *new]):
            sides = ((self._a, old.get(name)), (self._b, new.get(name)))
            names = [[v.name for v in s.graph.output] if s else None for _, s in sides]
            origins = [
                [self.origin(side, scope, value.name) for value in scope.graph.output]
                if scope
                else None
                for side, scope in sides
            ]
            if not self._all_match(origins[0] or (), origins[1] or ()):
                found.append(Change(f"outputs of {name}", *names))
        return found

    def _values(self, left: Node, right: Node) -> list[Change]:
        """The tensors that both read and that are no longer the same."""
        found = []
        for name in left.inputs:
            origin = self.origin(self._a, left.scope, name)
            translated = self._translated(origin)
            if origin is None or origin[0] != "tensor" or not (translated and translated[1]):
                continue
            left_tensor, right_tensor = self._a.tensors[origin[1]], self._b.tensors[translated[1]]
            pair = left_tensor.stored.name, right_tensor.stored.name
            if pair in self._changed:
                found.append(Change("weights", *pair))
        return found


def _fields(facts: NodeFacts) -> dict[str, Any]:
    return {
        "op_type": facts.op_type,
        "domain": facts.domain,
        "output": _shapes(facts),
        "dtype": ", ".join(output.dtype or "?" for output in facts.outputs),
        "params": facts.params,
        "macs": facts.macs,
        "sharing_ratio": facts.sharing_ratio,
    }


def _shapes(facts: NodeFacts) -> str:
    return ", ".join(
        "×".join("?" if size is None else str(size) for size in output.shape or ()) or "1"
        if output.shape is not None
        else "?"
        for output in facts.outputs
    )


def _present(node: Node, graph: Graph, skipped: Collection[int]) -> Sequence[str]:
    """The inputs without those that are skipped, say nothing, or are left out at the end."""
    names = ["" if at in skipped else name for at, name in enumerate(node.inputs)]
    if node.standard and node.op_type == "Resize":  # older opsets need a tensor there
        stored = [graph.source(node.scope, name) if name else None for name in names]
        empty = [item is not None and not item.elements for item in stored]
        names = ["" if nothing else name for name, nothing in zip(names, empty, strict=True)]
    while names and not names[-1]:
        names.pop()
    return names


def _shapes_of(side: Side) -> dict[str, Sequence[int | str | None] | None]:
    """The shapes of all tensors that are not stored, by name."""
    made = [out for facts in side.report.nodes for out in facts.outputs]
    return {value.name: value.shape for value in (*side.report.model.inputs, *made)}


def _reduces_all(node: Node, facts: NodeFacts) -> bool:
    """Whether a reduction makes one number of each tensor, whatever axes it names."""
    if not (node.standard and node.op_type.startswith("Reduce") and facts.outputs) or bool(
        node.attribute("noop_with_empty_axes", 0)
    ):
        return False
    shape = facts.outputs[0].shape
    kept = bool(node.attribute("keepdims", 1))
    return shape is not None and (all(size == 1 for size in shape) if kept else not shape)


def _alone(change: str, facts: NodeFacts) -> LayerChange:
    before = facts.path if change == "removed" else None
    after = facts.path if change == "added" else None
    return LayerChange(change, before, after, facts.op_type, facts.params, None)


def _named(side: Side, place: int, any_operator: bool = False) -> Any:
    node = side.nodes[place][0]  # a name made of its position says nothing
    return _label_key(node, node.name if node.proto.name else None, any_operator)


def _output(side: Side, place: int, any_operator: bool = False) -> Any:
    node = side.nodes[place][0]
    return _label_key(node, next(filter(None, node.outputs), None), any_operator)


def _label_key(node: Node, label: str | None, any_operator: bool) -> Any:
    if label is None:
        return None
    return node.scope.path, label, "" if any_operator else (node.proto.domain, node.op_type)


def _main_weight(side: Side, place: int) -> str | None:
    """The largest tensor that only this node reads."""
    node = side.nodes[place][0]
    found = []
    for name in filter(None, node.inputs):
        stored = side.graph.source(node.scope, name)
        if stored is not None and not side.tensors[stored.key].content.uniform:
            found.append(stored)
    return max(found, key=lambda stored: stored.elements).key if found else None
