"""The FCs of a head as numbers: which reads what, through which functions, with which weights.

Layer i computes y_i = W_i · f_i(y_parent) + b_i for each sample, where f_i is element-wise; roots
read the map itself. Layers that no other layer reads are the leaves: their outputs are what the
head gives to the rest of the model. Several roots on one map, and several leaves behind one root,
are fine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod

import numpy as np

from onnxshare.analysis.heads import element_order
from onnxshare.analysis.heads.fully_connected import (
    FullyConnected,
    bias_elements,
    nodes_of,
    weight_by_output,
)
from onnxshare.analysis.heads.head import SEVERAL, Head, Root, Subject
from onnxshare.graph.index import Node
from onnxshare.io.tensors import Array, bytes_of
from onnxshare.support.option_text import option
from rewrites.head_as_maps.fc_weights import bias_of, permuted, weight_pieces
from rewrites.head_as_maps.head_builder import HeadBuilder
from rewrites.head_as_maps.maps import Columns, is_plain
from rewrites.refusal import Refusal
from rewrites.small_heads.activations import Activation, activation, compose
from rewrites.small_heads.sufficient_statistics import Floats


@dataclass(frozen=True)
class ChainLayer:
    """One FC.

    Attributes:
        fc: the FC.
        result: the tensor that holds its output, bias added.
        parent: the place of the layer it reads; -1 for a root.
        between: the nodes between the two, the parent's bias left out.
        step: what they compute; None where that is not known here.
        read: its columns, and which feature of the parent, or of the map, each multiplies.
        index: where each element of `result` is in `[N, F]` rows.
        root: for a root, how it reads the map.
        params: its weights and bias.
    """

    fc: FullyConnected
    result: str
    parent: int
    between: tuple[Node, ...]
    step: Activation | None
    read: Columns = field(repr=False)
    index: Array = field(repr=False)
    root: Root | None = None
    params: int = 0

    @property
    def macs(self) -> int:
        """Its multiply-accumulates per sample."""
        return self.fc.in_features * self.fc.out_features


@dataclass(frozen=True)
class Chain:
    """The FCs of a head, in graph order.

    Attributes:
        subject: the model.
        head: the head.
        layers: the FCs.
        samples: the batch of the probe, which `ChainLayer.index` is in terms of.
        opaque: why nothing can be said of what is between the FCs; None if it is known.
    """

    subject: Subject
    head: Head
    layers: tuple[ChainLayer, ...]
    samples: int
    opaque: str | None = None

    @property
    def leaves(self) -> tuple[int, ...]:
        """The layers that no other layer reads."""
        parents = {layer.parent for layer in self.layers}
        return tuple(place for place in range(len(self.layers)) if place not in parents)

    @property
    def roots(self) -> tuple[int, ...]:
        """The layers that read the map."""
        return tuple(place for place, layer in enumerate(self.layers) if layer.parent < 0)

    @property
    def params(self) -> int:
        """Weights and biases of all FCs."""
        return sum(layer.params for layer in self.layers)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all FCs, per sample."""
        return sum(layer.macs for layer in self.layers)

    @property
    def itemsize(self) -> int:
        """Bytes of a weight."""
        return int(next(self.pieces(self.roots[0])).dtype.itemsize)

    @property
    def bytes(self) -> int:
        """What storing its weights and biases takes, each in the type that it is stored in."""
        graph, size = self.subject.graph, self.itemsize
        total = self.params * size
        for fc in (layer.fc for layer in self.layers):
            stored = graph.source(fc.node.scope, fc.weight)
            if stored is not None:
                weights = fc.in_features * fc.out_features
                total += bytes_of(weights, stored.dtype) - weights * size
        return total

    @property
    def positions(self) -> int:
        """Positions of the map, S."""
        return prod(self.head.spatial)

    def path(self, leaf: int) -> tuple[int, ...]:
        """The layers from the root of a leaf to the leaf."""
        found = [leaf]
        while self.layers[found[-1]].parent >= 0:
            found.append(self.layers[found[-1]].parent)
        return tuple(reversed(found))

    def pieces(self, root: int) -> Iterator[Array]:
        """The weight of a root in the order of the map, some outputs at a time: `[f, C, S]`."""
        layer = self.layers[root]
        for piece in weight_pieces(layer.fc, self.subject.probe.values, layer.read):
            yield _scaled(piece, layer.fc)

    def parts(self, root: int) -> Iterator[tuple[slice, Array]]:
        """The pieces of a root's weight, with the outputs they are of."""
        start = 0
        for piece in self.pieces(root):
            yield slice(start, start + len(piece)), piece
            start += len(piece)

    def weight(self, place: int) -> Array:
        """The weight `[F, D]` of a layer after the first, columns in the order of its parent."""
        layer = self.layers[place]
        weight = weight_by_output(layer.fc, self.subject.probe.values)
        if weight is None:
            raise Refusal(f"the weight of FC '{layer.fc.node.name}' cannot be read")
        return _scaled(permuted(weight, layer.read), layer.fc)

    def bias(self, place: int) -> Floats:
        """The bias `[F]` of a layer; zeros where it has none."""
        layer = self.layers[place].fc
        _, vector = bias_of(self.subject, layer)
        return np.zeros(layer.out_features) if vector is None else vector.astype(np.float64)

    def step(self, place: int) -> Activation:
        """What is between a layer and its parent.

        Raises:
            Refusal: that is not known.
        """
        step = self.layers[place].step
        if step is None:
            raise Refusal(self.opaque or "what is between its FCs is not known")
        return step

    def forward(self, known: Mapping[int, Floats]) -> dict[int, Floats]:
        """The outputs of all layers, given those of some; what is known is not computed."""
        found = dict(known)
        for place, layer in enumerate(self.layers):
            if place not in found and layer.parent in found:
                hidden = self.step(place).value(found[layer.parent])
                weight = self.weight(place).astype(np.float64)
                found[place] = hidden @ weight.T + self.bias(place)
        return found


