"""One of the two models, with all that is compared."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import onnx

from onnxshare.analysis.inspection import inspect
from onnxshare.analysis.results import Inspection, NodeFacts
from onnxshare.graph.constant_values import Values
from onnxshare.graph.index import Graph, Node, Scope, Stored
from onnxshare.io.load import Model
from onnxshare.io.tensors import Array, bytes_of
from onnxshare.shapes.input_sizes import InputShapes
from onnxshare.weights.content import Content, content
from onnxshare.weights.dequantize import Dequantized
from onnxshare.weights.equal_dequantized import Meaning, Numbers, content_of
from onnxshare.weights.equal_tensors import Progress
from onnxshare.weights.quantization_schemes import readings

#: Nodes that only hold a tensor: they are compared as tensors.
HOLDERS = ("Constant", "ConstantOfShape")


@dataclass(frozen=True)
class Side:
    """One model of two.

    Attributes:
        model: the model.
        graph: its index.
        report: what `inspect` says of it.
        nodes: its nodes with their facts, those left out that only hold a tensor.
        tensors: its stored tensors by key, in the order of the file.
        contents: what they hold.
        parameters: names of those that are parameters.
        readings: how quantised ones are read.
    """

    model: Model
    graph: Graph
    report: Inspection
    nodes: tuple[tuple[Node, NodeFacts], ...]
    tensors: dict[str, Stored]
    contents: dict[str, Content]
    parameters: frozenset[str]
    readings: dict[str, Dequantized]

    def array(self, key: str) -> Array | None:
        """The elements of a tensor; None for a sparse one or one too large to fill."""
        return Values(self.graph).payload(self.tensors[key])

    def meaning(self, key: str) -> Meaning:
        """What a tensor stands for."""
        stored, reading = self.tensors[key], self.readings.get(key)
        if reading is None:
            return Meaning(stored, stored.dtype, stored.shape)
        return Meaning(stored, reading.dtype, reading.shape, reading)

    def numbers(self, key: str) -> Numbers:
        """The numbers that a tensor stands for; one with a reading is read."""
        meaning = self.meaning(key)
        return Numbers(meaning, content_of(meaning, self.contents, self.read), self.read)

    def read(self, stored: Stored) -> Array:
        """The elements of a tensor that has some."""
        array = Values(self.graph).payload(stored)
        assert array is not None  # only of those that are quantised, or equal to such a one
        return array


def study(
    model: Model, input_shapes: InputShapes | None = None, progress: Progress | None = None
) -> Side:
    """Inspect a model, and read all its tensors once, a piece at a time.

    Raises:
        ModelFileError: the weights cannot be read.
        ModelError: its graph contradicts itself.
    """
    graph = Graph(model)
    report = inspect(model, input_shapes=input_shapes)
    tensors = {stored.key: stored for stored in _stored(graph)}
    nodes = tuple(
        (node, facts)
        for node, facts in zip(graph.nodes(), report.nodes, strict=True)
        if not (node.op_type in HOLDERS and graph.stored(node.scope, node.outputs[0]) is not None)
    )
    return Side(
        model,
        graph,
        report,
        nodes,
        tensors,
        _contents(graph, tensors, progress),
        frozenset(facts.name for facts in report.weights),
        {
            key: reading
            for key, reading in readings(graph, Values(graph)).items()
            if key in tensors and Values(graph).payload(reading.stored) is not None
        },
    )


def size_of(side_tensors: dict[str, Stored]) -> int:
    """Bytes of the tensors that are read."""
    return sum(bytes_of(s.elements, s.dtype) for s in side_tensors.values() if s.tensor is not None)


def _stored(graph: Graph) -> Iterator[Stored]:
    for scope in graph.scopes:
        names = [*scope.initializers]
        names += [
            node.outputs[0] for node in scope.nodes if node.op_type in HOLDERS and node.outputs
        ]
        for name in names:
            stored = graph.stored(scope, name)
            if stored is not None:
                yield stored


def _contents(
    graph: Graph, tensors: dict[str, Stored], progress: Progress | None
) -> dict[str, Content]:
    values = Values(graph)
    scopes = {scope.path: scope for scope in graph.scopes}
    total, done = size_of(tensors), 0

    def step(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(min(done, total), total)

    found = {}
    for key, stored in tensors.items():
        array = values.payload(stored)
        if array is not None:
            found[key] = content(array, stored.dtype, step)
            continue
        scope = scopes[key[: -len(stored.name) - 1]]
        found[key] = _unfilled(graph.model.read, stored, _sparse(scope, stored))
    return found


def _sparse(scope: Scope, stored: Stored) -> onnx.SparseTensorProto | None:
    if not stored.sparse:
        return None
    for sparse in scope.graph.sparse_initializer:
        if sparse.values.name == stored.name:
            return sparse
    producer = scope.producers[stored.name]
    return next(a.sparse_tensor for a in producer.proto.attribute if a.name == "sparse_value")


def _unfilled(
    read: Callable[[onnx.TensorProto], Array], stored: Stored, sparse: onnx.SparseTensorProto | None
) -> Content:
    """What identifies a tensor whose elements are never laid out."""
    words = hashlib.blake2b(f"{stored.dtype}:{stored.shape}".encode(), digest_size=16)
    parts = [stored.fill] if stored.fill is not None else []
    parts += [sparse.values, sparse.indices] if sparse is not None else []
    for part in parts:
        words.update(content(read(part), part.data_type).hash.encode())
    return Content(words.hexdigest(), (0, int(words.hexdigest()[:16], 16)), sparse is None)
