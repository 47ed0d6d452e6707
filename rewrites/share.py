"""Equal stored tensors → one; a transposed copy → Gemm's transB, or one Transpose. Exact.

Networks with tied weights are often stored untied: an exporter writes a tensor once per use, or
an embedding E [V, D] and, as the last matrix, Eᵀ [D, V] (Press and Wolf, "Using the Output
Embedding to Improve Language Models", 2017). Nothing is computed anew:

    x · B = x · Aᵀ where B = Aᵀ bit for bit,
    Gemm(x, B; transB = t) = Gemm(x, A; transB = 1 - t).

Only parameters are merged, of two elements or more, because a single number saves nothing. Values
behind DequantizeLinear are compared as they are stored: each reader keeps its own scale.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import onnx

from onnxshare.analysis.heads.head import Subject
from onnxshare.analysis.operators.operator import PARAM
from onnxshare.analysis.weight_usage import take
from onnxshare.graph.index import CARRIERS, Graph, Stored
from onnxshare.io.tensors import Array, types
from onnxshare.support.progress import report
from onnxshare.weights.content import same_bits
from onnxshare.weights.index import Copy, TensorIndex, equal_groups, look_alikes
from rewrites.base import Change, Fitting, Options, Rewrite, Site, refuse
from rewrites.edits.merge_tensors import Merge, flips, position_in
from rewrites.edits.node_uses import leaves, overridable
from rewrites.moved_weights import Moved
from rewrites.refusal import Refusal

#: Fewer elements than this are left alone.
LEAST = 2

#: Types that Transpose takes in every operator set; bfloat16 came later.
_TRANSPOSED = types("FLOAT FLOAT16 DOUBLE")
_BFLOAT16_OPSET = 13

_ONLY_THE_FILE = (
    "ONNX Runtime runs the Transpose once, when it loads the model: the file gets smaller, and the "
    "memory it takes does not"
)


@dataclass(frozen=True)
class _Plan:
    """What is done with a group of equal tensors: one stays, and those that equal it, or its
    transpose, go."""

    keep: Stored
    drop: tuple[Copy, ...]


@dataclass(frozen=True)
class Share(Rewrite):
    """Merges equal stored tensors, and transposed copies. The node of a site is the tensor that
    stays, or the one that cannot go."""

    name = "share"

    def sites(self, subject: Subject, options: Options) -> list[Site]:
        """One site per group of equal tensors, and a refused one per tensor that cannot go."""
        return [site for group in _groups(subject) for site in self._of(subject.graph, group)]

    def _of(self, graph: Graph, group: list[Copy]) -> Iterator[Site]:
        first = min(group, key=lambda copy: _rank(graph, copy, group))
        keep, drop, size = first.stored, [], first.stored.elements
        for item in group:
            if item is first:
                continue
            axes = None if item.transposed == first.transposed else (1, 0)
            copy = Copy(item.stored, axes)
            reason = _why_not(graph, keep, copy)
            if reason is None:
                drop.append(copy)
            else:
                yield Site(self.name, copy.stored.name, None, reason, size, None)
        if drop:
            plan = _Plan(keep, tuple(drop))
            yield Site(
                self.name,
                keep.name,
                True,
                None,
                size * (len(drop) + 1),
                size,
                _words(plan),
                plan,
            )

    def apply(self, subject: Subject, site: Site, options: Options, fitting: Fitting) -> Change:
        """Make the change: readers of the copies read the one tensor.

        Raises:
            Refusal: the hashes were equal and the bytes are not.
        """
        made, refused = self.apply_several(subject, [site], options, fitting)
        if refused:
            raise Refusal(refused[0].refused or "")
        return made[0]

    def apply_several(
        self, subject: Subject, sites: list[Site], options: Options, fitting: Fitting
    ) -> tuple[list[Change], list[Site]]:
        """Make the changes at all sites in one go: no two have a tensor in common."""
        graph = subject.graph
        merge = Merge(graph, self.name)
        merged: list[tuple[Site, tuple[str, ...]]] = []
        refused = []
        for site in sites:
            plan: _Plan = site.target
            other = _unequal(graph, plan)
            if other is not None:
                refused.append(refuse(site, f"'{other}' is not equal to it after all"))
                continue
            before = len(merge.added)
            for copy in plan.drop:
                merge.drop(copy.stored, plan.keep, transposed=copy.transposed)
            merged.append((site, merge.added[before:]))
        model = merge.apply()
        return [_change(graph, site, model, added) for site, added in merged], refused


def _unequal(graph: Graph, plan: _Plan) -> str | None:
    """The first tensor that does not hold what its hash said; None where all do."""
    kept = _read(graph, plan.keep)
    for copy in plan.drop:
        if not same_bits(kept, _read(graph, copy.stored), copy.permutation):
            return copy.stored.name
    return None


def _change(graph: Graph, site: Site, model: onnx.ModelProto, added: tuple[str, ...]) -> Change:
    plan: _Plan = site.target
    return Change(
        site,
        model,
        tuple(copy.stored.name for copy in plan.drop),
        added,
        _evidence(graph, plan),
        (_ONLY_THE_FILE,) if added else (),
        moved=tuple(
            Moved(
                copy.stored.name,
                plan.keep.name,
                transposed=copy.transposed,
                source_scope=graph.scope_of(copy.stored).path,
                target_scope=graph.scope_of(plan.keep).path,
            )
            for copy in plan.drop
        ),
    )


def _read(graph: Graph, stored: Stored) -> Array:
    assert stored.tensor is not None  # only such tensors are grouped
    return graph.model.read(stored.tensor)


def _groups(subject: Subject) -> list[list[Copy]]:
    graph = subject.graph
    usage = take(graph, subject.probe.shapes, subject.probe.values)
    parameters = [
        use.stored
        for use in usage.tensors.values()
        if use.role == PARAM and use.stored.elements >= LEAST
        if use.stored.tensor is not None and not overridable(graph, use.stored)
    ]
    index = TensorIndex(graph, parameters)
    alike = look_alikes(index.tensors.values())
    index.tell(partial(report, "hashing weights"), (tensor for close in alike for tensor in close))
    return [group for close in alike for group in equal_groups(close, highest_rank=2)]


def _rank(graph: Graph, copy: Copy, group: list[Copy]) -> tuple[int, ...]:
    """The least one stays: seen from everywhere, an output, in the orientation that needs no
    Transpose, and before all others."""
    scope = graph.scope_of(copy.stored)
    producer = scope.producers.get(copy.stored.name)
    others = [item.stored for item in group if item.transposed != copy.transposed]
    return (
        int(scope is not graph.main),
        int(producer is not None),
        int(not leaves(graph, scope, copy.stored.name)),
        sum(not flips(r, s.name) for s in others for r in graph.scope_of(s).readers(s.name)),
        producer.position if producer is not None else -1,
    )


def _why_not(graph: Graph, keep: Stored, copy: Copy) -> str | None:
    """Why a tensor cannot be replaced by the one that stays; None if it can."""
    scope, name = graph.scope_of(copy.stored), copy.stored.name
    equal = f"it equals '{keep.name}'"
    if leaves(graph, scope, name):
        return f"{equal} and is an output, whose name must stay"
    if graph.proto.training_info:
        return f"{equal}, but the model holds training information, which may name it"
    readers = scope.readers(name)
    home = graph.scope_of(keep)
    maker = home.producers.get(keep.name)
    if any(reader.scope.home(keep.name) is not home for reader in readers):
        return f"{equal}, which cannot be seen from its own subgraph"
    if maker and any(position_in(home, reader) <= maker.position for reader in readers):
        return f"{equal}, which is made only after it is read"
    notes = [_annotation(graph, stored) for stored in (keep, copy.stored)]
    if notes[0] != notes[1] or (copy.transposed and notes[0]):
        return f"{equal}, but is annotated with another quantization"
    flipped = not copy.transposed or all(flips(reader, name) for reader in readers)
    known = _TRANSPOSED | (types("BFLOAT16") if graph.opset >= _BFLOAT16_OPSET else set())
    if not flipped and keep.dtype not in known:
        return f"it is '{keep.name}' transposed, in a type that is not transposed here"
    return None


def _annotation(graph: Graph, stored: Stored) -> list[tuple[str, str]]:
    """The quantization parameters that the graph notes for a tensor."""
    return sorted(
        (entry.key, entry.value)
        for note in graph.scope_of(stored).graph.quantization_annotation
        if note.tensor_name == stored.name
        for entry in note.quant_parameter_tensor_names
    )


def _words(plan: _Plan) -> str:
    transposed = sum(copy.transposed for copy in plan.drop)
    equal = len(plan.drop) - transposed
    shape = "×".join(map(str, plan.keep.shape))
    parts = [f"{equal} equal"] if equal else []
    parts += [f"{transposed} transposed"] if transposed else []
    copies = "copy goes" if len(plan.drop) == 1 else "copies go"
    return f"{' and '.join(parts)} {copies}, one {shape} tensor stays"


def _evidence(graph: Graph, plan: _Plan) -> dict[str, str]:
    """The results of all nodes of the main graph that read one of the tensors."""
    readers = (
        reader
        for copy in plan.drop
        for reader in graph.scope_of(copy.stored).readers(copy.stored.name)
    )
    return {
        reader.outputs[0]: reader.outputs[0]
        for reader in readers
        if reader.scope is graph.main and reader.op_type not in CARRIERS
    }
