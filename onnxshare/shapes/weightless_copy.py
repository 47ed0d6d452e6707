"""A copy of a model for shape inference to read: without large weights, and without what the file
says of inner and output shapes."""

from __future__ import annotations

import onnx
from onnx import TensorProto

from onnxshare.errors import ModelFileError
from onnxshare.graph.index import Graph, Scope
from onnxshare.graph.stored_tensor import Stored
from onnxshare.io.load import Model

#: Initializers above this size are hidden from inference, which needs only small ones (shapes).
_SMALL = 4096

_EXTERNAL = TensorProto.EXTERNAL


def without_weights(graph: Graph) -> onnx.ModelProto:
    """A copy in which large initializers are inputs of the same type: no payload is copied.

    Args:
        graph: the indexed model.
    """
    proto = graph.proto
    weightless = onnx.ModelProto(ir_version=max(proto.ir_version, 4))
    weightless.opset_import.extend(proto.opset_import)
    tensors, hidden, all_copied = _visible(graph)
    if graph.model.payloads is None:  # it may hold any amount of weights: copy around them
        weightless.graph.name = proto.graph.name
        weightless.graph.node.MergeFrom(proto.graph.node)
        weightless.graph.initializer.extend(tensors)
    else:  # large payloads are left in the file: one copy is several times as fast as many
        weightless.graph.CopyFrom(proto.graph)
        for name in ("value_info", "output", "input", "sparse_initializer", "metadata_props"):
            weightless.graph.ClearField(name)
        if not all_copied:
            weightless.graph.ClearField("initializer")
            weightless.graph.initializer.extend(tensors)
    weightless.graph.input.extend(graph.inputs)
    for value in proto.graph.output:
        weightless.graph.output.add(name=value.name)
    types: dict[tuple[int, tuple[int, ...]], onnx.TypeProto] = {}
    for stored in hidden:
        key = (stored.dtype, stored.shape)
        if key not in types:
            types[key] = onnx.helper.make_tensor_type_proto(*key)
        weightless.graph.input.add(name=stored.name, type=types[key])
    return weightless


def _visible(graph: Graph) -> tuple[list[TensorProto], list[Stored], bool]:
    """The initializers whose values inference may read, the others, and whether there are no
    others and all are read from where they are."""
    tensors: list[TensorProto] = []
    hidden: list[Stored] = []
    as_they_are = True
    sources = graph.constants(graph.main)
    if graph.model.whole and not graph.main.sparse:  # of thousands, few are asked for their place
        found = [stored for stored in map(sources.get, graph.main.initializers) if stored]
        if max((stored.elements for stored in found), default=0) <= _SMALL:
            return list(graph.main.initializers.values()), [], True
    for name, tensor in graph.main.initializers.items():
        stored = sources.get(name)
        if stored is None:
            continue
        readable = stored.elements <= _SMALL and not stored.sparse
        if readable and tensor.data_location == _EXTERNAL:
            tensor, readable = _at_hand(graph.model, tensor)
            as_they_are = False
        if readable:
            tensors.append(tensor)
        else:
            hidden.append(stored)
    return tensors, hidden, as_they_are and not hidden


def _at_hand(model: Model, tensor: TensorProto) -> tuple[TensorProto, bool]:
    """A small external tensor with its values, if it may be a shape and its file is there."""
    if tensor.data_type not in (TensorProto.INT32, TensorProto.INT64):
        return tensor, False
    try:
        return onnx.numpy_helper.from_array(model.read(tensor), tensor.name), True
    except ModelFileError:
        return tensor, False  # only the size that it decides is unknown then


def strip_subgraphs(scope: Scope, proto: onnx.GraphProto) -> None:
    """Remove what the subgraphs of a copy declare of their inner and output shapes."""
    for position, children in scope.children.items():
        for attribute in proto.node[position].attribute:
            if attribute.name not in children:
                continue
            attribute.g.ClearField("value_info")
            for value in attribute.g.output:
                value.type.tensor_type.ClearField("shape")
            strip_subgraphs(children[attribute.name], attribute.g)
