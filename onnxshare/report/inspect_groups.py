"""Nodes put together: by operator, by module, and by layer as a summary in Keras shows them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from onnxshare.analysis.results import Inspection, NodeFacts, TensorInfo
from onnxshare.analysis.rows import WEIGHT_LAYERS
from onnxshare.support.numbers import quotient


@dataclass(frozen=True)
class Group:
    """Several nodes as one row: the fields of `NodeFacts`. Sums with an unknown term are unknown,
    and count of the branches of an If only what totals count.

    `number` counts weight layers from 1, and is None for anything else; `depth` says how deep a
    module is, from 1. `outputs` are those of the first node. A tensor counts at its first use in
    the model.
    """

    number: int | None
    name: str
    op_type: str
    domain: str
    kind: str
    depth: int
    outputs: tuple[TensorInfo, ...]
    nodes: int
    params: int
    params_new: int
    connections: int | None
    sharing_ratio: float | None
    macs: int | None
    flops: int | None


def by_operator(report: Inspection) -> list[Group]:
    """One row per operator, in order of first appearance."""
    found: dict[tuple[str, str], list[NodeFacts]] = {}
    for node in report.nodes:
        found.setdefault((node.domain, node.op_type), []).append(node)
    return [group(nodes, nodes[0].op_type, op_type=nodes[0].op_type) for nodes in found.values()]


def by_module(report: Inspection, depth: int) -> list[Group]:
    """One row per module, those of a module right below it, down to a depth.

    Nodes outside all modules are in a row without a name, if there are any.
    """
    found: dict[tuple[str, ...], list[NodeFacts]] = {}
    for node in report.nodes:
        path = tuple(filter(None, (*node.scope.split("/"), *node.module.split("/"))))
        if not path:
            found.setdefault((), []).append(node)
        for size in range(1, min(depth, len(path)) + 1):
            found.setdefault(path[:size], []).append(node)
    order = {path: place for place, path in enumerate(found)}

    def place(path: tuple[str, ...]) -> list[int]:
        return [order[path[:size]] for size in range(1, len(path) + 1)] or [order[path]]

    return [
        group(
            found[path], "/".join(path) or "(outside all modules)", depth=len(path) if path else 0
        )
        for path in sorted(found, key=place)
    ]


def by_layer(report: Inspection) -> list[Group]:
    """One row per layer that holds parameters, in graph order.

    A layer is a convolution, an FC, a recurrent cell or any other node with parameters. What only
    follows it (bias, normalization, activation, layout) belongs to it; where branches meet, it
    ends. Weight layers are numbered, as the literature counts them.
    """
    layers: list[list[NodeFacts]] = []
    made_by: dict[tuple[str, str], int] = {}
    for node in report.nodes:
        layer = _followed(node, made_by)
        if _begins(node, layer):
            layer = len(layers)
            layers.append([node])
        elif layer is not None:
            layers[layer].append(node)
        if layer is not None:
            made_by.update({(node.scope, output.name): layer for output in node.outputs})
    rows = []
    number = 0
    for nodes in layers:
        head = nodes[0]
        counted = head.kind in WEIGHT_LAYERS
        if not counted and not any(node.params_new for node in nodes):
            continue  # such as the second Slice of a weight
        number += counted
        rows.append(
            group(
                nodes,
                head.path,
                op_type=head.op_type,
                kind=head.kind,
                number=number if counted else None,
            )
        )
    return rows


#: Kinds of nodes that belong to the layer before them.
_FOLLOWERS = ("norm", "elementwise", "layout")


def _begins(node: NodeFacts, layer: int | None) -> bool:
    if not node.params:
        return False
    return layer is None or node.kind not in ("norm", "elementwise")


def _followed(node: NodeFacts, made_by: dict[tuple[str, str], int]) -> int | None:
    """The one layer whose result a node goes on with."""
    if node.kind not in _FOLLOWERS:
        return None
    layers = {made_by[node.scope, name] for name in node.inputs if (node.scope, name) in made_by}
    return layers.pop() if len(layers) == 1 else None


def group(
    nodes: Sequence[NodeFacts],
    name: str,
    *,
    op_type: str = "",
    kind: str = "",
    number: int | None = None,
    depth: int = 0,
) -> Group:
    """Some nodes as one row."""
    params = sum(node.params_new for node in nodes)
    counted = [node for node in nodes if node.counted]
    connections = total(node.connections for node in counted)
    return Group(
        number=number,
        name=name,
        op_type=op_type,
        domain=nodes[0].domain,
        kind=kind,
        depth=depth,
        outputs=nodes[0].outputs,
        nodes=len(nodes),
        params=params,
        params_new=params,
        connections=connections,
        sharing_ratio=quotient(connections, params),
        macs=total(node.macs for node in counted),
        flops=total(node.flops for node in counted),
    )


def total(terms: Iterable[int | None]) -> int | None:
    """A sum; one with an unknown term is unknown."""
    total = 0
    for term in terms:
        if term is None:
            return None
        total += term
    return total
