"""A convolution over its whole map → FC: the way back from `fc_to_conv.py`. Exact.

On CPUs at larger batches a matrix product usually runs faster than the convolution that equals
it. The weights are the same; the fixed input size comes back.

    y[n, f] = Σ_{c,s} W[f, c, s] · map[n, c, s] + b[f] = Σ_k W[f, k] · flat[n, k] + b[f].

In 8 bits ConvInteger becomes MatMulInteger, and QLinearConv QLinearMatMul, or ONNX Runtime's QGemm
where there is a bias: the same sums of integers, scaled by the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from onnx import TensorProto

from onnxshare.analysis.heads import element_order
from onnxshare.analysis.heads.fully_connected import CONTRIB
from onnxshare.analysis.heads.head import Subject
from onnxshare.graph.index import Node
from onnxshare.graph.operator_traits import Effect, traits_of
from rewrites.base import Change, Fitting, Options, Rewrite, Site, replaced
from rewrites.edits.node_emitter import Emitter
from rewrites.edits.node_uses import may_be_given, overridable, quantized, values_of

#: Operator → at which input its weight is.
_WEIGHT = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}


@dataclass(frozen=True)
class ConvToFc(Rewrite):
    """Turns convolutions whose kernel covers the whole map into FCs."""

    name = "conv-to-fc"
    together = True
    in_bodies = True

    def sites(self, subject: Subject, options: Options) -> list[Site]:
        """One site per convolution over a whole map of more than one position, and per 1×1
        convolution on one position right after such a site."""
        found: list[Site] = []
        after: set[str] = set()  # results of such sites, and what element-wise nodes make of them
        for node in subject.graph.main.nodes:
            follows = not after.isdisjoint(node.inputs)
            if traits_of(node).effect is Effect.CONVOLUTION and _covers(subject, node):
                if follows or prod(_sizes(subject, node)[2:]) > 1:
                    found.append(self._site(subject, node))
                    after.update(node.outputs)
            elif _came_from_here(node) or (follows and element_order.elementwise(node)):
                after.update(node.outputs)
        return found

    def _site(self, subject: Subject, node: Node) -> Site:
        stored = [subject.graph.source(node.scope, name) for name in node.inputs[1:] if name]
        before = sum(item.elements for item in stored if item is not None)
        weight = subject.graph.source(node.scope, _weight(node))
        reason = None
        if not node.standard or node.op_type not in _WEIGHT:
            reason = f"it is a {node.op_type}"
        elif weight is None or (node.op_type == "Conv" and any(item is None for item in stored)):
            reason = "its weights are computed"
        elif overridable(subject.graph, weight):
            reason = may_be_given(weight)
        elif node.op_type != "Conv" and quantized(subject.graph, node.scope, _weight(node)):
            reason = "its weight is computed"
        elif int(node.attribute("group", 1)) != 1:
            reason = "it is grouped: an FC would need weights that are zero"
        elif (
            node.op_type == "Conv"
            and subject.probe.shapes.dtype(node.scope, node.inputs[0]) not in _TYPES
        ):
            reason = "Gemm does not compute in its element type"
        if reason is not None:
            return Site(self.name, node.name, None, reason, before, None, target=node)
        size = "×".join(map(str, _sizes(subject, node)[2:]))
        detail = f"a {size} convolution becomes an FC"
        return Site(self.name, node.name, True, None, before, before, detail, node)

    def apply(self, subject: Subject, site: Site, options: Options, fitting: Fitting) -> Change:
        """Make the change: Flatten → Gemm → Reshape back to a map of one position."""
        node: Node = site.target
        editor = subject.editor(self.name)
        out, result = Emitter(editor), node.outputs[0]
        flat = out.emit(node, "Flatten", [node.inputs[0]], f"{result}_flat", {"axis": 1})
        emit = _gemm if node.op_type == "Conv" else _integers
        rows = emit(subject, out, node, flat)
        # Back to a map of one position: Unsqueeze needs no size, so N stays dynamic.
        out.emit_axes(node, "Unsqueeze", rows, range(2, len(_sizes(subject, node))), result)
        return replaced(site, editor, [node], out.moved)


_TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)


def _gemm(subject: Subject, out: Emitter, node: Node, flat: str) -> str:
    """A Conv as a Gemm; a weight in 8 bits is dequantized as before."""
    opset, bias = subject.graph.opset, node.input(2)
    inputs = [flat, _matrix(subject, out, node)]
    if bias:
        inputs.append(bias)
    elif opset < 11:  # where Gemm must have a bias
        dtype = values_of(subject, node.scope, _weight(node)).dtype
        outputs = (subject.probe.shapes.sizes(node.scope, node.outputs[0]) or (0, 0))[1]
        inputs.append(out.constant(np.zeros(outputs, dtype), f"{node.outputs[0]}_bias"))
    turned = {"transB": 1, "broadcast": 1} if opset < 7 else {"transB": 1}
    return out.emit(node, "Gemm", inputs, f"{node.outputs[0]}_rows", dict(turned))


def _matrix(subject: Subject, out: Emitter, node: Node) -> str:
    """The kernel of a Conv as `[out, in]`: moved as it is stored, behind its DequantizeLinear
    where that has one scale, or one per output; else flattened after it."""
    name, wanted = node.inputs[1], f"{node.inputs[1]}_fc"
    if not quantized(subject.graph, node.scope, name):
        weight = values_of(subject, node.scope, name)
        return out.move(weight.reshape(weight.shape[0], -1), wanted, name)
    maker = node.scope.producer(name)
    if maker is not None and maker.op_type == "DequantizeLinear" and maker.standard:
        stored = values_of(subject, node.scope, maker.inputs[0])
        scale = values_of(subject, node.scope, maker.inputs[1])
        by_output = int(maker.attribute("axis", 1)) % stored.ndim == 0
        if not maker.attribute("block_size", 0) and (scale.size == 1 or by_output):
            matrix = stored.reshape(stored.shape[0], -1)
            moved = out.move(matrix, f"{maker.inputs[0]}_fc", maker.inputs[0])
            axis: dict[str, object] | None = {"axis": 0} if scale.size > 1 else None
            return out.copy(maker, [moved, *maker.inputs[1:]], wanted, axis)
    return out.emit(node, "Flatten", [name], wanted, {"axis": 1})


def _integers(subject: Subject, out: Emitter, node: Node, flat: str) -> str:
    """A convolution in 8 bits as the matrix product that computes the same sums."""
    place, rows = _WEIGHT[node.op_type], f"{node.outputs[0]}_rows"
    weight = values_of(subject, node.scope, node.inputs[place])
    matrix = weight.reshape(weight.shape[0], -1)
    inputs = [flat, *node.inputs[1:]]
    moved = out.move(matrix.T, f"{node.inputs[place]}_fc", node.inputs[place], transposed=True)
    inputs[place] = moved
    if node.op_type == "ConvInteger":
        return out.emit(node, "MatMulInteger", inputs, rows)
    bias = inputs[8:]
    if not any(bias):
        return out.emit(node, "QLinearMatMul", inputs[:8], rows)
    return out.emit(node, "QGemm", [*inputs[:6], *bias, *inputs[6:8]], rows, domain=CONTRIB)


def _weight(node: Node) -> str:
    """The name of the weight of a convolution."""
    return node.inputs[_WEIGHT.get(node.op_type, 1)]


def _came_from_here(node: Node) -> bool:
    """Whether an earlier step of this rewrite made a node: the FC that a site became."""
    return any(
        entry.key == "onnxshare.rewrite" and entry.value == ConvToFc.name
        for entry in node.proto.metadata_props
    )


def _sizes(subject: Subject, node: Node) -> tuple[int, ...]:
    """The sizes of the map that a convolution reads, its channels in front."""
    sizes = subject.probe.shapes.sizes(node.scope, node.inputs[0]) or ()
    last = node.op_type.startswith("Nhwc") or node.attribute("channels_last", 0)
    return (*sizes[:1], *sizes[-1:], *sizes[1:-1]) if last else sizes


def _covers(subject: Subject, node: Node) -> bool:
    """Whether the kernel meets each element of the map exactly once, at one position."""
    sizes = _sizes(subject, node)
    kernel = subject.probe.shapes.sizes(node.scope, _weight(node))
    shape = tuple(node.attribute("kernel_shape", [])) or (kernel or ())[2:]
    output = subject.probe.shapes.sizes(node.scope, node.outputs[0])
    return (
        len(sizes) > 2
        and shape == sizes[2:]
        and not np.any(node.attribute("pads", [0]))
        and output is not None
        and prod(output) == prod(output[:1]) * (kernel or (0,))[0]
    )
