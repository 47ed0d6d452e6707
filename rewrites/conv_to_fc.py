"""A convolution over its whole map → FC: the way back from `fc_to_conv.py`. Exact.

On CPUs at larger batches a matrix product usually runs faster than the convolution that equals
it. The weights are the same; the fixed input size comes back.

    y[n, f] = Σ_{c,s} W[f, c, s] · map[n, c, s] + b[f] = Σ_k W[f, k] · flat[n, k] + b[f].
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from onnx import TensorProto

from onnxshare.analysis.heads import element_order
from onnxshare.analysis.heads.head import Subject
from onnxshare.graph.index import Node
from rewrites.base import Change, Fitting, Options, Rewrite, Site, replaced
from rewrites.edits.node_emitter import Emitter
from rewrites.edits.node_uses import may_be_given, overridable, quantized, values_of


@dataclass(frozen=True)
class ConvToFc(Rewrite):
    """Turns convolutions whose kernel covers the whole map into FCs."""

    name = "conv-to-fc"
    together = True

    def sites(self, subject: Subject, options: Options) -> list[Site]:
        """One site per convolution over a whole map of more than one position, and per 1×1
        convolution on one position right after such a site."""
        found: list[Site] = []
        after: set[str] = set()  # results of such sites, and what element-wise nodes make of them
        for node in subject.graph.main.nodes:
            follows = not after.isdisjoint(node.inputs)
            if node.standard and node.op_type == "Conv" and _covers(subject, node):
                if follows or prod(_sizes(subject, node)[2:]) > 1:
                    found.append(self._site(subject, node))
                    after.update(node.outputs)
            elif _came_from_here(node) or (follows and element_order.elementwise(node)):
                after.update(node.outputs)
        return found

    def _site(self, subject: Subject, node: Node) -> Site:
        stored = [subject.graph.source(node.scope, name) for name in node.inputs[1:] if name]
        before = sum(item.elements for item in stored if item is not None)
        reason = None
        if any(item is None for item in stored):
            reason = "its weights are computed"
        elif stored[0] is not None and overridable(subject.graph, stored[0]):
            reason = may_be_given(stored[0])
        elif quantized(subject.graph, node.scope, node.inputs[1]):
            reason = "its weight is quantised"
        elif int(node.attribute("group", 1)) != 1:
            reason = "it is grouped: an FC would need weights that are zero"
        elif subject.probe.shapes.dtype(node.scope, node.inputs[0]) not in _TYPES:
            reason = "Gemm does not compute in its element type"
        if reason is not None:
            return Site(self.name, node.name, None, reason, before, None, target=node)
        size = "×".join(map(str, _sizes(subject, node)[2:]))
        detail = f"a {size} convolution becomes an FC"
        return Site(self.name, node.name, True, None, before, before, detail, node)

    def apply(self, subject: Subject, site: Site, options: Options, fitting: Fitting) -> Change:
        """Make the change: Flatten → Gemm → Reshape back to a map of one position."""
        node: Node = site.target
        weight = values_of(subject, node.scope, node.inputs[1])
        editor = subject.editor(self.name)
        out, result = Emitter(editor), node.outputs[0]
        flat = out.emit(node, "Flatten", [node.inputs[0]], f"{result}_flat", {"axis": 1})
        matrix = weight.reshape(weight.shape[0], -1)
        inputs = [flat, out.move(matrix, f"{node.inputs[1]}_fc", node.inputs[1])]
        if len(node.inputs) > 2 and node.inputs[2]:
            inputs.append(node.inputs[2])
        elif editor.opset < 11:  # where Gemm must have a bias
            zeros = np.zeros(weight.shape[0], weight.dtype)
            inputs.append(editor.constant(zeros, f"{result}_bias"))
        turned = {"transB": 1, "broadcast": 1} if editor.opset < 7 else {"transB": 1}
        rows = out.emit(node, "Gemm", inputs, f"{result}_rows", dict(turned))
        # Back to a map of one position: Unsqueeze needs no size, so N stays dynamic.
        out.emit_axes(node, "Unsqueeze", rows, range(2, len(_sizes(subject, node))), result)
        return replaced(site, editor, [node], out.moved)


_TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)


def _came_from_here(node: Node) -> bool:
    """Whether an earlier step of this rewrite made a node: the FC that a site became."""
    return any(
        entry.key == "onnxshare.rewrite" and entry.value == ConvToFc.name
        for entry in node.proto.metadata_props
    )


def _sizes(subject: Subject, node: Node) -> tuple[int, ...]:
    return subject.probe.shapes.sizes(node.scope, node.inputs[0]) or ()


def _covers(subject: Subject, node: Node) -> bool:
    """Whether the kernel meets each element of the map exactly once, at one position."""
    sizes = _sizes(subject, node)
    kernel = subject.graph.source(node.scope, node.inputs[1])
    if len(sizes) < 3 or kernel is None:
        return False
    shape = tuple(node.attribute("kernel_shape") or kernel.shape[2:])
    output = subject.probe.shapes.sizes(node.scope, node.outputs[0])
    return (
        shape == sizes[2:]
        and not np.any(node.attribute("pads", [0]))
        and output is not None
        and prod(output[2:]) == 1
    )
