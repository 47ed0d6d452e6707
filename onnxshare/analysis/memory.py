"""Memory of activations when the nodes run one after the other in graph order."""

from __future__ import annotations

from math import prod

from onnxshare.graph import Graph, bytes_of
from onnxshare.shapes import Shapes


def peak_activation_bytes(graph: Graph, shapes: Shapes) -> int | None:
    """The largest sum of live activations, for one run of the main graph; None if sizes are
    unknown.

    Assumes that nodes run in graph order, that each output has memory of its own (nothing is
    computed in place or aliased), that a tensor lives until its last reader has run, inputs
    included, and outputs until the end. Constants and the inside of subgraphs are left out.
    """
    main = graph.main
    last_use: dict[str, int] = {}
    for node in main.nodes:
        for name in filter(None, node.inputs):
            last_use[name] = node.position
    for scope in graph.scopes[1:]:
        outer = scope
        while outer.parent is not None and outer.parent is not main:
            outer = outer.parent
        if outer.holder is None:
            continue
        for node in scope.nodes:
            for name in filter(None, node.inputs):
                last_use[name] = max(last_use.get(name, 0), outer.holder.position)
    for value in main.graph.output:
        last_use[value.name] = len(main.nodes)
    freed: dict[int, list[str]] = {}
    for name, position in last_use.items():
        freed.setdefault(position, []).append(name)
    sizes: dict[str, int] = {}
    for name in main.inputs:
        size = _bytes(graph, shapes, name)
        if size is None:
            return None
        sizes[name] = size
    live = peak = sum(sizes.values())
    for node in main.nodes:
        for name in filter(None, node.outputs):
            if name not in last_use or graph.source(main, name) is not None:
                continue
            size = _bytes(graph, shapes, name)
            if size is None:
                return None
            sizes[name] = size
            live += size
        peak = max(peak, live)
        live -= sum(sizes.pop(name, 0) for name in freed.get(node.position, ()))
    return peak


def _bytes(graph: Graph, shapes: Shapes, name: str) -> int | None:
    sizes, dtype = shapes.sizes(graph.main, name), shapes.dtype(graph.main, name)
    if sizes is None or dtype is None:
        return None
    return bytes_of(prod(sizes), dtype) // shapes.batch
