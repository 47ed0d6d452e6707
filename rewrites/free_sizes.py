"""Sets the sizes of a rewritten network's inputs free, and says what that means for crops."""

from __future__ import annotations

from math import prod

import numpy as np
import onnx

from onnxshare.analysis.heads.element_order import WITH_CONSTANT
from onnxshare.analysis.heads.head import Subject
from onnxshare.errors import ModelError
from onnxshare.graph.index import Node, model_inputs
from onnxshare.graph.onnx_sandbox import infer_shapes
from onnxshare.shapes.rules.microsoft import RULES
from onnxshare.shapes.rules.substitute import stand_in
from rewrites.mirror import Mirror
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
    subject: Subject, model: onnx.ModelProto, mirror: Mirror, *, pooled: bool = False
) -> list[str]:
    """Make the spatial sizes of inputs and outputs symbolic in the rewritten model, in place.

    Args:
        subject: the original.
        model: the rewritten model.
        mirror: its head.
        pooled: whether the maps of outputs are averaged, so that the outputs keep their shapes.

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
    maps = [value.name for value in model.graph.output]
    if pooled:
        maps = [node.input[0] for node in model.graph.node if _pools_outputs(node, model)]
    else:
        for value in model.graph.output:
            _map_output(value, mirror)
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
        several = any(len(twin.parts) > 1 for twin in mirror.twins.values())
        raise Refusal(reason + (", or its maps do not slide in step" if several else ""))
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
    stand_in(trial, RULES)
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
