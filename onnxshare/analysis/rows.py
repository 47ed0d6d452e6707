"""The facts of each node and each weight, from what the walk over the graph has seen; and the
module of the source program that a node comes from, where the exporter wrote it down.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import prod
from typing import Any

import onnx
from onnx import TensorProto, ValueInfoProto

from onnxshare.analysis.memory_traffic import Memory, bound_by, intensity, weights_moved
from onnxshare.analysis.node_patterns import Pattern
from onnxshare.analysis.operators.operator import PARAM
from onnxshare.analysis.receptive_field.fields import Fields
from onnxshare.analysis.results import NodeFacts, Sharing, TensorInfo, WeightFacts
from onnxshare.analysis.weight_usage import NodeUse, TensorUse, WeightUsage
from onnxshare.graph.index import Node
from onnxshare.shapes.inference import Shapes
from onnxshare.shapes.types import NOTHING, TensorType
from onnxshare.support.dataclass_tools import made
from onnxshare.support.numbers import quotient

#: What torch's exporter notes of each node: `['', 'layer1', 'layer1.0', 'conv2d']`.
_SCOPES = "pkg.torch.onnx.name_scopes"
_QUOTED = re.compile(r"'((?:[^'\\]|\\.)*)'")


class Modules:
    """The modules of nodes; nodes of one module share the work of telling it."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def of(self, node: onnx.NodeProto) -> str:
        """The path of the module that a node came from, such as `layer1/0/conv1`; "" where unknown.

        From the metadata that torch.export leaves, else from a name like
        `/layer1/layer1.0/conv1/Conv` or `block1/conv2/Conv2D`. A part that repeats the one above
        it is cut short, so that both of torch's exporters give the same path.
        """
        for entry in node.metadata_props:
            if entry.key == _SCOPES:
                return _path(_QUOTED.findall(entry.value)[:-1])
        above, slash, _ = node.name.rpartition("/")
        if not slash:
            return ""
        known = self._known.get(above)
        if known is None:
            known = self._known[above] = _path(above.split("/"))
        return known


def _path(parts: list[str]) -> str:
    short = []
    above = ""
    for part in filter(None, parts):
        short.append(part.removeprefix(f"{above}.") if above else part)
        above = part
    return "/".join(short)


_NAMES = {number: name.lower() for name, number in TensorProto.DataType.items()}
_NAMES |= {TensorProto.FLOAT: "float32", TensorProto.DOUBLE: "float64"}

#: Operators whose right operand may be a stack of matrices, one for each position of the left.
_PRODUCTS = frozenset("MatMul MatMulInteger QLinearMatMul FusedMatMul TransposeMatMul".split())

#: Kinds of layers that the literature counts when it says how deep a network is.
WEIGHT_LAYERS = ("conv", "fc", "recurrent")


def declared(value: ValueInfoProto) -> TensorInfo:
    """Name, type and shape of an input or output as the model declares them."""
    tensor_type = value.type.tensor_type
    shape = None
    if tensor_type.HasField("shape"):
        shape = tuple(
            dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None
            for dim in tensor_type.shape.dim
        )
    return TensorInfo(value.name, dtype_name(tensor_type.elem_type), shape)


def dtype_name(dtype: int | None) -> str | None:
    """The lower-case name of a TensorProto data type; FLOAT is `float32`, DOUBLE `float64`. None
    for one that this version of onnx does not know."""
    return _NAMES.get(dtype) if dtype else None


def shared_facts(usage: WeightUsage) -> list[NodeFacts]:
    """For every node, in graph order, the facts that it has in common with all that do the same:
    those that do not depend on names, on other nodes, or on where it is."""
    alike: dict[tuple[Pattern, int | None, int], NodeFacts] = {}
    facts = []
    for use in usage.nodes:
        params = 0
        for stored in use.params:
            params += stored.elements
        key = (use.pattern, use.times, params)
        found = alike.get(key)
        if found is None:
            found = alike[key] = _of_pattern(use, params)
        facts.append(found)
    return facts


