"""What a graph says of the values that an input may have: tables it looks up, numbers it meets."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx

from onnxshare.graph.operator_traits import Effect, traits_of
from onnxshare.io.node_reader import reads
from onnxshare.io.tensors import element_count, read, types

#: By operator: the inputs that hold indices, and the tables that they look up.
LOOKUPS: Mapping[str, Mapping[int, int]] = {
    "Gather": {1: 0},
    "GatherBlockQuantized": {1: 0},
    "EmbedLayerNormalization": {0: 2, 1: 4},
    "QEmbedLayerNormalization": {0: 2, 1: 4},
}

#: Elements, at most, of constants that are tried as values.
_FEW = 16

_INTEGERS = types("INT8 UINT8 INT16 UINT16 INT32 UINT32 INT64")

#: What any integers may go through.
_COMPUTES = frozenset(
    (
        *(Effect.ELEMENTWISE, Effect.PERMUTATION, Effect.RESHAPE, Effect.REDUCTION, Effect.JOIN),
        *(Effect.CUT, Effect.REPEAT, Effect.ORDERING),
    )
)

#: What makes other numbers of them, whatever reads these.
_MIXES = frozenset((Effect.PRODUCT, Effect.CONVOLUTION, Effect.NORMALIZATION, Effect.SOFTMAX))


@dataclass(frozen=True)
class InputUses:
    """How a graph uses an input.

    Attributes:
        rows: of the smallest table that it looks up, or the depth of a one-hot vector; None if it
            looks up none.
        numbers: the integers that it meets in the operators that read it.
        free: whether any integer will do: it decides no size, and looks up nothing.
        trees: the tree ensembles that read it.
        missing: whether something that reads it asks for NaN, which stands for missing values.
    """

    rows: int | None
    numbers: tuple[int, ...]
    free: bool
    trees: tuple[onnx.NodeProto, ...]
    missing: bool


class _Stored:
    """The constants of a graph, and the shapes of the tensors that are known."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.tensors = dict(stored_tensors(proto))
        self.dims = {name: list(tensor.dims) for name, tensor in self.tensors.items()}
        for value in (*proto.graph.input, *proto.graph.value_info):
            dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
            self.dims.setdefault(value.name, dims)
        for node in proto.graph.node:
            if _carries(node) and node.input[0] in self.tensors and node.op_type in _SAME_SHAPE:
                self.dims[node.output[0]] = self.dims[node.input[0]]

    def integers(self, name: str) -> list[int]:
        """The values of a small stored tensor of integers."""
        tensor = self.tensors.get(name)
        if tensor is None or tensor.data_type not in _INTEGERS or element_count(tensor) > _FEW:
            return []
        return [int(value) for value in read(tensor).ravel()]


def stored_tensors(proto: onnx.ModelProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """The initializers and Constant nodes of the main graph, by name."""
    for tensor in proto.graph.initializer:
        yield tensor.name, tensor
    for node in proto.graph.node:
        for item in node.attribute if node.op_type == "Constant" else ():
            if item.name == "value":
                yield node.output[0], item.t


def input_uses(proto: onnx.ModelProto, name: str) -> InputUses:
    """Find how the main graph uses an input; what subgraphs do with it is not followed."""
    stored, names, rows, trees = _Stored(proto), {name}, [], []
    numbers: set[int] = set()
    missing = False
    for node in proto.graph.node:
        read_here = [place for place, value in enumerate(node.input) if value in names]
        if not read_here:
            continue
        missing |= _asks_for_nan(node)
        if _carries(node) and read_here == [0]:
            names.update(node.output)
        elif node.op_type in _TREES:
            trees.append(node)
        else:
            rows += [size for place in read_here if (size := _bound(node, place, stored))]
            numbers.update(value for other in node.input for value in stored.integers(other))
    free = rows == [] and _is_free(proto, name)
    return InputUses(min(rows, default=None), tuple(sorted(numbers)), free, tuple(trees), missing)


def _asks_for_nan(node: onnx.NodeProto) -> bool:
    given = {item.name: item for item in node.attribute}
    if node.op_type == "Imputer":
        return "replaced_value_float" in given and math.isnan(given["replaced_value_float"].f)
    tracked = given.get("nodes_missing_value_tracks_true")
    return node.op_type == "IsNaN" or (tracked is not None and any(tracked.ints))


def _bound(node: onnx.NodeProto, place: int, stored: _Stored) -> int | None:
    """How many values an index may have; None if it is not known to be one."""
    if node.op_type == "OneHot" and place == 0:
        return next(iter(stored.integers(node.input[1])), None)
    table = LOOKUPS.get(node.op_type, {}).get(place)
    if table is None or table >= len(node.input):
        return None
    dims = stored.dims.get(node.input[table], [])
    axis = next((item.i for item in node.attribute if item.name == "axis"), 0)
    return dims[axis] if -len(dims) <= axis < len(dims) else None


def _is_free(proto: onnx.ModelProto, name: str) -> bool:
    names = {name}
    for node in proto.graph.node:
        if names.isdisjoint(reads(node)):
            continue
        traits = traits_of(node)
        sizes = [n for place, n in enumerate(node.input) if place in traits.shape_inputs]
        if traits.effect not in _COMPUTES | _MIXES or not names.isdisjoint(sizes):
            return False
        if traits.effect in _COMPUTES:
            names.update(node.output)
    return True


def _carries(node: onnx.NodeProto) -> bool:
    """Whether a node hands on the values that it reads, in another shape or type."""
    traits = traits_of(node)
    return bool(node.input) and traits.carries and traits.effect is not Effect.PERMUTATION


_SAME_SHAPE = ("Cast", "Identity", "DequantizeLinear")
_TREES = ("TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor")
