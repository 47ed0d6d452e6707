"""One of the two models, with all that is compared, and how its parts find those of the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from onnxshare.analysis.inspection import inspect
from onnxshare.analysis.results import Inspection, NodeFacts
from onnxshare.graph.index import Graph, Node, Stored
from onnxshare.io.load import Model
from onnxshare.shapes.input_sizes import InputShapes
from onnxshare.weights.index import IndexedTensor, Progress, TensorIndex

#: Nodes that only hold a tensor: they are compared as tensors.
HOLDERS = ("Constant", "ConstantOfShape")

Part = TypeVar("Part")


@dataclass(frozen=True)
class Side:
    """One model of two.

    Attributes:
        model: the model.
        graph: its index.
        report: what `inspect` says of it.
        nodes: its nodes with their facts, those left out that only hold a tensor.
        tensors: its stored tensors by key, in the order of the file.
        parameters: names of those that are parameters.
    """

    model: Model
    graph: Graph
    report: Inspection
    nodes: tuple[tuple[Node, NodeFacts], ...]
    tensors: dict[str, IndexedTensor]
    parameters: frozenset[str]


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
    nodes = tuple(
        (node, facts)
        for node, facts in zip(graph.nodes(), report.nodes, strict=True)
        if not (node.op_type in HOLDERS and graph.stored(node.scope, node.outputs[0]) is not None)
    )
    index = TensorIndex(graph, stored_tensors(graph))
    index.tell(progress, index.tensors.values())
    for tensor in index.tensors.values():
        _ = tensor.content  # one model after the other is read
    parameters = frozenset(facts.name for facts in report.weights)
    return Side(model, graph, report, nodes, index.tensors, parameters)


def stored_tensors(graph: Graph) -> Iterator[Stored]:
    """The constant tensors of all graphs of a model, as it stores them."""
    for scope in graph.scopes:
        names = [*scope.initializers]
        names += [
            node.outputs[0] for node in scope.nodes if node.op_type in HOLDERS and node.outputs
        ]
        for name in names:
            stored = graph.stored(scope, name)
            if stored is not None:
                yield stored


def pair(
    left: dict[Part, None],
    right: dict[Part, None],
    keys: tuple[Callable[[Part], Any], Callable[[Part], Any]],
    unless: Callable[[Part, Part], bool] = lambda one, other: False,
) -> Iterator[tuple[Part, Part]]:
    """Take pairs out of what is left of both sides, in their order: two are paired whose keys are
    equal, but for None; where `unless` says that they are not the same after all, the left one is
    left over."""
    waiting: dict[Any, list[Part]] = {}
    for part in reversed(right):
        waiting.setdefault(keys[1](part), []).append(part)
    waiting.pop(None, None)
    for one in list(left):
        others = waiting.get(keys[0](one))
        if others and not unless(one, others[-1]):
            other = others.pop()
            del left[one], right[other]
            yield one, other
