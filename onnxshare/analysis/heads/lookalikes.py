"""What looks like a head and is none, and why: said instead of passed over in silence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod

from onnxshare.analysis.heads.fully_connected import FullyConnected, fully_connected
from onnxshare.analysis.heads.head import ONE_POSITION, SEVERAL, Head, Probe
from onnxshare.analysis.heads.joined_maps import Upstream, feature_map, was_fc
from onnxshare.graph.index import Graph, Node
from onnxshare.graph.operator_traits import Effect, traits_of
from onnxshare.support.option_text import option

#: Products whose weight may be on either side, and all of them.
_EITHER_SIDE = frozenset(("MatMul", "FusedMatMul", "MatMulInteger"))
_PRODUCTS = _EITHER_SIDE | frozenset(
    "Gemm FusedGemm QGemm QLinearMatMul MatMulIntegerToFloat DynamicQuantizeMatMul "
    "MatMulNBits MatMulBnb4 MatMulFpQ4 GemmFloat8".split()
)

#: Tensors that are looked at, at most, between an FC and the map that it may come from.
_LOOKED_AT = 32

#: What takes a part of a tensor.
_PARTS = frozenset((Effect.CUT, Effect.LOOKUP))

#: What makes one number of many, which is not a map any more.
_POOLS = frozenset((Effect.REDUCTION, Effect.GLOBAL_POOLING))


def rows_of(upstream: Upstream, layer: FullyConnected) -> int | None:
    """How many rows an FC multiplies; None where that is not known."""
    shape = upstream.sizes(layer.data)
    return None if shape is None or layer.columns else prod(shape[:-1])


def several_rows(upstream: Upstream, layer: FullyConnected, name: str) -> str | None:
    """Why an FC that is applied to several rows of each sample is not a site.

    Where the map `name` has as many samples, as frames that were folded into the batch, each row
    is one of them.
    """
    rows, probe = rows_of(upstream, layer) or 0, upstream.probe
    count = rows // max(1, SEVERAL if probe.dynamic else probe.shapes.batch)
    if count < 2 or (upstream.sizes(name) or (0,))[0] == rows:
        return None
    return (
        f"it is applied to {count} rows of each sample (its positions, or windows of it), so its "
        "weights are shared over them already"
    )


def not_followed(upstream: Upstream, base: str) -> str | None:
    """Why an FC that comes from `base`, which is not a rearranged map, is not a site; None where it
    has nothing to do with one."""
    node = upstream.graph.main.producers.get(base)
    if upstream.shape(base) is None:
        why = unknown_sizes(upstream, base)
        return f"the shape of '{base}', which it comes after, is unknown: {why}"
    if node is None:
        return None
    cut = traits_of(node).effect in _PARTS
    if cut:
        inputs, words = node.inputs[:1], "a part of a flattened map"
    else:
        inputs, words = node.inputs, "more than a rearranged feature map"
    maps = [n for n in inputs if n in upstream.maps and len(upstream.shape(n) or ()) > 2]
    if maps and traits_of(node).effect in _POOLS:
        return ONE_POSITION
    if (maps and not cut) or any(_comes_from_map(upstream, name) for name in inputs if name):
        return f"it reads {words} ({node.op_type} '{node.name}'), which cannot be followed"
    return None


def one_position(upstream: Upstream, name: str) -> bool:
    """Whether a map of one position has one whatever the size of the image: it comes from a mean
    or another number of a whole map, or is the result of an FC already."""
    graph, seen, waiting = upstream.graph, {name}, [name]
    while waiting and len(seen) < _LOOKED_AT:
        current = waiting.pop()
        sizes, node = upstream.sizes(current), graph.main.producers.get(current)
        if graph.source(graph.main, current) is not None or was_fc(graph, current):
            continue
        if node is not None and traits_of(node).effect in _POOLS:
            continue
        if sizes is None or prod(sizes[2:]) > 1:
            return False
        if node is None:
            continue
        before = [item for item in node.inputs if item and item not in seen]
        seen.update(before)
        waiting += before
    return not waiting


def unknown_sizes(upstream: Upstream, name: str) -> str:
    """Whose fault it is that the sizes of a tensor are unknown, and a way out."""
    seen, waiting = {name}, [name]
    while waiting and len(seen) < _LOOKED_AT:
        node = upstream.graph.main.producers.get(waiting.pop())
        if node is None:
            continue
        unknown = [item for item in node.inputs if item and upstream.sizes(item) is None]
        if not unknown:
            return (
                f"what sizes {node.op_type} '{node.name}' makes is not known beforehand; export "
                "standard operators that make fixed sizes"
            )
        waiting += [item for item in unknown if item not in seen]
        seen.update(unknown)
    return f"give {option('--input-shape')}"


def _comes_from_map(upstream: Upstream, name: str) -> bool:
    """Whether a tensor is a flattened map, or made of one by whatever but a mean over it."""
    seen, waiting = {name}, [name]
    while waiting and len(seen) < _LOOKED_AT:
        current = waiting.pop()
        if _flattened(upstream, current):
            return True
        node = upstream.graph.main.producers.get(current)
        if node is None or traits_of(node).effect in _POOLS:
            continue
        for source in node.inputs:
            if source not in seen and source in upstream.maps:
                seen.add(source)
                waiting.append(source)
    return False


def _flattened(upstream: Upstream, name: str) -> bool:
    """Whether a tensor, followed back, is a map of several positions, flattened."""
    source, steps = feature_map(upstream.path(name))
    sizes = upstream.sizes(source)
    return bool(steps) and sizes is not None and len(sizes) > 2 and prod(sizes[2:]) > 1


def flattened(graph: Graph, probe: Probe, maps: set[str], name: str) -> bool:
    """Whether a tensor of the main graph is a map of several positions, flattened."""
    return _flattened(Upstream(graph, lambda: probe, maps), name)


def unstored(upstream: Upstream, given: Mapping[str, str | None]) -> Iterator[Head]:
    """Products of a flattened map with something that is not a stored matrix; `given` as of
    `find_heads`."""
    known = {layer.node for layer in fully_connected(upstream.graph)}
    for node in upstream.graph.main.nodes:
        if node.op_type == "Einsum" and len(node.inputs) == 2:
            yield from _einsum(upstream, node)
        if node.op_type not in _PRODUCTS or node in known or len(node.inputs) < 2:
            continue
        sides = (0, 1) if node.op_type in _EITHER_SIDE else (0,)
        for side in sides:
            name, steps = feature_map(upstream.path(node.inputs[side]))
            if not steps or steps[0].inputs[0] not in upstream.maps:
                continue
            head = _unstored(upstream, node, side, name, given)
            if head is not None:
                yield head
                break


def _einsum(upstream: Upstream, node: Node) -> Iterator[Head]:
    """An Einsum that multiplies a whole map with a stored weight: by its number of elements."""
    for side in (0, 1):
        stored = upstream.graph.source(node.scope, node.inputs[1 - side])
        name = feature_map(upstream.path(node.inputs[side]))[0]
        if stored is None or stored.shape is None or name not in upstream.maps:
            continue
        sizes, result = upstream.sizes(name), upstream.sizes(node.outputs[0])
        if sizes is None or result is None or len(sizes) < 3 or prod(sizes[2:]) == 1:
            continue
        features, outputs = prod(sizes[1:]), prod(result[1:])
        if prod(stored.shape) == features * outputs and result[:1] == sizes[:1]:
            weight = node.inputs[1 - side]
            layer = FullyConnected(
                node, node.inputs[side], weight, None, features, outputs, False, stored=False
            )
            reason = "it is an Einsum, which is not rewritten: export it as a MatMul"
            yield Head(name, sizes[1:], (), (layer,), (), reason)


def _unstored(
    upstream: Upstream, node: Node, side: int, name: str, given: Mapping[str, str | None]
) -> Head | None:
    graph, place = upstream.graph, 3 if node.op_type in ("QGemm", "QLinearMatMul") else 1 - side
    data, other = node.inputs[side], node.inputs[place]
    sizes, flat, result = map(upstream.sizes, (name, data, node.outputs[0]))
    if sizes is None or flat is None or len(sizes) < 3:
        return None
    features = prod(sizes[1:])
    if prod(sizes[2:]) == 1 or len(flat) > 2 or features not in flat:
        return None
    maker = graph.main.producer(other)
    if graph.source(node.scope, other) is not None:
        reason = f"its weight '{other}' is stored in a form of {node.op_type} that is not rewritten"
    elif maker is None:
        reason = given.get(other) or f"its weight '{other}' is an input of the model"
    else:
        reason = f"its weight is computed ({maker.op_type} '{maker.name}'), not stored"
    outputs = result[-1] if result else 0
    layer = FullyConnected(node, data, other, None, features, outputs, False, stored=False)
    return Head(name, sizes[1:], (), (layer,), (), reason)
