"""Puts the facts together: `inspect`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from math import prod
from typing import Any

from onnx import TensorProto

from onnxshare.analysis import census as walk
from onnxshare.analysis import heads as head_finder
from onnxshare.analysis.census import Census, NodeUse
from onnxshare.analysis.fc import FullyConnected, bias_elements, bias_node
from onnxshare.analysis.heads import Head
from onnxshare.analysis.memory import peak_activation_bytes
from onnxshare.analysis.operators import CONSTANT, PARAM, QUANTIZATION, STATISTIC
from onnxshare.analysis.results import (
    HeadFacts,
    HeadLayer,
    Inspection,
    ModelInfo,
    NodeFacts,
    Sharing,
    TensorInfo,
    Totals,
    WeightFacts,
)
from onnxshare.analysis.uniformity import uniformity
from onnxshare.graph import Graph, Node, Scope, bytes_of, model_inputs
from onnxshare.io.load import Model, ModelSource, all_tensors, load
from onnxshare.shapes import InputShapes, Shapes, infer
from onnxshare.values import Values

#: What the rewrites say of one head: per rewrite what it would give, or why it is refused.
HeadJudge = Callable[[Graph, Head, Values], dict[str, dict[str, Any]]]

_WEIGHT_LAYERS = ("conv", "fc", "recurrent")


def inspect(
    source: ModelSource,
    *,
    input_shapes: InputShapes | None = None,
    judge: HeadJudge | None = None,
) -> Inspection:
    """Report where the weights of a model sit and how often each is used, per sample.

    Args:
        source: the model: a path, bytes, a file, a ModelProto …; it is not changed.
        input_shapes: sizes for inputs whose sizes are symbolic: name → sizes.
        judge: asks the rewrites what they could do with a head; None leaves that out.

    Raises:
        ModelFileError: the source is no readable model.
        ModelError: its graph contradicts itself.
        UsageError: `input_shapes` does not fit the model.
    """
    model = load(source)
    graph = Graph(model)
    shapes = infer(graph, input_shapes)
    values = Values(graph, shapes.fully_known())
    census = walk.take(graph, shapes, values)
    heads = head_finder.find_heads(graph, lambda: head_finder.probe(graph, shapes, input_shapes))
    nodes = _node_facts(census, shapes)
    return Inspection(
        model=_model_info(model, graph, shapes),
        totals=_totals(graph, shapes, census, nodes, heads),
        nodes=nodes,
        weights=_weight_facts(census, nodes),
        heads=tuple(_head_facts(graph, head, values, judge) for head in heads),
        warnings=tuple(dict.fromkeys([*shapes.warnings, *census.warnings, *_unknown(nodes)])),
    )


def _model_info(model: Model, graph: Graph, shapes: Shapes) -> ModelInfo:
    facts = model.to_dict()
    facts["bytes"] = _bytes_on_disk(model)
    return ModelInfo(
        **facts,
        inputs=tuple(
            _tensor_info(graph.main, value.name, shapes)
            for value in model_inputs(graph.proto.graph)
        ),
        outputs=tuple(
            _tensor_info(graph.main, value.name, shapes) for value in graph.proto.graph.output
        ),
    )


def _bytes_on_disk(model: Model) -> int | None:
    """The model file with its external data files; None for a model from memory."""
    if model.size is None or model.folder is None:
        return model.size
    names = {
        entry.value
        for tensor in all_tensors(model.proto)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    files = [model.folder / name for name in names]
    return model.size + sum(file.stat().st_size for file in files if file.is_file())


def _tensor_info(scope: Scope, name: str, shapes: Shapes) -> TensorInfo:
    return TensorInfo(name, dtype_name(shapes.dtype(scope, name)), shapes.get(scope, name))


def dtype_name(dtype: int | None) -> str | None:
    """The lower-case name of a TensorProto data type; FLOAT is `float32`, DOUBLE `float64`."""
    if not dtype:
        return None
    name = TensorProto.DataType.Name(dtype).lower()  # type: ignore[arg-type]
    return {"float": "float32", "double": "float64"}.get(name, name)


def _node_facts(census: Census, shapes: Shapes) -> tuple[NodeFacts, ...]:
    known: set[str] = set()
    facts = []
    for use in census.nodes:
        new = sum(stored.elements for stored in use.params if stored.key not in known)
        known.update(stored.key for stored in use.params)
        facts.append(_one_node(use, census, shapes, new))
    return tuple(facts)


def _one_node(use: NodeUse, census: Census, shapes: Shapes, new: int) -> NodeFacts:
    node, work, times = use.node, use.work, use.times
    params = sum(stored.elements for stored in use.params)
    macs = flops = connections = None
    if work is not None and times is not None:
        macs = work.macs * times
        flops = 2 * macs + work.extra_flops * times
        connections = work.connections * times
    if not use.params:
        connections = 0
    kind = node_kind(use)
    layer = work if kind in _WEIGHT_LAYERS or _locally_connected(use) else None
    return NodeFacts(
        name=node.name,
        op_type=node.op_type,
        domain=node.proto.domain,
        scope=node.scope.path,
        kind=kind,
        inputs=node.inputs,
        outputs=tuple(_tensor_info(node.scope, name, shapes) for name in node.outputs if name),
        weights=tuple(stored.name for stored in use.params),
        params=params,
        params_new=new,
        connections=connections,
        sharing_ratio=connections / params if connections is not None and params else None,
        sharing=_sharing(use, census),
        macs=macs,
        flops=flops,
        unshared_params=layer.unshared if layer and params else None,
        dense_params=layer.dense if layer and params else None,
        receptive_field=None,
    )


def _sharing(use: NodeUse, census: Census) -> Sharing:
    if not use.params or use.work is None:
        return Sharing()
    tied = max(len(census.tensors[stored.key].users) for stored in use.params)
    temporal = use.work.sharing.temporal * (use.times or 1)
    return replace(use.work.sharing, temporal=temporal, tied=tied)


def node_kind(use: NodeUse) -> str:
    """The kind of a node. A matrix product without a stored matrix is no FC, and one with a
    matrix per position is a locally connected layer; a Gather of anything but weights is layout."""
    kind = use.operator.kind
    if kind == "fc" and (
        _locally_connected(use) or not any(len(stored.shape) > 1 for stored in use.params)
    ):
        return "other"
    if kind == "embedding" and not use.params:
        return "layout"
    return kind


def _locally_connected(use: NodeUse) -> bool:
    return use.node.op_type in ("MatMul", "MatMulInteger") and any(
        len(stored.shape) > 2 and prod(stored.shape[:-2]) > 1 for stored in use.params
    )


def _weight_facts(census: Census, nodes: tuple[NodeFacts, ...]) -> tuple[WeightFacts, ...]:
    """A node's connections are divided over its tensors by size: all weights of a layer are used
    equally often, its bias included."""
    connections: dict[str, int | None] = {}
    for use, facts in zip(census.nodes, nodes, strict=True):
        for stored in use.params:
            before = connections.get(stored.key, 0)
            connections[stored.key] = (
                None
                if before is None or facts.connections is None
                else before + facts.connections * stored.elements // max(1, facts.params)
            )
    return tuple(
        WeightFacts(
            name=tensor.stored.name,
            dtype=dtype_name(tensor.stored.dtype) or "undefined",
            shape=tensor.stored.shape,
            params=tensor.stored.elements,
            bytes=bytes_of(tensor.stored.elements, tensor.stored.dtype),
            used_by=tuple(tensor.users),
            connections=(uses := connections.get(key, 0)),
            sharing_ratio=(
                uses / tensor.stored.elements
                if uses is not None and tensor.stored.elements
                else None
            ),
        )
        for key, tensor in census.tensors.items()
        if tensor.role == PARAM
    )


def _totals(
    graph: Graph,
    shapes: Shapes,
    census: Census,
    nodes: tuple[NodeFacts, ...],
    heads: list[Head],
) -> Totals:
    elements: Counter[str] = Counter()
    for tensor in census.tensors.values():
        elements[tensor.role] += tensor.stored.elements
    params = elements[PARAM]
    counted = [f for f, use in zip(nodes, census.nodes, strict=True) if use.counted]
    connections = _sum(facts.connections for facts in counted)
    layers = [facts for facts in nodes if facts.kind in _WEIGHT_LAYERS and facts.params]
    return Totals(
        params=params,
        statistics=elements[STATISTIC],
        constants=elements[CONSTANT],
        quantization=elements[QUANTIZATION],
        unused=_unused(graph),
        param_bytes=sum(
            bytes_of(tensor.stored.elements, tensor.stored.dtype)
            for tensor in census.tensors.values()
            if tensor.role == PARAM
        ),
        connections=connections,
        sharing_ratio=connections / params if connections is not None and params else None,
        macs=_sum(facts.macs for facts in counted),
        flops=_sum(facts.flops for facts in counted),
        weight_layers=len(layers),
        fc_params=_params_of(
            census,
            {use.node for use in census.nodes if node_kind(use) == "fc"}
            | _with_biases(graph, head_finder.fully_connected(graph)),
        ),
        fc_after_conv_params=_params_of(
            census, _with_biases(graph, [layer for head in heads for layer in head.layers])
        ),
        peak_activation_bytes=peak_activation_bytes(graph, shapes),
    )


def _sum(numbers: Iterable[int | None]) -> int | None:
    total = 0
    for number in numbers:
        if number is None:
            return None
        total += number
    return total


def _with_biases(graph: Graph, layers: Iterable[FullyConnected]) -> set[Node]:
    """The products of FCs and the Adds that give them their biases."""
    found = set()
    for layer in layers:
        found.add(layer.node)
        bias = bias_node(graph, layer)
        if bias is not None:
            found.add(bias)
    return found


def _params_of(census: Census, nodes: set[Node]) -> int:
    """Parameters of some nodes, each tensor once."""
    found = {
        stored.key: stored.elements
        for use in census.nodes
        if use.node in nodes
        for stored in use.params
    }
    return sum(found.values())


def _unused(graph: Graph) -> int:
    """Elements of initializers and Constant nodes that nothing reads."""
    unused = 0
    for scope in graph.scopes:
        outputs = {value.name for value in scope.graph.output}
        names = [*scope.initializers, *(o for node in scope.nodes for o in node.outputs if o)]
        for name in names:
            if name in scope.consumers or name in outputs:
                continue
            stored = graph.stored(scope, name)
            unused += stored.elements if stored is not None else 0
    return unused


def _unknown(nodes: tuple[NodeFacts, ...]) -> list[str]:
    """One line for the nodes whose sizes stayed unknown, not one each."""
    names = [facts.name for facts in nodes if facts.macs is None]
    if not names:
        return []
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return [
        f"the work of {', '.join(names[:3])}{more} is unknown, so totals that need it are too; "
        "where an input size is symbolic, --input-shape sets it"
    ]


def _head_facts(graph: Graph, head: Head, values: Values, judge: HeadJudge | None) -> HeadFacts:
    return HeadFacts(
        nodes=tuple(node.name for node in head.nodes),
        feature_map=head.feature_map,
        channels=head.channels,
        spatial=head.spatial,
        fcs=tuple(
            HeadLayer(
                layer.node.name,
                layer.in_features,
                layer.out_features,
                layer.in_features * layer.out_features + bias_elements(graph, layer),
            )
            for layer in head.layers
        ),
        layout=head.layout,
        uniformity=None if head.refused else uniformity(head, values),
        rewrites=judge(graph, head, values) if judge else {},
    )
