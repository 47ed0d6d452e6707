"""Traces names to the stored tensors whose elements they carry.

A constant of a local function is stored once in the file, however often the function is called.
Expanding a call copies the function's Constant nodes, so they are marked before: the copies of one
node can then be told from constants that happen to be equal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod

import onnx
from onnx import TensorProto

from onnxshare.errors import ModelError
from onnxshare.graph.nodes import Node, Scope
from onnxshare.graph.operator_traits import operators_where, traits_of
from onnxshare.graph.stored_tensor import Stored, from_constant_node, from_sparse, from_tensor
from onnxshare.io.load import Model
from onnxshare.io.node_reader import Operation, TensorRow, all_nodes

#: Operators whose output holds the same stored elements as their first input, in some order or
#: type. QuantizeLinear counts only between a constant and a DequantizeLinear.
CARRIERS = operators_where(lambda traits: traits.carries)

#: Operators that make a stored tensor.
_STORING = frozenset(("Constant", "ConstantOfShape"))

#: All through which a name may get a source.
_TRACED = CARRIERS | _STORING | {"QuantizeLinear"}


class Sources:
    """The constants of a model, by the scopes and names that see them."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._constants: dict[Operation, TensorRow] = {}

    def all(self, scope: Scope) -> Mapping[str, Stored | None]:
        """The stored tensor whose elements each name of the main graph carries; None, or no entry,
        for one that depends on the model's inputs."""
        if not scope.traced:
            self._trace_all(scope)
        return scope.sources

    def of(self, scope: Scope, name: str) -> Stored | None:
        """The stored tensor whose elements a name carries, through layout nodes, casts and
        (de)quantization; None if the name depends on the model's inputs."""
        if scope.parent is None:
            return self.all(scope).get(name)
        if name in scope.sources:
            return scope.sources[name]
        home = scope.home(name)
        if home is None:
            return None
        found = self._trace(home, name)
        scope.sources[name] = found
        return found

    def stored(self, scope: Scope, name: str) -> Stored | None:
        """The constant tensor of this very name, or None if it is not one."""
        home = scope.home(name)
        if home is None:
            return None
        node = home.producers.get(name)
        if name in home.initializers or (node is not None and node.op_type in _STORING):
            return self.of(home, name)
        return None

    def _trace_all(self, scope: Scope) -> None:
        """Trace all names that may carry a constant: a few of the nodes, in one go."""
        scope.traced = True
        try:
            for name in scope.sparse:
                self._trace(scope, name)
            for node in scope.nodes:
                if node.op_type not in _TRACED:
                    continue
                row = self._constants.get(node.operation)
                for name in filter(None, node.outputs):
                    if row is not None:
                        scope.sources[name] = from_tensor(row, f"{scope.path}:{name}", name)
                    else:
                        self._trace(scope, name)
        except BaseException:
            scope.traced = False
            raise

    def _trace(self, scope: Scope, name: str) -> Stored | None:
        passed: list[tuple[Scope, str]] = []
        found: Stored | None = None
        while name not in scope.sources:
            passed.append((scope, name))
            node = scope.producers.get(name)
            if node is None or node.op_type in _STORING:
                found = self._made(scope, name)
            if found is not None or node is None or not self._carries(node, name):
                break
            name = node.inputs[0]
            scope = scope.home(name) or scope
        else:
            found = scope.sources[name]
        for where, carrier in passed:
            where.sources[carrier] = found
        return found

    def _made(self, home: Scope, name: str) -> Stored | None:
        key = f"{home.path}:{name}"
        if name in home.initializers:
            return from_sparse(home.sparse[name], key, name)  # dense ones are known from the start
        node = home.producers.get(name)
        if node is None or not node.standard:
            return None
        if node.op_type == "Constant":
            return self._constant(node, key, name)
        if node.op_type == "ConstantOfShape":
            return self._from_fill(node, key, name)
        return None

    def _constant(self, node: Node, key: str, name: str) -> Stored | None:
        """What a Constant node holds; of equal ones, what the first does."""
        row = self._constants.get(node.operation)
        if row is not None:
            return from_tensor(row, key, name)
        made = from_constant_node(node.proto, key, name)
        if made is not None and made.tensor is not None and node.operation.attributes is not None:
            row = made.tensor, name, made.dtype, made.shape, made.elements
            self._constants[node.operation] = row
        return made

    def _carries(self, node: Node, name: str) -> bool:
        if not traits_of(node).carries and not _fake_quantized(node):
            return False
        return bool(node.inputs) and name == node.outputs[0]

    def _from_fill(self, node: Node, key: str, name: str) -> Stored | None:
        shape = self.stored(node.scope, node.inputs[0])
        if shape is None or shape.tensor is None or shape.elements > 64:
            return None
        dims = self._model.read(shape.tensor).astype(int).reshape(-1).tolist()
        if any(size < 0 for size in dims):
            raise ModelError(f"{self._model.name}: node '{node.name}' has a negative dimension")
        fill = node.attribute("value")
        if fill is not None and not isinstance(fill, TensorProto):
            raise ModelError(
                f"{self._model.name}: attribute 'value' of node '{node.name}' is not what "
                "ConstantOfShape takes",
                "the file is damaged: export or download it again",
            )
        dtype = fill.data_type if fill is not None else TensorProto.FLOAT
        return Stored(key, name, dtype, tuple(dims), None, fill)


def _fake_quantized(node: Node) -> bool:
    if node.op_type != "QuantizeLinear" or not traits_of(node).quantized:
        return False
    readers = node.scope.readers(node.outputs[0])
    return bool(readers) and all(reader.op_type == "DequantizeLinear" for reader in readers)


#: The metadata of a node that marks it while functions are expanded.
_MARK = "onnxshare.function_constant"

#: Elements of types that hold no weights are not looked at.
_NUMBERS = (onnx.TensorProto.INT32, onnx.TensorProto.INT64, onnx.TensorProto.BOOL)


def marked(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model whose functions' constants are marked; itself, where they hold none."""
    if not any(True for _ in _constants(proto)):
        return proto
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for number, node in enumerate(_constants(copy)):
        mark = node.metadata_props.add()
        mark.key, mark.value = _MARK, str(number)
    return copy


def unmarked(graph: onnx.GraphProto) -> dict[str, str]:
    """Take the marks off the nodes of a graph, subgraphs included; returns the mark of each marked
    constant by its name, which no other tensor of the model has."""
    found: dict[str, str] = {}
    for node in all_nodes(graph.node):
        for place, entry in enumerate(node.metadata_props):
            if entry.key == _MARK:
                found[node.output[0]] = entry.value
                del node.metadata_props[place]
                break
    return found


def _constants(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """The Constant nodes of functions that hold tensors of several elements, in subgraphs too."""
    for node in all_nodes(node for function in proto.functions for node in function.node):
        held = [item.t for item in node.attribute if item.name == "value"]
        if node.op_type == "Constant" and any(
            prod(tensor.dims) > 1 and tensor.data_type not in _NUMBERS for tensor in held
        ):
            yield node
