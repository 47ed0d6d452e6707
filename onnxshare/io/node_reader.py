"""Reads, once, what is needed of every node and initializer from the protobuf messages.

Each question to a message makes objects: a graph of thousands of nodes is read here in one loop,
and what comes after works on plain names and numbers. Nodes repeat themselves: those of equal
operator and attributes share one `Operation`. A file may give an attribute any type, so its value
is checked against the type of its default.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from types import UnionType
from typing import Any

import onnx
from onnx import AttributeProto, TensorProto, helper

# What an attribute may be, by the type of its default.
_KINDS: dict[type, type | UnionType] = {int: int, float: int | float, str: str, list: Sequence}


def value_of(attribute: onnx.AttributeProto) -> Any:
    """The value of an attribute, strings decoded; None where its type is not known."""
    try:
        value = helper.get_attribute_value(attribute)
    except ValueError:
        return None
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def fits(value: Any, default: Any) -> bool:
    """Whether a value is of the kind of the default that stands for it elsewhere."""
    return value is not None and isinstance(value, _KINDS.get(type(default), object))


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs that the attributes of a node hold."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Nodes and those in their subgraphs, at any depth."""
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(inner for graph in subgraphs(node) for inner in graph.node)


def function_key(item: onnx.NodeProto | onnx.FunctionProto) -> tuple[str, str, str]:
    """What tells a local function from others, also asked of a node that calls it."""
    name = item.op_type if isinstance(item, onnx.NodeProto) else item.name
    return ("" if item.domain == "ai.onnx" else item.domain, name, item.overload)


def reads(node: onnx.NodeProto) -> set[str]:
    """Names that a node reads, its subgraphs included (which may also read names of their own)."""
    names = set(node.input)
    for graph in subgraphs(node):
        names.update((value.name for value in graph.output), *map(reads, graph.node))
    return names


def count_reads(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> Counter[str]:
    """How many of these nodes read each name, a graph's outputs counted too."""
    found = Counter(value.name for value in graph.output)
    for node in nodes:
        found.update(reads(node))
    return found


def refill(field: Any, items: Iterable[Any]) -> None:
    """Replace all entries of a repeated field of a message."""
    entries = list(items)
    del field[:]
    field.extend(entries)


STANDARD_DOMAINS = frozenset(("", "ai.onnx"))

#: From this IR version on, an initializer that is an input too is only its default.
DEFAULTS_SINCE = 4


def opset_version(proto: onnx.ModelProto) -> int:
    """The version of the default operator set; 1 where the model does not name it."""
    versions = [o.version for o in proto.opset_import if o.domain in STANDARD_DOMAINS]
    return max(versions, default=1)


def symbol(dim: onnx.TensorShapeProto.Dimension) -> str:
    """The name of an open size; "" for one that has none, for which some exporters write ?."""
    return "" if dim.dim_param == "?" else str(dim.dim_param)


def model_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """The inputs a user must feed: those that are not initializers (IR version 3 lists both)."""
    stored = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in stored]


#: Types of attributes that hold neither tensors nor graphs.
PLAIN_ATTRIBUTES = frozenset(
    map(AttributeProto.AttributeType.Value, "FLOAT INT STRING FLOATS INTS STRINGS".split())
)

#: NumPy's arrays have no more dims than this.
MAX_RANK = 64

#: Attributes of more bytes than this are not kept to be compared, and tensors in them: axes and
#: shapes repeat themselves, weights do not.
_LARGE, _LARGE_TENSOR = 4096, 128


class Operation:
    """What nodes do that have the same operator and equal attributes. Compared by identity.

    Attributes:
        domain: the operator's domain, as the nodes give it.
        op_type: the operator's name.
        standard: whether the operator belongs to the ONNX standard's default domain.
        attributes: the serialized attributes; None for nodes with graphs, larger tensors or very
            many numbers in them, which need not be equal.
        first: the first node that does it.
    """

    __slots__ = ("_values", "attributes", "domain", "first", "op_type", "standard")

    def __init__(
        self, domain: str, op_type: str, attributes: bytes | None, first: onnx.NodeProto
    ) -> None:
        self.domain, self.op_type, self.attributes = domain, op_type, attributes
        self.standard = domain in STANDARD_DOMAINS
        self.first = first
        self._values: dict[str, Any] | None = None

    @property
    def values(self) -> dict[str, Any] | None:
        """The attributes by name, as `value_of` gives them; None where the nodes differ in them."""
        if self._values is None and self.attributes is not None:
            self._values = {}
            for attribute in self.first.attribute:
                self._values.setdefault(attribute.name, value_of(attribute))
        return self._values


#: A node, what it does, its name, and the names of its inputs and outputs.
NodeRow = tuple[onnx.NodeProto, Operation, str, tuple[str, ...], tuple[str, ...]]

#: A tensor, its name, data type and dims, and the number of its elements (0 for one of more dims
#: than there may be).
TensorRow = tuple[onnx.TensorProto, str, int, tuple[int, ...], int]


@dataclass(frozen=True)
class Reading:
    """What was read: some nodes, and the dense initializers of their graph."""

    nodes: list[NodeRow]
    tensors: list[TensorRow]


class Reader:
    """Reads graphs; equal operations of all of them are one object."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, bytes | None], Operation] = {}

    def read(self, graph: onnx.GraphProto) -> Reading:
        """Read the nodes and the dense initializers of a graph, not those of its subgraphs.

        Raises:
            UnicodeDecodeError: a name is not valid UTF-8.
        """
        return self.nodes(graph.node, graph.initializer)

    def nodes(
        self, nodes: Iterable[onnx.NodeProto], tensors: Iterable[TensorProto] = ()
    ) -> Reading:
        """Read some nodes and initializers."""
        known = self._known
        rows: list[NodeRow] = []
        for node in nodes:
            attributes = node.attribute
            key = node.domain, node.op_type, _kept(attributes) if attributes else b""
            operation = known.get(key)
            if operation is None:
                operation = known[key] = Operation(*key, node)
            # A slice is read in one go; iterating takes twice as long.
            inputs, outputs = tuple(node.input[:]), tuple(node.output[:])
            rows.append((node, operation, node.name, inputs, outputs))
        return Reading(rows, tensor_rows(tensors))


def _kept(attributes: Iterable[AttributeProto]) -> bytes | None:
    """The attributes as one key; each of them begins with its name."""
    parts = []
    for attribute in attributes:
        if attribute.type in PLAIN_ATTRIBUTES:
            parts.append(attribute.SerializeToString())
            continue
        if attribute.type != AttributeProto.TENSOR:
            return None
        parts.append(attribute.SerializeToString())
        if len(parts[-1]) > _LARGE_TENSOR:
            return None
    key = parts[0] if len(parts) == 1 else b"".join(parts)
    return key if len(key) <= _LARGE else None


def tensor_rows(tensors: Iterable[TensorProto]) -> list[TensorRow]:
    """Read some tensors."""
    counts: dict[tuple[int, ...], int] = {}
    rows: list[TensorRow] = []
    for tensor in tensors:
        dims = tuple(tensor.dims[:])
        count = counts.get(dims)
        if count is None:
            count = counts[dims] = prod(dims) if len(dims) <= MAX_RANK else 0
        rows.append((tensor, tensor.name, tensor.data_type, dims, count))
    return rows
