"""Judges, without running anything, whether onnx's shape inference is cheap and safe on a model.

A file of a few kilobytes can ask inference for tensors of a thousand axes, for shapes of 2⁴⁰
numbers (a Concat of itself, forty times), or for a stride of 0, which versions of onnx divide by.
What an exporter writes passes here in a few microseconds a node, as nodes of one operation are
looked at together; anything else is not an error, only a reason to let another process do it
(`onnx_sandbox.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import prod

import onnx
from onnx import AttributeProto, TensorProto, numpy_helper

from onnxshare.graph.nodes import Node, Scope
from onnxshare.graph.operator_traits import Effect, traits_of
from onnxshare.io.node_reader import Operation, Reader

#: The most axes of a tensor, numbers in a computed shape, and numbers in an attribute.
MAX_RANK, MAX_COUNT, MAX_INTS = 64, 4096, 256

#: The largest size, and the largest number of elements along a computed axis.
MAX_SIZE, MAX_FILL = 2**48, 2**24

_LARGEST = 2**31

#: Attributes that count or divide: less than 1 is no use to anybody.
_POSITIVE = frozenset(
    "strides dilations kernel_shape group blocksize block_size num_groups num_outputs hidden_size "
    "q_num_heads kv_num_heads num_heads num_scan_inputs".split()
)

#: Attributes in which exporters write the largest and smallest number for "to the end".
_UNBOUNDED = frozenset(("starts", "ends", "value_int", "value_ints", "seed", "ignore_index"))

#: Types of shapes.
INTEGERS = frozenset((TensorProto.INT32, TensorProto.INT64))

#: Bounds of a constant: its axes, its numbers if they are known, and integers themselves.
Value = tuple[int, int | None, TensorProto | None]

#: What makes no more numbers than it reads, so that computed shapes go through it; of Gather and
#: Concat `_BOUNDS` says how many.
_FOLLOWED = frozenset(
    (
        Effect.ELEMENTWISE,
        Effect.RESHAPE,
        Effect.PERMUTATION,
        Effect.CUT,
        Effect.LOOKUP,
        Effect.JOIN,
        Effect.SCATTER,
        Effect.REDUCTION,
        Effect.SHAPE,
    )
)

#: Operators that make numbers which are known, however many.
_MAKING = frozenset(("Shape", "ConstantOfShape"))

Bound = Callable[["_Weigher", Node, int, int], tuple[int, int]]


class Kind:
    """What nodes of one operation have in common.

    Attributes:
        plain: whether its attributes are; None where each node has its own.
        followed: whether computed shapes go through it.
        bound: what says how many axes or numbers it makes; None where no more than it reads.
        grows: whether its result may have more axes than what it reads, or be a shape.
        makes: whether it makes numbers, which are known.
        constant: whether it is a Constant.
        value: what that holds; None where each node has its own.
    """

    __slots__ = ("bound", "constant", "followed", "grows", "makes", "plain", "value")

    def __init__(self, operation: Operation) -> None:
        op_type, attributes = operation.op_type, operation.first.attribute
        comparable = operation.attributes is not None
        self.plain = all(map(plain, attributes)) if comparable else None
        effect = traits_of(operation).effect
        self.followed = effect in _FOLLOWED
        self.bound = _BOUNDS.get(op_type)
        self.makes = op_type in _MAKING
        self.constant = op_type == "Constant"
        self.grows = self.constant or bool(self.bound) or effect is Effect.CONTROL_FLOW
        self.value = held(attributes) if comparable and self.constant else None


def plain(attribute: AttributeProto) -> bool:
    """Whether the numbers in an attribute are ordinary."""
    kind = attribute.type
    if kind == AttributeProto.INT:
        return _in_bounds((attribute.i,), attribute.name)
    if kind == AttributeProto.INTS:
        if len(attribute.ints) > MAX_INTS and attribute.name != "value_ints":
            return False
        return _in_bounds(attribute.ints, attribute.name)
    return True


def _in_bounds(numbers: Iterable[int], name: str) -> bool:
    if name in _UNBOUNDED:
        return True
    lowest = 1 if name in _POSITIVE else 1 - _LARGEST
    return all(lowest <= number < _LARGEST for number in numbers)


def weighed(tensor: TensorProto) -> Value:
    """The bounds of a stored tensor; of floats only as many as may be factors of sizes."""
    size = prod(tensor.dims)
    if tensor.data_type in INTEGERS:
        return len(tensor.dims), size, tensor
    return len(tensor.dims), size if size <= MAX_RANK else None, None


def held(attributes: Iterable[AttributeProto]) -> Value:
    """The bounds of what a Constant node holds."""
    for attribute in attributes:
        if attribute.name == "value":
            rank, count, tensor = weighed(attribute.t)
            return rank, count or 0, tensor
        if attribute.name == "value_ints":
            return 1, len(attribute.ints), None
    return 1, 1, None


_GRAPHS = frozenset((AttributeProto.GRAPH, AttributeProto.GRAPHS))


def is_cheap(proto: onnx.ModelProto, nodes: Sequence[Node] | None = None) -> bool:
    """Whether shape inference may run in this process on this model without large weights; its
    nodes are read if they are not given."""
    try:
        weigher = _Weigher()
        weigher.inputs(proto.graph)
        return weigher.graph(proto.graph, nodes)
    except (RecursionError, ValueError, TypeError):
        return False


class _Weigher:
    """Upper bounds for each tensor: its axes, and its numbers where it may be a computed shape.

    Numbers are known of constants, of what Shape answers, and of what is computed from these. A
    tensor of any other origin may have any number of elements, and is not an ordinary shape.
    """

    def __init__(self) -> None:
        self.rank: dict[str, int] = {}
        self.count: dict[str, int] = {}
        self.constants: dict[str, TensorProto] = {}
        self.shape_of: dict[str, str] = {}
        self.grows = False
        self.reader = Reader()
        self.kinds: dict[Operation, Kind] = {}

    def inputs(self, graph: onnx.GraphProto) -> None:
        """Note inputs that may be shapes; a size that is not known makes no axes."""
        for value in graph.input:
            given, dims = value.type.tensor_type, value.type.tensor_type.shape.dim
            if given.elem_type in INTEGERS and given.HasField("shape") and len(dims) <= 1:
                self.count[value.name] = max(1, dims[0].dim_value if dims else 1)

    def graph(self, graph: onnx.GraphProto, nodes: Sequence[Node] | None = None) -> bool:
        """Weigh a graph; False where something in it is out of the ordinary."""
        for value in (*graph.input, *graph.value_info, *graph.output):
            dims = value.type.tensor_type.shape.dim
            if len(dims) > MAX_RANK or any(abs(dim.dim_value) > MAX_SIZE for dim in dims):
                return False
            self.rank[value.name] = max(self.rank.get(value.name, 0), len(dims))
        if nodes is None:
            scope, rows = Scope(graph, "", None), self.reader.nodes(graph.node).nodes
            nodes = [Node(row, position, scope) for position, row in enumerate(rows)]
        operations = dict.fromkeys([node.operation for node in nodes])
        for operation in operations:
            if operation not in self.kinds:
                self.kinds[operation] = Kind(operation)
            if self.kinds[operation].plain is False:
                return False
        # Where no node may have more axes than what it reads, or make a shape, no tensor has more
        # than the inputs and the initializers, which are bounded already.
        self.grows = self.grows or any(self.kinds[operation].grows for operation in operations)
        if not self.grows:
            return all(self.plain(node) for node in nodes if node.operation.attributes is None)
        for tensor in graph.initializer:
            self.constant(tensor.name, weighed(tensor))
        return all(map(self.node, nodes))

    def plain(self, node: Node) -> bool:
        """Whether the attributes of a node are."""
        # Graphs would be those of an operator that is not known to hold any.
        return all(a.type not in _GRAPHS and plain(a) for a in node.proto.attribute)

    def constant(self, name: str, value: Value) -> None:
        """Note a stored tensor."""
        self.rank[name], count, tensor = value
        if count is not None:
            self.count[name] = count
        if tensor is not None:
            self.constants[name] = tensor

    def node(self, node: Node) -> bool:
        """Weigh a node; False where it is out of the ordinary."""
        kind, known_rank, known_count = self.kinds[node.operation], self.rank, self.count
        if kind.constant:
            value = kind.value or held(node.proto.attribute)
            for name in node.outputs:
                self.constant(name, value)
            return value[0] <= MAX_RANK
        rank = count = 0
        known = kind.followed
        for name in node.inputs:  # written out, because it is done for every node of every model
            if known_rank.get(name, 0) > rank:
                rank = known_rank[name]
            if name in known_count:
                if known_count[name] > count:
                    count = known_count[name]
            elif name:
                known = False
        for attribute in node.proto.attribute if kind.plain is None else ():
            if attribute.type in _GRAPHS:
                inner = self.inside(attribute, rank, node.op_type != "If")
                if inner is None:
                    return False
                rank, count = max(rank, inner[0]), max(count, inner[1])
                known = node.op_type == "If" and inner[2]
            elif not plain(attribute):
                return False
        if kind.bound is not None:
            rank, count = kind.bound(self, node, rank, count)
            known |= kind.makes
        for name in node.outputs:
            known_rank[name] = rank
            if known:
                known_count[name] = count
        # Many numbers do no harm as long as no shape is made of them, but a Concat may double.
        return rank <= MAX_RANK and (count <= MAX_COUNT or kind.makes)

    def inside(
        self, attribute: AttributeProto, rank: int, stacked: bool
    ) -> tuple[int, int, bool] | None:
        """The bounds of what the graphs in an attribute yield, and whether the numbers of it all
        are known; None where something in them is out of the ordinary. `rank` is the most axes of
        what the node reads; `stacked` whether it stacks what they yield, as Loop and Scan do."""
        count, known = 0, True
        for graph in (attribute.g, *attribute.graphs):
            for value in graph.input:
                self.rank[value.name] = max(self.rank.get(value.name, 0), rank)
            if not self.graph(graph):
                return None
            for value in graph.output:
                rank = max(rank, self.rank.get(value.name, 0) + stacked)
                count = max(count, self.count.get(value.name, 0))
                known = known and value.name in self.count
        return rank, count, known

    def numbers(self, node: Node, attribute: str, position: int) -> int:
        """How many numbers an input, or in older opsets an attribute, holds."""
        inputs = node.inputs
        if len(inputs) > position and inputs[position]:
            return self.count.get(inputs[position], MAX_RANK + 1)
        return max((len(a.ints) for a in node.proto.attribute if a.name == attribute), default=0)

    def filled(self, shape: str) -> int:
        """How many numbers a ConstantOfShape makes, where it makes as many as another tensor
        has, as exporters write it; too many for a shape otherwise."""
        tensor = self.constants.get(shape)
        if tensor is not None and self.count[shape] <= 1:
            return _magnitude(tensor) if self.count[shape] else 1
        return self.count.get(self.shape_of.get(shape, ""), MAX_COUNT)

    def fill(self, node: Node, rank: int) -> int:
        """The rank, or more than is allowed where operands ask for a huge vector.

        Only a vector can be taken for a shape; a matrix of any size is never filled.
        """
        for position in traits_of(node).shape_inputs:
            name = node.input(position)
            tensor = self.constants.get(name)
            if tensor is not None and self.count[name] == 1 and _magnitude(tensor) > MAX_FILL:
                return MAX_RANK + 1
        return rank


def _shape(weigher: _Weigher, node: Node, rank: int, count: int) -> tuple[int, int]:
    weigher.shape_of.update(dict.fromkeys(node.outputs, node.input(0)))
    return 1, rank


def _gather(weigher: _Weigher, node: Node, rank: int, count: int) -> tuple[int, int]:
    rank = sum(weigher.rank.get(name, 0) for name in node.inputs)
    if node.op_type == "Gather" and node.inputs and weigher.rank.get(node.inputs[0], 0) == 1:
        return rank - 1, weigher.count.get(node.inputs[-1], count)  # a number for each index
    return rank, count


def _einsum(weigher: _Weigher, node: Node, rank: int, count: int) -> tuple[int, int]:
    return max(rank, *(len(a.s) for a in node.proto.attribute if a.name == "equation")), 0


def _constant_of_shape(weigher: _Weigher, node: Node, rank: int, count: int) -> tuple[int, int]:
    shape = node.input(0)
    rank = weigher.count.get(shape, MAX_RANK + 1)
    return weigher.fill(node, rank), weigher.filled(shape)


def _expand(weigher: _Weigher, node: Node, rank: int, count: int) -> tuple[int, int]:
    return max(rank, weigher.fill(node, weigher.numbers(node, "shape", 1))), count


def _one_axis_more(weigher: _Weigher, node: Node, rank: int, count: int) -> tuple[int, int]:
    return rank + 1, count


def _more_axes(position: int) -> Bound:
    return lambda weigher, node, rank, n: (rank + weigher.numbers(node, "axes", position), n)


#: Operators that make axes or numbers: from the most axes and numbers that a node reads to the
#: most that it makes.
_BOUNDS: dict[str, Bound] = {}
_BOUNDS.update(
    Shape=_shape,
    Concat=lambda weigher, node, rank, n: (rank, sum(weigher.count.get(i, 0) for i in node.inputs)),
    Gather=_gather,
    GatherND=_gather,
    ScatterND=_gather,
    Einsum=_einsum,
    ConstantOfShape=_constant_of_shape,
    Reshape=lambda weigher, node, rank, n: (weigher.numbers(node, "shape", 1), n),
    Expand=_expand,
    Tile=_expand,
    Range=lambda weigher, node, rank, n: (weigher.fill(node, 1), n),
    Unsqueeze=_more_axes(1),
    Col2Im=_more_axes(1),
    MaxUnpool=_more_axes(2),
    OneHot=_one_axis_more,
    SequenceConstruct=_one_axis_more,
    SequenceInsert=_one_axis_more,
    ConcatFromSequence=_one_axis_more,
    SplitToSequence=_one_axis_more,
)


def _magnitude(tensor: TensorProto) -> int:
    """The one number of a tensor, without its sign."""
    if tensor.data_location == TensorProto.EXTERNAL:
        return 0  # inference does not see it either
    return abs(int(numpy_helper.to_array(tensor).reshape(-1)[0]))
