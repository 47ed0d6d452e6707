"""Writes a fitted head as ONNX nodes: few standard operators, the batch left free.

| Weighting | Nodes |
|---|---|
| `gap` | GlobalAveragePool → Flatten |
| `grid:K` | AveragePool → Flatten |
| `mask:R` | Reshape [0, C, S] → MatMul [S, R] → Flatten |
| `depthwise` | Conv with one kernel H × W per channel → Flatten |
| `separable:K` | Conv 1×1 to K channels → Conv with one kernel H × W per channel → Flatten |
| all positions | Flatten |

Each fitted layer is one Gemm, or two where it is cut to low rank (a MatMul and a Gemm before
version 11, when a Gemm must have a bias), in an mlp after a Gemm and a Relu; outputs get their old
names.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from onnxshare.analysis.heads.fully_connected import bias_node
from onnxshare.graph.editor import Editor
from onnxshare.graph.index import Node
from rewrites.edits.node_emitter import Emitter
from rewrites.head_as_maps.maps import is_plain, vector_to_old
from rewrites.refusal import Refusal
from rewrites.small_heads.fitted_head import FittedLayer, Hidden, SmallHead
from rewrites.small_heads.head_layers import Chain, ChainLayer
from rewrites.small_heads.spatial_weighting import Separable, Weighting
from rewrites.small_heads.training_data import carried_map

#: Since these versions Reshape takes its shape as an input, and Gemm broadcasts by itself and can
#: do without a bias.
_RESHAPE_INPUT = 5
_GEMM_BROADCASTS = 7
_GEMM_WITHOUT_BIAS = 11


def emit_head(chain: Chain, small: SmallHead) -> tuple[onnx.ModelProto, list[str], tuple[str, ...]]:
    """Put a fitted head into a copy of the model.

    Returns:
        The model, the names of the nodes that went, and of those that came.

    Raises:
        Refusal: the head's outputs cannot be given back in their old form, or something else
            reads what would go.
    """
    subject = chain.subject
    editor = Editor(subject.graph.proto, "fc-to-gap", subject.graph.model.payloads)
    builder, source = carried_map(chain, editor)
    first = chain.layers[chain.roots[0]].fc.node
    dtype = _dtype(chain)
    if isinstance(small.weighting, Separable):
        pooled = _emit_separable(builder.out, first, source, small.weighting, dtype)
    else:
        pooled = emit_weighting(builder.out, first, source, small.weighting, chain, dtype)
    if small.hidden is not None:
        pooled = _emit_hidden(chain, builder.out, first, pooled, small.hidden, dtype)
    for fitted in small.layers:
        layer = chain.layers[fitted.target]
        features = pooled if fitted.source < 0 else _rows(chain, layer)
        rows = _emit_layer(chain, builder.out, layer, fitted, features, dtype)
        _give_back(chain, builder.out, layer, rows)
    builder.drop(_leaving(chain, small))
    builder.finish()
    removed = [node.name for node in sorted(builder.replaced, key=lambda item: item.position)]
    return editor.apply(), removed, editor.added


def check_head(chain: Chain, small: SmallHead) -> None:
    """Make sure that a fitted head can be written, without writing it.

    Raises:
        Refusal: as of `emit_head`.
    """
    _leaving(chain, small)
    for fitted in small.layers:
        if fitted.source >= 0:
            _rows(chain, chain.layers[fitted.target])


def emit_weighting(
    out: Emitter, node: Node, source: str, weighting: Weighting, chain: Chain, dtype: np.dtype[Any]
) -> str:
    """Emit what turns a map `[N, C, spatial…]` into features `[N, C·r]`; returns their name."""
    channels, opset = chain.head.channels, chain.subject.graph.opset
    name = f"{source}_{weighting.kind}"
    if weighting.kind == "gap":
        source = out.emit(node, "GlobalAveragePool", [source], name)
    elif weighting.kind == "grid":
        windows = {
            "kernel_shape": list(weighting.kernel), "strides": list(weighting.strides)
        }  # fmt: skip
        source = out.emit(node, "AveragePool", [source], name, dict(windows))
    elif weighting.kind == "mask":
        assert weighting.rows is not None
        if len(weighting.spatial) > 1:
            source = _reshape(out, node, source, [0, channels, weighting.rows.shape[1]], opset)
        masks = out.constant(weighting.rows.T.astype(dtype), f"{name}s")
        source = out.emit(node, "MatMul", [source, masks], name)
    elif weighting.kind == "depthwise":
        assert weighting.rows is not None
        kernel = weighting.rows.reshape(channels, 1, *weighting.spatial).astype(dtype)
        stored = out.constant(kernel, f"{name}_kernel")
        shape = {"group": channels, "kernel_shape": list(weighting.spatial)}
        source = out.emit(node, "Conv", [source, stored], name, dict(shape))
    return out.emit(node, "Flatten", [source], f"{name}_features", {"axis": 1})


def _emit_separable(
    out: Emitter, node: Node, source: str, weighting: Separable, dtype: np.dtype[Any]
) -> str:
    """Emit separable features `[N, K]` of a map `[N, C, spatial…]`; returns their name."""
    name, (count, width) = f"{source}_separable", weighting.channels.shape
    axes = len(weighting.spatial)
    mixtures = weighting.channels.reshape(count, width, *([1] * axes))
    stored = out.constant(mixtures.astype(dtype), f"{name}_channels")
    mixed = out.emit(node, "Conv", [source, stored], f"{name}_mixed", {"kernel_shape": [1] * axes})
    kernel = weighting.rows.reshape(count, 1, *weighting.spatial)
    stored = out.constant(kernel.astype(dtype), f"{name}_masks")
    shape = {"group": count, "kernel_shape": list(weighting.spatial)}
    weighted = out.emit(node, "Conv", [mixed, stored], name, dict(shape))
    return out.emit(node, "Flatten", [weighted], f"{name}_features", {"axis": 1})


def _emit_hidden(
    chain: Chain, out: Emitter, node: Node, features: str, hidden: Hidden, dtype: np.dtype[Any]
) -> str:
    """A Gemm and a Relu; returns the name of the rows `[N, units]`."""
    weight = out.constant(hidden.weight.astype(dtype), f"{features}_weight")
    bias = out.constant(hidden.bias.astype(dtype), f"{features}_bias")
    rows = out.emit(node, "Gemm", [features, weight, bias], f"{features}_hidden", _gemm(chain))
    return out.emit(node, "Relu", [rows], f"{features}_active")


def _gemm(chain: Chain) -> dict[str, object]:
    """The attributes of a Gemm with a bias."""
    old = chain.subject.graph.opset < _GEMM_BROADCASTS
    return {"transB": 1, "broadcast": 1} if old else {"transB": 1}


def _reshape(out: Emitter, node: Node, source: str, shape: list[int], opset: int) -> str:
    name = f"{source}_positions"
    if opset < _RESHAPE_INPUT:
        return out.emit(node, "Reshape", [source], name, {"shape": shape})
    stored = out.constant(np.array(shape, np.int64), f"{name}_shape")
    return out.emit(node, "Reshape", [source, stored], name)


def _rows(chain: Chain, layer: ChainLayer) -> str:
    """The rows `[N, D]` that a layer after the first reads."""
    shape = chain.subject.probe.shapes.get(chain.subject.graph.main, layer.fc.data)
    order = layer.read.order
    plain = np.array_equal(order, np.arange(order.size))
    if shape is None or len(shape) != 2 or layer.fc.columns or not plain:
        raise Refusal(f"what FC '{layer.fc.node.name}' reads is no matrix of samples by features")
    return layer.fc.data


def _emit_layer(
    chain: Chain,
    out: Emitter,
    layer: ChainLayer,
    fitted: FittedLayer,
    features: str,
    dtype: np.dtype[Any],
) -> str:
    """One or two Gemms; returns the name of the rows `[N, F]`."""
    node, opset = layer.fc.node, chain.subject.graph.opset
    name, weight_name = f"{layer.result}_small", f"{layer.fc.weight}_small"
    for factor in fitted.factors[:-1]:
        if opset < _GEMM_WITHOUT_BIAS:
            stored = out.constant(factor.T.astype(dtype), weight_name)
            features = out.emit(node, "MatMul", [features, stored], name)
            continue
        stored = out.constant(factor.astype(dtype), weight_name)
        features = out.emit(node, "Gemm", [features, stored], name, {"transB": 1})
    weight = out.constant(fitted.factors[-1].astype(dtype), weight_name)
    bias = out.constant(fitted.bias.astype(dtype), f"{layer.result}_bias")
    return out.emit(node, "Gemm", [features, weight, bias], name, _gemm(chain))


def _give_back(chain: Chain, out: Emitter, layer: ChainLayer, rows: str) -> None:
    """Let rows `[N, F]` take the place of an FC's output, under its old name and in its shape."""
    if layer.index.ndim == 2 and is_plain(layer.index, chain.samples):
        out.rename(rows, layer.result)
    else:
        vector_to_old(
            chain.subject, out, layer.fc.node, rows, layer.index, layer.result, chain.samples
        )


def _leaving(chain: Chain, small: SmallHead) -> set[Node]:
    """The FCs that are replaced, and all that stands between them in a collapse or an mlp.

    Raises:
        Refusal: something else reads what would go.
    """
    graph = chain.subject.graph
    whole = small.method.whole
    gone: set[Node] = set()
    for place, layer in enumerate(chain.layers):
        if whole or place in {fitted.target for fitted in small.layers}:
            gone.add(layer.fc.node)
            adder = bias_node(graph, layer.fc)
            gone.update([adder] if adder is not None else [])
        if whole:
            gone.update(layer.between)
    given = {chain.layers[fitted.target].result for fitted in small.layers}
    for node in gone:
        for name in node.outputs:
            if name in given or not name:
                continue
            others = [reader for reader in graph.main.readers(name) if reader not in gone]
            if others or graph.is_output(graph.main, name):
                raise Refusal(f"'{name}' inside the head is read elsewhere: it has to stay")
    return gone


def _dtype(chain: Chain) -> np.dtype[Any]:
    root = chain.roots[0]
    return next(iter(chain.pieces(root))).dtype
