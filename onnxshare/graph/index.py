"""An index over a model: who makes a tensor, who reads it, and which tensors are constant.

The ModelProto stays the one representation; this is only a way to ask it questions quickly.
Subgraphs (If, Loop, Scan) are scopes of their own that see the names of the scopes around them.
Local functions are inlined before indexing, so that their weights and work are seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import onnx

from onnxshare.errors import ModelError
from onnxshare.graph import constant_sources
from onnxshare.graph.constant_sources import CARRIERS, Sources
from onnxshare.graph.nodes import Node, Scope, least, too_few
from onnxshare.graph.onnx_sandbox import inline_functions
from onnxshare.graph.stored_tensor import Stored, from_tensor
from onnxshare.io.load import Model
from onnxshare.io.node_reader import (
    STANDARD_DOMAINS,
    NodeRow,
    Operation,
    Reader,
    Reading,
    model_inputs,
    opset_version,
)
from onnxshare.io.tensors import bytes_of


class Graph:
    """An index over one model, which must not be changed while the index is in use."""

    def __init__(self, model: Model) -> None:
        """Index a model.

        Raises:
            ModelError: a name is produced twice, a tensor is read that nothing produces,
                or the nodes wait for each other (`io/node_order.py` sorts all others).
        """
        self.model = model
        self.proto, self._marks = _without_functions(model)
        self._first: dict[str, Stored] = {}
        self.opset = opset_version(self.proto)
        self.scopes: list[Scope] = []
        #: (domain, operator) of all nodes, and the fewest inputs and outputs that it takes.
        self.operators: dict[tuple[str, str], tuple[int, int, int]] = {}
        self._paths: set[str] = set()
        self._reader = Reader()
        self._sources = Sources(model)
        reading = model.take_reading() if self.proto is model.skeleton else None
        self.main = self._index(self.proto.graph, reading)
        #: The inputs a user must feed: those that are not initializers.
        self.inputs = [v for v in self.proto.graph.input if v.name in self.main.inputs]
        #: What has been worked out about this graph, by who worked it out.
        self.memo: dict[str, Any] = {}

    def release(self) -> None:
        """Empty the index, which is of no more use then: nodes and graphs hold each other, and
        would stay in memory until the garbage collector walks over them."""
        for scope in self.scopes:
            scope.nodes.clear()
            scope.producers.clear()
            scope.consumers.clear()
            scope.children.clear()
        self.memo.clear()

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

    def paired(
        self, copy: onnx.GraphProto, scope: Scope | None = None
    ) -> Iterator[tuple[Scope, onnx.GraphProto]]:
        """The main graph, or another, and those inside it, with what stands for each in a copy."""
        scope = scope or self.main
        yield scope, copy
        for position, children in scope.children.items():
            for attribute in copy.node[position].attribute:
                if attribute.name in children:
                    yield from self.paired(attribute.g, children[attribute.name])

    def subgraphs(self, node: Node) -> dict[str, Scope]:
        """The subgraphs of a node by attribute name."""
        return node.scope.children.get(node.position, {})

    def _index(
        self,
        graph: onnx.GraphProto,
        reading: Reading | None = None,
        holder: Node | None = None,
        path: str = "",
    ) -> Scope:
        scope = Scope(graph, path, holder.scope if holder else None, holder, model=self.model.name)
        self.scopes.append(scope)
        self._paths.add(path)
        read = reading or self._reader.read(graph)
        for row in read.tensors:
            name = row[1]
            scope.initializers[name] = row[0]
            scope.sources[name] = from_tensor(row, f"{path}:{name}", name)
        for sparse in graph.sparse_initializer:
            scope.initializers.setdefault(sparse.values.name, sparse.values)
            scope.sparse[sparse.values.name] = sparse
        scope.inputs = {value.name for value in graph.input} - scope.initializers.keys()
        scope.outputs = {value.name for value in graph.output}
        self._index_nodes(scope, read.nodes)
        for value in graph.output:
            if scope.home(value.name) is None:
                raise ModelError(f"{self.model.name}: output '{value.name}' is produced by no node")
        return scope

    def _index_nodes(self, scope: Scope, rows: list[NodeRow]) -> None:
        """What is done for every node of every model is written out here."""
        producers, consumers, nodes = scope.producers, scope.consumers, scope.nodes
        fewest: dict[Operation, tuple[int, int, int]] = {}
        for operation in dict.fromkeys([row[1] for row in rows]):
            fewest[operation] = self._fewest(operation)
        known = scope.inputs | scope.initializers.keys()
        named: set[str] = set()
        for position, row in enumerate(rows):
            node = Node(row, position, scope)
            least_inputs, least_outputs, named_inputs = fewest[node.operation]
            too_short = len(node.inputs) < least_inputs or len(node.outputs) < least_outputs
            if too_short or "" in node.inputs[:named_inputs]:
                raise too_few(node, least_inputs, least_outputs)
            if node.name in named:  # two nodes may share a name, also one that was invented
                node.name = f"{node.name}#{position}"
            named.add(node.name)
            for name in node.inputs:
                if name in consumers:
                    consumers[name].append(node)
                elif name in known:
                    consumers[name] = [node]
                elif name:
                    self._read_from_outside(scope, name, node)
            if node.operation.attributes is None:
                self._descend(scope, node)
            for name in node.outputs:
                if name in known:
                    raise ModelError(
                        f"{self.model.name}: tensor '{name}' is produced twice, again by node "
                        f"'{node.name}'"
                    )
                if name:
                    producers[name] = node
                    known.add(name)
            nodes.append(node)

    def _fewest(self, operation: Operation) -> tuple[int, int, int]:
        """The fewest inputs and outputs of an operator; see `least`."""
        operator = operation.domain, operation.op_type
        if operator not in self.operators:
            known = least(operation.op_type, self.opset) if operation.standard else (0, 0, 0)
            self.operators[operator] = known
        return self.operators[operator]

    def _descend(self, scope: Scope, node: Node) -> None:
        for attribute in node.proto.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                path = f"{scope.path}/{node.name}.{attribute.name}".lstrip("/")
                if path in self._paths:  # names of nodes need not be unique, paths must be
                    path = f"{path}#{len(self.scopes)}"
                child = self._index(attribute.g, holder=node, path=path)
                scope.children.setdefault(node.position, {})[attribute.name] = child

    def _read_from_outside(self, scope: Scope, name: str, node: Node) -> None:
        """Note that a node reads a tensor of a graph around its own."""
        home = scope.home(name)
        if home is None:
            raise ModelError(
                f"{self.model.name}: node '{node.name}' ({node.op_type}) reads tensor '{name}', "
                "which no earlier node produces",
                "the graph is damaged, or its nodes form a cycle",
            )
        home.consumers.setdefault(name, []).append(node)

    def captured(self, node: Node) -> list[str]:
        """The names that the subgraphs of a node read, their own included."""
        names: list[str] = []
        scopes = list(self.subgraphs(node).values())
        while scopes:
            scope = scopes.pop()
            names += [value.name for value in scope.graph.output]
            for inner in scope.nodes:
                names += inner.inputs
                scopes += self.subgraphs(inner).values()
        return names

    def inputs_of(self, names: Iterable[str]) -> set[str]:
        """The inputs of the model that some tensors of the main graph come from."""
        waiting = [*names]
        seen = {*waiting}
        while waiting:
            node = self.main.producers.get(waiting.pop())
            if node is not None:
                before = [n for n in (*node.inputs, *self.captured(node)) if n not in seen]
                seen.update(before)
                waiting += before
        return seen & self.main.inputs

    def is_output(self, scope: Scope, name: str) -> bool:
        """Whether a tensor is an output of its graph."""
        return name in scope.outputs

    def stored(self, scope: Scope, name: str) -> Stored | None:
        """The constant tensor of this very name, or None if it is not one."""
        return self._sources.stored(scope, name)

    @property
    def calls(self) -> bool:
        """Whether there are constants of local functions, of which a file holds one."""
        return bool(self._marks)

    def once(self, stored: Stored) -> Stored:
        """A stored tensor; for a constant of a local function the one of its first call."""
        mark = self._marks.get(stored.name)
        return stored if mark is None else self._first.setdefault(mark, stored)

    def scope_of(self, stored: Stored) -> Scope:
        """The scope that a stored tensor is in."""
        path = stored.key[: -len(stored.name) - 1]
        return next(scope for scope in self.scopes if scope.path == path)

    def constants(self, scope: Scope) -> Mapping[str, Stored | None]:
        """What `source` answers for every name of the main graph; names without entry carry
        none."""
        return self._sources.all(scope)

    def source(self, scope: Scope, name: str) -> Stored | None:
        """The stored tensor whose elements a name carries, through layout nodes, casts and
        (de)quantization; None if the name depends on the model's inputs."""
        if scope.parent is None and scope.traced:  # called for every node, so with one call less
            return scope.sources.get(name)
        return self._sources.of(scope, name)


def _without_functions(model: Model) -> tuple[onnx.ModelProto, dict[str, str]]:
    """The model with its functions expanded, and the marks of their constants."""
    if not model.skeleton.functions:
        return model.skeleton, {}
    marked = constant_sources.marked(model.skeleton)
    proto = inline_functions(marked, model.name)
    return proto, {} if marked is model.skeleton else constant_sources.unmarked(proto.graph)


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
