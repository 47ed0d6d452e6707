"""The sums over a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from onnxshare.analysis.heads.fully_connected import fully_connected, nodes_of
from onnxshare.analysis.heads.head import Head
from onnxshare.analysis.memory_traffic import Memory
from onnxshare.analysis.operators.operator import (
    CONSTANT,
    FLOATS,
    PARAM,
    QUANTIZATION,
    STATISTIC,
    STRUCTURE,
)
from onnxshare.analysis.results import NodeFacts, Totals
from onnxshare.analysis.rows import WEIGHT_LAYERS, dtype_name
from onnxshare.analysis.weight_usage import NodeUse, WeightUsage
from onnxshare.graph.index import Graph, Node, Stored
from onnxshare.shapes.inference import Shapes
from onnxshare.support.numbers import quotient


def add_up(
    graph: Graph,
    shapes: Shapes,
    usage: WeightUsage,
    shared: list[NodeFacts],
    heads: list[Head],
    memory: Memory,
) -> Totals:
    """Sum over nodes and tensors; a sum with an unknown term is unknown. `shared` is what
    `rows.shared_facts` says of each node, `memory` holds the activations over a run."""
    elements, by_dtype = _held(usage)
    params = elements[PARAM]
    uses = [(use, facts) for use, facts in zip(usage.nodes, shared, strict=True) if use.counted]
    counted = _alike([facts for _, facts in uses])
    weight_bound = _together(usage, (use for use, facts in uses if facts.bound_by == "weights"))
    connections = _sum((facts.connections, times) for facts, times in counted)
    peak, peak_node = memory.peak([node.name for node in graph.main.nodes])
    unused, passed_out, other = _unread(graph, usage)
    if other:
        usage.warnings.append(f"{other} stored numbers are used in a way that nobody can name")
    return Totals(
        params=params,
        statistics=elements[STATISTIC],
        constants=elements[CONSTANT] + passed_out,
        quantization=elements[QUANTIZATION],
        unused=unused,
        other=other,
        param_bytes=sum(by_dtype.values()),
        param_bytes_by_dtype=dict(by_dtype),
        weight_bound_layers=sum(times for facts, times in counted if facts.bound_by == "weights"),
        weight_bound_bytes=sum(stored.bytes * times for stored, times in _equal(weight_bound)),
        connections=connections,
        sharing_ratio=quotient(connections, params),
        macs=_sum((facts.macs, times) for facts, times in counted),
        flops=_sum((facts.flops, times) for facts, times in counted),
        weight_layers=sum(
            times for facts, times in counted if facts.kind in WEIGHT_LAYERS and facts.params
        ),
        fc_params=_params_of(
            usage,
            {u.node for u, f in zip(usage.nodes, shared, strict=True) if f.kind == "fc"}
            | {node for layer in fully_connected(graph) for node in nodes_of(graph, layer)},
        ),
        fc_after_conv_params=_params_of(
            usage,
            {n for head in heads if head.roots for fc in head.layers for n in nodes_of(graph, fc)},
        ),
        peak_activation_bytes=peak,
        peak_activation_node=peak_node,
        dims=dict(shapes.dims),
    )


def _held(usage: WeightUsage) -> tuple[Counter[str], Counter[str]]:
    """Elements by role, and bytes of parameters by data type."""
    elements: Counter[str] = Counter()
    by_dtype: Counter[str] = Counter()
    by_role: dict[str, list[Stored]] = {}
    for tensor in usage.tensors.values():
        by_role.setdefault(tensor.role, []).append(tensor.stored)
    for role, tensors in by_role.items():
        for stored, times in _equal(tensors):
            # Limits and scales are not weights, and are stored all the same; whole numbers that are
            # cast are neither.
            told = role
            if role in (STRUCTURE, CONSTANT):
                told = CONSTANT if stored.dtype in FLOATS else STRUCTURE
            elements[told] += stored.elements * times
            if role == PARAM:
                by_dtype[dtype_name(stored.dtype) or "undefined"] += stored.bytes * times
    return elements, by_dtype


def _equal(tensors: Sequence[Stored]) -> list[tuple[Stored, int]]:
    """One tensor of each type and size, and their number: thousands have a few of these."""
    keys = [(s.dtype, s.elements, s.sparse, s.packed) for s in tensors]
    first = dict(zip(keys, tensors, strict=True))
    return [(first[key], times) for key, times in Counter(keys).items()]


def _alike(facts: list[NodeFacts]) -> list[tuple[NodeFacts, int]]:
    """Each of these once, and how often it is there; equal ones are one object."""
    by_id = {id(item): item for item in facts}
    return [(by_id[key], times) for key, times in Counter(map(id, facts)).items()]


def _sum(numbers: Iterable[tuple[int | None, int]]) -> int | None:
    """The sum of some numbers, each so many times."""
    total = 0
    for number, times in numbers:
        if number is None:
            return None
        total += number * times
    return total


def _together(usage: WeightUsage, uses: Iterable[NodeUse]) -> list[Stored]:
    """The parameters of some nodes, each tensor once; parts of one add up to all of it at most."""
    found: dict[str, Stored] = {}
    for use in uses:
        for stored in use.params:
            before = found.setdefault(stored.key, stored)
            if before is not stored:
                whole = usage.tensors[stored.key].stored
                found[stored.key] = whole.part(before.elements + stored.elements)
    return list(found.values())


def _params_of(usage: WeightUsage, nodes: set[Node]) -> int:
    """Parameters of some nodes, each tensor once."""
    if not nodes:
        return 0
    found = _together(usage, (use for use in usage.nodes if use.node in nodes))
    return sum(stored.elements for stored in found)


def _unread(graph: Graph, usage: WeightUsage) -> tuple[int, int, int]:
    """Elements of stored tensors that nothing reads; floating-point ones of those that are only
    outputs as they stand; and of those that something reads which the walk did not see."""
    unused = passed_out = other = 0
    outputs = {
        (home.path, name)
        for scope in graph.scopes
        for name in scope.outputs
        if (home := scope.home(name)) is not None
    }
    for scope in graph.scopes:
        for name in (scope.initializers.keys() | scope.producers.keys()) - scope.consumers.keys():
            stored = graph.stored(scope, name)
            if stored is None:
                continue
            if (scope.path, name) not in outputs:
                unused += stored.elements
            elif stored.dtype in FLOATS and stored.key not in usage.tensors:
                passed_out += stored.elements
        for name in scope.initializers:
            stored = scope.sources.get(name) or graph.stored(scope, name)
            if stored is None or stored.key in usage.tensors or stored.dtype not in FLOATS:
                continue
            if name in scope.consumers:
                other += stored.elements
    return unused, passed_out, other
