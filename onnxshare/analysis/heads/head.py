"""Heads: the fully connected layers that follow the last feature map of a conv net, and how close
the weights of an FC are to being constant over space, where GAP would be exact.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

import numpy as np

from onnxshare.analysis.heads import element_order
from onnxshare.analysis.heads.fully_connected import FullyConnected, weight_by_output
from onnxshare.errors import ModelError
from onnxshare.graph.constant_values import Values
from onnxshare.graph.editor import Editor
from onnxshare.graph.index import Graph, Node
from onnxshare.io.tensors import Array
from onnxshare.shapes.inference import InputShapes, Shapes, infer

#: Why there is nothing to do for a head whose map is pooled already.
ONE_POSITION = (
    "its feature map has one position: the FC already is a 1×1 convolution, and each weight is "
    "used once whatever the form"
)

#: Samples of a probe: a size that a graph is unlikely to hold in a Reshape, unlike 2.
SEVERAL = 3


@dataclass(frozen=True)
class Root:
    """An FC that reads a feature map.

    Attributes:
        layer: the FC.
        path: the layout and element-wise nodes between the map and the FC; where several maps
            are joined, those of each, the Concats and what follows them.
        order: per column the index within the sample `[C, spatial…]`; None if refused, or if
            several maps are joined.
    """

    layer: FullyConnected
    path: tuple[Node, ...]
    order: Array | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Head:
    """A feature map and the FCs after it.

    Attributes:
        feature_map: name of the tensor `[N, C, spatial…]`.
        sizes: its sizes for one sample, `(C, spatial…)`; empty if unknown.
        roots: the FCs that read the map; none where they are applied at every position of it.
        layers: all FCs, in graph order; those of chains after the roots included.
        between: element-wise and layout nodes between the FCs.
        refused: why no rewrite fits, or None.
        shared: whether there is nothing to share: the map is one position already, or the FC is
            applied at every position of it.
        pooled: whether it is one position whatever the size of the image.
        joined: further tensors that a Concat joins to the flattened map: other maps, and
            plain vectors `[N, F]`.
    """

    feature_map: str
    sizes: tuple[int, ...]
    roots: tuple[Root, ...]
    layers: tuple[FullyConnected, ...]
    between: tuple[Node, ...]
    refused: str | None = None
    shared: bool = False
    pooled: bool = False
    joined: tuple[str, ...] = ()

    @property
    def channels(self) -> int:
        """Channels of the feature map."""
        return self.sizes[0] if self.sizes else 0

    @property
    def spatial(self) -> tuple[int, ...]:
        """Spatial sizes of the feature map."""
        return self.sizes[1:]

    @property
    def layout(self) -> str:
        """The order of the columns: NCHW, NHWC or permuted; mixed if the FCs differ, joined if
        they read several tensors."""
        if self.joined:
            return "joined"
        names = {
            element_order.layout_name(root.order, (1, *self.sizes))
            for root in self.roots
            if root.order is not None
        }
        return names.pop() if len(names) == 1 else "mixed" if names else "unknown"

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes of the head, in graph order."""
        found = {node.position: node for root in self.roots for node in root.path}
        found.update({node.position: node for node in self.between})
        found.update({layer.node.position: layer.node for layer in self.layers})
        return tuple(found[position] for position in sorted(found))


@dataclass(frozen=True)
class Probe:
    """Shapes and values for a batch of several samples, to see which axis is the batch.

    Attributes:
        shapes: the shapes.
        values: constants and shape arithmetic under those shapes.
        dynamic: whether the batch is symbolic; else it is what the model fixes.
    """

    shapes: Shapes
    values: Values
    dynamic: bool


@dataclass(frozen=True)
class Subject:
    """A model with its heads: everything that rewrites ask about it.

    Attributes:
        graph: the index over the model.
        probe: its shapes and values.
        heads: its heads.
        edits: takes the edits of several sites that are made in one go; None to make one.
    """

    graph: Graph
    probe: Probe
    heads: tuple[Head, ...]
    edits: Editor | None = field(default=None, repr=False, compare=False)

    def editor(self, rewrite: str) -> Editor:
        """What a rewrite edits the model with, by its name."""
        if self.edits is not None:
            return self.edits
        return Editor(self.graph.proto, rewrite, self.graph.model.payloads)


def probe(graph: Graph, single: Shapes, input_shapes: InputShapes | None = None) -> Probe:
    """Infer shapes for a batch of several where the batch is symbolic, so that a mix-up of samples
    shows; for the model's own batch where it is fixed."""
    if single.batch_symbols:
        try:
            several = infer(graph, input_shapes, batch=SEVERAL)
        except ModelError:
            pass  # the graph works for one row only: then one row is what is probed
        else:
            return Probe(several, Values(graph, several.fully_known()), True)
    return Probe(single, Values(graph, single.fully_known()), False)


#: Weights looked at for the figure that `inspect` shows; more would not change it visibly.
_SAMPLE = 2**19


def uniformity(head: Head, values: Values) -> float | None:
    """Share of the weights' energy that is constant over space, over all FCs that read the map;
    None if the weights cannot be read or are all zero.

    With W[f, c, s] and its mean over space m[f, c]: Σ S·m² / Σ W². It is 1 where GAP is exact, and
    1/S (S positions) in expectation for independent random weights. Large layers are judged by
    evenly spaced outputs or channels.
    """
    constant = total = 0.0
    for root in head.roots:
        weight = spatial_weight(root, head, values, _SAMPLE)
        if weight is None:
            return None
        wide = weight.astype(np.float64)
        constant += float((wide.mean(axis=2) ** 2).sum()) * wide.shape[2]
        total += float((wide**2).sum())
    return min(1.0, constant / total) if total > 0 else None


def spatial_weight(
    root: Root, head: Head, values: Values, at_most: int | None = None
) -> Array | None:
    """The weight of an FC that reads a map as [out, C, positions], bit for bit; with `at_most` only
    about so many elements: evenly spaced outputs or channels, whichever lie together in the file,
    so that the rest is not even read."""
    weight = weight_by_output(root.layer, values) if root.layer.arithmetic == "float" else None
    if weight is None or root.order is None:
        return None
    positions = prod(head.spatial)
    place = np.empty_like(root.order)  # the column of each element of a sample
    place[root.order] = np.arange(root.order.size)
    columns = place.reshape(head.channels, positions)
    if at_most is not None and weight.size > at_most:
        share = at_most / weight.size
        if root.layer.stored_by_output:
            weight = weight[_spaced(len(weight), share)]
        else:
            columns = columns[_spaced(head.channels, share)]
    ordered = weight[:, columns.reshape(-1)]
    return np.asarray(ordered.reshape(len(weight), len(columns), positions))


def _spaced(count: int, share: float) -> Array:
    """Evenly spaced numbers below `count`: this share of them, and at least one."""
    return np.linspace(0, count - 1, max(1, int(count * share))).astype(int)
