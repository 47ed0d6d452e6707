"""Edits a copy of a model: new constants and nodes in, dead ones out, everything else as it was."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxshare.graph.index import Node, opset_version
from onnxshare.io.node_reader import count_reads, reads, refill, subgraphs
from onnxshare.io.skeleton import SMALL, Payloads
from onnxshare.io.tensors import PLAIN, Array
from onnxshare.version import __version__


class Editor:
    """Collects edits to the main graph of a model and applies them to a copy.

    Args:
        proto: the model; it is not changed.
        rewrite: the name that new nodes carry as their origin.
        payloads: where large constants are kept outside the model; None puts them into it.
    """

    def __init__(
        self, proto: onnx.ModelProto, rewrite: str, payloads: Payloads | None = None
    ) -> None:
        self._source = proto
        self._payloads = payloads
        self._rewrite = rewrite
        self._names = _all_names(proto.graph)
        self._emitted: dict[int, list[onnx.NodeProto]] = {}
        self._removed: set[int] = set()
        self._initializers: list[onnx.TensorProto] = []
        self._bodies: dict[int, onnx.NodeProto] = {}

    @property
    def opset(self) -> int:
        """The version of the default operator set."""
        return opset_version(self._source)

    def new_name(self, wanted: str) -> str:
        """A name that nothing in the graph has yet: `wanted`, or with a number behind it."""
        name, number = wanted, 1
        while name in self._names:
            number += 1
            name = f"{wanted}_{number}"
        self._names.add(name)
        return name

    def constant(self, values: Array, wanted: str) -> str:
        """Add an initializer and return its name."""
        name = self.new_name(wanted)
        values = np.ascontiguousarray(values).reshape(values.shape)
        plain = helper.np_dtype_to_tensor_dtype(values.dtype) in PLAIN
        if self._payloads is not None and plain and values.nbytes > SMALL:
            tensor = self._payloads.hold(values, name)
        else:
            tensor = numpy_helper.from_array(values, name)
        self._initializers.append(tensor)
        return name

    def emit(
        self,
        origin: Node,
        op_type: str,
        inputs: Iterable[str],
        output: str,
        attributes: Mapping[str, Any] | None = None,
        *,
        others: Iterable[str] = (),
        domain: str = "",
    ) -> str:
        """Put a new node at the place of an old one, after those put there before.

        Args:
            origin: the old node, which the new one stands for.
            op_type: its operator.
            inputs: names of its inputs.
            output: the name of its output, already reserved.
            attributes: its attributes.
            others: names of its further outputs.
            domain: the operator's domain.

        Returns:
            The name of the output.
        """
        outputs = [output, *others]
        given = dict(attributes or {})
        node = helper.make_node(op_type, list(inputs), outputs, domain=domain, **given)
        node.name = self.new_name(f"{origin.name}/{op_type}")
        self._place(node, origin)
        return output

    def emit_copy(
        self,
        origin: Node,
        inputs: list[str],
        output: str,
        attributes: Mapping[str, Any] | None = None,
        *,
        others: Iterable[str] = (),
    ) -> str:
        """Put a copy of a node, with other inputs and outputs and other values of some attributes,
        at its place."""
        node = onnx.NodeProto()
        node.CopyFrom(origin.proto)
        refill(node.input, inputs)
        refill(node.output, [output, *others])
        changed = dict(attributes or {})
        refill(node.attribute, (item for item in node.attribute if item.name not in changed))
        node.attribute.extend(helper.make_attribute(key, changed[key]) for key in changed)
        node.name = self.new_name(f"{origin.name}/map")
        self._place(node, origin)
        return output

    def _place(self, node: onnx.NodeProto, origin: Node) -> None:
        for key, value in (
            ("onnxshare.rewrite", self._rewrite),
            ("onnxshare.from", origin.name),
        ):
            set_property(node.metadata_props, key, value)
        self._emitted.setdefault(origin.position, []).append(node)

    def reads(self) -> set[str]:
        """The names that the new nodes read."""
        return {name for nodes in self._emitted.values() for node in nodes for name in node.input}

    def rename(self, name: str, wanted: str) -> None:
        """Give a tensor made by new nodes another name, everywhere in the new nodes."""
        for nodes in self._emitted.values():
            for node in nodes:
                for names in (node.input, node.output):
                    for place, found in enumerate(names):
                        if found == name:
                            names[place] = wanted

    def remove(self, node: Node) -> None:
        """Take out a node of the original graph."""
        self._removed.add(node.position)

    def replace_body(self, node: Node, attribute: str, body: onnx.GraphProto) -> None:
        """Give a node of the original graph another subgraph."""
        if node.position not in self._bodies:
            self._bodies[node.position] = onnx.NodeProto()
            self._bodies[node.position].CopyFrom(node.proto)
        for item in self._bodies[node.position].attribute:
            if item.name == attribute:
                item.g.CopyFrom(body)

    def apply(self) -> onnx.ModelProto:
        """Return the edited copy, without what the edits have made dead."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self._source)
        graph = proto.graph
        old = list(self._source.graph.node)
        kept: list[onnx.NodeProto] = []
        for position, node in enumerate(old):
            kept.extend(self._emitted.get(position, ()))
            if position not in self._removed:
                kept.append(self._bodies.get(position, node))
        candidates = {name for position in self._removed for name in old[position].input}
        candidates |= {name for position in self._bodies for name in reads(old[position])}
        refill(graph.node, _without_dead(kept, graph, candidates))
        graph.initializer.extend(self._initializers)
        if proto.ir_version < 4:  # where every initializer must be an input too
            graph.input.extend(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
                for tensor in self._initializers
            )
        _drop_unread(self._source, graph)
        known = {opset.domain for opset in proto.opset_import} | {""}
        for domain in sorted({node.domain for node in kept} - known - {"ai.onnx"}):
            proto.opset_import.append(helper.make_opsetid(domain, 1))
        set_property(proto.metadata_props, "onnxshare.version", __version__)
        return proto

    @property
    def added(self) -> tuple[str, ...]:
        """Names of the new nodes, in graph order."""
        return tuple(
            node.name for position in sorted(self._emitted) for node in self._emitted[position]
        )


