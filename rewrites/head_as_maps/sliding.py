"""Sets the sizes of a rewritten network's inputs free, and says what that means for crops.

Lets a network whose head has become convolutional slide over larger inputs.

The outputs become maps `[N, F, spatial…]`: at each position what the network gives on the crop
under it, as long as no convolution or pooling pads (Long et al., "Fully Convolutional Networks",
2015); with padding, the zeros that it adds at the borders of a crop are missing inside a larger
image.
"""

from __future__ import annotations

from math import prod

import numpy as np
import onnx

from onnxshare.analysis.heads import element_order
from onnxshare.analysis.heads.element_order import WITH_CONSTANT
from onnxshare.analysis.heads.fully_connected import fully_connected
from onnxshare.analysis.heads.head import Subject
from onnxshare.errors import ModelError
from onnxshare.graph.index import Graph, Node, model_inputs
from onnxshare.graph.onnx_sandbox import infer_shapes
from onnxshare.io.load import Model
from onnxshare.shapes.inference import infer
from onnxshare.shapes.rules.microsoft import RULES
from onnxshare.shapes.rules.substitute import substitute
from rewrites.head_as_maps.head_builder import HeadBuilder
from rewrites.head_as_maps.maps import is_plain, one
from rewrites.refusal import Refusal

#: Operators whose outputs depend on every position of a map.
_EVERYWHERE = frozenset(
    "InstanceNormalization GroupNormalization LayerNormalization MeanVarianceNormalization "
    "LpNormalization Softmax LogSoftmax Gemm MatMul LSTM GRU RNN Attention "
    "DynamicQuantizeLinear QLinearGlobalAveragePool QLinearReduceMean".split()
)

#: Operators with a window, which may pad.
_WINDOWS = frozenset(
    "Conv FusedConv QLinearConv ConvInteger NhwcFusedConv MaxPool AveragePool LpPool "
    "QLinearAveragePool NhwcMaxPool".split()
)

_SIZE_NAMES = {1: ("width",), 2: ("height", "width"), 3: ("depth", "height", "width")}


def free_sizes(
    subject: Subject, model: onnx.ModelProto, builder: HeadBuilder, *, pooled: bool = False
) -> list[str]:
    """Make the spatial sizes of inputs and outputs symbolic in the rewritten model, in place.

    Args:
        subject: the original.
        model: the rewritten model.
        builder: its head.
        pooled: whether the maps of outputs are averaged, so that the outputs keep their shapes.

    Returns:
        Notes for the user: padding in the trunk, where there is some.

    Raises:
        Refusal: the trunk before the head does not accept other sizes.
    """
    del model.graph.value_info[:]
    rank = builder.rank
    for value in model_inputs(model.graph):
        dims = value.type.tensor_type.shape.dim
        if len(dims) != rank + 2:
            continue
        first = 1 if _channels_last(model.graph, value.name) else 2
        for name, axis in zip(_SIZE_NAMES[rank], range(first, first + rank), strict=True):
            dims[axis].Clear()
            dims[axis].dim_param = name
    maps = [value.name for value in model.graph.output]
    if pooled:
        maps = [node.input[0] for node in model.graph.node if _pools_outputs(node, model)]
    else:
        for value in model.graph.output:
            _map_output(value, builder)
    if not _accepts_more(model, rank, maps):
        fixed = _by_position(model, rank)
        if fixed is not None:
            raise Refusal(f"'{fixed}' holds a number for each position of its map: it cannot slide")
        reason = "the layers before the head do not accept other input sizes"
        foreign = next((n for n in model.graph.node if n.domain not in ("", "ai.onnx")), None)
        if foreign is not None:
            reason += (
                f", or what they make of them is not known, because of '{foreign.name}' "
                f"({foreign.domain}.{foreign.op_type})"
            )
        several = any(len(head_map.parts) > 1 for head_map in builder.head_maps.values())
        raise Refusal(reason + (", or its maps do not slide in step" if several else ""))
    trunk = [node for node in subject.graph.main.nodes if node not in builder.replaced]
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


def _map_output(value: onnx.ValueInfoProto, builder: HeadBuilder) -> None:
    tensor_type = value.type.tensor_type
    batch = onnx.TensorShapeProto.Dimension()
    if tensor_type.shape.dim:
        batch.CopyFrom(tensor_type.shape.dim[0])
    tensor_type.ClearField("shape")
    tensor_type.shape.dim.add().CopyFrom(batch)
    tensor_type.shape.dim.add().dim_value = builder.head_maps[value.name].sizes[0]
    for name in _SIZE_NAMES[builder.rank]:
        tensor_type.shape.dim.add().dim_param = f"output_{name}"


