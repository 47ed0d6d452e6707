"""Finds heads: the fully connected layers that follow the last feature map of a conv net."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod

from onnxshare.analysis import layout
from onnxshare.analysis.fc import FullyConnected, by_rows, fully_connected
from onnxshare.errors import ModelError
from onnxshare.graph import Graph, Node
from onnxshare.io.tensors import Array
from onnxshare.shapes import InputShapes, Shapes, infer
from onnxshare.values import Values

#: What makes a feature map: operators that slide a kernel over positions.
_SLIDING = frozenset(
    "Conv ConvTranspose ConvInteger QLinearConv FusedConv NhwcFusedConv DeformConv".split()
)

#: Operators that keep a feature map a feature map: looked through for the convolution before it.
_KEEPS_MAP = frozenset(
    "MaxPool AveragePool LpPool GlobalAveragePool GlobalMaxPool GlobalLpPool ReduceMean "
    "ReduceMax LRN InstanceNormalization GroupNormalization Concat Pad Sum Mean Resize "
    "Upsample Slice Split DepthToSpace SpaceToDepth Softmax LogSoftmax LpNormalization "
    "MeanVarianceNormalization LayerNormalization QLinearAdd QLinearGlobalAveragePool "
    "QLinearAveragePool QLinearConcat DynamicQuantizeLinear Where Add Sub Mul Div Min Max "
    "Pow BatchNormalization".split()
)


#: Samples of a probe: a size that a graph is unlikely to hold in a Reshape, unlike 2.
_SEVERAL = 3


#: What puts flattened maps together or cuts them, in words.
_PIECES = {
    "Concat": "several flattened tensors in one",
    "Slice": "a part of a flattened map",
    "Gather": "a part of a flattened map",
    "Split": "a part of a flattened map",
}


@dataclass(frozen=True)
class Root:
    """An FC that reads a feature map.

    Attributes:
        layer: the FC.
        path: the layout and element-wise nodes between the map and the FC.
        order: per column the index within the sample `[C, spatial…]`; None if refused.
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
        roots: the FCs that read the map.
        layers: all FCs, in graph order; those of chains after the roots included.
        between: element-wise and layout nodes between the FCs.
        refused: why no rewrite fits, or None.
        shared: whether there is nothing to share: the map is one position already.
    """

    feature_map: str
    sizes: tuple[int, ...]
    roots: tuple[Root, ...]
    layers: tuple[FullyConnected, ...]
    between: tuple[Node, ...]
    refused: str | None = None
    shared: bool = False

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
        """The order of the columns: NCHW, NHWC or permuted; mixed if the FCs differ."""
        names = {
            layout.layout_name(root.order, (1, *self.sizes))
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
    """A model with its heads: everything that rewrites ask about it."""

    graph: Graph
    probe: Probe
    heads: tuple[Head, ...]


def probe(graph: Graph, single: Shapes, input_shapes: InputShapes | None = None) -> Probe:
    """Infer shapes for a batch of several where the batch is symbolic, so that a mix-up of samples
    shows; for the model's own batch where it is fixed."""
    if single.batch_symbols:
        try:
            several = infer(graph, input_shapes, batch=_SEVERAL)
        except ModelError:
            pass  # the graph works for one row only: then one row is what is probed
        else:
            return Probe(several, Values(graph, several.fully_known()), True)
    return Probe(single, Values(graph, single.fully_known()), False)


def find_heads(graph: Graph, make_probe: Callable[[], Probe]) -> list[Head]:
    """Find all heads of the main graph.

    Args:
        graph: the indexed model.
        make_probe: called only if there is an FC after a convolution.
    """
    layers = fully_connected(graph)
    if not layers or not any(node.op_type in _SLIDING for node in graph.main.nodes):
        return []
    by_output = {layer.node.outputs[0]: layer for layer in layers}
    after_convolution = _after_convolution(graph)
    roots: dict[str, list[Root]] = {}
    chained: dict[str, list[tuple[FullyConnected, tuple[Node, ...]]]] = {}
    home: dict[str, str] = {}
    probed: Probe | None = None
    refused: list[Head] = []
    paths: dict[str, layout.Path] = {}
    for layer in layers:
        if layer.data not in paths:  # many layers may read one tensor
            paths[layer.data] = layout.back(graph, graph.main, layer.data)
        path = paths[layer.data]
        previous = by_output.get(path.base)
        if previous is not None:
            map_name = home.get(previous.node.outputs[0])
            if map_name is not None:
                home[layer.node.outputs[0]] = map_name
                chained[map_name].append((layer, path.nodes))
            continue
        name, nodes = _feature_map(path)
        if path.base not in after_convolution:
            continue
        probed = probed or make_probe()
        shape = probed.shapes.get(graph.main, name)
        if shape is None or len(shape) < 3 or not _reads_whole_rows(layer, probed, graph):
            reason = _pieces(graph, probed, path.base)
            if reason is not None:
                refused.append(Head(path.base, (), (Root(layer, ()),), (layer,), (), reason))
            continue
        home[layer.node.outputs[0]] = name
        chained.setdefault(name, [])
        roots.setdefault(name, []).append(Root(layer, nodes))
    found = [
        _judge(graph, probed, name, of_map, chained[name])
        for name, of_map in roots.items()
        if probed is not None
    ]
    return sorted([*found, *refused], key=lambda head: head.layers[0].node.position)