def node_facts(
    usage: WeightUsage,
    shared: list[NodeFacts],
    shapes: Shapes,
    sees: Callable[[Node], Fields],
    memory: Memory,
) -> tuple[NodeFacts, ...]:
    """The facts of every node, in graph order: `shared` is what `shared_facts` says of each, `sees`
    gives its receptive field, `memory` holds the activations over a run."""
    unseen: dict[str, int] = {}  # elements that no node before has used
    tied_as: dict[tuple[int, int], Sharing] = {}  # by facts in common and number of nodes
    modules, outputs = Modules(), _Outputs(shapes)
    facts = []
    for use, common in zip(usage.nodes, shared, strict=True):
        node, params = use.node, use.params
        seen = sees(node)
        own = common.__dict__.copy()  # quicker than {**…}
        own["name"] = node.name
        own["scope"] = node.scope.path
        own["inputs"] = node.inputs
        own["outputs"] = outputs.of(node)
        own["module"] = modules.of(node.proto)
        own["receptive_field"] = seen.field
        own["receptive_field_note"] = seen.note
        own["receptive_fields"] = seen.by_input
        if memory.at_nodes and node.scope.parent is None:
            own["memory_bytes"] = memory.at_nodes[node.position]
        if not use.counted:
            own["counted"] = False
        if params:
            own["weights"] = tuple([stored.name for stored in params])
            tied = new = 0
            for stored in params:
                tensor = usage.tensors[stored.key]
                elements, ties = stored.elements, tensor.ties
                if ties > tied:
                    tied = ties
                left = unseen.get(stored.key)
                if left is None:
                    left = tensor.stored.elements
                taken = elements if elements < left else left
                new += taken
                unseen[stored.key] = left - taken
            own["params_new"] = new
            if tied > 1 and use.work is not None:
                key = id(common), tied
                if key not in tied_as:
                    tied_as[key] = replace(common.sharing, tied=tied)
                own["sharing"] = tied_as[key]
        facts.append(made(NodeFacts, own))
    return tuple(facts)


class _Outputs:
    """Makes the outputs of nodes, thousands of which have a few dozen types."""

    def __init__(self, shapes: Shapes) -> None:
        self._shapes, self._main = shapes, shapes.types_in("")
        self._known: dict[TensorType, dict[str, Any]] = {}

    def of(self, node: Node) -> tuple[TensorInfo, ...]:
        """Name, type and shape of each output that is not left out."""
        scope, known = node.scope, self._known
        infos = []
        for name in node.outputs:
            if not name:
                continue
            if scope.parent is None:
                found = self._main.get(name, NOTHING)
            else:
                found = self._shapes.type_of(scope, name)
            common = known.get(found)
            if common is None:
                common = known[found] = {"dtype": dtype_name(found.dtype), "shape": found.shown}
            infos.append(made(TensorInfo, {"name": name, **common}))
        return tuple(infos)


def _of_pattern(use: NodeUse, params: int) -> NodeFacts:
    """What the facts of all nodes of a pattern have in common; names are left out."""
    work, times = use.work, use.times
    macs = flops = connections = None
    if work is not None:
        macs = _repeated(work.macs, times)
        if work.flops is not None:
            flops = _repeated(work.flops, times)
        connections = _repeated(work.connections, times)
    elif not use.operator.has_macs:
        macs = 0
    if not use.params:
        connections = 0
    sharing = Sharing()
    if use.params and work is not None:
        steps = times or 1
        if steps > 1 and params >= steps * sum(stored.elements for stored in use.slots.values()):
            steps = 1  # each step has weights of its own
        sharing = replace(work.sharing, temporal=work.sharing.temporal * steps, tied=1)
    held = sum(stored.bytes for stored in use.params)
    weights = weights_moved(held, params, work.connections if work is not None else None)
    activations = use.pattern.activations
    ratio = intensity(work.flops if work is not None else None, weights, activations)
    kind = node_kind(use)
    layer = work if kind in WEIGHT_LAYERS or _locally_connected(use) else None
    return NodeFacts(
        name="",
        op_type=use.node.op_type,
        domain=use.node.domain,
        scope="",
        kind=kind,
        inputs=(),
        outputs=(),
        weights=(),
        params=params,
        params_new=0,
        connections=connections,
        sharing_ratio=quotient(connections, params),
        sharing=sharing,
        macs=macs,
        flops=flops,
        unshared_params=layer.unshared if layer and params else None,
        dense_params=layer.dense if layer and params else None,
        receptive_field=None,
        receptive_field_note=None,
        receptive_fields={},
        param_bytes=held,
        activation_bytes=None if activations is None else _repeated(activations, times),
        arithmetic_intensity=ratio,
        bound_by=bound_by(ratio, weights, activations),
    )


