"""Lets a network whose head has become convolutional slide over larger inputs.

The outputs become maps `[N, F, spatial…]`: at each position what the network gives on the crop
under it, as long as no convolution or pooling pads (Long et al., "Fully Convolutional Networks",
2015); with padding, the zeros that it adds at the borders of a crop are missing inside a larger
image.
"""

from __future__ import annotations

import numpy as np
import onnx

from onnxshare.analysis.heads import element_order
from onnxshare.analysis.heads.fully_connected import fully_connected
from onnxshare.analysis.heads.head import Subject
from onnxshare.graph.index import Graph, Node, model_inputs
from onnxshare.io.load import Model
from onnxshare.shapes.inference import infer
from rewrites.mirror import Mirror
from rewrites.refusal import Refusal
from rewrites.restore import is_plain
from rewrites.twins import one

#: What quantises by the range of a whole tensor, so that no output depends on its crop alone.
_DYNAMIC = frozenset(("DynamicQuantizeLinear", "DynamicQuantizeMatMul"))

_SOFTMAX = frozenset(("Softmax", "LogSoftmax"))


def slide(subject: Subject, mirror: Mirror, *, pool: bool = False) -> None:
    """Carry everything after the head over to maps, up to the outputs of the graph.

    Args:
        subject: the model.
        mirror: its head, carried over already.
        pool: append global average pooling, so that one answer per sample comes out, as OverFeat
            and VGG evaluated densely and averaged (Simonyan and Zisserman, 2015, section 3.2).

    Raises:
        Refusal: a node after the head cannot work on a map, or not every output becomes one.
    """
    graph = subject.graph
    layers = {layer.node: layer for layer in fully_connected(graph)}
    for node in mirror.replaced:
        if node.op_type in _DYNAMIC:
            raise Refusal(f"'{node.name}' ({node.op_type}) takes its range over the whole image")
    for node in graph.main.nodes:
        if node in mirror.replaced or not any(name in mirror.twins for name in node.inputs):
            continue
        if not any(name in mirror.twins and mirror.twins[name].vector for name in node.inputs):
            continue  # reads the feature map beside the head
        if node in layers:  # behind something that is no step of a head, such as a gate
            mirror.connect(layers[node])
        elif node.op_type in _SOFTMAX and node.standard:
            _softmax(subject, mirror, node)
        elif element_order.moves(node) or element_order.elementwise(node):
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
    if pool:
        _pool_outputs(subject, mirror)
    else:
        mirror.rename_outputs()


def _pool_outputs(subject: Subject, mirror: Mirror) -> None:
    """Average each map of outputs to one answer `[N, F]`: dense evaluation, averaged."""
    for value in subject.graph.main.graph.output:
        twin, node = mirror.twins[value.name], subject.graph.main.producers[value.name]
        if twin.index.ndim != 2 or not is_plain(twin.index, mirror.samples):
            raise Refusal(f"output '{value.name}' is not one row of features per sample")
        pooled = mirror.out.emit(node, "GlobalAveragePool", [twin.name], f"{value.name}_gap")
        mirror.out.emit_as(node, "Flatten", [pooled], value.name, {"axis": 1})
    mirror.remove_replaced()


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
    mirror.twins[node.outputs[0]] = one(name, twin.sizes, twin.index, vector=True)
    mirror.replaced.add(node)


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