def _pieces(graph: Graph, probed: Probe, name: str) -> str | None:
    """Why an FC that reads pieces of flattened maps is no site; None if it reads none."""
    node = graph.main.producers.get(name)
    words = None if node is None else _PIECES.get(node.op_type)
    if node is None or words is None:
        return None
    for source in node.inputs if node.op_type == "Concat" else node.inputs[:1]:
        map_name, moved = _feature_map(layout.back(graph, graph.main, source))
        sizes = probed.shapes.sizes(graph.main, map_name)
        if moved and sizes is not None and len(sizes) > 2 and prod(sizes[2:]) > 1:
            return f"it reads {words} ({node.op_type} '{node.name}'), which is not taken apart yet"
    return None


def _feature_map(path: layout.Path) -> tuple[str, tuple[Node, ...]]:
    """The tensor before the first node that changes the layout, and the nodes from there on."""
    for position, node in enumerate(path.nodes):
        if layout.moves(node):
            name = path.base if position == 0 else path.nodes[position - 1].outputs[0]
            return name, path.nodes[position:]
    last = path.nodes[-1].outputs[0] if path.nodes else path.base
    return last, ()


def _reads_whole_rows(layer: FullyConnected, probed: Probe, graph: Graph) -> bool:
    """False for an FC applied to every position (a 1×1 convolution in other words)."""
    shape = probed.shapes.sizes(graph.main, layer.data)
    if shape is None or layer.columns:
        return True
    batch = _SEVERAL if probed.dynamic else probed.shapes.batch
    return prod(shape[:-1]) <= max(1, batch) or not shape[:-1]


def _after_convolution(graph: Graph) -> set[str]:
    """Tensors that come from a convolution with nothing but map-keeping nodes between."""
    reached: set[str] = set()
    for node in graph.main.nodes:
        keeps = layout.elementwise(node) or node.op_type in _KEEPS_MAP or layout.moves(node)
        if node.op_type in _SLIDING or (keeps and not reached.isdisjoint(node.inputs)):
            reached.update(filter(None, node.outputs))
    return reached


def _judge(
    graph: Graph,
    probed: Probe,
    name: str,
    roots: list[Root],
    chain: list[tuple[FullyConnected, tuple[Node, ...]]],
) -> Head:
    layers = sorted(
        [root.layer for root in roots] + [layer for layer, _ in chain],
        key=lambda layer: layer.node.position,
    )
    between = tuple(node for _, nodes in chain for node in nodes)
    sizes = probed.shapes.sizes(graph.main, name)
    if sizes is None:
        reason = "the sizes of its feature map are unknown: give --input-shape"
        return Head(name, (), tuple(roots), tuple(layers), between, reason)
    widest = max(layer.out_features for layer in layers)
    if len(roots) * sizes[0] * max(prod(sizes[1:]), widest) > layout.MAX_ELEMENTS:
        reason = "it is too large to follow"
        return Head(name, sizes[1:], tuple(roots), tuple(layers), between, reason)
    judged = [_order(root, sizes, probed) for root in roots]
    reasons = [item for item in judged if isinstance(item, str)]
    good = tuple(item for item in judged if isinstance(item, Root))
    refused = reasons[0] if reasons else None
    return Head(
        name,
        sizes[1:],
        good if refused is None else tuple(roots),
        tuple(layers),
        between,
        refused,
        shared=refused is None and prod(sizes[2:]) == 1,
    )


def _order(root: Root, sizes: tuple[int, ...], probed: Probe) -> Root | str:
    index = layout.follow(root.path, layout.index_of(sizes), probed.values)
    if index is None:
        return "its layout cannot be followed: the sizes of a Reshape are not known"
    index = by_rows(root.layer, index)
    if index is None:
        return f"'{root.layer.node.name}' multiplies a stack of matrices"
    columns = index.shape[-1] if index.ndim else 1
    if columns != root.layer.in_features:
        return (
            f"the weight of '{root.layer.node.name}' expects {root.layer.in_features} columns "
            f"and gets {columns}"
        )
    order = layout.column_order(index.reshape(-1, columns), sizes)
    return order if isinstance(order, str) else Root(root.layer, root.path, order)
