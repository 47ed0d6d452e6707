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

Products and sums with stored numbers per channel are scale and shift too. They go with the
BatchNormalization that they stand next to, and forward on their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

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
_NORM = "BatchNormalization"
#: The a and c of a · y + c that an operator makes with a stored operand on the right; Sub has two.
_SCALES: dict[str, Callable[[Array], tuple[Array, Array]]] = {
    "Mul": lambda given: (given, np.zeros(1)),
    "Div": lambda given: (1 / given, np.zeros(1)),
    "Add": lambda given: (np.ones(1), given),
}

#: Before this opset element-wise operators broadcast only where told to, and BatchNormalization
#: trains unless told not to.
_BROADCASTS = 7


@dataclass(frozen=True)
class _Layer:
    """A layer, and what scales and shifts its result or, folded forward, its data.

    Attributes:
        node: the convolution, Gemm or MatMul.
        chain: BatchNormalization, and products and sums with stored numbers per channel.
        sums: the node, and the Add that gives it its bias, if there is one.
        fc: the node as an FC; None for a convolution.
        bias: name of the bias, if there is one.
        forward: whether it is a convolution that reads what the chain makes.
    """

    node: Node
    chain: tuple[Node, ...]
    sums: list[Node]
    fc: FullyConnected | None = None
    bias: str | None = None
    forward: bool = False

    @property
    def norm(self) -> Node:
        """The BatchNormalization, or else the first of the chain: what names the site."""
        return next((n for n in self.chain if n.op_type == _NORM), self.chain[0])

    @property
    def first(self) -> list[Node]:
        """The nodes whose results nothing else may read."""
        return [*self.chain] if self.forward else [*self.sums, *self.chain[:-1]]

    @property
    def weight(self) -> str:
        """Name of the weight as the node reads it."""
        return self.fc.weight if self.fc is not None else self.node.inputs[1]

    @property
    def constants(self) -> tuple[str, ...]:
        """Names of weight, bias, scale, shift, mean and variance; no bias where there is none."""
        statistics = self.norm.inputs[1:5] if self.norm.op_type == _NORM else ()
        return (self.weight, *filter(None, (self.bias,)), *statistics)


@dataclass(frozen=True)
class FoldBatchNorm(Rewrite):
    """Folds BatchNormalization into the convolution, Gemm or MatMul before it."""

    name = "fold-batchnorm"
    together = True

    def sites(self, subject: Subject, options: Options) -> list[Site]:
        """One site per BatchNormalization right after a convolution or FC or before a
        convolution, and per scale and shift before a convolution."""
        graph, users = subject.graph, users_of(subject.graph)
        layers = [
            _before(graph, node) or _behind(graph, node)
            for node in graph.main.nodes
            if node.standard and node.op_type == _NORM
        ]
        taken = {node for layer in layers if layer is not None for node in layer.chain}
        layers += [
            _scaled(subject, node, taken)
            for node in graph.main.nodes
            if node.standard and node.op_type == "Conv"
        ]
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
        _emit(subject.graph, editor, layer, weight, bias)
        return replaced(site, editor, [*layer.sums, *layer.chain])


def _before(graph: Graph, norm: Node) -> _Layer | None:
    """The linear layer whose result a BatchNormalization reads; None if it reads another."""
    chain: tuple[Node, ...] = (norm,)
    while (node := graph.main.producers.get(_data(graph, chain[0]) or "")) is not None:
        fc = made_by(graph, node)
        if fc is not None:
            bias = stored_bias(graph, fc)[0]
            return _Layer(fc.node, (*chain, *_after(graph, norm)), nodes_of(graph, fc), fc, bias)
        if node.standard and node.op_type in _CONVOLUTIONS:
            chain = (*chain, *_after(graph, norm))
            return _Layer(node, chain, [node], bias=node.input(2) or None)
        if node.op_type == _NORM or _data(graph, node) is None:
            return None
        chain = (node, *chain)
    return None


