"""FC after a feature map → global average pooling and a small FC.

With z[n, c] = 1/S Σ_s map[n, c, s] (S positions) and a weight that is constant over space,
W[f, c, s] = w[f, c] for all s,

    y[n, f] = Σ_{c,s} W[f, c, s] · map[n, c, s] + b[f] = Σ_c (S · w[f, c]) · z[n, c] + b[f],

so V = S · w is exact: C weights per output instead of C · S (Lin, Chen and Yan, "Network in
Network", 2014). Weights of real networks are not constant over space. Then a small head is fitted
to the head's own outputs on samples (`small_heads/replace_head.py`): pooling, or another member of
the family of `small_heads/methods.py`. That is an approximation, made only when asked for, and
measured on samples it was not fitted to.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import prod

import numpy as np

from onnxshare.analysis.heads.fully_connected import FullyConnected, bias_elements, bias_node
from onnxshare.analysis.heads.head import (
    Head,
    Root,
    Subject,
    spatial_weight,
    uniformity,
    weight_pieces,
)
from onnxshare.graph.editor import Editor
from onnxshare.graph.index import Node
from onnxshare.io.tensors import Array
from rewrites.base import Change, Fitting, Options, Rewrite, Site
from rewrites.head_as_maps.fc_weights import bias_of, quantised_weight
from rewrites.head_as_maps.head_builder import HeadBuilder
from rewrites.refusal import Refusal

#: The methods for which exact pooling will do.
_ALLOWS_EXACT = ("", "gap", "auto")

#: Weights this close to constant over space, relative to the largest, are so within rounding.
_ROUNDING = 4


@dataclass(frozen=True)
class _Pooled:
    """An FC that reads the map, with the matrix that takes its place."""

    root: Root
    weight: Array
    bias: Array | None


@dataclass(frozen=True)
class FcToGap(Rewrite):
    """Turns the FCs that read a feature map into global average pooling and smaller FCs.

    Attributes:
        approximate, method, keep, max_error, objective: as of `Options`; None leaves it to the
            call.
    """

    approximate: bool | None = None
    method: str | None = None
    keep: float | None = None
    max_error: float | None = None
    objective: str | None = None

    name = "fc-to-gap"
    together = True

    def sites(self, subject: Subject, options: Options) -> list[Site]:
        """One site per head; exact where the weights are constant over space."""
        return [self._site(subject, head, options) for head in subject.heads]

    def _site(self, subject: Subject, head: Head, options: Options) -> Site:
        before = _params(subject, head, prod(head.spatial))
        first = head.layers[0].node.name
        reason = head.refused
        if reason is None and head.shared:
            reason = "its feature map has one position: it is pooled already"
        if reason is None and head.joined:
            reason = "its FC reads several feature maps"
        if reason is None:
            try:
                self._plan(subject, head, None)
            except Refusal as refusal:
                reason = str(refusal)
        if reason is not None:
            return Site(self.name, first, None, reason, before, None, target=head)
        if options.method == "exact":
            words = "the convolution over the whole map"
            return Site(self.name, first, True, None, before, before, words, head)
        after = _params(subject, head, 1)
        exact = constant_over_space(subject, head)
        if exact != "no" and options.method not in _ALLOWS_EXACT:
            words = f"'{options.method}' was asked for, although pooling would be exact"
            return Site(self.name, first, False, None, before, after, words, head)
        detail = {
            "exact": "its weights are constant over space, bit for bit",
            "rounding": "its weights are constant over space within rounding",
            "no": "its weights differ over space: pooling only approximates it",
        }[exact]
        return Site(self.name, first, exact != "no", None, before, after, detail, head)

    def apply(self, subject: Subject, site: Site, options: Options, fitting: Fitting) -> Change:
        """Make the change.

        Raises:
            Refusal: the site is not exact and there are no samples to fit to.
        """
        from rewrites.small_heads.replace_head import (  # only fits need it, inspections do not
            exact_form,
            shrink,
        )

        head: Head = site.target
        if options.method == "exact":
            return exact_form(subject, site, options, fitting, "")
        if not site.exact:
            return shrink(subject, site, options, fitting)
        pooled = [_exact(subject, head, root) for root in head.roots]
        editor = subject.editor(self.name)
        builder, pooled_maps = self._plan(subject, head, editor)
        for item in pooled:
            _emit_layer(builder, subject, item, pooled_maps[item.root.layer.node])
        builder.finish()
        results = {name: name for name in (_result(subject, p.root.layer) for p in pooled)}
        return Change(site, editor.apply(), builder.removed, editor.added, results)

    def _plan(
        self, subject: Subject, head: Head, editor: Editor | None
    ) -> tuple[HeadBuilder, dict[Node, str]]:
        """Carry what stands between the map and its FCs over to the map, and pool there."""
        builder = HeadBuilder(subject, editor, head.feature_map)
        pooled: dict[str, str] = {}
        result: dict[Node, str] = {}
        path = {node for root in head.roots for node in root.path}
        for node in sorted(path, key=lambda item: item.position):
            builder.carry(node)
        for root in head.roots:
            layer = root.layer
            builder.check(layer)
            if quantised_weight(subject, layer) is not None:
                raise Refusal(f"the weight of FC '{layer.node.name}' is quantised")
            source = builder.head_maps[layer.data].name
            if source not in pooled:
                emit = partial(builder.out.emit, layer.node)
                mean = emit("GlobalAveragePool", [source], f"{source}_gap")
                pooled[source] = emit("Flatten", [mean], f"{source}_pooled", {"axis": 1})
            result[layer.node] = pooled[source]
        return builder, result


def constant_over_space(subject: Subject, head: Head) -> str:
    """Whether all weights that read the map are constant over space: `exact` (bit for bit),
    `rounding` (all within a few units in the last place of the largest weight), or `no`."""
    values = subject.probe.values
    share = uniformity(head, values)  # a sample of the weights settles most cases
    if share is not None and share < 1 - 1e-6:
        return "no"
    answer = "exact"
    for root in head.roots:
        pieces = weight_pieces(root, head, values)
        if pieces is None:
            return "no"
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


def _params(subject: Subject, head: Head, positions: int) -> int:
    """Parameters of the FCs that read the map, if each channel had this many positions."""
    return sum(
        head.channels * positions * root.layer.out_features
        + bias_elements(subject.graph, root.layer)
        for root in head.roots
    )


def _exact(subject: Subject, head: Head, root: Root) -> _Pooled:
    """V = Σ_s W[f, c, s], which is S · w[f, c] where the weights are constant over space."""
    weight = spatial_weight(root, head, subject.probe.values)
    if weight is None:
        raise Refusal(f"the weight of FC '{root.layer.node.name}' cannot be read")
    summed = weight.sum(axis=2, dtype=np.float64) * root.layer.alpha
    _, bias = bias_of(subject, root.layer)
    return _Pooled(root, summed.astype(weight.dtype), bias)


def _result(subject: Subject, layer: FullyConnected) -> str:
    """The tensor that holds the FC's output with its bias."""
    adder = bias_node(subject.graph, layer)
    return (adder or layer.node).outputs[0]


def _emit_layer(builder: HeadBuilder, subject: Subject, item: _Pooled, source: str) -> None:
    """Gemm on the pooled features, its output under the old name and in the old shape."""
    layer = item.root.layer
    inputs = [source, builder.out.constant(item.weight, f"{layer.weight}_gap")]
    bias = item.bias
    if bias is None and subject.graph.opset < 11:  # where Gemm must have one
        bias = np.zeros(layer.out_features, item.weight.dtype)
    if bias is not None:
        inputs.append(builder.out.constant(bias, f"{layer.node.outputs[0]}_bias"))
    attributes: dict[str, object] = {"transB": 1}
    if subject.graph.opset < 7:
        attributes["broadcast"] = 1  # before opset 7 a bias had to ask for it
    rows = builder.out.emit(layer.node, "Gemm", inputs, f"{layer.node.outputs[0]}_gap", attributes)
    builder.give_back(layer, rows)
