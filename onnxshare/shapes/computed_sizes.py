"""Works out what onnx's shape inference leaves open: sizes, pads and conditions that a graph
computes from shapes, as exporters write for Reshape, Pad and If.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import numpy_helper

from onnxshare.errors import ModelFileError
from onnxshare.graph.constant_values import Values
from onnxshare.graph.index import Graph, Node
from onnxshare.graph.loop_values import loop_trips
from onnxshare.graph.operator_traits import operators_where, traits_of
from onnxshare.shapes.sequences import Known, Sequences

#: Operators of which some input decides the shape of the result.
_SHAPED = operators_where(lambda traits: traits.shape_inputs)

#: Operators of which more than that decides it.
_JUDGED = frozenset(("ArrayFeatureExtractor", "GroupQueryAttention", "If", "Loop", "PRelu"))

#: Marks a state of a Loop that is assumed to keep its shape, and one that does not.
_ASSUMED, _CHANGES = "onnxshare: assumed", "onnxshare: changes"

#: The most elements of an operand that is written into the copy for inference.
_SMALL = 4096

#: A domain whose operators nobody knows.
_UNKNOWN = "onnxshare.unknown"


def settle(
    graph: Graph,
    weightless: onnx.ModelProto,
    known: Known,
    values: Values,
    sequences: Sequences,
) -> bool:
    """Write computed operands into the copy of the model that inference reads, as constants, and
    the shapes of the branches that are taken; whether there was anything new that inference can go
    on with."""
    found = False
    doubtful: list[onnx.ValueInfoProto] = []
    for scope, proto in graph.paired(weightless.graph):
        copies = proto.node
        for node in scope.nodes:
            if node.op_type not in _SHAPED and node.op_type not in _JUDGED:
                continue
            if node.op_type == "GroupQueryAttention":
                found |= _grow(node, proto, known, values)
                continue
            if node.op_type == "Loop":
                found |= _keep_states(node, proto, known, doubtful)
                found |= _stack(node, proto, known, values)
                continue
            if node.op_type == "PRelu":
                found |= _widen(node, copies[node.position], graph, known)
                continue
            if all(known(scope, name) for name in node.outputs if name):
                continue
            if node.op_type == "ArrayFeatureExtractor":  # inference leaves it where it reads a list
                found |= _of_values(node, proto, known, values)
                continue
            if not node.standard:
                continue
            copy = copies[node.position]
            if node.op_type == "If":
                found |= _take_branch(node, proto, known, values)
            else:
                for position in traits_of(node).shape_inputs:
                    found |= _bind(graph, node, copy, proto, position, values)
                found |= _of_values(node, proto, known, values)
    copies_of = {scope.path: proto for scope, proto in graph.paired(weightless.graph)}
    for scope, name, (sizes, dtype) in sequences.follow(known, values):
        declare(copies_of[scope.path], onnx.helper.make_tensor_value_info(name, dtype, sizes))
        found = True
    found |= sequences.changed
    for state in doubtful if not found else ():  # nothing else will show that it keeps its shape
        state.doc_string, found = _CHANGES, True
        state.type.tensor_type.ClearField("shape")
    return found


def leave_unknown(graph: Graph, weightless: onnx.ModelProto, nodes: Collection[Node]) -> None:
    """Make inference know nothing of the results of some nodes, in the copy that it reads."""
    for scope, proto in graph.paired(weightless.graph):
        for node in nodes:
            if node.scope is scope:
                proto.node[node.position].domain = _UNKNOWN
    weightless.opset_import.append(onnx.helper.make_opsetid(_UNKNOWN, 1))


def label(node: Node) -> str:
    """What inference calls a node of a subgraph, whose own name need not be the only one."""
    return f"{node.scope.path}#{node.position}"


def name_inner_nodes(graph: Graph, weightless: onnx.ModelProto) -> None:
    """Give the nodes of all subgraphs the names that `label` says."""
    for scope, proto in graph.paired(weightless.graph):
        for node in scope.nodes if scope.parent is not None else ():
            proto.node[node.position].name = label(node)


def _bind(
    graph: Graph,
    node: Node,
    copy: onnx.NodeProto,
    proto: onnx.GraphProto,
    position: int,
    values: Values,
) -> bool:
    name = node.input(position)
    if not name or copy.input[position] != name:
        return False
    if graph.stored(node.scope, name) is not None and node.scope.home(name) is node.scope:
        return False  # inference sees it (it does not see constants around a subgraph)
    value = values.get(node.scope, name)
    if value is None or value.size > _SMALL:
        return False
    copy.input[position] = f"{name}#{node.position}.{position}"
    proto.initializer.append(numpy_helper.from_array(value, copy.input[position]))
    return True


def _widen(node: Node, copy: onnx.NodeProto, graph: Graph, known: Known) -> bool:
    """Let the slope of a PRelu widen its data, as in ONNX Runtime, which broadcasts both; the
    standard, and onnx's inference, broadcast the slope only."""
    if not node.standard or graph.opset < 7 or copy.op_type != "PRelu":
        return False
    stored, computed = graph.stored(node.scope, node.inputs[1]), known(node.scope, node.inputs[1])
    found = known(node.scope, node.inputs[0])
    slope = stored.shape if stored is not None else computed and computed[0]
    if found is None or slope is None:
        return False
    data = found[0]
    pairs = list(zip(reversed(data), reversed(slope), strict=False))
    wider = len(slope) > len(data) or any(one < other for one, other in pairs)
    if not wider or any(one != other and 1 not in (one, other) for one, other in pairs):
        return False
    copy.op_type = "Add"
    return True


