"""Nodes in topological order: whether they are, and the sorted order.

The specification asks for it, but ONNX Runtime sorts for itself, so that files out of order are
about and have one meaning. Sorting is stable: each node comes where it was, or as late as needed
behind what it reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx

from onnxshare.io.node_reader import NodeRow, refill, subgraphs


def in_order(rows: Sequence[NodeRow]) -> bool:
    """Whether no node of a graph reads what a later one makes, in a subgraph or itself."""
    later = {name for row in rows for name in row[4] if name}
    for node, operation, _, inputs, outputs in rows:
        if not later.isdisjoint(inputs):
            return False
        if operation.attributes is None and not later.isdisjoint(_captured(node)):
            return False
        later.difference_update(outputs)
    return True


def in_topological_order(proto: onnx.ModelProto) -> onnx.ModelProto | None:
    """A copy of a model with the nodes of every graph and function sorted; None where there is no
    such order, since they wait for each other."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    waiting: list[onnx.GraphProto | onnx.FunctionProto] = [copy.graph, *copy.functions]
    while waiting:
        graph = waiting.pop()
        order = _sorted(graph.node)
        if order is None:
            return None
        if order != list(range(len(order))):
            nodes = list(graph.node)
            refill(graph.node, [nodes[position] for position in order])
        waiting += [inner for node in graph.node for inner in subgraphs(node)]
    return copy


def _sorted(nodes: Sequence[onnx.NodeProto]) -> list[int] | None:
    """The positions of nodes in topological order; None where there is none."""
    makers = {name: at for at, node in enumerate(nodes) for name in node.output if name}
    order: list[int] = []
    done: dict[int, bool] = {}  # False while what a node reads is being placed
    for start in range(len(nodes)):
        stack = [start]
        while stack:
            at = stack[-1]
            if at in done:
                stack.pop()
                if not done[at]:
                    done[at] = True
                    order.append(at)
                continue
            done[at] = False
            reads = [*nodes[at].input, *_captured(nodes[at])]
            needed = [makers[name] for name in reads if name in makers]
            if any(done.get(maker) is False for maker in needed):
                return None
            stack += reversed([maker for maker in needed if maker not in done])
    return order


def _captured(node: onnx.NodeProto) -> Iterable[str]:
    """What the subgraphs of a node read of the graphs around them."""
    names: set[str] = set()
    for graph in subgraphs(node):
        own = {value.name for value in graph.input}
        own.update(tensor.name for tensor in graph.initializer)
        own.update(sparse.values.name for sparse in graph.sparse_initializer)
        own.update(name for inner in graph.node for name in inner.output)
        read = {value.name for value in graph.output}
        for inner in graph.node:
            read.update(inner.input, _captured(inner))
        names |= read - own
    return names
