"""What a model and its rewritten copy have in common before the rewritten nodes, run only once.

A rewrite of a head leaves the convolutions before it as they were, byte for byte, weights included.
Both models make the same tensors there, so running them twice, and a dozen times more for the
noise, tells nothing. What they have in common is run once; the tensors that go into what differs
are kept, and the rest of both models is compared on these. That is no weaker: the noise that is
allowed is the rest's own, not that of all layers before it. That the rewritten model is sound as a
whole is shown by loading it, its large weights left open.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod

import onnx
from onnx import helper

from onnxshare.errors import OnnxShareError
from onnxshare.graph.index import Graph
from onnxshare.graph.random_operators import random_tensors
from onnxshare.io.load import Model
from onnxshare.io.node_reader import model_inputs, reads, refill
from onnxshare.io.skeleton import SMALL
from onnxshare.io.tensors import Array, element_count, types
from onnxshare.runtime.limits import RunLimits
from onnxshare.runtime.session import opened, run_model
from onnxshare.samples.input_specs import batching, input_specs
from onnxshare.samples.samples import Samples
from onnxshare.shapes.inference import Shape, infer

#: The most bytes of tensors that are kept between the two parts.
_KEPT = 2**29

#: Samples that go through the whole model at once: enough to see which axis is theirs.
_AT_ONCE = 2


@dataclass(frozen=True)
class Rest:
    """What differs between two models, the values of the tensors that go into it, as inputs of
    both, and how many nodes before are the same."""

    a: Model
    b: Model
    samples: Samples
    shared: int


def run_trunk_once(
    a: Model,
    b: Model,
    samples: Samples,
    *,
    provider: str,
    run_limits: RunLimits | None,
) -> Rest | None:
    """Run what two models have in common, before and after a rewrite, and cut it off; the second is
    loaded as a whole, too. Returns the rest of both; None where nothing is to be gained, where an
    output is made by the common part, where it is not certain that what lies between has one row
    per sample, and where the model cannot be loaded or run."""
    first = [spec.shape[0] for spec in input_specs(a.skeleton) if spec.shape]
    layout = batching(input_specs(a.skeleton))
    if layout.whole or layout.size not in (None, 1) or len(set(first)) != 1:
        return None
    if random_tensors(a.skeleton) or random_tensors(b.skeleton):
        return None
    shared = _shared(a, b)
    between = _between(a.skeleton, shared) | _between(b.skeleton, shared)
    if not shared or not between or not _rows(b, between, samples.count):
        return None
    if not between.isdisjoint(value.name for value in b.skeleton.graph.output):
        return None
    try:
        with opened(_without_weights(b), provider, run_limits=run_limits):
            pass
        names = sorted(between)
        kept = run_model(b, samples.arrays, names, provider, batch=_AT_ONCE, run_limits=run_limits)
    except OnnxShareError:
        return None  # which a comparison of the whole models will put into words
    if any(len(array) != samples.count for array in kept.values()):
        return None
    size = layout.size or "n"
    rests = [replace(model, skeleton=_rest(model.skeleton, shared, kept, size)) for model in (a, b)]
    return Rest(rests[0], rests[1], replace(samples, arrays=kept), len(shared))


def _shared(a: Model, b: Model) -> frozenset[str]:
    """Outputs, the first of each node, of the nodes that depend on inputs and that both models
    have, byte for byte, with all that they read."""
    ours, theirs = a.skeleton, b.skeleton
    if list(ours.functions) != list(theirs.functions):
        return frozenset()
    stored = {tensor.name: tensor for tensor in theirs.graph.initializer}
    fixed = {t.name for t in ours.graph.initializer if t.name in stored and t == stored[t.name]}
    given = {spec.name for spec in input_specs(ours)}
    known, live = {"", *given, *fixed}, set(given)
    nodes = {_key(node): node for node in theirs.graph.node}
    shared = []
    for node in ours.graph.node:
        other = nodes.get(_key(node))
        if other is None or node != other or not reads(node) <= known:
            continue
        known.update(node.output)
        if not reads(node).isdisjoint(live):
            live.update(filter(None, node.output))
            shared.append(_key(node))
    return frozenset(shared)


def _key(node: onnx.NodeProto) -> str:
    """A node by its first output, which no other node makes."""
    return next(filter(None, node.output), "")


def _between(proto: onnx.ModelProto, shared: frozenset[str]) -> set[str]:
    """Tensors, inputs included, that are read by nodes outside the common part or returned."""
    made = {spec.name for spec in input_specs(proto)}
    for node in proto.graph.node:
        if _key(node) in shared:
            made.update(node.output)
    read = {value.name for value in proto.graph.output}
    for node in proto.graph.node:
        if _key(node) not in shared:
            read |= reads(node)
    return (made & read) - {""}


def _rows(model: Model, names: set[str], count: int) -> bool:
    """Whether tensors have one row for one sample, of a known size, and fit into memory."""
    graph = Graph(model)
    shapes = infer(graph)
    found = [shapes.size_and_type(graph.main, name) for name in names]
    total = 0
    for item in found:
        if item is None or len(item[0]) < 2 or item[0][0] != 1 or item[1] not in _KINDS:
            return False
        total += prod(item[0]) * helper.tensor_dtype_to_np_dtype(item[1]).itemsize * count
    return total <= _KEPT


#: Types of features.
_KINDS = types("FLOAT DOUBLE FLOAT16 UINT8 INT8")


def _without_weights(model: Model) -> Model:
    """A copy whose large weights are inputs: it can be loaded in no time, and not be run."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.skeleton)
    graph, known = proto.graph, {value.name for value in model.skeleton.graph.input}
    for tensor in graph.initializer:
        if element_count(tensor) > SMALL and tensor.name not in known:
            graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    refill(graph.initializer, (t for t in graph.initializer if element_count(t) <= SMALL))
    return replace(model, skeleton=proto)


def _rest(
    proto: onnx.ModelProto, shared: frozenset[str], kept: Mapping[str, Array], size: int | str
) -> onnx.ModelProto:
    """A copy without the common part, whose inputs are the tensors between."""
    rest = onnx.ModelProto()
    rest.CopyFrom(proto)
    graph = rest.graph
    given = {value.name for value in model_inputs(graph)}
    stored = [value for value in graph.input if value.name not in given]
    refill(graph.node, (node for node in graph.node if _key(node) not in shared))
    needed = {value.name for value in graph.output}.union(*map(reads, graph.node))
    inputs = [_value(name, array, size) for name, array in kept.items()]
    refill(graph.input, [*inputs, *(value for value in stored if value.name in needed)])
    refill(graph.initializer, (t for t in graph.initializer if t.name in needed))
    graph.ClearField("value_info")
    return rest


def _value(name: str, array: Array, size: int | str) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    shape: Shape = (size, *array.shape[1:])
    return helper.make_tensor_value_info(name, kind, shape)
