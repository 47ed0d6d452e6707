"""Writes a fitted head as ONNX nodes: few standard operators, the batch left free.

| Weighting | Nodes |
|---|---|
| `gap` | GlobalAveragePool → Flatten |
| `grid:K` | AveragePool → Flatten |
| `mask:R` | Reshape [0, C, S] → MatMul [S, R] → Flatten |
| `depthwise` | Conv with one kernel H × W per channel → Flatten |
| `separable:K` | Conv 1×1 to K channels → Conv with one kernel H × W per channel → Flatten |
| `separable:K+grid:G` | AveragePool before these |
| all positions | Flatten |

Each fitted layer is one Gemm, or two where it is cut to low rank (a MatMul and a Gemm before
version 11, when a Gemm must have a bias), in an mlp after a Gemm and a Relu; outputs get their old
names. Weights in 8 bits come from a DequantizeLinear with a scale per output channel, and in a
model of another type than single precision from a Cast after that.

Where activations are in 8 bits too, a QuantizeLinear and a DequantizeLinear stand before each
product, and the bias comes from 32-bit integers: ONNX Runtime computes what stands between them in
integers (QLinearConv, QGemm, MatMulIntegerToFloat). It does so for a convolution only if another
such pair follows it directly, so that one stands on each side of the Flatten. All is in single
precision, with a Cast before and after where the model has another type.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from onnxshare.analysis.heads import element_order
from onnxshare.analysis.heads.fully_connected import nodes_of
from onnxshare.graph.editor import Editor
from onnxshare.graph.index import Node
from onnxshare.io.tensors import Array
from rewrites.edits.node_emitter import Emitter
from rewrites.head_as_maps.maps import is_plain, vector_to_old
from rewrites.refusal import Refusal
from rewrites.small_heads.fitted_head import FittedLayer, Hidden, SmallHead
from rewrites.small_heads.head_layers import Chain, ChainLayer
from rewrites.small_heads.int8_activations import Range, Steps
from rewrites.small_heads.int8_weights import bias_scale, check_int8, integers
from rewrites.small_heads.spatial_weighting import Separable, Weighting
from rewrites.small_heads.training_data import carried_map

#: Since these versions Reshape takes its shape as an input, and Gemm broadcasts by itself and can
#: do without a bias.
_RESHAPE_INPUT = 5
_GEMM_BROADCASTS = 7
_GEMM_WITHOUT_BIAS = 11


#: Weights whose activations are in 8 bits are unsigned too, with this as zero. Of unsigned times
#: signed, ONNX Runtime adds two products in 16 bits on x64 without VNNI (VPMADDUBSW), where
#: 2 · 255 · 127 does not fit: sums are clipped without a word. Unsigned ones it widens first.
_MIDDLE = 128

#: A model, the names of the nodes that went, and of those that came.
Emitted = tuple[onnx.ModelProto, tuple[str, ...], tuple[str, ...]]


def emit_head(small: SmallHead) -> Emitted:
    """Put a fitted head into a copy of the model.

    Raises:
        Refusal: the head's outputs cannot be given back in their old form, or something else
            reads what would go.
    """
    chain = small.chain
    subject = chain.subject
    editor = Editor(subject.graph.proto, "fc-to-gap", subject.graph.model.payloads)
    builder, source = carried_map(chain, editor)
    if small.method.int8:
        check_int8(chain)
    writer = _Writer(chain, builder.out, activations=small.method.int8_activations)
    inner = small.hidden or next(layer for layer in small.layers if layer.source < 0)
    reads = inner.steps[0].reads if inner.steps else None
    if isinstance(small.weighting, Separable):
        pooled = writer.separable(source, small.weighting, reads)
    else:
        pooled = writer.weighting(source, small.weighting, reads)
    if small.hidden is not None:
        pooled = writer.hidden(pooled, small.hidden)
    given: dict[int, str] = {}
    for fitted in small.layers:
        layer = chain.layers[fitted.target]
        if fitted.source < 0:
            features = pooled
        elif small.method.whole:
            features = writer.between(fitted, given[fitted.source])
        else:
            features = _rows(chain, layer)
        given[fitted.target] = writer.layer(layer, fitted, features)
        if fitted.target in _given_back(small):
            writer.give_back(layer, given[fitted.target])
    builder.drop(_leaving(small))
    builder.finish()
    return editor.apply(), builder.removed, editor.added


def check_head(small: SmallHead) -> None:
    """Make sure that a fitted head can be written, without writing it.

    Raises:
        Refusal: as of `emit_head`.
    """
    _leaving(small)
    if small.method.int8:
        check_int8(small.chain)
    for fitted in small.layers:
        if fitted.source >= 0 and not small.method.whole:
            _rows(small.chain, small.chain.layers[fitted.target])


class _Writer:
    """Emits the nodes of a small head, weights in the type of the head's own; `steps` are how a
    product is stored in 8 bits, empty in floats."""

    def __init__(self, chain: Chain, out: Emitter, *, activations: bool) -> None:
        root = chain.roots[0]
        self._chain, self._out, self._activations = chain, out, activations
        self._node = chain.layers[root].fc.node
        self._opset = chain.subject.graph.opset
        self._dtype = next(iter(chain.pieces(root))).dtype
        self._read: dict[tuple[str, Range], str] = {}
        self._ends: dict[Range, list[str]] = {}
        self._copied: dict[tuple[Node, str], str] = {}
        self._single: set[str] = set()  # what is in single precision, whatever the model is in

    def _store(self, values: Array, name: str) -> str:
        return self._out.constant(values.astype(self._dtype), name)

    def _weight(
        self, rows: Array, name: str, steps: tuple[Steps, ...], *, transposed: bool = False
    ) -> str:
        """A weight, a row for each output channel; returns the name of it, or of its transpose."""
        if not steps:
            return self._store(rows.T if transposed else rows, name)
        values, scale = integers(rows, steps[0].scale), steps[0].scale
        values = values.T if transposed else values
        axis = {"axis": int(transposed)}
        if self._activations:
            shifted = (values.astype(np.int16) + _MIDDLE).astype(np.uint8)
            zero = np.full(scale.shape, _MIDDLE, np.uint8)
            parts: dict[str, Array] = {"uint8": shifted, "scale": scale, "zero_point": zero}
        else:
            parts = {"int8": values, "scale": scale}
        inputs = [self._out.constant(item, f"{name}_{what}") for what, item in parts.items()]
        wide = self._emit("DequantizeLinear", inputs, name, axis)
        return wide if self._activations else self._cast(wide, self._dtype)

    def _bias(self, bias: Array, name: str, steps: tuple[Steps, ...]) -> str:
        if not self._activations:
            return self._store(bias, name)
        scale = bias_scale(steps[-1])
        values = np.rint(bias / scale.astype(np.float64)).astype(np.int32)
        inputs = [
            self._out.constant(values, f"{name}_int32"),
            self._out.constant(scale, f"{name}_scale"),
        ]
        return self._emit("DequantizeLinear", inputs, name, {"axis": 0})

    def _cast(self, name: str, dtype: np.dtype[Any]) -> str:
        """A tensor of single precision in another type."""
        if dtype == np.float32:
            return name
        to = onnx.helper.np_dtype_to_tensor_dtype(dtype)
        return self._emit("Cast", [name], f"{name}_cast", {"to": to})

    def _in_range(self, name: str, reads: Range | None) -> str:
        """A tensor as 8 bits hold it, in single precision; as it is where it stays in floats."""
        if reads is None:
            return name
        if (name, reads) not in self._read:
            single = name
            if self._dtype != np.float32 and name not in self._single:
                to = {"to": onnx.TensorProto.FLOAT}
                single = self._emit("Cast", [name], f"{name}_single", to)
            if reads not in self._ends:
                self._ends[reads] = [
                    self._out.constant(np.array(reads.scale, np.float32), f"{name}_scale"),
                    self._out.constant(np.array(reads.zero, np.uint8), f"{name}_zero_point"),
                ]
            ends = self._ends[reads]
            stored = self._emit("QuantizeLinear", [single, *ends], f"{name}_uint8")
            wide = self._emit("DequantizeLinear", [stored, *ends], f"{name}_in_range")
            self._read[name, reads] = wide
        return self._read[name, reads]

    def _product(
        self,
        op_type: str,
        inputs: list[str],
        name: str,
        steps: tuple[Steps, ...],
        attributes: Any = None,
    ) -> str:
        """An operator whose first input is in 8 bits where that is requested."""
        source, *others = inputs
        source = self._in_range(source, steps[0].reads if steps else None)
        return self._emit(op_type, [source, *others], name, attributes)

    def weighting(self, source: str, weighting: Weighting, reads: Range | None) -> str:
        """What turns a map `[N, C, spatial…]` into features `[N, C·r]`, which can hold so much for
        what reads them; returns their name."""
        name, spatial, steps = f"{source}_{weighting.kind}", weighting.spatial, weighting.steps
        if weighting.kind == "gap":
            source = self._emit("GlobalAveragePool", [source], name)
        elif weighting.kind == "grid":
            source = self._averaged(source, weighting, name)
        elif weighting.kind == "mask":
            assert weighting.rows is not None
            if len(spatial) > 1:
                shape = [0, self._chain.head.channels, weighting.rows.shape[1]]
                source = self._reshape(self._off_integers(source), shape)
            masks = self._weight(weighting.rows, f"{name}s", steps, transposed=True)
            source = self._product("MatMul", [source, masks], name, steps)
        elif weighting.kind == "depthwise":
            assert weighting.rows is not None
            names = f"{name}_kernel", name
            source = self._depthwise(source, weighting.rows, spatial, names, steps)
            source = self._in_range(source, reads)
        return self._emit("Flatten", [source], f"{name}_features", {"axis": 1})

    def separable(self, source: str, weighting: Separable, reads: Range | None) -> str:
        """Separable features `[N, K]` of a map `[N, C, spatial…]`, which can hold so much for what
        reads them; returns their name."""
        name, axes = f"{source}_separable", len(weighting.spatial)
        sizes, windows = weighting.spatial, weighting.windows
        if windows is not None:
            source, sizes = self._averaged(source, windows, f"{source}_grid"), windows.counts
        mixtures = weighting.channels.reshape(*weighting.channels.shape, *([1] * axes))
        first, second = weighting.steps[:1], weighting.steps[1:]
        inputs = [source, self._weight(mixtures, f"{name}_channels", first)]
        kernel = {"kernel_shape": [1] * axes}
        mixed = self._product("Conv", inputs, f"{name}_mixed", first, kernel)
        names = f"{name}_masks", name
        weighted = self._depthwise(mixed, weighting.rows, sizes, names, second)
        weighted = self._in_range(weighted, reads)
        return self._emit("Flatten", [weighted], f"{name}_features", {"axis": 1})

    def _averaged(self, source: str, windows: Weighting, name: str) -> str:
        """A map averaged to the windows of a grid."""
        shape = {"kernel_shape": list(windows.kernel), "strides": list(windows.strides)}
        return self._emit("AveragePool", [source], name, shape)

    def _depthwise(
        self,
        source: str,
        rows: Array,
        spatial: tuple[int, ...],
        names: tuple[str, str],
        steps: tuple[Steps, ...],
    ) -> str:
        """A convolution over the whole map, a kernel for each channel; both get these names."""
        kernel, name = names
        stored = self._weight(rows.reshape(len(rows), 1, *spatial), kernel, steps)
        shape = {"group": len(rows), "kernel_shape": list(spatial)}
        return self._product("Conv", [source, stored], name, steps, shape)

    def hidden(self, features: str, hidden: Hidden) -> str:
        """A Gemm and a Relu; returns the name of the rows `[N, units]`."""
        weight = self._weight(hidden.weight, f"{features}_weight", hidden.steps)
        bias = self._bias(hidden.bias, f"{features}_bias", hidden.steps)
        inputs, name = [features, weight, bias], f"{features}_hidden"
        rows = self._product("Gemm", inputs, name, hidden.steps, self._gemm)
        return self._emit("Relu", [rows], f"{features}_active")

    def layer(self, layer: ChainLayer, fitted: FittedLayer, features: str) -> str:
        """One or two Gemms; returns the name of the rows `[N, F]`."""
        self._node = layer.fc.node
        name, weight_name = f"{layer.result}_small", f"{layer.fc.weight}_small"
        for place, factor in enumerate(fitted.factors[:-1]):
            steps = fitted.steps[place : place + 1]
            if self._opset < _GEMM_WITHOUT_BIAS:
                inputs = [features, self._store(factor.T, weight_name)]
                features = self._emit("MatMul", inputs, name)
            else:
                inputs = [features, self._weight(factor, weight_name, steps)]
                features = self._product("Gemm", inputs, name, steps, {"transB": 1})
        steps = fitted.steps[-1:]
        weight = self._weight(fitted.factors[-1], weight_name, steps)
        inputs = [features, weight, self._bias(fitted.bias, f"{layer.result}_bias", steps)]
        rows = self._product("Gemm", inputs, name, steps, self._gemm)
        return self._cast(rows, self._dtype) if self._activations else rows

    def between(self, fitted: FittedLayer, rows: str) -> str:
        """What is between a layer and its source once more, for those outputs of the source that it
        reads; what only moves elements is left out. Returns the name of the rows."""
        chain = self._chain
        self._node = chain.layers[fitted.target].fc.node
        for node in chain.layers[fitted.target].between:
            if element_order.moves(node) or node.op_type in ("Identity", "Dropout"):
                continue
            if (node, rows) not in self._copied:
                inputs = [self._operand(node, name, rows, fitted) for name in node.inputs]
                self._copied[node, rows] = self._out.copy(node, inputs, f"{rows}_active")
            rows = self._copied[node, rows]
        return rows

    def _operand(self, node: Node, name: str, rows: str, fitted: FittedLayer) -> str:
        """An input of a node between two FCs for the outputs that are read."""
        graph = self._chain.subject.graph
        if not name or name == element_order.data_input(graph, node):
            return rows if name else ""
        value = self._chain.subject.probe.values.get(node.scope, name)
        width = self._chain.layers[fitted.source].fc.out_features
        if value is None or value.size not in (1, width):
            raise Refusal(f"'{name}' of {node.op_type} between its FCs does not go by units")
        if value.size > 1 and fitted.reads is not None:
            value = value.reshape(-1)[fitted.reads]
        return self._out.constant(value.reshape(() if value.size == 1 else -1), name)

    def give_back(self, layer: ChainLayer, rows: str) -> None:
        """Let rows `[N, F]` take the place of an FC's output, under its old name and in its
        shape."""
        chain, index, name = self._chain, layer.index, layer.result
        if index.ndim == 2 and is_plain(index, chain.samples):
            self._out.rename(rows, name)
        else:
            subject, node = chain.subject, layer.fc.node
            vector_to_old(subject, self._out, node, rows, index, name, chain.samples)

    @property
    def _gemm(self) -> dict[str, object]:
        """The attributes of a Gemm with a bias."""
        old = self._opset < _GEMM_BROADCASTS
        return {"transB": 1, "broadcast": 1} if old else {"transB": 1}

    def _off_integers(self, source: str) -> str:
        """A map as what a Reshape may read: ONNX Runtime (1.23) moves a DequantizeLinear of signed
        integers behind a Reshape, and from opset 21 on makes a QuantizeLinear of a wrong type
        there; it moves none behind a Flatten."""
        head, graph = self._chain.head, self._chain.subject.graph
        before = [node for root in head.roots for node in root.path]
        before += filter(None, [graph.main.producer(head.feature_map)])
        if not any(node.op_type == "DequantizeLinear" for node in before):
            return source
        return self._emit("Flatten", [source], f"{source}_flat", {"axis": 1})

    def _reshape(self, source: str, shape: list[int]) -> str:
        name = f"{source}_positions"
        if self._opset < _RESHAPE_INPUT:
            return self._emit("Reshape", [source], name, {"shape": shape})
        stored = self._out.constant(np.array(shape, np.int64), f"{name}_shape")
        return self._emit("Reshape", [source, stored], name)

    def _emit(self, op_type: str, inputs: list[str], name: str, attributes: Any = None) -> str:
        output = self._out.emit(self._node, op_type, inputs, name, attributes)
        if op_type == "DequantizeLinear" or self._single.intersection(inputs):
            self._single.add(output)
        return output


def _rows(chain: Chain, layer: ChainLayer) -> str:
    """The rows `[N, D]` that a layer after the first reads."""
    shape = chain.subject.probe.shapes.get(chain.subject.graph.main, layer.fc.data)
    order = layer.read.order
    plain = np.array_equal(order, np.arange(order.size))
    if shape is None or len(shape) != 2 or layer.fc.columns or not plain:
        raise Refusal(f"what FC '{layer.fc.node.name}' reads is not samples by features")
    return layer.fc.data


def _given_back(small: SmallHead) -> set[int]:
    """The fitted layers whose outputs get their old names: of a head that goes as a whole those
    that no other layer reads."""
    targets = {fitted.target for fitted in small.layers}
    return targets.intersection(small.chain.leaves) if small.method.whole else targets


def _leaving(small: SmallHead) -> set[Node]:
    """The FCs that are replaced, and all that stands between them where the
    whole head does.

    Raises:
        Refusal: something else reads what would go.
    """
    chain, graph = small.chain, small.chain.subject.graph
    whole = small.method.whole
    gone: set[Node] = set()
    for place, layer in enumerate(chain.layers):
        if whole or place in {fitted.target for fitted in small.layers}:
            gone.update(nodes_of(graph, layer.fc))
        if whole:
            gone.update(layer.between)
    given = {chain.layers[place].result for place in _given_back(small)}
    for node in gone:
        for name in node.outputs:
            if name in given or not name:
                continue
            others = [reader for reader in graph.main.readers(name) if reader not in gone]
            if others or graph.is_output(graph.main, name):
                raise Refusal(f"'{name}' inside the head is read elsewhere: it has to stay")
    return gone