def _pools_outputs(node: onnx.NodeProto, model: onnx.ModelProto) -> bool:
    """Whether a node averages a map to what a Flatten makes an output of the model."""
    outputs = {value.name for value in model.graph.output}
    return node.op_type == "GlobalAveragePool" and any(
        reader.op_type == "Flatten"
        and node.output[0] in reader.input
        and reader.output[0] in outputs
        for reader in model.graph.node
    )


def _accepts_more(model: onnx.ModelProto, rank: int, maps: list[str]) -> bool:
    """Whether shape inference still reaches the maps of outputs, and they have several
    positions, when every spatial size is larger."""
    trial = onnx.ModelProto()
    trial.CopyFrom(model)
    # Before version 4 onnx takes shapes of stored tensors from the inputs alone, where some
    # exporters do not list them.
    trial.ir_version = max(4, trial.ir_version)
    for value in model_inputs(trial.graph):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in _SIZE_NAMES[rank]:
                dim.Clear()
                dim.dim_value = 512
    for value in trial.graph.output:
        value.type.tensor_type.ClearField("shape")
    substitute(trial, RULES)
    try:
        inferred = infer_shapes(trial, "the rewritten model", strict=True)
    except ModelError:
        return False
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in [*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output]
    }
    if not all(_slopes_fit(node, shapes, model) for node in model.graph.node):
        return False
    sizes = [shapes.get(name, []) for name in maps]
    return all(len(found) == rank + 2 and prod(found[2:]) > 1 for found in sizes)


def _slopes_fit(node: onnx.NodeProto, shapes: dict[str, list[int]], model: onnx.ModelProto) -> bool:
    """Whether the slope of a PRelu fits its data, which onnx's shape inference does not check."""
    slope = next((t for t in model.graph.initializer if t.name in node.input[1:2]), None)
    if node.op_type != "PRelu" or slope is None or node.input[0] not in shapes:
        return True
    pairs = zip(reversed(slope.dims), reversed(shapes[node.input[0]]), strict=False)
    return all(size in (1, length) for size, length in pairs)


