"""BatchNormalization after a convolution or FC → folded into its weights and bias. Exact.

With constant statistics, normalization is one scale and one shift per channel f (Ioffe and
Szegedy, "Batch Normalization", 2015, algorithm 2):

    BN(y)[f] = a[f] · (y[f] - mean[f]) + shift[f],        a[f] = scale[f] / √(variance[f] + ε),

and y[f] = Σ_k W[f, k] · x[k] + b[f] is linear, so that

    BN(y)[f] = Σ_k (a[f] · W[f, k]) · x[k] + (a[f] · (b[f] - mean[f]) + shift[f]).

Computed in double precision and rounded once. A kernel that another node uses is not folded: each
use would need a kernel of its own, and sharing would be lost.

Before a convolution that does not pad, where nothing linear comes first, it is folded forward:

    Σ W[f, c, k] · (a[c] · x[c, k] + s[c]) = Σ (W[f, c, k] · a[c]) · x[c, k] + Σ W[f, c, k] · s[c].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from onnxshare.analysis.heads.fully_connected import (
    FullyConnected,
    made_by,
    nodes_of,
    stored_bias,
)
from onnxshare.analysis.heads.head import Subject
from onnxshare.graph.editor import Editor
from onnxshare.graph.index import Graph, Node, Stored
from onnxshare.io.tensors import Array
from rewrites.base import Change, Fitting, Options, Rewrite, Site, replaced
from rewrites.edits.node_uses import (
    Users,
    attributes,
    may_be_given,
    only_reader,
    overridable,
    quantized,
    refuse_overridable,
    users_of,
    values_of,
)
from rewrites.head_as_maps.fc_weights import bias_of
from rewrites.refusal import Refusal

_TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_CONVOLUTIONS = ("Conv", "ConvTranspose")

#: Before this opset element-wise operators broadcast only where told to, and BatchNormalization
#: trains unless told not to.
_BROADCASTS = 7


@dataclass(frozen=True)
class _Layer:
    """What BatchNormalization normalizes the result of.

    Attributes:
        node: the convolution, Gemm or MatMul.
        norm: the BatchNormalization.
        sums: the node, and the Add that gives it its bias, if there is one.
        fc: the node as an FC; None for a convolution.
        bias: name of the bias, if there is one.
        forward: whether it is a convolution that reads what the BatchNormalization makes.
        between: products and sums with stored numbers per channel that come between them.
    """

    node: Node
    norm: Node
    sums: list[Node]
    fc: FullyConnected | None = None
    bias: str | None = None
    forward: bool = False
    between: tuple[Node, ...] = ()

    @property
    def first(self) -> list[Node]:
        """The nodes whose results nothing else may read."""
        return [self.norm, *self.between] if self.forward else self.sums

    @property
    def weight(self) -> str:
        """Name of the weight as the node reads it."""
        return self.fc.weight if self.fc is not None else self.node.inputs[1]

    @property
    def constants(self) -> tuple[str, ...]:
        """Names of weight, bias, scale, shift, mean and variance; no bias where there is none."""
        return (self.weight, *filter(None, (self.bias,)), *self.norm.inputs[1:5])


@dataclass(frozen=True)
class FoldBatchNorm(Rewrite):
    """Folds BatchNormalization into the convolution, Gemm or MatMul before it."""

    name = "fold-batchnorm"
    together = True

    def sites(self, subject: Subject, options: Options) -> list[Site]:
        """One site per BatchNormalization right after a convolution or FC, or before a
        convolution."""
        users = users_of(subject.graph)
        layers = (
            _before(subject.graph, node) or _behind(subject.graph, node)
            for node in subject.graph.main.nodes
            if node.standard and node.op_type == "BatchNormalization"
        )
        return [self._site(subject, users, layer) for layer in layers if layer is not None]

    def _site(self, subject: Subject, users: Users, layer: _Layer) -> Site:
        norm, sources = layer.norm, _sources(subject.graph, layer)
        before = sum(stored.elements for stored in sources.values())
        try:
            _check(subject, layer)
            channels = _channels(subject, layer)
            growth = _growth(layer, sources, users, channels)
            _check_sharing(subject.graph, layer, users, growth)
        except Refusal as refusal:
            return Site(self.name, norm.name, None, str(refusal), before, None, target=layer)
        detail = f"it is folded into '{layer.node.name}'"
        return Site(self.name, norm.name, True, None, before, before + growth, detail, layer)

    def apply(self, subject: Subject, site: Site, options: Options, fitting: Fitting) -> Change:
        """Make the change: one layer with new weights and a bias."""
        layer: _Layer = site.target
        scale, shift = _scale_and_shift(subject, layer)
        weight, bias = _folded(subject, layer, scale, shift)
        editor = subject.editor(self.name)
        _emit(editor, layer, weight, bias)
        return replaced(site, editor, [*layer.sums, *layer.between, layer.norm])


def _before(graph: Graph, norm: Node) -> _Layer | None:
    """The linear layer whose result a BatchNormalization reads; None if it reads another."""
    node = graph.main.producers.get(norm.inputs[0])
    if node is None or not node.standard:
        return None
    if node.op_type in _CONVOLUTIONS:
        return _Layer(node, norm, [node], bias=node.input(2) or None)
    fc = made_by(graph, node)
    if fc is None:
        return None
    return _Layer(fc.node, norm, nodes_of(graph, fc), fc, stored_bias(graph, fc)[0])


def _behind(graph: Graph, norm: Node) -> _Layer | None:
    """The convolution that reads what a BatchNormalization makes, and nothing else does."""
    data, between = norm.outputs[0], list[Node]()
    while (node := only_reader(graph, between[-1] if between else norm)) is not None:
        other = [name for name in node.inputs if name != data]
        if node.op_type not in ("Mul", "Add") or len(other) != 1 or not node.standard:
            break
        if graph.source(node.scope, other[0]) is None or graph.opset < _BROADCASTS:
            return None
        between.append(node)
        data = node.outputs[0]
    if node is None or not node.standard or node.op_type != "Conv":
        return None
    if node.inputs[0] != data or data in node.inputs[1:]:
        return None
    bias = node.input(2) or None
    return _Layer(node, norm, [node], bias=bias, forward=True, between=tuple(between))


def _sources(graph: Graph, layer: _Layer) -> dict[str, Stored]:
    """The stored parameters of a layer and its normalization by key; statistics are none."""
    names = layer.constants[:-2]
    found = (graph.source(layer.node.scope, name) for name in names)
    return {stored.key: stored for stored in found if stored is not None}


def _check(subject: Subject, layer: _Layer) -> None:
    """Make sure that folding is right, whatever it costs.

    Raises:
        Refusal: it is not.
    """
    graph, norm = subject.graph, layer.norm
    if _trains(graph, norm):
        raise Refusal("it runs in training mode, with the statistics of each batch")
    if not norm.attribute("spatial", 1):
        raise Refusal("it normalizes each position on its own (spatial=0)")
    auto_pad = layer.node.attribute("auto_pad", "NOTSET")
    pads = any(layer.node.attribute("pads", ())) or auto_pad not in ("NOTSET", "VALID")
    if layer.forward and pads:
        raise Refusal(f"'{layer.node.name}' pads with zeros that are not normalized")
    if any(only_reader(graph, node) is None for node in layer.first):
        raise Refusal(f"the result of '{layer.sums[-1].name}' is used elsewhere too")
    if subject.probe.shapes.dtype(norm.scope, norm.inputs[0]) not in _TYPES:
        raise Refusal("its element type is not a float type that weights can be folded in")
    for node in layer.between:
        _per_channel(subject, layer, node)
        refuse_overridable(graph, node)
    for name in layer.constants:
        _check_constant(graph, layer, name)
    _check_axis(subject, layer)


def _trains(graph: Graph, norm: Node) -> bool:
    if graph.opset < _BROADCASTS:
        return not norm.attribute("is_test", 0)
    return bool(norm.attribute("training_mode", 0)) or any(norm.outputs[1:])


def _check_constant(graph: Graph, layer: _Layer, name: str) -> None:
    stored = graph.source(layer.node.scope, name)
    what = "weight" if name == layer.weight else "bias" if name == layer.bias else "statistics"
    if stored is None:
        raise Refusal(f"'{name}' is computed, so there is no {what} to fold")
    if stored.sparse:
        raise Refusal(f"'{name}' is stored as a sparse tensor")
    if overridable(graph, stored):
        raise Refusal(may_be_given(stored))
    if stored.tensor is None and name == layer.weight:
        raise Refusal(
            f"its weight '{name}' is made by ConstantOfShape and takes no space; folded, it would "
            f"be stored: {stored.elements:,} numbers"
        )
    if quantized(graph, layer.node.scope, name):
        raise Refusal(f"its {what} '{stored.name}' is quantized")


def _check_axis(subject: Subject, layer: _Layer) -> None:
    """Axis 1 of what is normalized must be the outputs of the layer."""
    shapes, norm = subject.probe.shapes, layer.norm
    if layer.fc is not None and (
        layer.fc.result_columns or len(shapes.get(norm.scope, norm.inputs[0]) or ()) != 2
    ):
        raise Refusal(f"it does not normalize the features of '{layer.node.name}'")
    channels = _channels(subject, layer)
    if layer.forward:
        sizes = shapes.sizes(layer.node.scope, layer.weight) or (0, 0)
        channels = sizes[1] * int(layer.node.attribute("group", 1))
    for name in norm.inputs[1:5]:
        stored = subject.graph.source(norm.scope, name)
        if stored is None or stored.elements != channels:
            raise Refusal(f"'{name}' does not hold one number per channel")


def _channels(subject: Subject, layer: _Layer) -> int:
    if layer.fc is not None:
        return layer.fc.out_features
    sizes = subject.probe.shapes.sizes(layer.node.scope, layer.weight) or (0, 0)
    if layer.node.op_type == "ConvTranspose":
        return sizes[1] * int(layer.node.attribute("group", 1))
    return sizes[0]


def _growth(layer: _Layer, sources: dict[str, Stored], users: Users, channels: int) -> int:
    """By how many parameters the model grows: what comes, less what nothing else uses."""
    freed = sum(
        stored.elements
        for stored in sources.values()
        if not users.others(stored, *layer.sums, layer.norm)
    )
    weight = next(iter(sources.values()), None)
    return (weight.elements if weight is not None else 0) + channels - freed


def _check_sharing(graph: Graph, layer: _Layer, users: Users, growth: int) -> None:
    stored = graph.source(layer.node.scope, layer.weight)
    others = users.others(stored, layer.node) if stored is not None else []
    if stored is not None and others:
        named = others[0] + (f" and {len(others) - 1} more" if len(others) > 1 else "")
        raise Refusal(
            f"its kernel '{stored.name}' is also used by {named}: folding would un-share it, "
            f"{growth:+,} parameters"
        )


def _scale_and_shift(subject: Subject, layer: _Layer) -> tuple[Array, Array]:
    """a and c of BN(y) = a · y + c, in double precision."""
    scope, names = layer.node.scope, layer.norm.inputs[1:5]
    constants = (values_of(subject, scope, name).astype(np.float64).reshape(-1) for name in names)
    scale, shift, mean, variance = constants
    epsilon = float(np.float32(layer.norm.attribute("epsilon", 1e-5)))
    if not (variance + epsilon > 0).all():
        raise Refusal("its variance is not positive everywhere")
    factor = scale / np.sqrt(variance + epsilon)
    shift = shift - factor * mean
    for node in layer.between:
        given = _per_channel(subject, layer, node)
        factor, shift = (
            (factor * given, shift * given) if node.op_type == "Mul" else (factor, shift + given)
        )
    return factor, shift


def _per_channel(subject: Subject, layer: _Layer, node: Node) -> Array:
    """The numbers that a node between multiplies or adds, one per channel or one for all.

    Raises:
        Refusal: they are not that.
    """
    rank = len(subject.probe.shapes.get(node.scope, layer.node.inputs[0]) or ())
    (name,) = (n for n in node.inputs if subject.graph.source(node.scope, n) is not None)
    value = values_of(subject, node.scope, name).astype(np.float64)
    channels = value.shape[1 - rank] if value.ndim >= rank - 1 > 0 else 1
    if value.ndim > rank or value.size not in (1, channels):
        raise Refusal(f"'{name}' does not hold one number per channel")
    return value.reshape(-1)


def _folded(subject: Subject, layer: _Layer, scale: Array, shift: Array) -> tuple[Array, Array]:
    """The weight and bias of the layer that gives what the normalization gave."""
    scope = layer.node.scope
    old = values_of(subject, scope, layer.weight)
    if layer.fc is not None:
        _, given = bias_of(subject, layer.fc)
    else:
        given = values_of(subject, scope, layer.bias) if layer.bias is not None else None
    bias = 0.0 if given is None else given.astype(np.float64).reshape(-1)
    weight = old.astype(np.float64)
    if layer.forward:
        moved = weight * _spread(layer, shift, old.shape)
        bias = bias + moved.reshape(len(old), -1).sum(axis=1)
    else:
        bias = scale * bias + shift
    weight = weight * _spread(layer, scale, old.shape)
    with np.errstate(over="ignore"):
        rounded = weight.astype(old.dtype), np.asarray(bias).astype(old.dtype)
    if not all(np.isfinite(item.astype(np.float64)).all() for item in rounded):
        raise Refusal(f"the folded weights do not fit {old.dtype}")
    return rounded


def _spread(layer: _Layer, given: Array, shape: tuple[int, ...]) -> Array:
    """One number per output, or, folded forward, per input, in a shape that multiplies the
    weight."""
    if layer.fc is not None:
        return given[:, None] if layer.fc.stored_by_output else given
    ones = [1] * (len(shape) - 2)
    if layer.node.op_type == "Conv" and not layer.forward:
        return given.reshape(-1, 1, *ones)
    # [C, F/group, …] of a ConvTranspose, [F, C/group, …] of a Conv: each group has its own.
    by_group = given.reshape(int(layer.node.attribute("group", 1)), shape[1])
    return np.repeat(by_group, shape[0] // len(by_group), axis=0).reshape(*shape[:2], *ones)


def _emit(editor: Editor, layer: _Layer, weight: Array, bias: Array) -> None:
    node, output = layer.node, layer.norm.outputs[0]
    data = layer.fc.data if layer.fc is not None else node.inputs[0]
    if layer.forward:
        data, output = layer.norm.inputs[0], node.outputs[0]
    stem = layer.bias or f"{layer.weight}_bias"
    names = [
        editor.constant(weight, f"{layer.weight}_folded"),
        editor.constant(bias, f"{stem}_folded"),
    ]
    old = {"broadcast": 1} if editor.opset < _BROADCASTS else {}
    if node.op_type == "MatMul":
        product = editor.new_name(f"{node.outputs[0]}_folded")
        editor.emit(node, "MatMul", [data, names[0]], product)
        editor.emit(layer.sums[-1], "Add", [product, names[1]], output, old)
        return
    given = attributes(node, "beta")
    if node.op_type == "Gemm":
        given.update(old)
    editor.emit(node, node.op_type, [data, *names], output, given)
