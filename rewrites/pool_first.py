"""1×1 convolution, then global average pooling → the same in the cheaper order. Exact.

Both are linear, one along the channels and one along the positions, so they commute ("Network in
Network", Lin, Chen, Yan 2014, ends in this pair):

    1/S · Σ_s (Σ_c W[f, c] · x[n, c, s] + b[f]) = Σ_c W[f, c] · (1/S · Σ_s x[n, c, s]) + b[f].

The convolution then runs at one position instead of S, and the pooling over its C inputs instead
of its F outputs. The weights stay as they are. A BatchNormalization between them is one scale and
one shift per channel, and commutes in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from onnxshare.analysis.heads.element_order import trains
from onnxshare.analysis.heads.head import Subject
from onnxshare.graph.index import Graph, Node
from rewrites.base import Change, Fitting, Options, Rewrite, Site, replaced
from rewrites.edits.average_pooling import Pool, Pools
from rewrites.edits.node_uses import attributes, leaves, only_reader

#: Linear steps per channel, which may stand between the convolution and the pooling.
_BETWEEN = frozenset("Identity Dropout BatchNormalization".split())

#: Since this opset BatchNormalization says itself whether it trains.
_STATES_TRAINING = 7


@dataclass(frozen=True)
class _Pair:
    """A 1×1 convolution, what stands between, and the pooling of its result."""

    conv: Node
    between: tuple[Node, ...]
    pool: Pool


@dataclass(frozen=True)
class PoolFirst(Rewrite):
    """Moves global average pooling before the 1×1 convolution whose result it pools."""

    name = "pool-first"
    together = True

    def sites(self, subject: Subject, options: Options) -> list[Site]:
        """One site per 1×1 convolution over several positions that is pooled next."""
        pools = Pools(subject)
        return [
            site
            for node in subject.graph.main.nodes
            if node.standard and node.op_type == "Conv"
            if (site := self._site(subject, pools, node)) is not None
        ]

    def _site(self, subject: Subject, pools: Pools, conv: Node) -> Site | None:
        pair, shared = _pair(subject.graph, pools, conv)
        weight = subject.graph.source(conv.scope, conv.inputs[1])
        rank = pools.rank(conv.inputs[0])
        spatial = pools.spatial(conv.inputs[0])
        if pair is None or rank < 3 or (spatial is not None and prod(spatial) == 1):
            return None
        kernel = subject.probe.shapes.get(conv.scope, conv.inputs[1]) or (0,)
        if any(size != 1 for size in kernel[2:]) or len(kernel) != rank or not _plain(conv):
            return None
        stored = [subject.graph.source(conv.scope, name) for name in conv.inputs[1:] if name]
        params = sum(item.elements for item in stored if item is not None)
        reason = pair.pool.fault or shared
        if reason is not None:
            return Site(self.name, conv.name, None, reason, params, None, target=pair)
        detail = "global average pooling moves before it"
        if spatial is not None and weight is not None:
            positions, macs = prod(spatial), weight.elements
            detail += f": {positions * macs:,} → {macs:,} MACs, ÷{positions}"
        else:
            detail += ": as many times fewer MACs as its map has positions"
        return Site(self.name, conv.name, True, None, params, params, detail, pair)

    def apply(self, subject: Subject, site: Site, options: Options, fitting: Fitting) -> Change:
        """Make the change: pool the convolution's input, then run it and what follows."""
        pair: _Pair = site.target
        pool, chain = pair.pool.node, (pair.conv, *pair.between)
        editor = subject.editor(self.name)
        result = editor.new_name(f"{pair.conv.inputs[0]}_pooled")
        # The convolution needs a map.
        kept = {"keepdims": 1} if pool.op_type == "ReduceMean" else {}
        inputs = [pair.conv.inputs[0], *pool.inputs[1:]]
        editor.emit(pool, pool.op_type, inputs, result, {**attributes(pool), **kept})
        for node in chain:
            last = node is chain[-1] and pair.pool.keeps
            before = result
            result = pool.outputs[0] if last else editor.new_name(f"{node.outputs[0]}_pooled")
            origin = node.at(pool.position)  # behind the pooling, not in its place
            editor.emit(origin, node.op_type, [before, *node.inputs[1:]], result, attributes(node))
        if not pair.pool.keeps:
            editor.emit(pool, "Flatten", [result], pool.outputs[0], {"axis": 1})
        return replaced(site, editor, (*chain, pool))


def _pair(graph: Graph, pools: Pools, conv: Node) -> tuple[_Pair | None, str | None]:
    """A convolution whose result is pooled next, and why it cannot be moved; None if it is not."""
    between: list[Node] = []
    node, reason = conv, None
    while True:
        reader = only_reader(graph, node)
        if reader is None:
            reason = reason or "its result is used elsewhere too"
            reader = _pooling_reader(graph, pools, node)
        if reader is None:
            return None, None
        if reader.inputs[0] != node.outputs[0]:
            return None, None
        pool = pools.recognise(reader)
        if pool is not None:
            return _Pair(conv, tuple(between), pool), reason
        if not _linear(graph, reader):
            return None, None
        between.append(reader)
        node = reader


def _pooling_reader(graph: Graph, pools: Pools, node: Node) -> Node | None:
    readers = node.scope.readers(node.outputs[0])
    return next((r for r in readers if r.scope is node.scope and pools.recognise(r)), None)


def _linear(graph: Graph, node: Node) -> bool:
    if not node.standard or node.op_type not in _BETWEEN:
        return False
    extra = any(
        n and (leaves(graph, node.scope, n) or node.scope.readers(n)) for n in node.outputs[1:]
    )
    if extra or (node.op_type != "Identity" and trains(node)):
        return False
    if node.op_type == "BatchNormalization":
        return (graph.opset >= _STATES_TRAINING or bool(node.attribute("is_test", 0))) and bool(
            node.attribute("spatial", 1)
        )
    return graph.opset >= _STATES_TRAINING or node.op_type == "Identity"


def _plain(conv: Node) -> bool:
    """Whether the convolution meets each position once: no stride, no padding."""
    return not any(conv.attribute("pads", ())) and set(conv.attribute("strides", ())) <= {1}
