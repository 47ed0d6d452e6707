"""Judges, without running anything, whether onnx's shape inference is cheap and safe on a model.

A file of a few kilobytes can ask inference for tensors of a thousand axes, for shapes of 2⁴⁰
numbers (a Concat of itself, forty times), or for a stride of 0, which versions of onnx divide by.
What an exporter writes passes here in a few microseconds a node; anything else is no error, only
a reason to let another process do it (`bounded.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

import onnx
from onnx import AttributeProto, TensorProto, numpy_helper

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

_INTEGERS = frozenset((TensorProto.INT32, TensorProto.INT64))

#: Operators whose result grows with the values of operands: the positions of those.
_FILLS = {"Range": (0, 1, 2), "ConstantOfShape": (0,), "Expand": (1,), "Tile": (1,)}


def ordinary(proto: onnx.ModelProto) -> bool:
    """Whether shape inference may run on this model in this process."""
    try:
        weigher = _Weigher()
        weigher.inputs(proto.graph)
        return weigher.graph(proto.graph)
    except (RecursionError, ValueError, TypeError):
        return False


class _Weigher:
    """Upper bounds for each tensor: its axes, and its numbers where it may be a computed shape.

    Numbers are known of constants, of what Shape answers, and of what is computed from these. A
    tensor of any other origin may have any number of elements, and is no ordinary shape.
    """

    def __init__(self) -> None:
        self.rank: dict[str, int] = {}
        self.count: dict[str, int] = {}
        self.constants: dict[str, TensorProto] = {}
        self.shape_of: dict[str, str] = {}
        self.grows = False
        self.seen: set[bytes] = set()

    def inputs(self, graph: onnx.GraphProto) -> None:
        """Note inputs that may be shapes; a size that is not known makes no axes."""
        for value in graph.input:
            given, dims = value.type.tensor_type, value.type.tensor_type.shape.dim
            if given.elem_type in _INTEGERS and given.HasField("shape") and len(dims) <= 1:
                self.count[value.name] = max(1, dims[0].dim_value if dims else 1)

    def graph(self, graph: onnx.GraphProto) -> bool:
        """Weigh a graph; False where something in it is out of the ordinary."""
        for value in (*graph.input, *graph.value_info, *graph.output):
            dims = value.type.tensor_type.shape.dim
            if len(dims) > MAX_RANK or any(abs(dim.dim_value) > MAX_SIZE for dim in dims):
                return False
            self.rank[value.name] = max(self.rank.get(value.name, 0), len(dims))
        if not self.rank_grows(graph):
            return all(map(self.plain, graph.node))
        for tensor in graph.initializer:
            self.constant(tensor.name, tensor)
        return all(self.node(node) for node in graph.node)

    def rank_grows(self, graph: onnx.GraphProto) -> bool:
        """Whether a node may have more axes than what it reads, or make a shape. Where none may,
        no tensor has more than the inputs and the initializers, which are bounded already."""
        self.grows = self.grows or not _GROWING.isdisjoint([node.op_type for node in graph.node])
        return self.grows

    def plain(self, node: onnx.NodeProto) -> bool:
        """Whether the attributes of a node are; equal ones are looked at once."""
        for attribute in node.attribute:
            kind = attribute.type
            if kind == AttributeProto.GRAPH or kind == AttributeProto.GRAPHS:
                return False  # of an operator that is not known to hold graphs
            if (
                kind == AttributeProto.INT or kind == AttributeProto.INTS
            ) and not self.plain_integers(attribute):
                return False
        return True

    def plain_integers(self, attribute: AttributeProto) -> bool:
        """Whether integers are plain; equal ones are looked at once, because nodes repeat
        themselves."""
        key = attribute.SerializeToString()
        if key not in self.seen:
            if not _plain(attribute):
                return False
            self.seen.add(key)
        return True

    def constant(self, name: str, tensor: TensorProto) -> None:
        """Note a stored tensor."""
        self.rank[name] = len(tensor.dims)
        size = prod(tensor.dims)
        if tensor.data_type in _INTEGERS:
            self.count[name] = size
            self.constants[name] = tensor
        elif size <= MAX_RANK:  # factors of sizes
            self.count[name] = size

    def node(self, node: onnx.NodeProto) -> bool:
        """Weigh a node; False where it is out of the ordinary."""
        op_type, inputs = node.op_type, node.input[:]
        known_rank, known_count = self.rank, self.count
        rank = count = 0
        known = op_type in _FOLLOWED
        for name in inputs:  # written out, because it is done for every node of every model
            if known_rank.get(name, 0) > rank:
                rank = known_rank[name]
            if name in known_count:
                count = max(count, known_count[name])
            elif name:
                known = False
        for attribute in node.attribute:
            kind = attribute.type
            if kind == AttributeProto.GRAPH or kind == AttributeProto.GRAPHS:
                for graph in (attribute.g, *attribute.graphs):
                    for value in graph.input:
                        known_rank[value.name] = max(known_rank.get(value.name, 0), rank)
                    if not self.graph(graph):
                        return False
                    more = op_type != "If"  # Loop and Scan stack what their bodies yield
                    for value in graph.output:
                        rank = max(rank, known_rank.get(value.name, 0) + more)
                        count = max(count, known_count.get(value.name, 0))
                    known = op_type == "If" and all(v.name in known_count for v in graph.output)
            elif (
                kind == AttributeProto.INT or kind == AttributeProto.INTS
            ) and not self.plain_integers(attribute):
                return False
        if op_type in _SPECIAL:
            rank, count = self.special(node, inputs, rank, count)
            known |= op_type in ("Shape", "Constant", "ConstantOfShape")
        for name in node.output[:]:
            known_rank[name] = rank
            if known:
                known_count[name] = count
        # Many numbers are no harm as long as no shape is made of them, but a Concat may double.
        return rank <= MAX_RANK and (count <= MAX_COUNT or op_type in _STORED)

    def special(
        self, node: onnx.NodeProto, inputs: list[str], rank: int, count: int
    ) -> tuple[int, int]:
        """The bounds of operators that make axes or numbers."""
        op_type = node.op_type
        first = inputs[0] if inputs else ""
        if op_type == "Constant":
            return self.stored(node)
        if op_type == "Shape":
            self.shape_of.update(dict.fromkeys(node.output, first))
            return 1, rank
        if op_type == "Concat":
            return rank, sum(self.count.get(name, 0) for name in inputs)
        if op_type in ("Gather", "GatherND", "ScatterND"):
            rank = sum(self.rank.get(name, 0) for name in inputs)
            if op_type == "Gather" and self.rank.get(first, 0) == 1:
                return rank - 1, self.count.get(inputs[-1], count)  # a number for each index
            return rank, count
        if op_type == "Einsum":
            return max(rank, *(len(a.s) for a in node.attribute if a.name == "equation")), 0
        if op_type == "ConstantOfShape":
            return self.fill(node, self.count.get(first, MAX_RANK + 1)), self.filled(first)
        if op_type == "Reshape":
            if len(inputs) > 1 and inputs[1] in self.count:
                return self.count[inputs[1]], count
            return self.numbers(node, "shape", 1), count
        if op_type in ("Expand", "Tile"):
            return max(rank, self.fill(node, self.numbers(node, "shape", 1))), count
        if op_type == "Range":
            return self.fill(node, 1), count
        if op_type in ("Unsqueeze", "Col2Im", "MaxUnpool"):
            position = 2 if op_type == "MaxUnpool" else 1
            return rank + self.numbers(node, "axes", position), count
        return rank + 1, count  # OneHot, sequences

    def numbers(self, node: onnx.NodeProto, attribute: str, position: int) -> int:
        """How many numbers an input, or in older opsets an attribute, holds."""
        if len(node.input) > position and node.input[position]:
            return self.count.get(node.input[position], MAX_RANK + 1)
        return max((len(a.ints) for a in node.attribute if a.name == attribute), default=0)

    def filled(self, shape: str) -> int:
        """How many numbers a ConstantOfShape makes, where it makes as many as another tensor
        has, as exporters write it; too many for a shape otherwise."""
        tensor = self.constants.get(shape)
        if tensor is not None and self.count[shape] <= 1:
            return _magnitude(tensor) if self.count[shape] else 1
        return self.count.get(self.shape_of.get(shape, ""), MAX_COUNT)

    def stored(self, node: onnx.NodeProto) -> tuple[int, int]:
        """The bounds of a Constant node."""
        for attribute in node.attribute:
            if attribute.name == "value":
                self.constant(node.output[0], attribute.t)
                return len(attribute.t.dims), self.count.get(node.output[0], 0)
            if attribute.name == "value_ints":
                return 1, len(attribute.ints)
        return 1, 1

    def fill(self, node: onnx.NodeProto, rank: int) -> int:
        """The rank, or more than is allowed where operands ask for a huge vector.

        Only a vector can be taken for a shape; a matrix of any size is never filled.
        """
        for position in _FILLS.get(node.op_type, ()):
            name = node.input[position] if position < len(node.input) else ""
            tensor = self.constants.get(name)
            if tensor is not None and self.count[name] == 1 and _magnitude(tensor) > MAX_FILL:
                return MAX_RANK + 1
        return rank


def _magnitude(tensor: TensorProto) -> int:
    """The one number of a tensor, without its sign."""
    if tensor.data_location == TensorProto.EXTERNAL:
        return 0  # inference does not see it either
    return abs(int(numpy_helper.to_array(tensor).reshape(-1)[0]))


#: Operators through which computed shapes go: they make no more numbers than their inputs have,
#: or `special` says how many.
_FOLLOWED = frozenset(
    "Identity Cast CastLike Squeeze Unsqueeze Gather GatherElements Slice Split Concat Reshape "
    "Flatten Transpose Add Sub Mul Div Mod Pow Min Max Neg Abs Sign Floor Ceil Round Sqrt Equal "
    "Greater GreaterOrEqual Less LessOrEqual Not And Or Where Clip ScatterND ScatterElements "
    "ReduceProd ReduceSum ReduceMax ReduceMin ReduceMean Size Shape Constant".split()
)

_STORED = frozenset(("Constant", "ConstantOfShape"))

_SPECIAL = frozenset(
    "Constant Shape Concat Gather GatherND ScatterND Einsum ConstantOfShape Reshape Expand Tile "
    "Range Unsqueeze Col2Im MaxUnpool OneHot SequenceConstruct SequenceInsert ConcatFromSequence "
    "SplitToSequence".split()
)

_GROWING = _SPECIAL | {"If", "Loop", "Scan"}


def _plain(attribute: AttributeProto) -> bool:
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
