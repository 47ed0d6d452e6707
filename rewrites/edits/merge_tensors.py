"""Takes stored tensors out of a copy of a model and lets their readers read another one."""

from __future__ import annotations

from typing import Any

import onnx
from onnx import helper

from onnxshare.graph.editor import Editor, set_property
from onnxshare.graph.index import Graph, Node, Scope, Stored
from onnxshare.io.node_reader import refill

#: The attribute of Gemm that transposes an input.
_ATTRIBUTES = {0: "transA", 1: "transB"}


def position_in(scope: Scope, node: Node) -> int:
    """The position of a node in a scope, or of the node there that holds its subgraph."""
    while node.scope is not scope and node.scope.holder is not None:
        node = node.scope.holder
    return node.position


def flips(reader: Node, name: str) -> bool:
    """Whether a node can transpose this input by itself."""
    return (
        reader.standard
        and reader.op_type == "Gemm"
        and reader.inputs.count(name) == 1
        and reader.inputs.index(name) in _ATTRIBUTES
    )


class Merge:
    """Replaces stored tensors by others that stay, in a copy of the model."""

    def __init__(self, graph: Graph, rewrite: str) -> None:
        self._graph, self._rewrite = graph, rewrite
        self._editor = Editor(graph.proto, rewrite)
        self._proto = self._editor.apply()
        self._copies = {scope.path: copy for scope, copy in graph.paired(self._proto.graph)}
        self._gone: dict[str, set[str]] = {}
        self._made: dict[str, dict[int, list[onnx.NodeProto]]] = {}
        self._added: list[str] = []

    @property
    def added(self) -> tuple[str, ...]:
        """Names of the new nodes."""
        return tuple(self._added)

    def drop(self, stored: Stored, keep: Stored, *, transposed: bool) -> None:
        """Take out a tensor that holds the same as the one that stays, or its transpose."""
        scope = self._graph.scope_of(stored)
        readers = {id(node): node for node in scope.readers(stored.name)}.values()
        left = [node for node in readers if transposed and not flips(node, stored.name)]
        for node in readers:
            if node not in left:
                self._redirect(node, stored.name, keep.name, transposed=transposed)
        if left:  # they go on reading the same name, which a Transpose makes now
            first = min(position_in(scope, node) for node in left)
            self._transpose(scope, stored.name, keep.name, first)
        self._gone.setdefault(scope.path, set()).add(stored.name)

    def _redirect(self, node: Node, name: str, keep: str, *, transposed: bool) -> None:
        proto = self._copies[node.scope.path].node[node.position]
        for place, found in enumerate(proto.input):
            if found == name:
                proto.input[place] = keep
                if transposed:
                    _flip(proto, _ATTRIBUTES[place])

    def _transpose(self, scope: Scope, name: str, keep: str, position: int) -> None:
        label = self._editor.new_name(f"{name}/Transpose")
        node = helper.make_node("Transpose", [keep], [name], name=label, perm=[1, 0])
        set_property(node.metadata_props, "onnxshare.rewrite", self._rewrite)
        set_property(node.metadata_props, "onnxshare.from", name)
        self._made.setdefault(scope.path, {}).setdefault(position, []).append(node)
        self._added.append(label)

    def apply(self) -> onnx.ModelProto:
        """Return the model without the tensors that were dropped."""
        for path in reversed(self._copies):  # inner graphs first: they move with their nodes
            gone, graph = self._gone.get(path, set()), self._copies[path]
            if not gone:
                continue
            made = self._made.get(path, {})
            nodes: list[onnx.NodeProto] = []
            for position, node in enumerate(graph.node):
                nodes.extend(made.get(position, ()))
                if gone.isdisjoint(node.output):
                    nodes.append(node)
            refill(graph.node, nodes)
            still = {name for node in nodes for name in node.output}
            _without(graph.initializer, "name", gone)
            _without(graph.input, "name", gone)
            _without(graph.value_info, "name", gone - still)
            _without(graph.quantization_annotation, "tensor_name", gone - still)
        return self._proto


def _flip(gemm: onnx.NodeProto, name: str) -> None:
    for attribute in gemm.attribute:
        if attribute.name == name:
            attribute.i = 1 - attribute.i
            return
    gemm.attribute.append(helper.make_attribute(name, 1))


def _without(field: Any, key: str, gone: set[str]) -> None:
    """Take entries out of a repeated field, the others left where they are."""
    for place in reversed(range(len(field))):
        if getattr(field[place], key) in gone:
            del field[place]
