"""Lets a network whose head has become convolutional slide over larger inputs.

The outputs become maps `[N, F, spatial…]`: at each position what the network gives on the crop
under it, as long as no convolution or pooling pads (Long et al., "Fully Convolutional Networks",
2015); with padding, the zeros that it adds at the borders of a crop are missing inside a larger
image.
"""

from __future__ import annotations

from math import prod

import numpy as np
import onnx

from onnxshare.analysis import layout
from onnxshare.analysis.heads import Subject
from onnxshare.graph import Node, model_inputs
from rewrites.base import Refusal
from rewrites.mirror import Mirror, Twin

_SOFTMAX = frozenset(("Softmax", "LogSoftmax"))

#: Operators whose outputs depend on every position of a map.
_EVERYWHERE = frozenset(
    "InstanceNormalization GroupNormalization LayerNormalization MeanVarianceNormalization "
    "LpNormalization Softmax LogSoftmax Gemm MatMul LSTM GRU RNN Attention".split()
)

_SIZE_NAMES = {1: ("width",), 2: ("height", "width"), 3: ("depth", "height", "width")}


def slide(subject: Subject, mirror: Mirror) -> None:
    """Carry everything after the head over to maps, up to the outputs of the graph.

    Raises:
        Refusal: a node after the head cannot work on a map, or not every output becomes one.
    """
    graph = subject.graph
    for node in graph.main.nodes:
        if node in mirror.replaced or not any(name in mirror.twins for name in node.inputs):
            continue
        if not any(name in mirror.twins and mirror.twins[name].vector for name in node.inputs):
            continue  # reads the feature map beside the head
        if node.op_type in _SOFTMAX and node.standard:
            _softmax(subject, mirror, node)
        elif layout.moves(node) or layout.elementwise(node):
            mirror.carry(node)
        else:
            raise Refusal(f"node '{node.name}' ({node.op_type}) cannot work on a map of outputs")
    _check_readers(subject, mirror)
    maps: set[str] = set()
    for value in graph.main.graph.output:
        twin = mirror.twins.get(value.name)
        if twin is None or not twin.vector:
            raise Refusal(f"output '{value.name}' does not come from the head")
        if twin.name in maps:
            raise Refusal(f"output '{value.name}' is the same as another one")
        maps.add(twin.name)
    mirror.rename_outputs()


def _check_readers(subject: Subject, mirror: Mirror) -> None:
    """Make sure that nothing reads what goes: a subgraph, or a node beside the head."""
    for node in mirror.replaced:
        for name in filter(None, node.outputs):
            for reader in subject.graph.main.readers(name):
                if reader not in mirror.replaced:
                    raise Refusal(f"node '{reader.name}' ({reader.op_type}) reads '{name}'")


def _softmax(subject: Subject, mirror: Mirror, node: Node) -> None:
    """Softmax over the features becomes Softmax over the channels, position by position. Before
    opset 13 it flattened from its axis on, so there the channels must come last meanwhile."""
    twin = mirror.twins[node.inputs[0]]
    opset = subject.graph.opset
    axis = int(node.attribute("axis", -1 if opset >= 13 else 1))
    last_axis = axis % max(1, twin.index.ndim) == twin.index.ndim - 1
    in_order = np.array_equal(twin.index.reshape(-1), np.arange(twin.index.size))
    if not (last_axis and in_order and twin.index.shape[-1:] == twin.sizes[:1]):
        raise Refusal(f"{node.op_type} '{node.name}' is not over the features")
    wanted = f"{node.outputs[0]}_map"
    if opset >= 13:
        name = mirror.out.emit(node, node.op_type, [twin.name], wanted, {"axis": 1})
    else:
        rank = len(twin.sizes) + 1
        last = [0, *range(2, rank), 1]
        back = [0, rank - 1, *range(1, rank - 1)]
        name = mirror.out.emit(node, "Transpose", [twin.name], f"{wanted}_last", {"perm": last})
        name = mirror.out.emit(node, node.op_type, [name], f"{wanted}_soft", {"axis": rank - 1})
        name = mirror.out.emit(node, "Transpose", [name], wanted, {"perm": back})
    mirror.twins[node.outputs[0]] = Twin(name, twin.sizes, twin.index, vector=True)
    mirror.replaced.add(node)


def free_sizes(subject: Subject, model: onnx.ModelProto, mirror: Mirror) -> list[str]:
    """Make the spatial sizes of inputs and outputs symbolic in the rewritten model, in place.

    Returns:
        Notes for the user: padding in the trunk, where there is some.

    Raises:
        Refusal: the trunk before the head does not accept other sizes.
    """
    del model.graph.value_info[:]
    rank = mirror.rank
    for value in model_inputs(model.graph):
        dims = value.type.tensor_type.shape.dim
        if len(dims) != rank + 2:
            continue
        first = 1 if _channels_last(model.graph, value.name) else 2
        for name, axis in zip(_SIZE_NAMES[rank], range(first, first + rank), strict=True):
            dims[axis].Clear()
            dims[axis].dim_param = name
    for value in model.graph.output:
        _map_output(value, mirror)
    if not _accepts_more(model, rank):
        raise Refusal("the layers before the head do not accept other input sizes")
    trunk = [node for node in subject.graph.main.nodes if node not in mirror.replaced]
    notes = []
    padded = sum(_pads(subject, node) for node in trunk)
    if padded:
        notes.append(
            f"{padded} convolutions or poolings before the head pad their borders: inside a larger "
            "image an output is close to, but not equal to, what the original gives on that crop"
        )
    wide = next((node for node in trunk if _looks_everywhere(node)), None)
    if wide is not None:
        notes.append(
            f"node '{wide.name}' ({wide.op_type}) looks at the whole image: no output depends on "
            "its crop alone, and none equals what the original gives there"
        )
    return notes


