"""Finds heads by following values: which fully connected layers read a whole feature map."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from types import MappingProxyType

from onnxshare.analysis.heads import element_order
from onnxshare.analysis.heads.fully_connected import FullyConnected, by_rows, fully_connected
from onnxshare.analysis.heads.head import ONE_POSITION, Head, Probe, Root
from onnxshare.analysis.heads.joined_maps import Join, Upstream, feature_map, join_of, was_fc
from onnxshare.analysis.heads.lookalikes import (
    not_followed,
    one_position,
    rows_of,
    several_rows,
    unknown_sizes,
    unstored,
)
from onnxshare.graph.index import Graph, Node
from onnxshare.graph.operator_traits import Effect, traits_of

#: What mixes the positions or features of a map so that its result is another thing.
_MIXES = frozenset((Effect.PRODUCT, Effect.RECURRENT, Effect.ATTENTION))


def find_heads(
    graph: Graph,
    make_probe: Callable[[], Probe],
    given: Mapping[str, str | None] = MappingProxyType({}),
) -> list[Head]:
    """Find all heads of the main graph, and what looks like one and is refused.

    Args:
        graph: the model.
        make_probe: called only if there is an FC after a convolution.
        given: inputs that come from a convolution already, each with the reason why an FC that
            reads it is not a site, or None.
    """
    starts = any(traits_of(node).effect is Effect.CONVOLUTION for node in graph.main.nodes)
    if not starts and not given:
        return []
    after = after_convolution(graph, given)
    search = _Search(Upstream(graph, make_probe, after.maps), after.all, given)
    for layer in fully_connected(graph):
        search.take(layer)
    return search.finish()


@dataclass(frozen=True)
class After:
    """The tensors that depend on a convolution: `all` of them, whatever operators are between, and
    `maps`, without a matrix product, attention or a recurrent cell between."""

    all: set[str]
    maps: set[str]


def after_convolution(graph: Graph, given: Iterable[str] = ()) -> After:
    """The tensors of the main graph whose elements depend on a convolution's result, or on inputs
    that do."""
    found = After({*given}, {*given})
    for node in graph.main.nodes:
        traits = traits_of(node)
        starts = traits.effect is Effect.CONVOLUTION
        read = node.inputs
        if node.position in graph.main.children:
            read = (*read, *graph.captured(node))
        if traits.shape_only or not (starts or not found.all.isdisjoint(read)):
            continue
        made = [name for name in node.outputs if name]
        found.all.update(made)
        if starts or (traits.effect not in _MIXES and not found.maps.isdisjoint(read)):
            found.maps.update(made)
    return found


@dataclass
class _Found:
    """What reads one map, or several that are joined: FCs, and those chained after them."""

    map_name: str
    join: Join | None
    roots: list[Root] = field(default_factory=list)
    chain: list[tuple[FullyConnected, tuple[Node, ...]]] = field(default_factory=list)


class _Search:
    """Looks at each FC in graph order and says which map it belongs to; `after` are the tensors
    that depend on a convolution, whatever operators are between."""

    def __init__(
        self, upstream: Upstream, after: set[str], given: Mapping[str, str | None]
    ) -> None:
        self._upstream, self._after, self._given = upstream, after, given
        self._found: dict[str, _Found] = {}
        self._of_result: dict[str, _Found | None] = {}
        self._per_position: list[tuple[FullyConnected, str]] = []
        #: Results of layers that are applied at every position, and so are maps still.
        self._rows: set[str] = set()
        self._refused: list[Head] = []

    def take(self, layer: FullyConnected) -> None:
        """Find what an FC reads."""
        path = self._upstream.path(layer.data)
        result = layer.node.outputs[0]
        self._of_result[result] = None
        if path.base in self._of_result and path.base not in self._rows:
            found = self._of_result[path.base]
            if found is not None and self._by_sample(layer, found.map_name):
                self._of_result[result] = found
                found.chain.append((layer, path.nodes))
        elif path.base in self._after:
            self._of_result[result] = self._root(layer, path)

    def _by_sample(self, layer: FullyConnected, name: str) -> bool:
        """Whether a later FC has a row for each sample of the map, and not for several frames."""
        sizes, rows = self._upstream.sizes(name), rows_of(self._upstream, layer)
        return sizes is None or rows is None or rows == sizes[0]

    def _root(self, layer: FullyConnected, path: element_order.Path) -> _Found | None:
        upstream = self._upstream
        name, nodes = feature_map(path)
        shape = upstream.shape(name)
        join: Join | None = None
        if shape is None or len(shape) < 3:
            if path.base in self._rows:
                return None
            joined = join_of(upstream, path.base)
            if not isinstance(joined, Join):
                reason = joined or self._given.get(path.base)
                reason = reason or not_followed(upstream, path.base)
                if reason is not None:
                    one = reason == ONE_POSITION
                    roots = () if one else (Root(layer, ()),)
                    self._refused.append(Head(path.base, (), roots, (layer,), (), reason, one))
                return None
            name, nodes, join = path.base, (*joined.nodes, *path.nodes), joined
        elif _pooled(upstream, path.base):
            self._refused.append(Head(name, (), (), (layer,), (), ONE_POSITION, True))
            return None
        elif was_fc(upstream.graph, name) and not self._by_sample(layer, name):
            return None  # a later FC, over several samples of a head that is rewritten already
        elif (words := several_rows(upstream, layer, name)) is not None:
            self._rows.add(layer.node.outputs[0])
            if path.base in upstream.maps:
                self._per_position.append((layer, words))
            return None
        found = self._found.setdefault(name, _Found(name, join))
        found.roots.append(Root(layer, nodes))
        return found

    def finish(self) -> list[Head]:
        """All heads, in graph order, refused ones among them."""
        upstream = self._upstream
        heads = [_judge(upstream, found) for found in self._found.values()]
        known = {layer.node for head in heads for layer in head.layers}
        heads += self._refused
        by_reason: dict[str, list[FullyConnected]] = {}
        for layer, words in self._per_position:
            by_reason.setdefault(words, []).append(layer)
        for words, layers in by_reason.items():
            name = feature_map(upstream.path(layers[0].data))[0]
            sizes = upstream.sizes(name) or (0,)
            heads.append(Head(name, sizes[1:], (), tuple(layers), (), words, True))
        heads += [
            head for head in unstored(upstream, self._given) if head.layers[0].node not in known
        ]
        return sorted(heads, key=lambda head: head.layers[0].node.position)


def _pooled(upstream: Upstream, name: str) -> bool:
    """Whether a tensor is the mean over a map whose channels come last, as Keras writes it: of one
    position, with its axes kept."""
    maker, sizes = upstream.graph.main.producers.get(name), upstream.sizes(name)
    if maker is None or sizes is None or traits_of(maker).effect is not Effect.REDUCTION:
        return False
    return prod(sizes[1:-1]) == 1 and sizes[-1] > 1


def _judge(upstream: Upstream, found: _Found) -> Head:
    roots = tuple(found.roots)
    name, *joined = found.join.sources if found.join else (found.map_name,)
    layers = [root.layer for root in roots] + [layer for layer, _ in found.chain]
    layers.sort(key=lambda layer: layer.node.position)
    between = tuple(node for _, nodes in found.chain for node in nodes)
    sizes = [upstream.sizes(item) for item in (name, *joined)]
    known = [item for item in sizes if item is not None]
    head = Head(name, (known[0] if known else (0,))[1:], roots, tuple(layers), between)
    head = replace(head, joined=tuple(joined))
    for item, size in zip((name, *joined), sizes, strict=True):
        if size is None:
            why = unknown_sizes(upstream, item)
            reason = f"the sizes of its feature map are unknown: {why}"
            return replace(head, sizes=(), refused=reason)
    widest = max(layer.out_features for layer in layers)
    total = sum(prod(item[1:]) for item in known)
    if len(roots) * known[0][0] * max(total, widest) > element_order.MAX_ELEMENTS:
        return replace(head, refused="it is too large to follow")
    if all(prod(item[2:]) == 1 for item in known):
        pooled = all(one_position(upstream, item) for item in (name, *joined))
        head = replace(head, shared=True, pooled=pooled)
    if found.join is not None:
        return head
    judged = [_order(root, known[0], upstream.probe) for root in roots]
    reasons = [item for item in judged if isinstance(item, str)]
    if reasons:
        return replace(head, refused=reasons[0], shared=False, pooled=False)
    good = tuple(item for item in judged if isinstance(item, Root))
    return replace(head, roots=good)


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
