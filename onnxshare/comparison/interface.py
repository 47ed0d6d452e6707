"""Which inputs and outputs of two models stand for each other, where their names do not say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

import onnx

from onnxshare.errors import UsageError
from onnxshare.io.load import Model
from onnxshare.io.node_reader import refill, subgraphs
from onnxshare.io.tensors import types
from onnxshare.runtime.ort_weights import drop_unneeded, with_outputs
from onnxshare.samples.input_specs import input_specs
from onnxshare.shapes.input_sizes import Dims, InputShapes, for_each, set_shape


@dataclass(frozen=True)
class Interface:
    """How the models are matched.

    Attributes:
        inputs, outputs: names of A → those of B, where they differ.
        only: the outputs of A that are compared; empty for all.
        cast: whether float16, bfloat16 and float64 inputs and outputs are cast to float32.
    """

    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    only: Sequence[str] = ()
    cast: bool = False

    def align(self, a: Model, b: Model) -> tuple[Model, Model]:
        """Both models with the outputs that are compared, B with A's names; inputs that no output
        depends on are dropped where the other model has none of that name.

        Raises:
            UsageError: a model has no input or output of such a name.
        """
        ours, theirs = a.skeleton, b.skeleton
        for what, names in (("input", self.inputs), ("output", self.outputs)):
            _require(ours, "A", what, names.keys())
            _require(theirs, "B", what, names.values())
        names = {new: old for old, new in (*self.inputs.items(), *self.outputs.items())}
        if names:
            theirs = _renamed(theirs, names)
        if self.only:
            _require(ours, "A", "output", self.only)
            _require(theirs, "B", "output", self.only)
            ours, theirs = (with_outputs(proto, self.only) for proto in (ours, theirs))
        ours, theirs = _without_unused(ours, theirs), _without_unused(theirs, ours)
        if self.cast:
            ours, theirs = _with_casts(ours), _with_casts(theirs)
        return replace(a, skeleton=ours), replace(b, skeleton=theirs)


def at_sizes(
    a: Model, b: Model, input_shapes: InputShapes | None, dims: Dims | None
) -> tuple[Model, Model]:
    """Both models with these sizes of inputs, by input or by symbol, instead of open ones.

    Raises:
        UsageError: neither model has such an input or symbol, or one fixes another size.
    """
    if not (input_shapes or dims):
        return a, b
    first, second = for_each((a, b), input_shapes, dims)
    return _sized(a, first), _sized(b, second)


def _sized(model: Model, shapes: InputShapes | None) -> Model:
    proto = onnx.ModelProto()
    proto.CopyFrom(model.skeleton)
    for value in proto.graph.input:
        if value.name in (shapes or {}):
            set_shape(value, (shapes or {})[value.name], model.name)
    return replace(model, skeleton=proto)


def _names(proto: onnx.ModelProto, what: str) -> list[str]:
    if what == "output":
        return [value.name for value in proto.graph.output]
    return [spec.name for spec in input_specs(proto)]


def _require(proto: onnx.ModelProto, letter: str, what: str, names: Iterable[str]) -> None:
    known = _names(proto, what)
    for name in names:
        if name not in known:
            has = ", ".join(f"'{item}'" for item in known) or "none"
            raise UsageError(f"model {letter} has no {what} '{name}'", f"its {what}s are {has}")


def _without_unused(proto: onnx.ModelProto, other: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without the inputs that the other model does not have and no output depends on."""
    extra = set(_names(proto, "input")) - set(_names(other, "input"))
    if not extra:
        return proto
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    extra -= drop_unneeded(changed.graph)
    refill(changed.graph.input, (v for v in proto.graph.input if v.name not in extra))
    return changed if extra else proto


_OTHER_FLOATS = types("FLOAT16 BFLOAT16 DOUBLE")


def _with_casts(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose inputs and outputs of other float types are float32, cast by nodes."""
    fed = set(_names(proto, "input"))
    kinds = {
        value.name: value.type.tensor_type.elem_type
        for value in (*proto.graph.input, *proto.graph.output)
        if value.type.tensor_type.elem_type in _OTHER_FLOATS
    }
    if not kinds:
        return proto
    inner = {name: f"{name}_before_cast" for name in kinds}
    changed = _renamed(proto, inner)
    back = {new: old for old, new in inner.items()}
    before, after = [], []
    for value in (*changed.graph.input, *changed.graph.output):
        name = back.get(value.name)
        if name is None:
            continue
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        value.name = name
        if name in fed:
            node = onnx.helper.make_node("Cast", [name], [inner[name]], to=kinds[name])
            before.append(node)
        else:
            after.append(onnx.helper.make_node("Cast", [inner[name]], [name], to=1))
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in changed.graph.node]
    refill(changed.graph.node, [*before, *nodes, *after])
    return changed


def _renamed(proto: onnx.ModelProto, names: Mapping[str, str]) -> onnx.ModelProto:
    """A copy in which values have other names; whatever had these names gets new ones."""
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    graphs = [changed.graph]
    for graph in graphs:  # grows while it is walked
        graphs.extend(inner for node in graph.node for inner in subgraphs(node))
    taken: set[str] = set()
    for graph in graphs:
        taken.update(name for node in graph.node for name in (*node.input, *node.output))
        taken.update(tensor.name for tensor in graph.initializer)
        taken.update(value.name for value in (*graph.input, *graph.output))
    mapping, fresh = dict(names), (f"renamed_{n}" for n in count())
    for name in names.values():
        if name in taken and name not in mapping:
            mapping[name] = next(other for other in fresh if other not in taken)
    for graph in graphs:
        sparse = [item.values for item in graph.sparse_initializer]
        for tensor in (*graph.initializer, *sparse):
            tensor.name = mapping.get(tensor.name, tensor.name)
        for value in (*graph.input, *graph.output, *graph.value_info):
            value.name = mapping.get(value.name, value.name)
        for node in graph.node:
            for places in (node.input, node.output):
                for place, name in enumerate(places):
                    places[place] = mapping.get(name, name)
    return changed