def _by_position(model: onnx.ModelProto, rank: int) -> str | None:
    """A node of the head whose constant differs from position to position."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        made = any(entry.key == "onnxshare.rewrite" for entry in node.metadata_props)
        if not made or node.op_type not in WITH_CONSTANT:
            continue
        for tensor in (stored[name] for name in node.input if name in stored):
            if len(tensor.dims) >= rank and any(size > 1 for size in tensor.dims[-rank:]):
                return str(node.name)
    return None


def _pads(subject: Subject, node: Node) -> bool:
    """Whether a node treats the borders of a map in a way of their own."""
    if node.op_type == "Pad":
        given = node.attribute("pads", node.attribute("paddings"))
        if given is None and len(node.inputs) > 1:
            given = subject.probe.values.integers(node.scope, node.inputs[1])
        return given is None or bool(np.any(given))
    if node.op_type in ("ConvTranspose", "Resize", "Upsample"):
        return True
    if node.op_type not in _WINDOWS:
        return False
    same = str(node.attribute("auto_pad", "NOTSET")).startswith("SAME")
    return same or bool(node.attribute("ceil_mode", 0)) or bool(np.any(node.attribute("pads", [0])))


def _looks_everywhere(node: Node) -> bool:
    return node.op_type in _EVERYWHERE or node.op_type.startswith(("Global", "Reduce"))


#: What quantises by the range of a whole tensor, so that no output depends on its crop alone.
_DYNAMIC = frozenset(("DynamicQuantizeLinear", "DynamicQuantizeMatMul"))

_SOFTMAX = frozenset(("Softmax", "LogSoftmax"))


def slide(subject: Subject, builder: HeadBuilder, *, pool: bool = False) -> None:
    """Carry everything after the head over to maps, up to the outputs of the graph.

    Args:
        subject: the model.
        builder: its head, carried over already.
        pool: append global average pooling, so that one answer per sample comes out, as OverFeat
            and VGG evaluated densely and averaged (Simonyan and Zisserman, 2015, section 3.2).

    Raises:
        Refusal: a node after the head cannot work on a map, or not every output becomes one.
    """
    graph = subject.graph
    layers = {layer.node: layer for layer in fully_connected(graph)}
    for node in builder.replaced:
        if node.op_type in _DYNAMIC:
            raise Refusal(f"'{node.name}' ({node.op_type}) takes its range over the whole image")
    for node in graph.main.nodes:
        if node in builder.replaced or not any(name in builder.head_maps for name in node.inputs):
            continue
        if not any(
            name in builder.head_maps and builder.head_maps[name].vector for name in node.inputs
        ):
            continue  # reads the feature map beside the head
        if node in layers:  # behind something that is no step of a head, such as a gate
            builder.connect(layers[node])
        elif node.op_type in _SOFTMAX and node.standard:
            _softmax(subject, builder, node)
        elif element_order.moves(node) or element_order.elementwise(node):
            builder.carry(node)
        else:
            raise Refusal(f"node '{node.name}' ({node.op_type}) cannot work on a map of outputs")
    _check_readers(subject, builder)
    maps: set[str] = set()
    for value in graph.main.graph.output:
        head_map = builder.head_maps.get(value.name)
        if head_map is None or not head_map.vector:
            raise Refusal(f"output '{value.name}' does not come from the head")
        if head_map.name in maps:
            raise Refusal(f"output '{value.name}' is the same as another one")
        maps.add(head_map.name)
    if pool:
        _pool_outputs(subject, builder)
    else:
        builder.rename_outputs()


def _pool_outputs(subject: Subject, builder: HeadBuilder) -> None:
    """Average each map of outputs to one answer `[N, F]`: dense evaluation, averaged."""
    for value in subject.graph.main.graph.output:
        head_map, node = builder.head_maps[value.name], subject.graph.main.producers[value.name]
        if head_map.index.ndim != 2 or not is_plain(head_map.index, builder.samples):
            raise Refusal(f"output '{value.name}' is not one row of features per sample")
        pooled = builder.out.emit(node, "GlobalAveragePool", [head_map.name], f"{value.name}_gap")
        builder.out.emit_as(node, "Flatten", [pooled], value.name, {"axis": 1})
    builder.remove_replaced()


def _check_readers(subject: Subject, builder: HeadBuilder) -> None:
    """Make sure that nothing reads what goes: a subgraph, or a node beside the head."""
    for node in builder.replaced:
        for name in filter(None, node.outputs):
            for reader in subject.graph.main.readers(name):
                if reader not in builder.replaced:
                    raise Refusal(f"node '{reader.name}' ({reader.op_type}) reads '{name}'")


def _softmax(subject: Subject, builder: HeadBuilder, node: Node) -> None:
    """Softmax over the features becomes Softmax over the channels, position by position. Before
    opset 13 it flattened from its axis on, so there the channels must come last meanwhile."""
    head_map = builder.head_maps[node.inputs[0]]
    opset = subject.graph.opset
    axis = int(node.attribute("axis", -1 if opset >= 13 else 1))
    last_axis = axis % max(1, head_map.index.ndim) == head_map.index.ndim - 1
    in_order = np.array_equal(head_map.index.reshape(-1), np.arange(head_map.index.size))
    if not (last_axis and in_order and head_map.index.shape[-1:] == head_map.sizes[:1]):
        raise Refusal(f"{node.op_type} '{node.name}' is not over the features")
    wanted = f"{node.outputs[0]}_map"
    if opset >= 13:
        name = builder.out.emit(node, node.op_type, [head_map.name], wanted, {"axis": 1})
    else:
        rank = len(head_map.sizes) + 1
        last = [0, *range(2, rank), 1]
        back = [0, rank - 1, *range(1, rank - 1)]
        name = builder.out.emit(
            node, "Transpose", [head_map.name], f"{wanted}_last", {"perm": last}
        )
        name = builder.out.emit(node, node.op_type, [name], f"{wanted}_soft", {"axis": rank - 1})
        name = builder.out.emit(node, "Transpose", [name], wanted, {"perm": back})
    builder.head_maps[node.outputs[0]] = one(name, head_map.sizes, head_map.index, vector=True)
    builder.replaced.add(node)


def as_vectors(model: onnx.ModelProto, original: Model, *, pooled: bool = False) -> onnx.ModelProto:
    """A copy whose outputs have the original's shapes and whose inputs the original's sizes, so
    that the two can be compared; averaged outputs have their shapes already."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    old = original.skeleton.graph
    given = {value.name: value for value in old.input}
    for value in model_inputs(copy.graph):
        value.CopyFrom(given[value.name])
    if pooled:
        return copy
    wanted = {value.name: value for value in old.output}
    graph = Graph(original)
    shapes = infer(graph)
    for value in copy.graph.output:
        inner = f"{value.name}/map"
        for node in copy.graph.node:
            for names in (node.input, node.output):
                for place, name in enumerate(names):
                    if name == value.name:
                        names[place] = inner
        sizes = shapes.sizes(graph.main, value.name)
        copy.graph.node.append(_restore(inner, value.name, sizes, copy))
        value.CopyFrom(wanted[value.name])
    return copy


def _restore(
    source: str, name: str, sizes: tuple[int, ...] | None, model: onnx.ModelProto
) -> onnx.NodeProto:
    """What gives a map of one position the old shape; an FC's result has two axes where none is
    known."""
    if sizes is None or len(sizes) == 2:
        return onnx.helper.make_node("Flatten", [source], [name], axis=1)
    shape = onnx.numpy_helper.from_array(np.array([-1, *sizes[1:]], np.int64), f"{name}/shape")
    model.graph.initializer.append(shape)
    return onnx.helper.make_node("Reshape", [source, shape.name], [name])
