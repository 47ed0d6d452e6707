"""Who uses what: the questions that a rewrite asks before it takes a tensor away."""

from __future__ import annotations

from typing import Any

from onnx import helper

from onnxshare.analysis.heads.head import Subject
from onnxshare.graph.index import CARRIERS, Graph, Node, Scope, Stored
from onnxshare.graph.operator_traits import traits_of
from onnxshare.io.node_reader import DEFAULTS_SINCE
from onnxshare.io.tensors import Array
from onnxshare.support.option_text import option
from rewrites.refusal import Refusal


def attributes(node: Node, *without: str) -> dict[str, Any]:
    """The attributes of a node as `Editor.emit` takes them."""
    return {
        attribute.name: helper.get_attribute_value(attribute)
        for attribute in node.proto.attribute
        if attribute.name not in without
    }


def values_of(subject: Subject, scope: Scope, name: str) -> Array:
    """The values of a constant.

    Raises:
        Refusal: they cannot be had.
    """
    value = subject.probe.values.get(scope, name)
    if value is None:
        raise Refusal(f"'{name}' cannot be read")
    return value


def overridable(graph: Graph, stored: Stored) -> bool:
    """Whether a stored tensor is only the default of an input, so that its values may change."""
    if "overridable" not in graph.memo:
        defaults = set(graph.main.initializers) if graph.proto.ir_version >= DEFAULTS_SINCE else ()
        inputs = (value.name for value in graph.proto.graph.input)
        graph.memo["overridable"] = set(defaults).intersection(inputs)
    return stored.name in graph.memo["overridable"]


def refuse_overridable(graph: Graph, *nodes: Node) -> None:
    """Make sure that no constant of nodes that go is an input as well.

    Raises:
        Refusal: one is: a caller may give another value, and must be able to still.
    """
    for node in nodes:
        for name in filter(None, node.inputs):
            stored = graph.source(node.scope, name)
            if stored is not None and overridable(graph, stored):
                raise Refusal(may_be_given(stored))


def may_be_given(stored: Stored) -> str:
    """Why a rewrite leaves a default of an input alone, and what allows it."""
    return (
        f"'{stored.name}' is also an input, whose value a caller may give: with "
        f"{option('--assume-defaults')} it counts as a constant"
    )


def quantized(graph: Graph, scope: Scope, name: str) -> bool:
    """Whether a constant is quantized on its way to its reader, or computed."""
    while graph.stored(scope, name) is None:
        producer = scope.producer(name)
        if producer is None or traits_of(producer).quantized:
            return True
        name = producer.inputs[0]
    return False


def leaves(graph: Graph, scope: Scope, name: str) -> bool:
    """Whether a tensor of this scope is an output of its graph, or of a graph inside it."""
    home = scope.home(name)
    return any(name in inner.outputs and inner.home(name) is home for inner in graph.scopes)


def only_reader(graph: Graph, node: Node) -> Node | None:
    """The node that alone reads the first output of a node, in the same graph; None if there are
    several, none, or the result leaves the graph."""
    name = node.outputs[0]
    readers = node.scope.readers(name)
    if len(readers) != 1 or readers[0].scope is not node.scope or leaves(graph, node.scope, name):
        return None
    return readers[0] if readers[0].inputs.count(name) == 1 else None


class Users:
    """For each stored tensor what computes with it or returns it, behind layout nodes and casts."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._users: dict[str, dict[Node | str, str]] = {}
        for node in graph.nodes():
            carries = node.standard and node.op_type in CARRIERS
            for position, name in enumerate(node.inputs):
                if name and not (carries and position == 0):
                    self._add(node.scope, name, node, f"'{node.name}'")
        for scope in graph.scopes:
            for name in scope.outputs:
                self._add(scope, name, f"{scope.path}:{name}", f"output '{name}'")

    def _add(self, scope: Scope, name: str, user: Node | str, label: str) -> None:
        stored = self._graph.source(scope, name)
        if stored is not None:
            self._users.setdefault(stored.key, {})[user] = label

    def others(self, stored: Stored, *nodes: Node) -> list[str]:
        """What uses a stored tensor in addition to some nodes, as text."""
        users = self._users.get(stored.key, {})
        return [label for user, label in users.items() if user not in nodes]


def users_of(graph: Graph) -> Users:
    """The users of all stored tensors, found once for a graph."""
    if "users" not in graph.memo:
        graph.memo["users"] = Users(graph)
    users: Users = graph.memo["users"]
    return users