def _channels_last(graph: onnx.GraphProto, name: str) -> bool:
    for node in graph.node:
        if name in node.input:
            if node.op_type == "Transpose":
                order = next((list(a.ints) for a in node.attribute if a.name == "perm"), [])
                return len(order) > 2 and order[1] == len(order) - 1
            if len(node.output) == 1 and node.op_type not in ("Conv", "MaxPool", "AveragePool"):
                return _channels_last(graph, node.output[0])
            return False
    return False


def _map_output(value: onnx.ValueInfoProto, mirror: Mirror) -> None:
    tensor_type = value.type.tensor_type
    batch = onnx.TensorShapeProto.Dimension()
    if tensor_type.shape.dim:
        batch.CopyFrom(tensor_type.shape.dim[0])
    tensor_type.ClearField("shape")
    tensor_type.shape.dim.add().CopyFrom(batch)
    tensor_type.shape.dim.add().dim_value = mirror.twins[value.name].sizes[0]
    for name in _SIZE_NAMES[mirror.rank]:
        tensor_type.shape.dim.add().dim_param = f"output_{name}"


def _accepts_more(model: onnx.ModelProto, rank: int) -> bool:
    """Whether shape inference still reaches the outputs when every spatial size is larger."""
    trial = onnx.ModelProto()
    trial.CopyFrom(model)
    for value in model_inputs(trial.graph):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in _SIZE_NAMES[rank]:
                dim.Clear()
                dim.dim_value = 512
    for value in trial.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(trial, strict_mode=True, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        return False
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in [*inferred.graph.value_info, *inferred.graph.input]
    }
    if not all(_slopes_fit(node, shapes, model) for node in model.graph.node):
        return False
    for value in inferred.graph.output:
        dims = value.type.tensor_type.shape.dim
        sizes = [dim.dim_value for dim in dims][2:]
        if len(dims) != rank + 2 or prod(sizes) <= 1:
            return False
    return True


def _slopes_fit(node: onnx.NodeProto, shapes: dict[str, list[int]], model: onnx.ModelProto) -> bool:
    """Whether the slope of a PRelu fits its data, which onnx's shape inference does not check."""
    slope = next((t for t in model.graph.initializer if t.name in node.input[1:2]), None)
    if node.op_type != "PRelu" or slope is None or node.input[0] not in shapes:
        return True
    pairs = zip(reversed(slope.dims), reversed(shapes[node.input[0]]), strict=False)
    return all(size in (1, length) for size, length in pairs)


def _pads(subject: Subject, node: Node) -> bool:
    """Whether a node treats the borders of a map in a way of their own."""
    if node.op_type == "Pad":
        given = node.attribute("pads", node.attribute("paddings"))
        if given is None and len(node.inputs) > 1:
            given = subject.probe.values.integers(node.scope, node.inputs[1])
        return given is None or bool(np.any(given))
    if node.op_type in ("ConvTranspose", "Resize", "Upsample"):
        return True
    if node.op_type not in ("Conv", "FusedConv", "MaxPool", "AveragePool", "LpPool"):
        return False
    same = str(node.attribute("auto_pad", "NOTSET")).startswith("SAME")
    return same or bool(node.attribute("ceil_mode", 0)) or bool(np.any(node.attribute("pads", [0])))


def _looks_everywhere(node: Node) -> bool:
    return node.op_type in _EVERYWHERE or node.op_type.startswith(("Global", "Reduce"))


def as_vectors(model: onnx.ModelProto, original: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose outputs have the original's shapes and whose inputs the original's sizes, so
    that the two can be compared."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    shapes = {value.name: value for value in original.graph.input}
    for value in model_inputs(copy.graph):
        value.CopyFrom(shapes[value.name])
    wanted = {value.name: value for value in original.graph.output}
    for value in copy.graph.output:
        inner = f"{value.name}/map"
        for node in copy.graph.node:
            for place, name in enumerate(node.output):
                if name == value.name:
                    node.output[place] = inner
            for place, name in enumerate(node.input):
                if name == value.name:
                    node.input[place] = inner
        copy.graph.node.extend(_restore(inner, value.name, wanted[value.name], copy))
        value.CopyFrom(wanted[value.name])
    return copy


def _restore(
    source: str, name: str, wanted: onnx.ValueInfoProto, model: onnx.ModelProto
) -> list[onnx.NodeProto]:
    dims = wanted.type.tensor_type.shape.dim
    if len(dims) == 2:
        return [onnx.helper.make_node("Flatten", [source], [name], axis=1)]
    sizes = [dim.dim_value if dim.dim_value else -1 for dim in dims]
    shape = onnx.numpy_helper.from_array(np.array(sizes, np.int64), f"{name}/shape")
    model.graph.initializer.append(shape)
    return [onnx.helper.make_node("Reshape", [source, shape.name], [name])]
