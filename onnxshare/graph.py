"""An index over a model: who makes a tensor, who reads it, and which tensors are constant.

The ModelProto stays the one representation; this is only a way to ask it questions quickly.
Subgraphs (If, Loop, Scan) are scopes of their own that see the names of the scopes around them.
Local functions are inlined before indexing, so that their weights and work are seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import onnx
from onnx import TensorProto

from onnxshare.arity import least, too_few
from onnxshare.attributes import fits, value_of
from onnxshare.bounded import inline_functions
from onnxshare.errors import ModelError
from onnxshare.io.dtypes import bytes_of
from onnxshare.io.load import Model
from onnxshare.protos import STANDARD_DOMAINS, model_inputs, opset_version
from onnxshare.stored import Stored, from_constant_node, from_initializer, from_sparse

#: Operators whose output holds the same stored elements as their first input, in some order or
#: type. QuantizeLinear counts only between a constant and a DequantizeLinear.
CARRIERS = frozenset(
    "Identity Cast CastLike Reshape Flatten Squeeze Unsqueeze Transpose DequantizeLinear".split()
)

#: Those that ONNX Runtime has too, for types that the standard had not at first.
_QUANTISED = frozenset(("QuantizeLinear", "DequantizeLinear"))

#: Operators that make a stored tensor.
_STORING = frozenset(("Constant", "ConstantOfShape"))


class Node:
    """A node with its place. What is asked of every node is read from the protobuf once.

    Attributes:
        proto: the node itself, not copied.
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
        "outputs",
        "position",
        "proto",
        "scope",
        "standard",
    )

    def __init__(self, proto: onnx.NodeProto, position: int, scope: Scope) -> None:
        self.proto = proto
        self.position = position
        self.scope = scope
        self.op_type: str = proto.op_type
        self.domain: str = proto.domain
        self.standard = self.domain in STANDARD_DOMAINS
        # A slice is read in one go; iterating takes twice as long.
        self.inputs: tuple[str, ...] = tuple(proto.input[:])
        self.outputs: tuple[str, ...] = tuple(proto.output[:])
        self.name: str = proto.name or f"{self.op_type}_{position}"

    def __repr__(self) -> str:
        return f"Node({self.op_type} '{self.name}')"

    def at(self, position: int) -> Node:
        """The node as if it stood at another position of its scope."""
        moved = Node(self.proto, position, self.scope)
        moved.name = self.name
        return moved

    def attribute(self, name: str, default: Any = None) -> Any:
        """The value of an attribute, strings decoded, or `default` where it is not given.

        Raises:
            ModelError: it is not of the kind of the default.
        """
        for attribute in self.proto.attribute:
            if attribute.name == name:
                value = value_of(attribute)
                if not fits(value, default):
                    raise ModelError(
                        f"{self.scope.model}: attribute '{name}' of node '{self.name}' is not "
                        f"what {self.op_type} takes",
                        "the file is damaged: export or download it again",
                    )
                return value
        return default


@dataclass(eq=False)
class Scope:
    """One graph of the model: the main graph (path "") or a subgraph."""

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