def _keep_states(
    node: Node, proto: onnx.GraphProto, known: Known, doubtful: list[onnx.ValueInfoProto]
) -> bool:
    """Assume that states of a Loop which declare no shape keep the one that they start with: what
    the body makes of such a state shows whether that is so; until then it is `doubtful`."""
    found = False
    body = node.scope.children.get(node.position, {}).get("body")
    copy = next((a.g for a in proto.node[node.position].attribute if a.name == "body"), None)
    if body is None or copy is None or not node.standard:
        return False
    results = [value.name for value in body.graph.output][1:]
    for name, state, result, output in zip(
        node.inputs[2:], list(copy.input)[2:], results, node.outputs, strict=False
    ):
        start = known(node.scope, name) if name else None
        if start is None or state.doc_string == _CHANGES:
            continue
        made, kept = known(body, result), known(body, state.name)
        if not state.type.tensor_type.HasField("shape"):
            state.type.CopyFrom(onnx.helper.make_tensor_type_proto(start[1], start[0]))
            state.doc_string, found = _ASSUMED, True
        elif state.doc_string == _ASSUMED and made != start:
            doubtful.append(state)
        elif made == kept == start and output and known(node.scope, output) is None:
            declare(proto, onnx.helper.make_tensor_value_info(output, start[1], start[0]))
            found = True
    return found


def _stack(node: Node, proto: onnx.GraphProto, known: Known, values: Values) -> bool:
    """What each trip of a Loop makes is stacked along a new first axis."""
    body = node.scope.children.get(node.position, {}).get("body")
    states = len(node.inputs) - 2
    if body is None or not node.standard or states < 0:
        return False
    results = [value.name for value in body.graph.output][1 + states :]
    open_ones = [
        (output, known(body, result))
        for output, result in zip(node.outputs[states:], results, strict=False)
        if output and known(node.scope, output) is None
    ]
    if not any(made for _, made in open_ones):
        return False
    trips = loop_trips(values, node, body)
    for output, made in open_ones if trips is not None else ():
        if made is not None:
            declare(proto, onnx.helper.make_tensor_value_info(output, made[1], (trips, *made[0])))
    return trips is not None


def _of_values(node: Node, proto: onnx.GraphProto, known: Known, values: Values) -> bool:
    """Sizes that inference does not tell even where the values that decide them are known."""
    found = False
    for place, output in enumerate(node.outputs):
        if not output or known(node.scope, output) is not None:
            continue
        try:
            sized = _sized(node, known, values) if place == 0 else None
            value = values.get(node.scope, output) if sized is None else None
        except ModelFileError:  # what decides it is in a file that is missing: it stays unknown
            continue
        if value is not None:
            sized = value.shape, onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
        if sized is not None:
            declare(proto, onnx.helper.make_tensor_value_info(output, sized[1], sized[0]))
            found = True
    return found


def _sized(node: Node, known: Known, values: Values) -> tuple[tuple[int, ...], int] | None:
    """The result of a Compress by a known mask, or of a MaxUnpool to a known size."""
    if node.op_type not in ("Compress", "MaxUnpool"):
        return None
    data = known(node.scope, node.inputs[0])
    name = node.input(1 if node.op_type == "Compress" else 2)
    value = values.get(node.scope, name) if name else None
    if data is None or value is None:
        return None
    if node.op_type == "MaxUnpool":
        return tuple(map(int, value.reshape(-1))), data[1]
    sizes, axis = data[0], node.attribute("axis")
    if axis is None:
        return (int(np.count_nonzero(value)),), data[1]
    axis = int(axis) % len(sizes)
    kept = int(np.count_nonzero(value[: sizes[axis]]))
    return (*sizes[:axis], kept, *sizes[axis + 1 :]), data[1]


def _grow(node: Node, proto: onnx.GraphProto, known: Known, values: Values) -> bool:
    """The present keys of a GroupQueryAttention are the past ones and the new ones behind them, or
    as many as it is told where they fit into what the past has room for, as in ONNX Runtime."""
    found = False
    query = known(node.scope, node.outputs[0])
    total = values.integers(node.scope, node.inputs[6]) if len(node.inputs) > 6 else None
    for position, output in list(enumerate(node.outputs))[1:3]:
        name = node.input(2 + position)
        past = known(node.scope, name) if name else None
        if not output or past is None or query is None or known(node.scope, output) is not None:
            continue
        (batch, heads, steps, size), dtype = past
        steps = max(steps, total[0]) if total else steps + query[0][1]
        value = onnx.helper.make_tensor_value_info(output, dtype, (batch, heads, steps, size))
        declare(proto, value)
        found = True
    return found


def _take_branch(node: Node, proto: onnx.GraphProto, known: Known, values: Values) -> bool:
    name = values.branch(node)
    branch = node.scope.children.get(node.position, {}).get(name or "")
    if branch is None:
        return False
    found = False
    for output, inner in zip(node.outputs, branch.graph.output, strict=False):
        facts = known(branch, inner.name)
        if not output or facts is None or known(node.scope, output) is not None:
            continue
        sizes, dtype = facts
        declare(proto, onnx.helper.make_tensor_value_info(output, dtype, sizes))
        found = True
    return found


def declare(proto: onnx.GraphProto, value: onnx.ValueInfoProto) -> None:
    """Tell inference a shape."""
    for declared in [*proto.output, *proto.value_info, *proto.input]:
        if declared.name == value.name:
            declared.CopyFrom(value)
            return
    proto.value_info.append(value)
