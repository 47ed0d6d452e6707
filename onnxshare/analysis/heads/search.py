"""Finds heads by following values: which fully connected layers read a whole feature map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import prod

from onnxshare.analysis.heads import element_order
from onnxshare.analysis.heads.fully_connected import FullyConnected, by_rows, fully_connected
from onnxshare.analysis.heads.head import Head, Probe, Root
from onnxshare.analysis.heads.joined_maps import Join, feature_map, join_of
from onnxshare.analysis.heads.lookalikes import not_followed, several_rows, unstored
from onnxshare.graph.index import Graph, Node

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
    "Pow BatchNormalization Gather ReorderInput ReorderOutput NhwcMaxPool".split()
)


def find_heads(graph: Graph, make_probe: Callable[[], Probe]) -> list[Head]:
    """Find all heads of the main graph, and what looks like one and is refused.

    Args:
        graph: the indexed model.
        make_probe: called only if there is an FC after a convolution.
    """
    if not any(node.op_type in _SLIDING for node in graph.main.nodes):
        return []
    search = _Search(graph, make_probe, after_convolution(graph))
    for layer in fully_connected(graph):
        search.take(layer)
    return search.finish()


def after_convolution(graph: Graph) -> set[str]:
    """Tensors that come from a convolution with nothing but map-keeping nodes between."""
    reached: set[str] = set()
    for node in graph.main.nodes:
        keeps = (
            element_order.elementwise(node)
            or node.op_type in _KEEPS_MAP
            or element_order.moves(node)
        )
        if node.op_type in _SLIDING or (keeps and not reached.isdisjoint(node.inputs)):
            reached.update(filter(None, node.outputs))
    return reached


@dataclass
class _Found:
    """What reads one map, or several that are joined: FCs, and those chained after them."""

    map_name: str
    join: Join | None
    roots: list[Root] = field(default_factory=list)
    chain: list[tuple[FullyConnected, tuple[Node, ...]]] = field(default_factory=list)


class _Search:
    """Looks at each FC in graph order and says which map it belongs to."""

    def __init__(self, graph: Graph, make_probe: Callable[[], Probe], after: set[str]) -> None:
        self._graph, self._make_probe, self._after = graph, make_probe, after
        self._probed: Probe | None = None
        self._found: dict[str, _Found] = {}
        self._of_result: dict[str, _Found | None] = {}
        self._paths: dict[str, element_order.Path] = {}
        self._per_position: list[tuple[FullyConnected, str]] = []
        self._refused: list[Head] = []

    @property
    def _probe(self) -> Probe:
        if self._probed is None:
            self._probed = self._make_probe()
        return self._probed

    def _back(self, name: str) -> element_order.Path:
        if name not in self._paths:  # many layers may read one tensor
            self._paths[name] = element_order.back(self._graph, self._graph.main, name)
        return self._paths[name]

    def take(self, layer: FullyConnected) -> None:
        """Find what an FC reads."""
        path = self._back(layer.data)
        result = layer.node.outputs[0]
        self._of_result[result] = None
        if path.base in self._of_result:
            found = self._of_result[path.base]
            if found is not None:
                self._of_result[result] = found
                found.chain.append((layer, path.nodes))
        elif path.base in self._after:
            self._of_result[result] = self._root(layer, path)

    def _root(self, layer: FullyConnected, path: element_order.Path) -> _Found | None:
        graph, probe = self._graph, self._probe
        name, nodes = feature_map(path)
        shape = probe.shapes.get(graph.main, name)
        join: Join | None = None
        if shape is None or len(shape) < 3:
            joined = join_of(graph, probe, path.base, self._after)
            if not isinstance(joined, Join):
                reason = joined or not_followed(graph, probe, self._back, path.base)
                if reason is not None:
                    roots = (Root(layer, ()),)
                    self._refused.append(Head(path.base, (), roots, (layer,), (), reason))
                return None
            name, nodes, join = path.base, (*joined.nodes, *path.nodes), joined
        elif (words := several_rows(graph, probe, layer)) is not None:
            self._per_position.append((layer, words))
            return None
        found = self._found.setdefault(name, _Found(name, join))
        found.roots.append(Root(layer, nodes))
        return found

    def finish(self) -> list[Head]:
        """All heads, in graph order, refused ones among them."""
        heads = [_judge(self._graph, self._probe, found) for found in self._found.values()]
        known = {layer.node for head in heads for layer in head.layers}
        heads += self._refused
        by_reason: dict[str, list[FullyConnected]] = {}
        for layer, words in self._per_position:
            by_reason.setdefault(words, []).append(layer)
        for words, layers in by_reason.items():
            name = feature_map(self._back(layers[0].data))[0]
            sizes = self._probe.shapes.sizes(self._graph.main, name) or (0,)
            heads.append(Head(name, sizes[1:], (), tuple(layers), (), words))
        heads += [
            head
            for head in unstored(self._graph, self._after, self._back, lambda: self._probe)
            if head.layers[0].node not in known
        ]
        return sorted(heads, key=lambda head: head.layers[0].node.position)


def _judge(graph: Graph, probe: Probe, found: _Found) -> Head:
    roots = tuple(found.roots)
    name, *joined = found.join.sources if found.join else (found.map_name,)
    layers = [root.layer for root in roots] + [layer for layer, _ in found.chain]
    layers.sort(key=lambda layer: layer.node.position)
    between = tuple(node for _, nodes in found.chain for node in nodes)
    sizes = [probe.shapes.sizes(graph.main, item) for item in (name, *joined)]
    known = [item for item in sizes if item is not None]
    head = Head(name, (known[0] if known else (0,))[1:], roots, tuple(layers), between)
    head = replace(head, joined=tuple(joined))
    if len(known) < len(sizes):
        return replace(
            head,
            sizes=(),
            refused="the sizes of its feature map are unknown: give --input-shape",
        )
    widest = max(layer.out_features for layer in layers)
    total = sum(prod(item[1:]) for item in known)
    if len(roots) * known[0][0] * max(total, widest) > element_order.MAX_ELEMENTS:
        return replace(head, refused="it is too large to follow")
    shared = all(prod(item[2:]) == 1 for item in known)
    if found.join is not None:
        return replace(head, shared=shared)
    judged = [_order(root, known[0], probe) for root in roots]
    reasons = [item for item in judged if isinstance(item, str)]
    if reasons:
        return replace(head, refused=reasons[0])
    good = tuple(item for item in judged if isinstance(item, Root))
    return replace(head, roots=good, shared=shared)


def _order(root: Root, sizes: tuple[int, ...], probed: Probe) -> Root | str:
    index = element_order.follow(root.path, element_order.index_of(sizes), probed.values)
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
    order = element_order.column_order(index.reshape(-1, columns), sizes)
    return order if isinstance(order, str) else Root(root.layer, root.path, order)
