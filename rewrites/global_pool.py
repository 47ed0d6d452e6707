"""Average pooling over the whole map, by its size or by its axes → GlobalAveragePool. Exact.

A window as large as the map has one position, and the mean over all spatial axes is the same mean
(https://onnx.ai/onnx/operators/onnx__GlobalAveragePool.html):

    AveragePool(x)[n, c] = 1/S · Σ_s x[n, c, s] = ReduceMean(x; spatial axes)[n, c]

for S positions. Padding under the window makes no difference where it is not counted. Where the
window was tied to one size of the map, the layer is no longer.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnx import TensorProto

from onnxshare.analysis.heads.head import Subject
from rewrites.base import Change, Fitting, Options, Rewrite, Site, replaced
from rewrites.edits.average_pooling import Pool, Pools
from rewrites.edits.node_uses import attributes, refuse_overridable
from rewrites.refusal import Refusal

#: What ONNX Runtime pools globally; its ReduceMean does double and integers too.
_TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16)


@dataclass(frozen=True)
class GlobalPool(Rewrite):
    """Turns average pooling over the whole map into GlobalAveragePool."""

    name = "global-pool"
    together = True

    def sites(self, subject: Subject, options: Options) -> list[Site]:
        """One site per AveragePool whose window covers its map, and per ReduceMean over exactly
        the spatial axes, behind a Transpose or Reshape too, or in two steps."""
        pools = Pools(subject)
        found = (
            pools.recognise(node)
            for node in subject.graph.main.nodes
            if node.op_type in ("AveragePool", "ReduceMean")
        )
        return [self._site(subject, pool) for pool in found if pool is not None]

    def _site(self, subject: Subject, pool: Pool) -> Site:
        node = pool.node
        dtype = subject.probe.shapes.dtype(node.scope, node.inputs[0])
        reason = pool.fault
        if dtype not in _TYPES:
            kind = TensorProto.DataType.Name(dtype or 0).lower()
            reason = f"ONNX Runtime has no GlobalAveragePool for {kind}"
        try:
            refuse_overridable(subject.graph, node)
        except Refusal as refusal:
            reason = str(refusal)
        if reason is not None:
            return Site(self.name, node.name, None, reason, 0, None, target=pool)
        what = f"a {'×'.join(map(str, pool.window))} window over its whole map"
        detail = f"{what if pool.window else 'ReduceMean'} becomes GlobalAveragePool"
        detail += (" and Transpose" if pool.turned else "") if pool.keeps else " and Flatten"
        return Site(self.name, node.name, True, None, 0, 0, detail, pool)

    def apply(self, subject: Subject, site: Site, options: Options, fitting: Fitting) -> Change:
        """Make the change."""
        pool: Pool = site.target
        node = pool.node
        editor = subject.editor(self.name)
        output, turned = node.outputs[0], pool.turned
        as_it_is, source = pool.keeps and turned is None, pool.before or node
        result = output if as_it_is else editor.new_name(f"{output}_map")
        editor.emit(node, "GlobalAveragePool", [source.inputs[0]], result)
        if not pool.keeps:
            editor.emit(node, "Flatten", [result], output, {"axis": 1})
        elif turned is not None:
            editor.emit(node, "Transpose", [result], output, attributes(turned))
        return replaced(site, editor, [node])