def _behind(graph: Graph, norm: Node) -> _Layer | None:
    """The convolution that reads what a BatchNormalization makes; it may not be the only one."""
    chain = [norm, *_after(graph, norm)]
    while (node := graph.main.producers.get(_data(graph, chain[0]) or "")) is not None:
        if node.op_type == _NORM or _data(graph, node) is None or not only_reader(graph, node):
            break
        chain.insert(0, node)
    readers = norm.scope.readers(chain[-1].outputs[0])
    found = (_forward(node, tuple(chain)) for node in readers if node.scope is norm.scope)
    return next((layer for layer in found if layer is not None), None)


def _scaled(subject: Subject, conv: Node, taken: set[Node]) -> _Layer | None:
    """A convolution that reads products and sums with stored numbers per channel; None if it
    reads another, or they go elsewhere."""
    graph, chain = subject.graph, list[Node]()
    node = graph.main.producers.get(conv.inputs[0])
    while node is not None and node.op_type != _NORM and node not in taken:
        if made_by(graph, node) is not None or (data := _data(graph, node)) is None:
            break
        shape = subject.probe.shapes.sizes(node.scope, _operand(graph, node))
        if only_reader(graph, node) is None or shape is None or not _fits(subject, node, shape):
            break
        chain.insert(0, node)
        node = graph.main.producers.get(data)
    return _forward(conv, tuple(chain)) if chain else None


def _forward(node: Node, chain: tuple[Node, ...]) -> _Layer | None:
    data = chain[-1].outputs[0]
    if not node.standard or node.op_type != "Conv" or node.inputs[0] != data:
        return None
    return _Layer(node, chain, [node], bias=node.input(2) or None, forward=True)


def _after(graph: Graph, norm: Node) -> list[Node]:
    """The products and sums with stored numbers that alone read a result, one after another."""
    found = [norm]
    while (node := only_reader(graph, found[-1])) is not None:
        if node.op_type == _NORM or _data(graph, node) is None:
            break
        found.append(node)
    return found[1:]


def _data(graph: Graph, node: Node) -> str | None:
    """What a node of a chain scales and shifts; None if it is no such node."""
    if node.standard and node.op_type == _NORM:
        return node.inputs[0]
    scales = node.op_type in _SCALES or node.op_type == "Sub"
    if not node.standard or not scales or graph.opset < _BROADCASTS:
        return None
    stored = [graph.source(node.scope, name) is not None for name in node.inputs]
    if sum(stored) != 1 or (node.op_type == "Div" and not stored[1]):
        return None
    return node.inputs[0 if stored[1] else 1]


def _sources(graph: Graph, layer: _Layer) -> dict[str, Stored]:
    """The stored parameters of a layer and its normalization by key; statistics are none."""
    names = layer.constants[:-2] if layer.norm.op_type == _NORM else layer.constants
    found = (graph.source(layer.node.scope, name) for name in names)
    return {stored.key: stored for stored in found if stored is not None}


def _check(subject: Subject, layer: _Layer) -> None:
    """Make sure that folding is right, whatever it costs.

    Raises:
        Refusal: it is not.
    """
    graph, norm = subject.graph, layer.norm
    if norm.op_type == _NORM and _trains(graph, norm):
        raise Refusal("it runs in training mode, with the statistics of each batch")
    if not norm.attribute("spatial", 1):
        raise Refusal("it normalizes each position on its own (spatial=0)")
    auto_pad = layer.node.attribute("auto_pad", "NOTSET")
    pads = any(layer.node.attribute("pads", ())) or auto_pad not in ("NOTSET", "VALID")
    shifts = any(node.op_type in (_NORM, "Add", "Sub") for node in layer.chain)
    if layer.forward and pads and shifts:
        raise Refusal(f"'{layer.node.name}' pads with zeros that are not normalized")
    other = next((node for node in layer.first if only_reader(graph, node) is None), None)
    if other is not None:
        raise Refusal(f"the result of '{other.name}' is used elsewhere too")
    if subject.probe.shapes.dtype(norm.scope, norm.inputs[0]) not in _TYPES:
        raise Refusal("its element type is not a float type that weights can be folded in")
    for node in layer.chain:
        if node.op_type != _NORM:
            refuse_overridable(graph, node)
            _per_channel(subject, node)
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
    channels = _normalized(subject, layer)
    data = shapes.get(norm.scope, _data(subject.graph, layer.chain[0]) or "") or ()
    if len(data) < 2 or data[1] not in (channels, None):
        raise Refusal(f"'{layer.chain[0].name}' does not hold one number per channel")
    for name in norm.inputs[1:5] if norm.op_type == _NORM else ():
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


