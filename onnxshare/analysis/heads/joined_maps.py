"""Flattened maps of several scales that a Concat joins into the one vector that an FC reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from onnxshare.analysis.heads import element_order
from onnxshare.analysis.heads.head import Probe
from onnxshare.graph.index import Graph, Node
from onnxshare.shapes.types import Shape


class Upstream:
    """What the tensors of a model come from.

    Attributes:
        graph: the model.
        maps: the tensors that come from a convolution and are maps still.
    """

    def __init__(self, graph: Graph, make_probe: Callable[[], Probe], maps: set[str]) -> None:
        self.graph, self.maps = graph, maps
        self._make_probe = make_probe
        self._paths: dict[str, element_order.Path] = {}

    @cached_property
    def probe(self) -> Probe:
        """Knows the shapes; made when it is needed."""
        return self._make_probe()

    def path(self, name: str) -> element_order.Path:
        """The path to a tensor, followed back once: many layers may read it."""
        if name not in self._paths:
            self._paths[name] = element_order.back(self.graph, self.graph.main, name)
        return self._paths[name]

    def shape(self, name: str) -> Shape | None:
        """The shape of a tensor, as far as it is known."""
        return self.probe.shapes.get(self.graph.main, name)

    def sizes(self, name: str) -> tuple[int, ...] | None:
        """The sizes of a tensor; None where one is unknown."""
        return self.probe.shapes.sizes(self.graph.main, name)


@dataclass(frozen=True)
class Join:
    """What a Concat joins, Concats of Concats included: feature maps `[N, C, spatial…]`, after them
    plain vectors `[N, F]`; and the layout and element-wise nodes before the Concats, and those."""

    sources: tuple[str, ...]
    nodes: tuple[Node, ...]


def feature_map(path: element_order.Path) -> tuple[str, tuple[Node, ...]]:
    """The tensor before the first node that changes the layout, and the nodes from there on.

    A map that ONNX Runtime holds channels last counts from where it is turned back.
    """
    for position, node in enumerate(path.nodes):
        if element_order.moves(node) and not _turns_back(node):
            name = path.base if position == 0 else path.nodes[position - 1].outputs[0]
            return name, path.nodes[position:]
    last = path.nodes[-1].outputs[0] if path.nodes else path.base
    return last, ()


def _turns_back(node: Node) -> bool:
    """Whether a Transpose brings the result of a channels-last kernel to channels first."""
    maker = node.scope.producers.get(node.inputs[0])
    if node.op_type != "Transpose" or maker is None or maker.proto.domain != "com.microsoft":
        return False
    order = list(node.attribute("perm", []))
    first = [0, len(order) - 1, *range(1, len(order) - 1)]
    nhwc = maker.op_type.startswith("Nhwc") or bool(maker.attribute("channels_last", 0))
    return nhwc and len(order) > 2 and order == first


def join_of(upstream: Upstream, name: str) -> Join | str | None:
    """What the Concat that makes a tensor joins; a reason where a part is neither a map nor a
    vector of features; None where there is no Concat or it joins no flattened map."""
    graph = upstream.graph
    concat = graph.main.producers.get(name)
    if concat is None or not element_order.joins(concat):
        return None
    sources: dict[str, bool] = {}
    nodes: dict[Node, None] = {}
    reason: str | None = None
    maps, waiting = 0, [concat]
    while waiting and len(nodes) <= element_order.MAX_STEPS:
        join = waiting.pop()
        nodes[join] = None
        for item in join.inputs:
            path = upstream.path(item)
            inner = graph.main.producers.get(path.base)
            if inner is not None and element_order.joins(inner) and _flat(upstream, path.base):
                nodes.update(dict.fromkeys(path.nodes))
                if inner not in nodes:
                    waiting.append(inner)
                continue
            source, steps = feature_map(path)
            sizes = upstream.sizes(source) or ()
            if steps and path.base in upstream.maps and len(sizes) > 2:
                maps += not was_fc(graph, path.base)
                sources[source] = True
                nodes.update(dict.fromkeys(steps))
            elif _flat(upstream, item) and graph.source(graph.main, item) is None:
                sources[item] = False
            else:
                reason = f"{join.op_type} '{join.name}' joins '{item}', which is not a feature map"
    if maps == 0:
        return None
    if waiting:
        return "what it reads is joined from too many tensors"
    ordered = sorted(sources, key=lambda source: not sources[source])
    return reason or Join(tuple(ordered), tuple(sorted(nodes, key=lambda node: node.position)))


def was_fc(graph: Graph, name: str) -> bool:
    """Whether a map is the output of an FC that a rewrite made a convolution: a vector still."""
    maker = graph.main.producers.get(name)
    return maker is not None and any(
        entry.key == "onnxshare.rewrite" for entry in maker.proto.metadata_props
    )


def _flat(upstream: Upstream, name: str) -> bool:
    shape = upstream.shape(name)
    return shape is not None and len(shape) == 2
