"""Fills in the shape of every tensor, for one sample, and lists what stays unknown.

onnx's own inference does the work, once, on a copy without weights. Shapes declared inside the
graph are not trusted: they are used only for tensors that inference could not reach.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

import onnx
from onnx import TensorProto

from onnxshare.bounded import infer_shapes
from onnxshare.contrib_shapes import RULES
from onnxshare.errors import ModelFileError
from onnxshare.graph import Graph, Scope, model_inputs
from onnxshare.input_shapes import Binding, InputShapes, bind, rows
from onnxshare.io.load import Model
from onnxshare.shape_arithmetic import settle
from onnxshare.stand_ins import stand_in
from onnxshare.values import Values

#: Initializers above this size are hidden from inference, which needs only small ones (shapes).
_SMALL = 4096

#: Rounds of inference between which computed sizes are worked out; each settles all that can be.
_MAX_ROUNDS = 8

#: A shape as reported: known sizes, names of symbolic ones, None where nothing is known.
Shape = tuple[int | str | None, ...]


@dataclass(frozen=True)
class Shapes:
    """Types and shapes of all tensors of a graph.

    Attributes:
        known: (scope path, name) → sizes; a symbolic size is its name, an unknown one None.
        dtypes: (scope path, name) → TensorProto data type.
        batch: rows of one run, which counts are divided by; 1 where the batch was symbolic.
        batch_symbols: names of symbolic sizes that were set to 1 as batch.
        warnings: what could not be inferred or was ignored.
    """

    known: dict[tuple[str, str], Shape]
    dtypes: dict[tuple[str, str], int]
    batch: int
    batch_symbols: tuple[str, ...]
    warnings: list[str] = field(default_factory=list)

    def get(self, scope: Scope, name: str) -> Shape | None:
        """The shape of a tensor seen from a scope, or None if even its rank is unknown."""
        home = scope.home(name)
        return self.known.get((home.path, name)) if home else None

    def sizes(self, scope: Scope, name: str) -> tuple[int, ...] | None:
        """The shape if every size is known."""
        shape = self.get(scope, name)
        if shape is None or not all(isinstance(size, int) for size in shape):
            return None
        return tuple(int(size) for size in shape if isinstance(size, int))

    def dtype(self, scope: Scope, name: str) -> int | None:
        """The element type of a tensor seen from a scope."""
        home = scope.home(name)
        return self.dtypes.get((home.path, name)) if home else None

    def size_and_type(self, scope: Scope, name: str) -> tuple[tuple[int, ...], int] | None:
        """Sizes and element type; None if either is unknown."""
        sizes, dtype = self.sizes(scope, name), self.dtype(scope, name)
        return None if sizes is None or dtype is None else (sizes, dtype)

    def fully_known(self) -> dict[tuple[str, str], tuple[int, ...]]:
        """The shapes without any unknown size."""
        return {
            key: tuple(int(size) for size in shape if isinstance(size, int))
            for key, shape in self.known.items()
            if all(isinstance(size, int) for size in shape)
        }


def infer(graph: Graph, input_shapes: InputShapes | None = None, batch: int = 1) -> Shapes:
    """Infer all shapes.

    Args:
        graph: the indexed model.
        input_shapes: sizes for inputs, where the user gave them.
        batch: the size that a symbolic batch axis takes.

    Raises:
        UsageError: `input_shapes` names no input, or contradicts the model.
        ModelError: onnx's inference rejects the model.
    """
    slim = _without_weights(graph.proto, graph.model)
    stand_in(slim, RULES)
    binding = bind(graph, slim, dict(input_shapes or {}), batch)
    declared = _take_declared(slim)
    inferred = infer_shapes(slim, graph.model.name)
    if _restore(slim, inferred, declared, binding.sizes):
        inferred = infer_shapes(slim, graph.model.name)
    shapes = _collected(graph, inferred, binding)
    for _ in range(_MAX_ROUNDS):
        if not settle(graph, slim, shapes.size_and_type, Values(graph, shapes.fully_known())):
            break
        inferred = infer_shapes(slim, graph.model.name)
        shapes = _collected(graph, inferred, binding)
    for scope in graph.scopes:
        for name, tensor in scope.initializers.items():
            shapes.known[scope.path, name] = scope.sparse.get(name, tuple(tensor.dims))
            shapes.dtypes[scope.path, name] = tensor.data_type
    return shapes


def _without_weights(proto: onnx.ModelProto, model: Model) -> onnx.ModelProto:
    """A copy in which large initializers are inputs of the same type: no payload is copied."""
    slim = onnx.ModelProto(ir_version=max(proto.ir_version, 4))
    slim.opset_import.extend(proto.opset_import)
    slim.graph.name = proto.graph.name
    slim.graph.node.extend(proto.graph.node)
    slim.graph.output.extend(proto.graph.output)
    slim.graph.value_info.extend(proto.graph.value_info)
    slim.graph.input.extend(model_inputs(proto.graph))
    for tensor in proto.graph.initializer:
        needed = prod(tensor.dims) <= _SMALL
        if needed and tensor.data_location == TensorProto.EXTERNAL:
            tensor, needed = _at_hand(model, tensor)
        if needed:
            slim.graph.initializer.append(tensor)
        else:
            slim.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    for sparse in proto.graph.sparse_initializer:
        values = sparse.values
        slim.graph.input.append(
            onnx.helper.make_tensor_value_info(values.name, values.data_type, sparse.dims)
        )
    return slim


def _at_hand(model: Model, tensor: TensorProto) -> tuple[TensorProto, bool]:
    """A small external tensor with its values, if it may be a shape and its file is there."""
    if tensor.data_type not in (TensorProto.INT32, TensorProto.INT64):
        return tensor, False
    try:
        return onnx.numpy_helper.from_array(model.read(tensor), tensor.name), True
    except ModelFileError:
        return tensor, False  # only the size that it decides is unknown then


def _take_declared(slim: onnx.ModelProto) -> dict[str, onnx.ValueInfoProto]:
    """Remove what the file says of inner and output types and shapes, and return it."""
    declared = {}
    for value in [*slim.graph.value_info, *slim.graph.output]:
        copy = onnx.ValueInfoProto()
        copy.CopyFrom(value)
        declared[value.name] = copy
    del slim.graph.value_info[:]
    for value in slim.graph.output:
        value.ClearField("type")
    return declared


def _restore(
    slim: onnx.ModelProto,
    inferred: onnx.ModelProto,
    declared: dict[str, onnx.ValueInfoProto],
    symbols: Mapping[str, int],
) -> bool:
    """Put declared shapes back for tensors whose shape inference could not find."""
    reached = {
        value.name
        for value in [*inferred.graph.value_info, *inferred.graph.output]
        if value.type.tensor_type.HasField("shape")
    }
    outputs = {value.name: value for value in slim.graph.output}
    restored = False
    for name, value in declared.items():
        if name in reached:
            continue
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in symbols:
                dim.dim_value = symbols[dim.dim_param]
        if name in outputs:
            outputs[name].CopyFrom(value)
        else:
            slim.graph.value_info.append(value)
        restored = True
    return restored


def _collected(graph: Graph, inferred: onnx.ModelProto, binding: Binding) -> Shapes:
    batch = rows(graph, inferred, binding)
    shapes = Shapes({}, {}, batch, binding.batch_symbols)
    _collect(inferred.graph, graph.main, shapes)
    return shapes


def _collect(graph: onnx.GraphProto, scope: Scope, shapes: Shapes) -> None:
    for value in [*graph.input, *graph.value_info, *graph.output]:
        if not value.type.HasField("tensor_type"):
            continue
        tensor_type = value.type.tensor_type
        key = (scope.path, value.name)
        if tensor_type.elem_type:
            shapes.dtypes[key] = tensor_type.elem_type
        if tensor_type.HasField("shape"):
            shapes.known[key] = tuple(_size(dim) for dim in tensor_type.shape.dim)
    for node, proto in zip(scope.nodes, graph.node, strict=True):
        children = scope.children.get(node.position, {})
        for attribute in proto.attribute:
            if attribute.name in children:
                _collect(attribute.g, children[attribute.name], shapes)


def _size(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    if dim.HasField("dim_value"):
        return dim.dim_value if dim.dim_value >= 0 else None
    return dim.dim_param or None


__all__ = ["InputShapes", "Shape", "Shapes", "infer"]