def _normalized(subject: Subject, layer: _Layer) -> int:
    """Channels of what is scaled and shifted: those that a layer reads, or those that it makes."""
    if not layer.forward:
        return _channels(subject, layer)
    sizes = subject.probe.shapes.sizes(layer.node.scope, layer.weight) or (0, 0)
    return sizes[1] * int(layer.node.attribute("group", 1))


def _growth(layer: _Layer, sources: dict[str, Stored], users: Users, channels: int) -> int:
    """By how many parameters the model grows: what comes, less what nothing else uses."""
    freed = sum(
        stored.elements
        for stored in sources.values()
        if not users.others(stored, *layer.sums, *layer.chain)
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
    """a and c of a · y + c, which the chain makes of y, in double precision."""
    factor, shift = np.ones(1), np.zeros(1)
    for node in layer.chain:
        scale, added = _normalization(subject, node) or _product_or_sum(subject, node)
        factor, shift = factor * scale, shift * scale + added
    channels = _normalized(subject, layer)
    return np.broadcast_to(factor, channels), np.broadcast_to(shift, channels)


def _normalization(subject: Subject, norm: Node) -> tuple[Array, Array] | None:
    """a and c of BN(y) = a · y + c; None if the node is another."""
    if norm.op_type != _NORM:
        return None
    constants = (
        values_of(subject, norm.scope, name).astype(np.float64).reshape(-1)
        for name in norm.inputs[1:5]
    )
    scale, shift, mean, variance = constants
    epsilon = float(np.float32(norm.attribute("epsilon", 1e-5)))
    if not (variance + epsilon > 0).all():
        raise Refusal("its variance is not positive everywhere")
    factor = scale / np.sqrt(variance + epsilon)
    return factor, shift - factor * mean


def _product_or_sum(subject: Subject, node: Node) -> tuple[Array, Array]:
    """a and c of a product or sum with a stored number per channel."""
    given = _per_channel(subject, node)
    if node.op_type == "Sub":
        sign = np.ones(1) if node.inputs[0] == _data(subject.graph, node) else -np.ones(1)
        return sign, -sign * given
    with np.errstate(divide="ignore"):
        return _SCALES[node.op_type](given)


def _per_channel(subject: Subject, node: Node) -> Array:
    """The numbers that a product or sum takes, one per channel or one for all.

    Raises:
        Refusal: they are not that.
    """
    name = _operand(subject.graph, node)
    value = values_of(subject, node.scope, name).astype(np.float64)
    if not _fits(subject, node, value.shape):
        raise Refusal(f"'{name}' does not hold one number per channel")
    return value.reshape(-1)


def _operand(graph: Graph, node: Node) -> str:
    """The stored operand of a product or sum."""
    return next(name for name in node.inputs if graph.source(node.scope, name) is not None)


def _fits(subject: Subject, node: Node, shape: tuple[int, ...]) -> bool:
    """Whether an operand of that shape has one number per channel, or one for all."""
    data = _data(subject.graph, node) or ""
    rank = len(subject.probe.shapes.get(node.scope, data) or ())
    channels = shape[1 - rank] if len(shape) >= rank - 1 > 0 else 1
    return len(shape) <= rank and prod(shape) in (1, channels)


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


def _emit(graph: Graph, editor: Editor, layer: _Layer, weight: Array, bias: Array) -> None:
    node, output = layer.node, layer.chain[-1].outputs[0]
    data = layer.fc.data if layer.fc is not None else node.inputs[0]
    if layer.forward:
        data, output = _data(graph, layer.chain[0]) or "", node.outputs[0]
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
