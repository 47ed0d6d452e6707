"""Nodes and the graphs they are in: what an index over a model is made of.

A node that lacks an input or output that its operator cannot do without is an error.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import onnx
from onnx import defs

from onnxshare.errors import ModelError
from onnxshare.graph.stored_tensor import Stored
from onnxshare.io.node_reader import NodeRow, Operation, fits, value_of

_MISSING = object()


class Node:
    """A node with its place. What is asked of every node is read from the protobuf once.

    Attributes:
        proto: the node itself, not copied.
        operation: its operator and attributes, one object for all nodes that have equal ones.
        name: its own name, made unique in its graph, or one made of operator and position.
        position: its position within its scope.
        scope: the graph it is in.
        op_type: the operator's name.
        domain: the operator's domain, as the node gives it.
        standard: whether the operator belongs to the ONNX standard's default domain.
        inputs: names of the inputs; "" for one that is left out.
        outputs: names of the outputs; "" for one that is left out.
    """

    __slots__ = (
        "domain",
        "inputs",
        "name",
        "op_type",
        "operation",
        "outputs",
        "position",
        "proto",
        "scope",
        "standard",
    )

    def __init__(self, row: NodeRow, position: int, scope: Scope) -> None:
        self.proto, operation, name, self.inputs, self.outputs = row
        self.operation: Operation = operation
        self.position = position
        self.scope = scope
        self.op_type: str = operation.op_type
        self.domain: str = operation.domain
        self.standard: bool = operation.standard
        self.name: str = name or f"{operation.op_type}_{position}"

    def __repr__(self) -> str:
        return f"Node({self.op_type} '{self.name}')"

    def at(self, position: int) -> Node:
        """The node as if it stood at another position of its scope."""
        row = self.proto, self.operation, self.name, self.inputs, self.outputs
        return Node(row, position, self.scope)

    def input(self, position: int) -> str:
        """The name of an input; "" for one that is left out."""
        return self.inputs[position] if position < len(self.inputs) else ""

    def attribute(self, name: str, default: Any = None) -> Any:
        """The value of an attribute, strings decoded, or `default` where it is not given.

        Raises:
            ModelError: it is not of the kind of the default.
        """
        values = self.operation.values
        if values is not None:
            value = values.get(name, _MISSING)
        else:
            given = (value_of(a) for a in self.proto.attribute if a.name == name)
            value = next(given, _MISSING)
        if value is _MISSING:
            return default
        if not fits(value, default):
            raise ModelError(
                f"{self.scope.model}: attribute '{name}' of node '{self.name}' is not "
                f"what {self.op_type} takes",
                "the file is damaged: export or download it again",
            )
        return list(value) if isinstance(value, list) else value


@dataclass(eq=False)
class Scope:
    """One graph of the model: the main graph (path "") or a subgraph.

    Attributes:
        graph: the graph itself, not copied.
        path: names of the nodes and attributes around it.
        parent: the graph around it.
        holder: the node that it is an attribute of.
        nodes: its nodes, in order.
        producers, consumers: the node that makes a tensor; those that read one of this graph.
        initializers, sparse: its stored tensors.
        inputs, outputs: names; inputs that are initializers are left out.
        children: the subgraphs of its nodes by position and attribute.
        sources: the stored tensor whose elements a name carries, as far as it is known.
        traced: whether `sources` holds every name of this graph that carries one.
        model: what messages call the model.
    """

    graph: onnx.GraphProto
    path: str
    parent: Scope | None
    holder: Node | None = None
    nodes: list[Node] = field(default_factory=list)
    producers: dict[str, Node] = field(default_factory=dict)
    consumers: dict[str, list[Node]] = field(default_factory=dict)
    initializers: dict[str, onnx.TensorProto] = field(default_factory=dict)
    inputs: set[str] = field(default_factory=set)
    outputs: set[str] = field(default_factory=set)
    sparse: dict[str, onnx.SparseTensorProto] = field(default_factory=dict)
    children: dict[int, dict[str, Scope]] = field(default_factory=dict)
    sources: dict[str, Stored | None] = field(default_factory=dict)
    traced: bool = False
    model: str = "<model>"

    def home(self, name: str) -> Scope | None:
        """The scope that defines a name, seen from here; None if nothing does."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.producers or name in scope.initializers or name in scope.inputs:
                return scope
            scope = scope.parent
        return None

    def producer(self, name: str) -> Node | None:
        """The node that makes a tensor, in this scope or around it."""
        home = self.home(name)
        return home.producers.get(name) if home else None

    def readers(self, name: str) -> list[Node]:
        """The nodes that read a tensor of this scope, those in subgraphs included."""
        return self.consumers.get(name, [])


@functools.cache
def least(op_type: str, opset: int) -> tuple[int, int, int]:
    """The fewest inputs and outputs of an operator of the standard, and how many of its first
    inputs need a name; none of an unknown one."""
    try:
        schema = defs.get_schema(op_type, min(opset, 10**6))
    except defs.SchemaError:
        return 0, 0, 0
    single = defs.OpSchema.FormalParameterOption.Single
    named = sum(parameter.option == single for parameter in schema.inputs)
    return schema.min_input, schema.min_output, min(named, schema.min_input)


def too_few(node: Node, inputs: int, outputs: int) -> ModelError:
    """What is wrong with a node that has fewer inputs with a name, or outputs, than these."""
    what, found, wanted = "inputs", len([*filter(None, node.inputs[:inputs])]), inputs
    if found >= wanted:
        what, found, wanted = "outputs", len(node.outputs), outputs
    return ModelError(
        f"{node.scope.model}: node '{node.proto.name or node.op_type}' has {found} {what}, "
        f"and {node.op_type} needs {wanted}",
        "the file is damaged: export or download it again",
    )
