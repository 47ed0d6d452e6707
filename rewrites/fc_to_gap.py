"""FC after a feature map → global average pooling and a small FC.

With z[n, c] = 1/S Σ_s map[n, c, s] (S positions) and a weight that is constant over space,
W[f, c, s] = w[f, c] for all s,

    y[n, f] = Σ_{c,s} W[f, c, s] · map[n, c, s] + b[f] = Σ_c (S · w[f, c]) · z[n, c] + b[f],

so V = S · w is exact: C weights per output instead of C · S (Lin, Chen and Yan, "Network in
Network", 2014). Weights of real networks are not constant over space. Then a small head is fitted
to the head's own outputs on samples (`small_heads/replace_head.py`): pooling, or another member of
the family of `small_heads/methods.py`. That is an approximation, made only when requested, and
measured on samples it was not fitted to.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain
from math import prod
from typing import TYPE_CHECKING

import numpy as np
from onnx import helper

from onnxshare.analysis.heads.fully_connected import nodes_of
from onnxshare.analysis.heads.head import (
    Head,
    Root,
    Subject,
    uniformity,
)
from onnxshare.graph.editor import Editor
from onnxshare.graph.index import Node
from onnxshare.io.tensors import Array
from onnxshare.support.option_text import option
from rewrites.base import Change, Fitting, Options, Rewrite, Site, fc_params
from rewrites.edits.node_uses import quantized
from rewrites.head_as_maps.fc_weights import bias_of, weight_pieces
from rewrites.refusal import Refusal

if TYPE_CHECKING:  # `inspect` asks about heads, few of which are built
    from rewrites.head_as_maps.head_builder import HeadBuilder
    from rewrites.head_as_maps.maps import Columns

#: The methods for which exact pooling will do.
_ALLOWS_EXACT = ("", "gap", "auto")

#: Weights this close to constant over space, relative to the largest, are so within rounding.
_ROUNDING = 4


_DIFFERS = "its weights differ over space"


#: Methods that are not names of a head of their own.
_UNNAMED = ("", "auto")


@dataclass(frozen=True)
class _Plan:
    """An FC that reads maps.

    Attributes:
        root: the FC.
        read: which of its columns read which map.
        pooled: the tensor of the means of all these maps.
    """

    root: Root
    read: tuple[Columns, ...]
    pooled: str

    @property
    def spared(self) -> int:
        """How many weights of each output go."""
        return sum(prod(item.part.sizes) - item.part.sizes[0] for item in self.read)


@dataclass(frozen=True)
class FcToGap(Rewrite):
    """Turns the FCs that read a feature map into global average pooling and smaller FCs.

    Attributes:
        approximate, method, keep, max_error, keep_top, within, max_loss, objective, time_limit,
            search_share, int8_activations: as of `Options`; None leaves it to the call.
    """

    approximate: bool | None = None
    method: str | None = None
    keep: float | None = None
    max_error: float | None = None
    keep_top: tuple[int, float] | None = None
    within: tuple[int, float] | None = None
    max_loss: float | None = None
    objective: str | None = None
    time_limit: float | None = None
    search_share: float | None = None
    int8_activations: bool | None = None

    name = "fc-to-gap"
    together = True
    in_bodies = True

    def sites(self, subject: Subject, options: Options) -> list[Site]:
        """One site per head; exact where the weights are constant over space."""
        return [self._site(subject, head, options) for head in subject.heads]

    def _site(self, subject: Subject, head: Head, options: Options) -> Site:
        before = fc_params(subject.graph, [root.layer for root in head.roots])
        first = head.layers[0].node.name
        reason = head.refused
        if reason is None and head.shared:
            reason = "its feature map has one position: there is nothing to pool"
        nothing = reason is not None and head.shared
        plans: list[_Plan] = []
        if reason is None:
            try:
                plans = self._plan(subject, head, None)[1]
            except Refusal as refusal:
                reason = str(refusal)
        if reason is not None:
            site = Site(self.name, first, None, reason, before, None, target=head)
            return replace(site, nothing_to_do=nothing)
        if options.method == "exact":
            words = "the convolution over the whole map"
            return Site(self.name, first, True, None, before, before, words, head)
        spared: dict[object, int] = {}  # of each weight, however many FCs read it
        for plan in plans:
            layer = plan.root.layer
            stored = subject.graph.source(layer.node.scope, layer.weight)
            spared[stored.key if stored else layer.node] = plan.spared * layer.out_features
        after = before - sum(spared.values())
        exact = constant_over_space(subject, head, plans)
        if exact == "no" and head.joined:
            why = f"its FC reads several feature maps, and {_DIFFERS}"
            reason = f"{why}: use {option('--fc-to-conv')}, which is exact"
            return Site(self.name, first, None, reason, before, None, target=head)
        if exact != "no" and options.method not in _ALLOWS_EXACT:
            words = f"'{options.method}' was requested, although pooling would be exact"
            return Site(self.name, first, False, None, before, after, words, head)
        detail = {
            "exact": "its weights are constant over space, bit for bit",
            "rounding": "its weights are constant over space within rounding",
            "no": f"{_DIFFERS}: pooling only approximates it",
        }[exact]
        return Site(self.name, first, exact != "no", None, before, after, detail, head)

    def apply(self, subject: Subject, site: Site, options: Options, fitting: Fitting) -> Change:
        """Make the change, and say where weights in integers become weights in float.

        Raises:
            Refusal: the site is not exact and there are no samples to fit to.
        """
        change = self._change(subject, site, options, fitting)
        if options.method == "exact" or _in_integers(change):
            return change
        graph, method = subject.graph, "gap" if options.method in _UNNAMED else options.method
        way = option(f"--method {method}+int8")
        layers = (root.layer for root in site.target.roots)
        named = [x.node.name for x in layers if quantized(graph, x.node.scope, x.weight)]
        said = tuple(
            f"the weight of '{name}' was in integers, and the new one is in float: {way} writes it "
            "in 8 bits"
            for name in named
        )
        return replace(change, notes=(*change.notes, *said))

    def _change(self, subject: Subject, site: Site, options: Options, fitting: Fitting) -> Change:
        from rewrites.small_heads.replace_head import (  # only fits need it, inspections do not
            exact_form,
            shrink,
        )

        head: Head = site.target
        if options.method == "exact":
            return exact_form(subject, site, options, fitting, "")
        if not site.exact:
            return shrink(subject, site, options, fitting)
        editor = subject.editor(self.name)
        builder, plans = self._plan(subject, head, editor)
        constants: dict[tuple[object, ...], str] = {}
        for plan in plans:
            _emit_layer(builder, subject, plan, constants)
        builder.finish()
        last = (nodes_of(subject.graph, plan.root.layer)[-1] for plan in plans)
        results = {node.outputs[0]: node.outputs[0] for node in last}
        return Change(site, editor.apply(), builder.removed, editor.added, results)

    def _plan(
        self, subject: Subject, head: Head, editor: Editor | None
    ) -> tuple[HeadBuilder, list[_Plan]]:
        """Carry what stands between the maps and their FCs over to the maps, and pool there."""
        from rewrites.head_as_maps.head_builder import HeadBuilder

        builder = HeadBuilder.of(subject, editor, (head,))
        pooled: dict[str, str] = {}
        path = {node for root in head.roots for node in root.path}
        for node in sorted(path, key=lambda item: item.position):
            builder.carry(node)
        plans = []
        for root in head.roots:
            read = builder.check(root.layer)
            plans.append(_Plan(root, read, _pooled(builder, root.layer.node, read, pooled)))
        return builder, plans


def _in_integers(change: Change) -> bool:
    """Whether the new weights are in integers."""
    added = set(change.added)
    nodes = (node for node in change.model.graph.node if node.name in added)
    return any(node.op_type == "DequantizeLinear" for node in nodes)


def _pooled(
    builder: HeadBuilder, node: Node, read: tuple[Columns, ...], known: dict[str, str]
) -> str:
    """Emit the means over space of all maps that an FC reads, side by side; each map once."""
    out = builder.out
    for part in (columns.part for columns in read):
        if part.name not in known:
            name = part.name
            if prod(part.sizes[1:]) > 1:
                name = out.emit(node, "GlobalAveragePool", [name], f"{name}_gap")
            name = out.emit(node, "Flatten", [name], f"{part.name}_pooled", {"axis": 1})
            known[part.name] = name
    names = [known[columns.part.name] for columns in read]
    if len(names) == 1:
        return names[0]
    return out.emit(node, "Concat", names, f"{node.outputs[0]}_pooled", {"axis": 1})


def constant_over_space(subject: Subject, head: Head, plans: list[_Plan]) -> str:
    """Whether all weights that read the map are constant over space: `exact` (bit for bit),
    `rounding` (all within a few units in the last place of the largest weight), or `no`."""
    values = subject.probe.values
    share = uniformity(head, values)  # a sample of the weights settles most cases
    if share is not None and share < 1 - 1e-6:
        return "no"
    answer = "exact"
    for plan in plans:
        pieces = chain.from_iterable(
            weight_pieces(plan.root.layer, values, columns) for columns in plan.read
        )
        spread = largest = np.float64(0.0)
        unit = 0.0
        equal = True
        for weight in pieces:
            if np.array_equal(weight, np.broadcast_to(weight[:, :, :1], weight.shape)):
                largest = np.maximum(largest, np.abs(weight[:, :, 0].astype(np.float64)).max())
                continue
            equal = False
            wide = weight.astype(np.float64)
            # np.maximum, unlike max, keeps a NaN: such weights are not constant.
            spread = np.maximum(spread, np.abs(wide - wide.mean(axis=2, keepdims=True)).max())
            largest = np.maximum(largest, np.abs(wide).max())
            unit = float(np.finfo(weight.dtype).eps) if weight.dtype.kind == "f" else 0.0
        if not equal and not spread <= _ROUNDING * unit * largest:
            return "no"
        answer = answer if equal else "rounding"
    return answer


def _emit_layer(
    builder: HeadBuilder, subject: Subject, plan: _Plan, known: dict[tuple[object, ...], str]
) -> None:
    """Gemm on the pooled features, its output under the old name and in the old shape; equal
    constants of several are stored once, as `known`.

    V = Σ_s W[f, c, s], which is S · w[f, c] where the weights are constant over space."""
    layer = plan.root.layer
    pieces = [weight_pieces(layer, subject.probe.values, columns) for columns in plan.read]
    summed = [[item.sum(axis=2, dtype=np.float64) for item in each] for each in pieces]
    weight = np.concatenate([np.concatenate(each) for each in summed], axis=1) * layer.alpha
    _, bias = bias_of(subject, layer)
    dtype = helper.tensor_dtype_to_np_dtype(
        subject.probe.shapes.dtype(subject.graph.main, layer.data) or 1
    )

    def constant(values: Array, wanted: str) -> str:
        key = values.shape, values.dtype, values.tobytes()
        if key not in known:
            known[key] = builder.out.constant(values, wanted)
        return known[key]

    inputs = [plan.pooled, constant(weight.astype(dtype), f"{layer.weight}_gap")]
    if bias is None and subject.graph.opset < 11:  # where Gemm must have one
        bias = np.zeros(layer.out_features, dtype)
    if bias is not None:
        inputs.append(constant(bias, f"{layer.node.outputs[0]}_bias"))
    attributes: dict[str, object] = {"transB": 1}
    if subject.graph.opset < 7:
        attributes["broadcast"] = 1  # before opset 7 a bias had to ask for it
    rows = builder.out.emit(layer.node, "Gemm", inputs, f"{layer.node.outputs[0]}_gap", attributes)
    builder.give_back(layer, rows)