def _repeated(amount: int, times: int | None) -> int | None:
    """What a number of executions makes of an amount; nothing stays nothing, however often."""
    if not amount:
        return 0
    return None if times is None else amount * times


def node_kind(use: NodeUse) -> str:
    """The kind of a node. A matrix product without a stored matrix is not an FC, and one with a
    matrix per position is a locally connected layer; a Gather of anything but weights is layout."""
    kind = use.operator.kind
    if kind == "fc" and (
        _locally_connected(use)
        # A vector that is not a bias is a matrix of one row or column.
        or not any(len(s) > 1 or use.node.op_type in _PRODUCTS for s in use.pattern.read_as)
    ):
        return "other"
    if kind == "embedding" and not use.params:
        return "layout"
    return kind


def _locally_connected(use: NodeUse) -> bool:
    return use.node.op_type in _PRODUCTS and any(
        len(sizes) > 2 and prod(sizes[:-2]) > 1 for sizes in use.pattern.read_as
    )


def _uses(use: NodeUse, facts: NodeFacts) -> Iterator[tuple[str, int | None]]:
    """A node's connections by tensor: as its formula tells them apart, else by size, because all
    weights of a layer are used equally often, its bias included."""
    if facts.connections is None:
        yield from ((stored.key, None) for stored in use.params)
        return
    told = use.work.uses if use.work is not None else None
    total = 0
    for stored in use.slots.values():
        total += stored.elements
    for position, stored in use.slots.items():
        if told is not None:
            count = told.get(position, 0) * (use.times or 0)
        else:
            count = facts.connections * stored.elements // max(1, total)
        if not stored.parts:
            yield stored.key, count
            continue
        whole = sum(elements for _, elements in stored.parts)
        for part, elements in stored.parts:
            yield part.key, count * elements // max(1, whole)


def weight_facts(usage: WeightUsage, shared: list[NodeFacts]) -> tuple[WeightFacts, ...]:
    """The facts of every parameter tensor, in order of first use; `shared` is what `shared_facts`
    says of each node."""
    connections: dict[str, int | None] = {}
    for use, facts in zip(usage.nodes, shared, strict=True):
        if not use.params:
            continue
        for key, count in _uses(use, facts):
            before = connections.get(key, 0)
            connections[key] = None if before is None or count is None else before + count
    return tuple(
        [
            _one_weight(tensor, connections.get(key, 0))
            for key, tensor in usage.tensors.items()
            if tensor.role == PARAM
        ]
    )


#: What is known only of weights that are hashed.
_NOT_HASHED = dict.fromkeys("same_as transposed_of hash uniform same_after permutation".split())


def _one_weight(tensor: TensorUse, uses: int | None) -> WeightFacts:
    stored = tensor.stored
    elements = stored.elements
    return made(
        WeightFacts,
        {
            "name": stored.name,
            "dtype": dtype_name(stored.dtype) or "undefined",
            "shape": stored.shape,
            "params": elements,
            "bytes": stored.bytes,
            "used_by": tuple(tensor.users),
            "connections": uses,
            "sharing_ratio": uses / elements if uses is not None and elements else None,
            **_NOT_HASHED,
        },
    )
