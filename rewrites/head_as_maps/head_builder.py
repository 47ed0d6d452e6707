"""Carries a head over from vectors to maps: node by node, following where each element goes.

Every tensor of the head gets a map `[N, C, spatial…]` in which features are channels: the
feature map itself before the first FC, `[N, F, 1, …]` after it. An index array says for each
element of the old tensor where it is in the map, so layout nodes disappear, constants are moved
to where their element went, and an FC becomes a convolution whose kernel covers the map:

    y[n, f] = Σ_k W[f, k] · x[n, k] + b[f]        k = k(c, s): column of channel c, position s
            = Σ_{c,s} W[f, k(c, s)] · map[n, c, s] + b[f]

which is a convolution with kernel W'[f, c, s] = W[f, k(c, s)] at its only position (Sermanet et
al., "OverFeat", 2013; Long et al., "Fully Convolutional Networks", 2015). Weights are moved, not
recomputed, except where Gemm's alpha or beta, or a BatchNormalization before the first FC, must
be folded.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnxshare.analysis.heads import element_order
from onnxshare.analysis.heads.fully_connected import FullyConnected, by_rows, nodes_of
from onnxshare.analysis.heads.head import Head, Subject
from onnxshare.graph.constant_values import Values
from onnxshare.graph.editor import Editor
from onnxshare.graph.index import Graph, Node
from onnxshare.graph.rearrangement import rearrange
from onnxshare.io.tensors import Array
from onnxshare.support.option_text import option
from rewrites.edits.node_emitter import Emitter
from rewrites.edits.node_uses import refuse_overridable
from rewrites.head_as_maps.elementwise import Steps
from rewrites.head_as_maps.fc_weights import bias_of, check_type, quantized_weight
from rewrites.head_as_maps.kernels import Convolutions
from rewrites.head_as_maps.maps import (
    Columns,
    HeadMap,
    columns_of,
    is_plain,
    join,
    one,
    vector_to_old,
)
from rewrites.head_as_maps.quantized import check_integers
from rewrites.refusal import Refusal


class HeadBuilder:
    """Builds the maps of one head, from its feature map on, and the edits that make them; without
    an editor it only checks, and reads no weight.

    Raises:
        Refusal: the sizes of the feature map are unknown.
    """

    def __init__(self, subject: Subject, editor: Editor | None, feature_map: str) -> None:
        sizes = subject.probe.shapes.sizes(subject.graph.main, feature_map)
        if sizes is None:
            raise Refusal(
                f"the sizes of its feature map are unknown: give {option('--input-shape')}"
            )
        self._subject = subject
        self._graph: Graph = subject.graph
        self._values: Values = subject.probe.values
        self.out = Emitter(editor)
        self._steps = Steps(subject, self.out)
        self._convolutions = Convolutions(subject, self.out)
        self.samples = sizes[0]
        self.head_maps = {feature_map: one(feature_map, sizes[1:], element_order.index_of(sizes))}
        self.replaced: set[Node] = set()
        self.notes: list[str] = []
        self.evidence: dict[str, str] = {}
        self._given: set[Node] = set()

    @classmethod
    def of(cls, subject: Subject, editor: Editor | None, heads: tuple[Head, ...]) -> HeadBuilder:
        """What builds the maps of some heads, whose feature maps it knows.

        Raises:
            Refusal: the sizes of one are unknown, or they do not go together.
        """
        builder = cls(subject, editor, heads[0].feature_map)
        for head in heads:
            for name in (head.feature_map, *head.joined):
                if name in builder.head_maps:
                    continue
                sizes = _sizes(subject, head, name)
                known = (builder.samples, builder.rank)
                if name == head.feature_map and (sizes[0], len(sizes) - 2) != known:
                    raise Refusal("its heads are on maps of different ranks or batches")
                reader = next(node for node in head.nodes if name in node.inputs)
                builder.also(reader, name, sizes)
        return builder

    def also(self, node: Node, name: str, sizes: tuple[int, ...]) -> None:
        """Take a further tensor as a part of the head.

        Args:
            node: a node that reads it.
            name: the tensor: a feature map, or a vector `[N, F]`, which becomes a map.
            sizes: its sizes.
        """
        index = element_order.index_of(sizes)
        if len(sizes) > 2:
            self.head_maps[name] = one(name, sizes[1:], index)
            return
        ones = [1] * self.rank
        shape = self.out.constant(np.array([0, -1, *ones], np.int64), f"{name}_as_map")
        made = self.out.emit(node, "Reshape", [name, shape], f"{name}_map")
        self.head_maps[name] = one(made, (sizes[1], *ones), index)

    def carry(self, node: Node) -> None:
        """Make the map of a layout or element-wise node's output, or of a Concat's.

        Raises:
            Refusal: the node cannot be carried over.
        """
        refuse_overridable(self._graph, node)
        if element_order.joins(node):
            self._join(node)
            return
        both = element_order.operands(self._graph, node)
        if both is not None and all(name in self.head_maps for name in both):
            self._add(node, self._steps.combine(node, *(self.head_maps[name] for name in both)))
            return
        data = element_order.data_input(self._graph, node)
        head_map = self.head_maps.get(data) if data is not None else None
        if data is None or head_map is None:
            raise Refusal(f"node '{node.name}' reads something that is not part of the head")
        if element_order.moves(node):
            index = rearrange(node, head_map.index, self._values)
            if index is None:
                raise Refusal(f"the layout of node '{node.name}' cannot be followed")
            self._add(node, replace(head_map, index=index))
        elif node.op_type in ("Identity", "Dropout"):
            self._add(node, head_map)
        elif node.op_type == "BatchNormalization":
            made, note = self._steps.normalize(node, head_map)
            self.notes += [note] if note else []
            self._add(node, made)
        elif node.op_type == "DynamicQuantizeLinear":
            self._add(node, self._steps.quantize(node, head_map))
        else:
            self._add(node, self._steps.elementwise(node, data, head_map))

    def _join(self, node: Node) -> None:
        head_maps = [self.head_maps.get(name) for name in node.inputs]
        known = [head_map for head_map in head_maps if head_map is not None]
        if len(known) < len(head_maps) or any(head_map.vector for head_map in known):
            raise Refusal(f"{node.op_type} '{node.name}' reads something that is not a feature map")
        self._add(node, join(node, known, int(node.attribute("axis", 1))))

    def _add(self, node: Node, head_map: HeadMap) -> None:
        self.head_maps[node.outputs[0]] = head_map
        self.replaced.add(node)

    def connect(self, layer: FullyConnected) -> None:
        """Make the map of an FC's output: convolutions that cover the whole maps.

        Raises:
            Refusal: the FC cannot be written as a convolution.
        """
        read = self._check(layer)
        nodes = nodes_of(self._graph, layer)
        result = nodes[-1].outputs[0]
        name = self._convolutions.emit(layer, read, f"{result}_map")
        made = self._vector(layer, name)
        if is_plain(made.index, self.samples):
            self.evidence[result] = name
        for node in nodes:
            self._add(node, made)

    def _vector(self, layer: FullyConnected, name: str) -> HeadMap:
        """The map of an FC's output, held as `[N, F]` or `[N, F, 1, …]` by the tensor `name`."""
        head_map = self.head_maps[layer.data]
        index = element_order.index_of(
            (head_map.index.size // layer.in_features, layer.out_features)
        )
        if layer.result_columns and head_map.index.ndim == 2:
            index = index.T
        else:
            leading = head_map.index.T.shape[:-1] if layer.columns else head_map.index.shape[:-1]
            index = index.reshape((*leading, layer.out_features))
        return one(name, (layer.out_features, *(1 for _ in range(self.rank))), index, vector=True)

    def check(self, layer: FullyConnected) -> tuple[Columns, ...]:
        """Make sure that an FC reads whole samples, in a type of maps; return which of its columns
        read which map, and in which order.

        Raises:
            Refusal: it does not, or it computes in integers or has an activation fused to it.
        """
        if not layer.plain:
            way = f"use {option('--fc-to-conv')}, which is exact"
            if layer.arithmetic != "float":
                way += ", or pool the float model before it is quantized"
            raise Refusal(f"FC '{layer.node.name}' is a {layer.node.op_type}: {way}")
        return self._check(layer, moved=False)

    def _check(self, layer: FullyConnected, *, moved: bool = True) -> tuple[Columns, ...]:
        head_map = self.head_maps.get(layer.data)
        if head_map is None:
            raise Refusal(f"FC '{layer.node.name}' reads something that is not part of the head")
        read = self._columns(layer, head_map)
        refuse_overridable(self._graph, *nodes_of(self._graph, layer))
        if layer.arithmetic == "float":
            check_type(self._subject, layer)
            if moved:
                quantized_weight(self._subject, layer)
        else:
            check_integers(self._subject, layer, parts=len(read))
        bias_of(self._subject, layer)
        return read

    def _columns(self, layer: FullyConnected, head_map: HeadMap) -> tuple[Columns, ...]:
        index = by_rows(layer, head_map.index)
        if index is None:
            raise Refusal(f"FC '{layer.node.name}' multiplies a stack of matrices")
        columns = index.shape[-1] if index.ndim else 1
        if columns != layer.in_features:
            raise Refusal(
                f"FC '{layer.node.name}' expects {layer.in_features} columns and gets {columns}"
            )
        return columns_of(head_map, index.reshape(-1, columns))

    def give_back(self, layer: FullyConnected, rows: str) -> None:
        """Let a tensor `[N, F]` made by new nodes take the place of an FC's output, bias added."""
        nodes = nodes_of(self._graph, layer)
        index, result = self._vector(layer, rows).index, nodes[-1].outputs[0]
        if index.ndim == 2 and is_plain(index, self.samples):
            self.out.rename(rows, result)
        else:
            self._restore(layer.node, rows, index, result)
        self.drop(set(nodes))

    def drop(self, nodes: set[Node]) -> None:
        """Take out old nodes whose outputs are given back, or read by nothing that stays."""
        self.replaced |= nodes
        self._given |= nodes

    def _restore(self, node: Node, source: str, index: Array, name: str) -> None:
        vector_to_old(self._subject, self.out, node, source, index, name, self.samples)

    def finish(self) -> None:
        """Take the old nodes out, and give back under its old name and shape whatever the rest
        of the graph still reads.

        Raises:
            Refusal: a second output of an old node is still read.
        """
        restored = []
        leaving = set(self.replaced)
        carried = self.replaced - self._given
        for node in sorted(carried, key=lambda item: item.position, reverse=True):
            name, head_map = node.outputs[0], self.head_maps[node.outputs[0]]
            kept = node.op_type == "DynamicQuantizeLinear"  # its scale has kept its name
            if not kept and any(self._needed(o, leaving) for o in node.outputs[1:] if o):
                raise Refusal(f"node '{node.name}' has a second output that is read")
            if not self._needed(name, leaving):
                continue
            if head_map.vector:
                restored.append((node, head_map))
            elif kept:
                raise Refusal(f"'{name}' is also read outside the head")
            else:
                leaving.discard(node)  # a flattened map that others read too stays as it is
        for node, head_map in reversed(restored):
            self._restore(node, head_map.name, head_map.index, node.outputs[0])
        for node in leaving:
            self.out.remove(node)

    def copies(self) -> list[str]:
        """Notes on weights that are stored more often than before."""
        return list(self._convolutions.copies(self.replaced))

    @property
    def rank(self) -> int:
        """The number of spatial axes."""
        return len(next(iter(self.head_maps.values())).parts[0].sizes) - 1

    @property
    def removed(self) -> tuple[str, ...]:
        """Names of the old nodes, in the order of the graph."""
        return tuple(node.name for node in sorted(self.replaced, key=lambda node: node.position))

    def rename_outputs(self) -> None:
        """Let the maps that stand for the graph's outputs take over their names, and take all
        old nodes out."""
        for value in self._graph.main.graph.output:
            self.out.rename(self.head_maps[value.name].name, value.name)
        self.remove_replaced()

    def remove_replaced(self) -> None:
        """Take all old nodes out."""
        for node in self.replaced:
            self.out.remove(node)

    def _needed(self, name: str, leaving: set[Node]) -> bool:
        readers = self._graph.main.readers(name)
        return self._graph.is_output(self._graph.main, name) or any(
            reader not in leaving for reader in readers
        )


def _sizes(subject: Subject, head: Head, name: str) -> tuple[int, ...]:
    """The sizes of a tensor that a head reads.

    Raises:
        Refusal: they are unknown.
    """
    sizes = subject.probe.shapes.sizes(subject.graph.main, name)
    if sizes is not None:
        return sizes
    which = f"'{name}'" if name in head.joined else "its feature map"
    raise Refusal(f"the sizes of {which} are unknown: give {option('--input-shape')}")
