"""Lets onnx's shape inference go through operators that it has no rule for.

In the copy that inference reads, each such node calls a local function of standard operators whose
result has the same shape and type; what it computes is of no account. One run of inference is
enough then, however many such nodes follow each other, and symbolic sizes are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxshare.io.node_reader import fits, subgraphs, value_of

#: The domain of the functions, and the standard operators' version that they are written in.
DOMAIN, OPSET = "onnxshare.stand_in", 22


class NoRule(Exception):
    """The shapes of a node cannot be told from what is known before inference."""


class Body:
    """The function that stands in for one node, while a rule writes it; `ranks` are the numbers of
    axes of stored tensors, by name."""

    def __init__(self, node: onnx.NodeProto, ranks: Mapping[str, int]) -> None:
        self.node = node
        self._ranks = ranks
        self.nodes: list[onnx.NodeProto] = []
        self._given: set[int] = set()

    def has(self, position: int) -> bool:
        """Whether the node has an input at a position."""
        return position < len(self.node.input) and bool(self.node.input[position])

    def wants(self, position: int) -> bool:
        """Whether the node names an output at a position."""
        return position < len(self.node.output) and bool(self.node.output[position])

    def input(self, position: int) -> str:
        """The name of an input within the function; raises NoRule where it is left out."""
        if not self.has(position):
            raise NoRule
        return f"i{position}"

    def rank(self, position: int) -> int:
        """The number of axes of a stored input; raises NoRule where it is not stored."""
        name = self.node.input[position] if self.has(position) else ""
        if name not in self._ranks:
            raise NoRule
        return self._ranks[name]

    def attribute(self, name: str, default: Any = None) -> Any:
        """The value of an attribute of the node, or `default`; raises NoRule where it is not of the
        kind of the default."""
        for attribute in self.node.attribute:
            if attribute.name == name:
                value = value_of(attribute)
                if not fits(value, default):
                    raise NoRule
                return value
        return default

    def attributes(self, *names: str) -> dict[str, Any]:
        """Those of these attributes that the node has."""
        found = {name: self.attribute(name) for name in names}
        return {name: value for name, value in found.items() if value is not None}

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Add a standard node and name its output."""
        return self.ops(1, op_type, *inputs, **attributes)[0]

    def ops(self, count: int, op_type: str, *inputs: str, **attributes: Any) -> list[str]:
        """Add a standard node and name its first outputs."""
        results = [f"t{len(self.nodes)}.{position}" for position in range(count)]
        self.nodes.append(helper.make_node(op_type, inputs, results, **attributes))
        return results

    def integers(self, *values: int) -> str:
        """Add a vector of sizes or axes."""
        return self.op("Constant", value=numpy_helper.from_array(np.array(values, np.int64)))

    def cut(self, data: str, start: int, end: int, *axes: int) -> str:
        """Add a slice from one position to another along some axes."""
        bounds = (self.integers(*[bound] * len(axes)) for bound in (start, end))
        return self.op("Slice", data, *bounds, self.integers(*axes))

    def sum(self, data: str, *axes: int, keepdims: int = 0) -> str:
        """Add a sum along some axes."""
        return self.op("ReduceSum", data, self.integers(*axes), keepdims=keepdims)

    def gemm(self, right: int = 1) -> str:
        """Add the product of the first input and another, each transposed as the node says."""
        turned = {name: self.attribute(name, 0) for name in ("transA", "transB")}
        return self.op("Gemm", self.input(0), self.input(right), **turned)

    def like(self, data: str, position: int) -> str:
        """Add a cast to the type of an input."""
        return self.op("CastLike", data, self.input(position))

    def output(self, position: int, result: str) -> None:
        """Say which tensor has the shape and type of an output, if the node wants it."""
        if self.wants(position):
            self.nodes.append(helper.make_node("Identity", [result], [f"o{position}"]))
            self._given.add(position)

    def outputs(self, results: Iterable[str]) -> None:
        """Say the same of all outputs, in their order."""
        for position, result in enumerate(results):
            self.output(position, result)

    def function(self) -> onnx.FunctionProto:
        """The function, without a name. An output that no rule gave has the element type of the
        first input, and an unknown shape: that of a Reshape to sizes which are data."""
        for position in range(len(self.node.output)):
            if position not in self._given:
                sizes = self.op("Reshape", self.op("NonZero", self.input(0)), self.integers(-1))
                self.nodes.append(
                    helper.make_node("Reshape", [self.input(0), sizes], [f"o{position}"])
                )
        return helper.make_function(
            DOMAIN,
            "",
            [f"i{position}" for position in range(len(self.node.input))],
            [f"o{position}" for position in range(len(self.node.output))],
            self.nodes,
            [helper.make_opsetid("", OPSET)],
        )


#: Writes the body for an operator.
Rule = Callable[[Body], None]


def same(*sources: int) -> Rule:
    """A rule: outputs shaped like these inputs, those that are there."""

    def rule(body: Body) -> None:
        for position, source in enumerate(sources):
            if body.has(source):
                body.output(position, body.input(source))

    return rule


def applied(
    op_type: str, *inputs: int, like: int | None = None, to: int | None = None, **attributes: Any
) -> Rule:
    """A rule: the result is that of a standard operator on these inputs, in the type of an input
    (`like`), or in a given one (`to`)."""

    def rule(body: Body) -> None:
        result = body.op(op_type, *map(body.input, inputs), **attributes)
        result = result if like is None else body.like(result, like)
        body.output(0, result if to is None else body.op("Cast", result, to=to))

    return rule


def substitute(model: onnx.ModelProto, rules: Mapping[tuple[str, str], Rule]) -> None:
    """Replace the nodes that a table has rules for, subgraphs included, by calls of functions, in
    the copy that inference reads; its nodes keep their places."""
    domains = {domain for domain, _ in rules}
    if not domains & {entry.domain for entry in model.opset_import}:
        return
    names: dict[bytes, str] = {}
    for node, ranks in _nodes(model.graph, {}):
        rule = rules.get((node.domain, node.op_type))
        if rule is None:
            continue
        body = Body(node, ranks)
        try:
            rule(body)
            function = body.function()
        except (NoRule, TypeError, ValueError, OverflowError):
            continue
        key = function.SerializeToString()
        if key not in names:
            names[key] = function.name = f"{node.op_type}.{len(names)}"
            model.functions.append(function)
        node.domain, node.op_type = DOMAIN, names[key]
    if names:
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))


def _nodes(
    graph: onnx.GraphProto, around: Mapping[str, int]
) -> Iterator[tuple[onnx.NodeProto, Mapping[str, int]]]:
    """All nodes with the numbers of axes of the stored tensors that they see."""
    ranks = {**around, **{tensor.name: len(tensor.dims) for tensor in graph.initializer}}
    for value in graph.input:
        if value.type.tensor_type.HasField("shape"):
            ranks[value.name] = len(value.type.tensor_type.shape.dim)
    for node in graph.node:
        for inner in subgraphs(node):
            yield from _nodes(inner, ranks)
        yield node, ranks
