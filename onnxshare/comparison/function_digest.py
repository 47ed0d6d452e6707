"""A digest of what a model computes: its graph and weights, whatever things are called."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from math import prod

import onnx

from onnxshare.io.load import Model
from onnxshare.samples.input_specs import input_specs
from onnxshare.weights.content import content

#: Vectors of up to so many elements, such as the sizes of a Reshape, belong to the structure.
_SMALL = 16

_GRAPH = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
_TENSOR = (onnx.AttributeProto.TENSOR, onnx.AttributeProto.TENSORS)


def function_digest(model: Model, *, weights: bool = True) -> str:
    """Return 32 hexadecimal digits that are equal for equal graphs and weights, or without
    `weights` for equal graphs and types and shapes of weights; then only small ones are read.

    Every value has a digest: of an input its place, of a weight its type, dims and bytes, of what
    a node makes the operator, its attributes and the digests of what it reads; a Constant is a
    weight. That of the model is of its outputs'. Names, metadata, declared inner shapes, the order
    of nodes and initializers, nodes that no output needs, and where weights are stored play no
    part.

    Raises:
        ModelFileError, ModelError: a weight cannot be read.
    """
    return Digester(model, weights=weights).model()


class Digester:
    """Digests of what a model computes, and of its parts."""

    def __init__(self, model: Model, *, weights: bool = True) -> None:
        """Digest the model's functions, which its nodes may call; without `weights`, of large
        tensors only types and dims.

        Raises:
            ModelFileError, ModelError: a weight cannot be read.
        """
        self._read, self._weights = model.read, weights
        self._proto = model.skeleton
        self._versions = {item.domain: item.version for item in self._proto.opset_import}
        self._functions: dict[tuple[str, str, str], str] = {}
        for function in self._proto.functions:  # a function may call those before it alone
            key = (function.domain, function.name, getattr(function, "overload", ""))
            known = {name: digest_of("input", place) for place, name in enumerate(function.input)}
            self._nodes(function.node, known)
            made = [known.get(name, name) for name in function.output]
            self._functions[key] = digest_of("function", *made)

    def model(self) -> str:
        """The digest of the outputs; see `function_digest`."""
        inputs = [spec.name for spec in input_specs(self._proto)]
        return self._graph(self._proto.graph, inputs, {})

    def _graph(
        self, graph: onnx.GraphProto, inputs: list[str], outer: Mapping[str, str], depth: int = 0
    ) -> str:
        known = dict(outer)
        for tensor in graph.initializer:
            known[tensor.name] = self.tensor(tensor)
        for sparse in graph.sparse_initializer:
            known[sparse.values.name] = self._sparse(sparse)
        known.update((name, digest_of("input", depth, place)) for place, name in enumerate(inputs))
        self._nodes(graph.node, known, depth)
        return digest_of("graph", *(known.get(value.name, value.name) for value in graph.output))

    def _nodes(
        self, nodes: Iterable[onnx.NodeProto], known: dict[str, str], depth: int = 0
    ) -> None:
        for node in nodes:
            stored = [item.t for item in node.attribute if item.name == "value"]
            if node.op_type == "Constant" and stored:
                known[node.output[0]] = self.tensor(stored[0])
                continue
            made = self.node(node, known, depth)
            known.update(
                (name, digest_of(made, place)) for place, name in enumerate(node.output) if name
            )

    def node(
        self, node: onnx.NodeProto, known: Mapping[str, str], depth: int = 0, version: int = 0
    ) -> str:
        """The digest of what a node makes of values whose digests are known.

        Args:
            node: the node.
            known: digests by name.
            depth: how many graphs its graph is in.
            version: of its operator; 0 for that of the set of operators.
        """
        domain = "" if node.domain == "ai.onnx" else node.domain
        key = (node.domain, node.op_type, getattr(node, "overload", ""))
        what = self._functions.get(key) or f"{domain}:{version or self._versions.get(domain)}"
        read = [known.get(name, name) for name in node.input]
        attributes = sorted(self._attribute(item, known, depth) for item in node.attribute)
        return digest_of(what, node.op_type, *read, "attributes", *attributes)

    def _attribute(self, item: onnx.AttributeProto, known: Mapping[str, str], depth: int) -> str:
        if item.type in _GRAPH:
            parts = [
                self._graph(body, [value.name for value in body.input], known, depth + 1)
                for body in ([item.g] if item.type == _GRAPH[0] else item.graphs)
            ]
        elif item.type in _TENSOR:
            tensors = [item.t] if item.type == _TENSOR[0] else item.tensors
            parts = [self.tensor(tensor) for tensor in tensors]
        elif item.type == onnx.AttributeProto.SPARSE_TENSOR:
            parts = [self._sparse(item.sparse_tensor)]
        else:
            plain = onnx.AttributeProto()
            plain.CopyFrom(item)
            plain.ClearField("doc_string")
            parts = [plain.SerializeToString(deterministic=True).hex()]
        return digest_of(item.name, *parts)

    def tensor(self, tensor: onnx.TensorProto) -> str:
        """The digest of a stored tensor: its type, dims and bytes."""
        if not self._weights and (len(tensor.dims) > 1 or prod(tensor.dims) > _SMALL):
            return digest_of(tensor.data_type, *tensor.dims)
        return content(self._read(tensor), tensor.data_type).hash

    def _sparse(self, sparse: onnx.SparseTensorProto) -> str:
        return digest_of(*sparse.dims, self.tensor(sparse.values), self.tensor(sparse.indices))


def digest_of(*parts: object) -> str:
    """One digest of several words."""
    text = "\0".join(f"{len(str(part))}:{part}" for part in parts)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