def _scaled(weight: Array, fc: FullyConnected) -> Array:
    return weight if fc.alpha == 1 else weight * np.asarray(fc.alpha, weight.dtype)


def chain_of(subject: Subject, head: Head) -> Chain:
    """Read a head's FCs; no weight is read yet.

    Raises:
        Refusal: the head cannot be fitted at all.
    """
    sizes = subject.probe.shapes.sizes(subject.graph.main, head.feature_map)
    if sizes and sizes[0] != (SEVERAL if subject.probe.dynamic else subject.probe.shapes.batch):
        raise Refusal(
            f"its batch holds several frames of each sample; use {option('--fc-to-conv')}"
        )
    roots = {root.layer.node: root for root in head.roots}
    builder, opaque = _builder(subject, head)
    layers: list[ChainLayer] = []
    places: dict[str, int] = {}
    for fc in head.layers:
        layer = _layer(subject, builder, fc, roots.get(fc.node), places)
        if layer is None:
            continue
        if fc.result_columns:
            raise Refusal(f"the outputs of '{fc.node.name}' are not rows of samples to fit to")
        places[fc.node.outputs[0]] = places[layer.result] = len(layers)
        opaque = opaque or _unknown(layer)
        layers.append(layer)
    return Chain(subject, head, tuple(layers), builder.samples, opaque)


def _builder(subject: Subject, head: Head) -> tuple[HeadBuilder, str | None]:
    """Follow the whole head without making anything, and say where that ended."""
    builder = HeadBuilder(subject, None, head.feature_map)
    layers = {layer.node: layer for layer in head.layers}
    for node in head.nodes:
        try:
            if node in layers:
                builder.connect(layers[node])
            elif node not in builder.replaced:  # an Add may have become the bias already
                builder.carry(node)
        except Refusal as refusal:
            if any(root.layer.data not in builder.head_maps for root in head.roots):
                raise
            return builder, str(refusal)
    return builder, None


def _layer(
    subject: Subject,
    builder: HeadBuilder,
    fc: FullyConnected,
    root: Root | None,
    places: dict[str, int],
) -> ChainLayer | None:
    """An FC of the chain; None for one that reads more than one layer of it, or something that
    cannot be followed: it stays as it is, and what it reads is a leaf."""
    graph = subject.graph
    if fc.data not in builder.head_maps:
        return None
    read = builder.check(fc)
    result = nodes_of(graph, fc)[-1].outputs[0]
    params = fc.in_features * fc.out_features + bias_elements(graph, fc)
    index = builder.head_maps[result].index if result in builder.head_maps else _rows(builder, fc)
    if root is not None:
        return ChainLayer(fc, result, -1, (), None, read[0], index, root, params)
    path = element_order.back(graph, graph.main, fc.data)
    if len(read) > 1 or path.base not in places:
        return None
    nodes = tuple(node for node in path.nodes if node.outputs[0] not in places)
    step = _step(subject, builder, nodes, builder.head_maps[path.base].sizes[0])
    return ChainLayer(fc, result, places[path.base], nodes, step, read[0], index, None, params)


def _rows(builder: HeadBuilder, fc: FullyConnected) -> Array:
    return np.asarray(element_order.index_of((builder.samples, fc.out_features)))


def _step(
    subject: Subject, builder: HeadBuilder, nodes: tuple[Node, ...], features: int
) -> Activation | None:
    steps = []
    for node in nodes:
        if element_order.moves(node):
            continue  # where the elements go is known already
        data = element_order.data_input(subject.graph, node)
        rows = data in builder.head_maps and is_plain(
            builder.head_maps[data].index, builder.samples
        )
        step = activation(subject, node, features) if rows else None
        if step is None:
            return None
        steps.append(step)
    return compose(tuple(steps))


def _unknown(layer: ChainLayer) -> str | None:
    if layer.parent < 0 or layer.step is not None:
        return None
    names = {node.op_type for node in layer.between if not element_order.moves(node)}
    return f"what {', '.join(sorted(names))} between its FCs computes is not known here"
