"""Which axis of the inputs is the batch: axis 0, but for sequences whose axis 0 is time, states
whose axis 0 is the directions, and regions, which have none."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from onnxshare.graph.index import Graph, Node
from onnxshare.graph.operator_traits import UNKNOWN, Effect, traits_of
from onnxshare.shapes.types import holds_rows

#: Cells that read [steps, batch, features] unless their attribute `layout` is 1.
_RECURRENT = frozenset(
    (("", "RNN"), ("", "GRU"), ("", "LSTM"), ("com.microsoft", "DynamicQuantizeLSTM"))
)


def rows(graph: Graph, inferred: onnx.ModelProto) -> int:
    """Rows of one run: axis 0 of the inputs (axis 1 of sequences and states) where it is a fixed
    size that they share, and the outputs have as many, or all that is computed has a multiple; 1
    otherwise. Inputs of one number have no rows, and regions are not a batch."""
    names = {value.name for value in graph.inputs} - regions(graph)
    second = sequences(graph) | sequences(graph, states=True)
    ends = [
        value
        for value in inferred.graph.input
        if value.name in names and not _one_number(value.type.tensor_type)
    ]
    first = {_size(value, 1 if value.name in second else 0) for value in ends}
    made = {_size(value, 0) for value in inferred.graph.output}
    if len(first) != 1 or 0 in first | made:
        return 1
    (size,) = first
    agreed = size == 1 or (made == first and not second)
    return size if agreed or _rows_everywhere(graph, inferred, size) else 1


def _size(value: onnx.ValueInfoProto, axis: int) -> int:
    """The size of an axis; 0 where it is not known."""
    dims = value.type.tensor_type.shape.dim
    return int(dims[axis].dim_value) if len(dims) > axis else 0


def _rows_everywhere(graph: Graph, inferred: onnx.ModelProto, batch: int) -> bool:
    """Whether the rows of all that the model computes are a multiple of the batch, so that some of
    them belong to each sample."""
    return all(
        holds_rows([dim.dim_value for dim in value.type.tensor_type.shape.dim], batch)
        for value in (*inferred.graph.value_info, *inferred.graph.output)
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        and value.type.tensor_type.shape.dim
        and graph.source(graph.main, value.name) is None
    )


#: Operators that make a row for each region, and the inputs that say which.
_OF_REGIONS = {"RoiAlign": (1, 2), "MaxRoiPool": (1,), "CropAndResize": (1, 2)}


def regions(graph: Graph) -> frozenset[str]:
    """The inputs whose rows are regions of the maps that other inputs give."""
    if _OF_REGIONS.keys().isdisjoint(op_type for _, op_type in graph.operators):
        return frozenset()
    found: set[str] = set()
    makers = [node for node in graph.main.nodes if node.op_type in _OF_REGIONS]
    names = [n.inputs[at] for n in makers for at in _OF_REGIONS[n.op_type] if at < len(n.inputs)]
    while names:
        name = names.pop()
        if name in found:
            continue
        found.add(name)
        maker: Node | None = graph.main.producers.get(name)
        traits = UNKNOWN if maker is None else traits_of(maker)
        if maker is not None and (traits.elementwise or traits.carries or traits.views):
            names += maker.inputs if traits.effect is Effect.JOIN else maker.inputs[:1]
    return frozenset(found & graph.main.inputs)


def _one_number(tensor_type: onnx.TypeProto.Tensor) -> bool:
    """Whether a tensor is a scalar, or the only element of a vector: a rate, a threshold."""
    dims = tensor_type.shape.dim
    return tensor_type.HasField("shape") and (
        not dims or (len(dims) == 1 and bool(dims[0].dim_value == 1))
    )


def sequences(graph: Graph, *, states: bool = False) -> frozenset[str]:
    """The inputs whose axis 0 is time: those that a recurrent cell or a Scan reads as they are, and
    frames; or the inputs that a cell starts from, whose axis 0 is the directions."""
    found = set() if states else {value.name for value in graph.inputs if frames(value)}
    for node in graph.main.nodes if _IN_TIME & graph.operators.keys() else ():
        domain = "" if node.standard else node.domain
        read: Sequence[str] = ()
        if (domain, node.op_type) in _RECURRENT and not node.attribute("layout", 0):
            read = node.inputs[5:7] if states else node.inputs[:1]
        elif (domain, node.op_type) == ("", "Scan") and not states:
            read = _scanned(graph, node)
        for name in read:
            while (maker := graph.main.producers.get(name)) and maker.op_type in _SAME_AXES:
                name = maker.inputs[0]
            if name in graph.main.inputs:
                found.add(name)
    return frozenset(found)


def frames(value: onnx.ValueInfoProto) -> bool:
    """Whether an input is so many images of each sample, `[T, N, C, H, W]`: T is fixed and N is
    not, which the channels of a volume `[N, C, D, H, W]` would be."""
    dims = value.type.tensor_type.shape.dim
    return len(dims) > _IMAGES and dims[0].dim_value > 1 and dims[1].dim_value <= 0


#: Axes of a batch of images.
_IMAGES = 4


def _scanned(graph: Graph, node: Node) -> Sequence[str]:
    """What a Scan goes through from step to step. Steps that need the one before are not samples,
    nor are those that hold one sample each; others may be, so what they go through is not here."""
    count = int(node.attribute("num_scan_inputs", 1))
    axes = node.attribute("scan_input_axes") or [0] * count
    if (graph.opset or 0) < _SCAN_WITHOUT_BATCH:
        return ()
    names = [name for name, axis in zip(node.inputs[-count:], axes, strict=False) if axis == 0]
    if len(node.inputs) > count:
        return names
    sizes = {value.name: value.type.tensor_type.shape.dim for value in graph.inputs}
    return [n for n in names if len(sizes.get(n, ())) > 2 and sizes[n][1].dim_value == 1]


#: Before this version of the default domain, axis 0 of what a Scan reads is the batch.
_SCAN_WITHOUT_BATCH = 9

#: What goes through steps.
_IN_TIME = _RECURRENT | {("", "Scan")}

_SAME_AXES = frozenset("Identity Cast Dropout".split())