def set_property(properties: Any, key: str, value: str) -> None:
    """Set an entry of a `metadata_props` list, replacing one of the same key."""
    for entry in properties:
        if entry.key == key:
            entry.value = value
            return
    entry = properties.add()
    entry.key, entry.value = key, value


def _all_names(graph: onnx.GraphProto) -> set[str]:
    names: set[str] = set()
    pending = [graph]
    while pending:
        current = pending.pop()
        names.update(value.name for value in [*current.input, *current.output])
        names.update(value.name for value in current.value_info)
        names.update(tensor.name for tensor in current.initializer)
        for sparse in current.sparse_initializer:
            names.update((sparse.values.name, sparse.indices.name))
        for node in current.node:
            names.add(node.name)
            names.update(node.input)
            names.update(node.output)
            pending.extend(subgraphs(node))
    return names


def _without_dead(
    nodes: list[onnx.NodeProto], graph: onnx.GraphProto, candidates: set[str]
) -> list[onnx.NodeProto]:
    """Drop nodes whose results were read only by what was removed; nodes that were dead before
    stay, because they are none of our business."""
    counts = count_reads(graph, nodes)
    kept: list[onnx.NodeProto] = []
    for node in reversed(nodes):
        outputs = [name for name in node.output if name]
        orphaned = any(name in candidates for name in outputs)
        if orphaned and not any(counts[name] for name in outputs):
            for name in reads(node):
                counts[name] -= 1
                candidates.add(name)
            continue
        kept.append(node)
    kept.reverse()
    return kept


def _drop_unread(source: onnx.ModelProto, after: onnx.GraphProto) -> None:
    """Drop initializers that were read before and are not now, and what is said of tensors that
    are gone. One that is an input as well stays: a caller may give it, unless every initializer
    had to be listed."""
    before = source.graph
    listed = set() if source.ir_version < 4 else {value.name for value in before.input}
    was = count_reads(before, before.node)
    now = count_reads(after, after.node)
    gone = {t.name for t in before.initializer if was[t.name] and not now[t.name]}
    gone -= listed
    _keep(after.initializer, lambda tensor: tensor.name not in gone)
    _keep(after.input, lambda value: value.name not in gone)
    made = {name for node in after.node for name in node.output}
    made.update(value.name for value in after.input)
    made.update(tensor.name for tensor in after.initializer)
    old = {name for node in before.node for name in node.output} | gone
    _keep(after.value_info, lambda value: value.name in made or value.name not in old)
    _keep(
        after.quantization_annotation,
        lambda note: note.tensor_name in made or note.tensor_name not in old,
    )


def _keep(field: Any, wanted: Any) -> None:
    kept = [item for item in field if wanted(item)]
    if len(kept) != len(field):
        refill(field, kept)
