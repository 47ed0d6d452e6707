"""Sets the sizes of a rewritten network's inputs free, and says what that means for crops.

Lets a network whose head has become convolutional slide over larger inputs.

The outputs become maps `[N, F, spatial…]`: at each position what the network gives on the crop
under it, as long as no convolution or pooling pads (Long et al., "Fully Convolutional Networks",
2015); with padding, the zeros that it adds at the borders of a crop are missing inside a larger
image.
"""

from __future__ import annotations

from dataclasses import replace
from math import lcm, prod

import numpy as np
import onnx

from onnxshare.analysis.heads import element_order
from onnxshare.analysis.heads.element_order import WITH_CONSTANT
from onnxshare.analysis.heads.fully_connected import fully_connected
from onnxshare.analysis.heads.head import Subject
from onnxshare.errors import ModelError
from onnxshare.graph.index import Graph, Node, model_inputs
from onnxshare.graph.onnx_sandbox import infer_shapes
from onnxshare.graph.operator_traits import Effect, traits_of
from onnxshare.io.load import Model
from onnxshare.shapes.inference import infer
from onnxshare.shapes.rules.microsoft import RULES
from onnxshare.shapes.rules.substitute import substitute
from rewrites.head_as_maps.features import Features
from rewrites.head_as_maps.head_builder import HeadBuilder
from rewrites.head_as_maps.maps import is_plain
from rewrites.head_as_maps.trunk import Trunk, named
from rewrites.refusal import Refusal

_SIZE_NAMES = {1: ("width",), 2: ("height", "width"), 3: ("depth", "height", "width")}

#: Positions of the image that are added in a trial for each stride of its maps: whatever strides
#: the layers in between have, they divide it.
_MORE = 5040