class Graph:
    """An index over one model, which must not be changed while the index is in use."""

    def __init__(self, model: Model) -> None:
        """Index a model.

        Raises:
            ModelError: a name is produced twice, a tensor is read that nothing produces,
                or the nodes are not in topological order.
        """
        self.model = model
        self.proto = _without_functions(model)
        self.opset = opset_version(self.proto)
        self.scopes: list[Scope] = []
        #: (domain, operator) of all nodes, and the fewest inputs and outputs that it takes.
        self.operators: dict[tuple[str, str], tuple[int, int]] = {}
        self._paths: set[str] = set()
        self.main = self._index(self.proto.graph, "", None)
        #: The inputs a user must feed: those that are not initializers.
        self.inputs = [v for v in self.proto.graph.input if v.name in self.main.inputs]
        #: What has been worked out about this graph, by who worked it out.
        self.memo: dict[str, Any] = {}

    def nodes(self) -> Iterator[Node]:
        """All nodes in graph order; those of subgraphs follow the node that holds them."""
        return self._walk(self.main)

    def _walk(self, scope: Scope) -> Iterator[Node]:
        if not scope.children:
            yield from scope.nodes
            return
        for node in scope.nodes:
            yield node
            for child in self.subgraphs(node).values():
                yield from self._walk(child)

    def subgraphs(self, node: Node) -> dict[str, Scope]:
        """The subgraphs of a node by attribute name."""
        return node.scope.children.get(node.position, {})

    def _index(
        self, graph: onnx.GraphProto, path: str, parent: Scope | None, holder: Node | None = None
    ) -> Scope:
        scope = Scope(graph, path, parent, holder, model=self.model.name)
        self.scopes.append(scope)
        self._paths.add(path)
        for tensor in graph.initializer:
            name = tensor.name
            scope.initializers[name] = tensor
            scope.sources[name] = from_initializer(tensor, f"{path}:{name}", name)
        for sparse in graph.sparse_initializer:
            scope.initializers.setdefault(sparse.values.name, sparse.values)
            scope.sparse[sparse.values.name] = sparse
        scope.inputs = {value.name for value in graph.input} - set(scope.initializers)
        scope.outputs = {value.name for value in graph.output}
        self._index_nodes(scope)
        for value in graph.output:
            if scope.home(value.name) is None:
                raise ModelError(f"{self.model.name}: output '{value.name}' is produced by no node")
        return scope

    def _index_nodes(self, scope: Scope) -> None:
        """What is done for every node of every model is written out here."""
        inputs, initializers = scope.inputs, scope.initializers
        producers, consumers, operators = scope.producers, scope.consumers, self.operators
        named: set[str] = set()
        for position, proto in enumerate(scope.graph.node):
            node = Node(proto, position, scope)
            operator = (node.domain, node.op_type)
            fewest = operators.get(operator)
            if fewest is None:
                fewest = least(node.op_type, self.opset) if node.standard else (0, 0)
                operators[operator] = fewest
            if len(node.inputs) < fewest[0] or len(node.outputs) < fewest[1]:
                raise too_few(node, *fewest)
            if node.name in named:  # two nodes may share a name
                node.name = f"{node.name}#{position}"
            named.add(node.name)
            for name in node.inputs:
                readers = consumers.get(name)
                if readers is not None:
                    readers.append(node)
                elif name in producers or name in initializers or name in inputs:
                    consumers[name] = [node]
                elif name:
                    self._read_from_outside(scope, name, node)
            if proto.attribute:
                self._descend(scope, node)
            for name in node.outputs:
                if name in producers or name in inputs or name in initializers:
                    raise ModelError(
                        f"{self.model.name}: tensor '{name}' is produced twice, again by node "
                        f"'{node.name}'"
                    )
                if name:
                    producers[name] = node
            scope.nodes.append(node)

    def _descend(self, scope: Scope, node: Node) -> None:
        for attribute in node.proto.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                path = f"{scope.path}/{node.name}.{attribute.name}".lstrip("/")
                if path in self._paths:  # names of nodes need not be unique, paths must be
                    path = f"{path}#{len(self.scopes)}"
                child = self._index(attribute.g, path, scope, node)
                scope.children.setdefault(node.position, {})[attribute.name] = child

    def _read_from_outside(self, scope: Scope, name: str, node: Node) -> None:
        """Note that a node reads a tensor of a graph around its own."""
        home = scope.home(name)
        if home is None:
            raise ModelError(
                f"{self.model.name}: node '{node.name}' ({node.op_type}) reads tensor '{name}', "
                "which no earlier node produces",
                "the graph is damaged or not in topological order",
            )
        home.consumers.setdefault(name, []).append(node)

    def is_output(self, scope: Scope, name: str) -> bool:
        """Whether a tensor is an output of its graph."""
        return name in scope.outputs

    def stored(self, scope: Scope, name: str) -> Stored | None:
        """The constant tensor of this very name, or None if it is not one."""
        home = scope.home(name)
        if home is None:
            return None
        node = home.producers.get(name)
        if name in home.initializers or (node is not None and node.op_type in _STORING):
            return self.source(home, name)
        return None

    def _stored(self, home: Scope, name: str) -> Stored | None:
        key = f"{home.path}:{name}"
        if name in home.initializers:
            return from_sparse(home.sparse[name], key, name)  # dense ones are known from the start
        node = home.producers.get(name)
        if node is None or not node.standard:
            return None
        if node.op_type == "Constant":
            return from_constant_node(node.proto, key, name)
        if node.op_type == "ConstantOfShape":
            return self._from_fill(node, key, name)
        return None

    def source(self, scope: Scope, name: str) -> Stored | None:
        """The stored tensor whose elements a name carries, through layout nodes, casts and
        (de)quantisation; None if the name depends on the model's inputs."""
        if name in scope.sources:
            return scope.sources[name]
        home = scope.home(name)
        if home is None:
            return None
        found = self._trace(home, name)
        scope.sources[name] = found
        return found

    def _trace(self, scope: Scope, name: str) -> Stored | None:
        passed: list[tuple[Scope, str]] = []
        found: Stored | None = None
        while name not in scope.sources:
            passed.append((scope, name))
            node = scope.producers.get(name)
            if node is None or node.op_type in _STORING:
                found = self._stored(scope, name)
            if found is not None or node is None or not self._carries(node, name):
                break
            name = node.inputs[0]
            scope = scope.home(name) or scope
        else:
            found = scope.sources[name]
        for where, carrier in passed:
            where.sources[carrier] = found
        return found

    def _carries(self, node: Node, name: str) -> bool:
        if node.op_type not in CARRIERS and not self._fake_quantised(node):
            return False
        known = node.standard or (node.domain == "com.microsoft" and node.op_type in _QUANTISED)
        return known and bool(node.inputs) and name == node.outputs[0]

    def _fake_quantised(self, node: Node) -> bool:
        if node.op_type != "QuantizeLinear":
            return False
        readers = node.scope.readers(node.outputs[0])
        return bool(readers) and all(reader.op_type == "DequantizeLinear" for reader in readers)

    def _from_fill(self, node: Node, key: str, name: str) -> Stored | None:
        shape = self.stored(node.scope, node.inputs[0])
        if shape is None or shape.tensor is None or shape.elements > 64:
            return None
        dims = self.model.read(shape.tensor).astype(int).reshape(-1).tolist()
        if any(size < 0 for size in dims):
            raise ModelError(f"{self.model.name}: node '{node.name}' has a negative dimension")
        fill = node.attribute("value")
        dtype = fill.data_type if fill is not None else TensorProto.FLOAT
        return Stored(key, name, dtype, tuple(dims), None, fill)


def _without_functions(model: Model) -> onnx.ModelProto:
    if not model.skeleton.functions:
        return model.skeleton
    return inline_functions(model.skeleton, model.name)


__all__ = [
    "CARRIERS",
    "STANDARD_DOMAINS",
    "Graph",
    "Node",
    "Scope",
    "Stored",
    "bytes_of",
    "model_inputs",
    "opset_version",
]