def free_sizes(
    subject: Subject,
    model: onnx.ModelProto,
    builder: HeadBuilder,
    trunk: Trunk,
    *,
    pooled: bool = False,
) -> list[str]:
    """Make the spatial sizes of inputs and outputs symbolic in the rewritten model, in place; where
    maps are `pooled` the outputs keep their shapes. Returns notes for the user: what keeps
    positions from being equal to the original on their crops.

    Raises:
        Refusal: the trunk before the head does not accept other sizes.
    """
    del model.graph.value_info[:]
    names = _SIZE_NAMES[builder.rank]
    for value in model_inputs(model.graph):
        dims, axes = value.type.tensor_type.shape.dim, trunk.images.get(value.name, [])
        if len(axes) > len(names):
            continue
        for name, axis in zip(names[len(names) - len(axes) :], axes, strict=True):
            dims[axis].Clear()
            dims[axis].dim_param = name
    maps = [value.name for value in model.graph.output]
    if pooled:
        maps = [builder.head_maps[name].name for name in maps]
    else:
        for value in model.graph.output:
            _map_output(value, builder)
    strides = trunk.strides()
    more = _MORE * lcm(*set().union(*strides.values()))
    shapes, fits = _enlarged(subject, model, more)
    misfit = next((node for node in model.graph.node if not _operands_fit(node, shapes)), None)
    found = [shapes.get(name, []) for name in maps]
    fits = fits and misfit is None and all(prod(sizes[2:]) > 1 for sizes in found)
    if not fits or not all(
        len(sizes) > axis and sizes[axis] in {1 + more // stride for stride in each}
        for sizes in found
        for axis, each in strides.items()
    ):
        tied = named(misfit) if misfit is not None else trunk.tied(shapes, more)
        raise Refusal(_why_not(model, builder, tied))
    return trunk.notes()


def _why_not(model: onnx.ModelProto, builder: HeadBuilder, tied: str | None) -> str:
    """Why a network does not slide."""
    fixed = _by_position(model, builder.rank)
    if fixed is not None:
        return f"'{fixed}' holds a number for each position of its map: it cannot slide"
    reason = "the layers before the head do not accept other input sizes"
    reason += f": {tied} is tied to the size" if tied else ""
    foreign = next((n for n in model.graph.node if n.domain not in ("", "ai.onnx")), None)
    if foreign is not None:
        reason += (
            f", or what they make of them is not known, because of '{foreign.name}' "
            f"({foreign.domain}.{foreign.op_type})"
        )
    several = any(len(head_map.parts) > 1 for head_map in builder.head_maps.values())
    return reason + (", or its maps do not slide in step" if several else "")


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


def _enlarged(
    subject: Subject, model: onnx.ModelProto, more: int
) -> tuple[dict[str, list[int]], bool]:
    """The shapes of all tensors when every spatial size is larger, and whether all fits."""
    trial = onnx.ModelProto()
    trial.CopyFrom(model)
    # Before version 4 onnx takes shapes of stored tensors from the inputs alone, where some
    # exporters do not list them.
    trial.ir_version = max(4, trial.ir_version)
    for value in model_inputs(trial.graph):
        sizes = subject.probe.shapes.get(subject.graph.main, value.name) or ()
        for dim, size in zip(value.type.tensor_type.shape.dim, sizes, strict=False):
            if dim.dim_param in _SIZE_NAMES[3]:
                dim.Clear()
                dim.dim_value = (size if isinstance(size, int) else 0) + more
    for value in trial.graph.output:
        value.type.tensor_type.ClearField("shape")
    substitute(trial, RULES)
    try:
        inferred, fits = infer_shapes(trial, "the rewritten model", strict=True), True
    except ModelError:
        try:
            inferred, fits = infer_shapes(trial, "the rewritten model"), False
        except ModelError:
            return {}, False
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in [*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output]
    } | {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    made = [shapes.get(value.name) for value in trial.graph.output]
    if fits and not all(each and all(each[1:]) for each in made):
        graph = Graph(replace(subject.graph.model, skeleton=trial))
        worked_out = infer(graph)  # sizes that are computed from sizes, in older opsets too
        every = ((name, worked_out.sizes(graph.main, name)) for name in shapes)
        shapes |= {name: list(known) for name, known in every if known}
    return shapes, fits


def _operands_fit(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> bool:
    """Whether a weight fits the data, where onnx's shape inference does not check it."""
    data, weight = (shapes.get(name) for name in [*node.input, "", ""][:2])
    if not data or weight is None:
        return True
    if traits_of(node).effect is Effect.RECURRENT:
        return weight[-1:] == data[-1:]
    if not node.op_type.endswith(("PRelu", "LayerNormalization", "RMSNormalization")):
        return True
    pairs = zip(reversed(weight), reversed(data), strict=False)
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


#: What quantizes by the range of a whole tensor, so that no output depends on its crop alone.
_DYNAMIC = frozenset(("DynamicQuantizeLinear", "DynamicQuantizeMatMul"))


def slide(subject: Subject, builder: HeadBuilder, *, pool: bool = False) -> None:
    """Carry everything after the head over to maps, up to the outputs of the graph.

    With `pool` one answer per sample comes out, as OverFeat and VGG evaluated densely and averaged
    (Simonyan and Zisserman, 2015, section 3.2).

    Raises:
        Refusal: a node after the head cannot work on a map, or not every output becomes one.
    """
    graph, maps = subject.graph, builder.head_maps
    layers = {layer.node: layer for layer in fully_connected(graph)}
    features = Features(subject, builder.out, builder.samples, list(maps))
    for node in graph.main.nodes:
        known = [maps[name] for name in node.inputs if name in maps]
        if node in builder.replaced or not any(head_map.vector for head_map in known):
            continue  # it reads no result of the head, or the feature map next to it
        if traits_of(node).shape_only:
            continue  # `_check_readers` asks whether anything is left that needs the size
        layer = layers.get(node)
        if layer is not None and maps[layer.data].index.size == builder.samples * layer.in_features:
            builder.connect(layer)  # behind something that is not a step of a head, such as a gate
        elif len(known) == 1 and _is_step(subject, node):
            builder.carry(node)
        else:
            maps.update(features.carry(node, maps))
            builder.replaced.add(node)
    for node in builder.replaced:
        if node.op_type in _DYNAMIC:
            raise Refusal(f"'{node.name}' ({node.op_type}) takes its range over the whole image")
    _check_readers(subject, builder)
    found: set[str] = set()
    for value in graph.main.graph.output:
        head_map = maps.get(value.name)
        if head_map is None or not head_map.vector:
            raise Refusal(f"output '{value.name}' does not come from the head")
        maker = graph.main.producers[value.name]
        made = features.in_order(maker, head_map)
        if made.name in found:
            made = features.again(maker, made)
        found.add(made.name)
        maps[value.name] = made
    if pool:
        _pool_outputs(subject, builder)
    else:
        builder.rename_outputs()


def _is_step(subject: Subject, node: Node) -> bool:
    """Whether a node changes a result of the head on its own, with nothing but constants."""
    if element_order.moves(node):
        return True
    alone = element_order.data_input(subject.graph, node) is not None
    return alone and element_order.elementwise(node)


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
    """Make sure that nothing reads what goes: a subgraph, or a node outside the head."""
    main, leaving = subject.graph.main, set(builder.replaced)
    needed = builder.out.reads() | main.outputs
    for node in reversed(main.nodes):  # such as what computes the shape of the head's Reshape
        readers = [reader for name in node.outputs for reader in main.readers(name)]
        if readers and needed.isdisjoint(node.outputs) and leaving.issuperset(readers):
            leaving.add(node)
    for node in builder.replaced:
        for name in filter(None, node.outputs):
            for reader in main.readers(name):
                if reader not in leaving:
                    raise Refusal(f"node '{reader.name}' ({reader.op_type}) reads '{name}'")


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
