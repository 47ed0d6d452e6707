"""Proves a rewritten model: its weights are checked, and it runs next to the original.

Inner tensors that stand for each other are compared too. What that leaves open is settled in
float32 or without quantization (`in_float32.py`), or by the rewritten tensors alone
(`local_bound.py`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from math import log10

import onnx

from onnxshare.analysis.results import Totals
from onnxshare.comparison.compare import compare
from onnxshare.comparison.function_digest import function_digest
from onnxshare.comparison.inner_tensors import before_the_end
from onnxshare.comparison.promise import PROMISE_KEY, Fit
from onnxshare.comparison.promise import make as make_promise
from onnxshare.comparison.promise import missed as missed_by
from onnxshare.comparison.results import Comparison, Verdict
from onnxshare.comparison.rounds import stricter_of
from onnxshare.graph.editor import set_property
from onnxshare.io.load import Model
from onnxshare.io.tensors import read
from onnxshare.runtime.limits import RunLimits
from onnxshare.runtime.ort_weights import weight_bytes
from onnxshare.runtime.providers import choose
from onnxshare.samples.input_specs import batching, input_specs
from onnxshare.samples.input_uses import stored_tensors
from onnxshare.samples.samples import Samples, random_samples
from rewrites.base import Change, Options
from rewrites.head_as_maps.sliding import as_vectors
from rewrites.moved_weights import Moved, prove_weights
from rewrites.proof.in_float32 import Again, Pair, settle
from rewrites.proof.local_bound import prove_locally
from rewrites.proof.shared_trunk import run_trunk_once

#: Bytes of weights from which on no two sessions are held at once.
_HEAVY = 2**28


def _comparable(
    original: Model, result: Model, changes: tuple[Change, ...], options: Options
) -> tuple[Model, list[str]]:
    """The rewritten model as it is compared, and the inner tensors that both models have."""
    candidate = result.skeleton
    if options.fully_convolutional:
        candidate = as_vectors(candidate, original, pooled=options.pool_outputs)
    candidate, names = _with_evidence(candidate, original.skeleton, changes)
    return replace(result, skeleton=candidate), names


def _with_evidence(
    candidate: onnx.ModelProto, original: onnx.ModelProto, changes: tuple[Change, ...]
) -> tuple[onnx.ModelProto, list[str]]:
    """A copy in which the tensors that stand for old ones have their names, and those names."""
    old = {name for node in original.graph.node for name in node.output}
    new = {name for node in candidate.graph.node for name in node.output}
    outputs = {value.name for value in original.graph.output}
    names: dict[str, str] = {}
    for change in changes:
        if change.fit is None:  # an approximation differs, and that is not news
            names.update(change.tensors)
    names = {a: a if a in new else b for a, b in names.items() if a in old - outputs}
    names = {a: b for a, b in names.items() if b in new - outputs}
    renamed = onnx.ModelProto()
    renamed.CopyFrom(candidate)
    back = {b: a for a, b in names.items() if a != b}
    for node in renamed.graph.node:
        for field_ in (node.input, node.output):
            for place, name in enumerate(field_):
                if name in back:
                    field_[place] = back[name]
    return renamed, list(names)


#: Frames of a sample, at most, and numbers of them that are tried.
_FRAMES, _TRIED = 64, 4


def _frames(proto: onnx.ModelProto) -> list[int]:
    """How many frames Reshapes may cut the batch into, where any batch may be fed: the sizes next
    to one that is left open, such as 5 in `[5, -1, 4]` or `[-1, 5, 4]`."""
    specs = input_specs(proto)
    layout = batching(specs)
    if layout.size is not None or layout.whole or not all(spec.shape for spec in specs):
        return []
    stored, found = dict(stored_tensors(proto)), set[int]()
    for node in proto.graph.node:
        shape = stored.get(node.input[1]) if node.op_type == "Reshape" else None
        first = [int(size) for size in read(shape).ravel()[:2]] if shape is not None else []
        if -1 in first:
            found.update(size for size in first if 1 < size <= _FRAMES)
    return sorted(found)[:_TRIED]


def _at_batch(model: Model, size: int) -> Model:
    """A copy whose inputs have that batch."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model.skeleton)
    fed = {spec.name for spec in input_specs(copy)}
    for value in copy.graph.input:
        if value.name in fed:
            value.type.tensor_type.shape.dim[0].dim_value = size
    return replace(model, skeleton=copy)


#: Metadata of a model that was written without a comparison.
VALIDATED_KEY = "onnxshare.validated"

#: Multiply-accumulates of all random samples together, by which their number is chosen: some
#: seconds to a minute for the dozen runs of each.
_MACS = 1e11

#: Random samples, at least (each kind once, `samples/random_samples.py`) and at most.
_FEWEST, _MOST = 8, 32

#: Multiply-accumulates of all samples together, or bytes of weights, from which on what both
#: models have in common is run once only (`shared_trunk.py`).
_MACS_ONCE, _BYTES_ONCE = 2e10, 2**28


def sample_count(macs: int | None) -> int:
    """How many random samples a model is compared on: fewer of large ones."""
    return max(_FEWEST, min(_MOST, int(_MACS / max(1, macs or 1))))


def is_large(before: Totals) -> bool:
    """Whether running a model a dozen times over would take long, or much memory."""
    macs = (before.macs or 0) * sample_count(before.macs)
    return macs > _MACS_ONCE or before.param_bytes > _BYTES_ONCE


@dataclass(frozen=True)
class Prover:
    """Proves rewritten copies of models.

    Attributes:
        options: what was requested.
        again: makes the same rewrites of another model.
        provider: where to run.
        count: how many random samples.
        large: whether to run what both models have in common only once.
        run_limits: what a model may take when it runs.
    """

    options: Options
    again: Again
    provider: str
    count: int = _MOST
    large: bool = False
    run_limits: RunLimits | None = None

    def prove(
        self, original: Model, result: Model, changes: tuple[Change, ...], samples: Samples | None
    ) -> tuple[Model, Comparison]:
        """Run a rewritten model and the original on the same inputs, random ones without samples.
        Returns the rewritten model, an approximation with its promise written into it, and the
        comparison."""
        weights, problem = prove_weights(_steps(original, changes))
        if problem is not None:
            label = choose(self.provider).label
            return result, Comparison(Verdict.DIFFERENT, problem, label, weights=weights)
        computed = bool(weights.recomputed)
        pair = Pair(original, result, changes, samples, computed, self.compare, self.again)
        moved = bool(weights.moved) and not computed and all(item.site.exact for item in changes)
        found = settle(pair, self.compare(original, result, changes, samples, moved=moved))
        found = replace(found, weights=weights)
        if found.verdict is Verdict.INCONCLUSIVE and weights.moved and not computed:
            found = self._locally(original, result, changes, found)
        found = self._with_bodies(found, changes)
        fits = [change.fit for change in changes if change.fit is not None]
        # What cannot be measured, as shapes or NaNs differ, no approximation explains.
        measured = any(row.max_abs is not None for row in found.outputs)
        if not fits or found.verdict.open or not measured:
            return result, found
        return _promise(original, result, found, _together(fits))

    def _with_bodies(self, found: Comparison, changes: tuple[Change, ...]) -> Comparison:
        """What was found, and what becomes of the bodies of nodes when each runs alone: a branch
        that no sample takes shows nothing in the outputs."""
        pairs = {id(change.body): change for change in changes if change.body is not None}
        if not pairs or not (found.passed or found.verdict is Verdict.INCONCLUSIVE):
            return found
        for change in pairs.values():
            assert change.body is not None
            before, after, inner = change.body
            _, alone = replace(self, large=False).prove(before, after, inner, None)
            if not alone.passed:
                name = change.site.node.rpartition("/")[0]
                reason = f"the body '{name}', run alone: {alone.reason}"
                return replace(found, verdict=alone.verdict, reason=reason)
        reason = f"{found.reason}; the bodies that were rewritten agree when run alone"
        verdict = Verdict.EQUIVALENT if found.verdict is Verdict.INCONCLUSIVE else found.verdict
        return replace(found, verdict=verdict, reason=reason)

    def compare(
        self,
        original: Model,
        result: Model,
        changes: tuple[Change, ...],
        samples: Samples | None,
        *,
        moved: bool = False,
    ) -> Comparison:
        """Compare a rewritten model with the original, inner tensors included; its weights are not
        read again if they were all `moved`. Where the batch must be a multiple of the frames that
        a Reshape cuts it into, both run on batches of two samples of so many frames."""
        found = self._compare(original, result, changes, samples, moved)
        if samples is not None or found.failed_model != "A":
            return found
        for frames in _frames(original.skeleton):
            a, b = (_at_batch(model, 2 * frames) for model in (original, result))
            again = self._compare(a, b, changes, None, moved)
            if again.failed_model != "A":
                return replace(again, reason=f"{again.reason}; at batches of {2 * frames}")
        return found

    def _compare(
        self,
        original: Model,
        result: Model,
        changes: tuple[Change, ...],
        samples: Samples | None,
        moved: bool,
    ) -> Comparison:
        rewritten, names = _comparable(original, result, changes, self.options)
        provider, seed, limits = self.provider, self.options.seed, self.run_limits
        run = partial(compare, provider=provider, seed=seed, count=self.count, run_limits=limits)
        run = partial(run, weights_moved=moved, counted=self.options.target)
        if self.large and all(change.site.exact for change in changes):
            stricter = stricter_of(original.skeleton, rewritten.skeleton)
            given = samples or random_samples(stricter, self.count, seed)
            rest = run_trunk_once(original, rewritten, given, provider=provider, run_limits=limits)
            if rest is not None:
                made = {name for node in rest.a.skeleton.graph.node for name in node.output}
                inside = [name for name in names if name in made]
                heavy = weight_bytes(rest.a) > _HEAVY
                found = run(rest.a, rest.b, samples=rest.samples, tensors=inside, in_turn=heavy)
                before = "the node" if rest.shared == 1 else f"the {rest.shared} nodes"
                ran = f"{before} before, the same in both models byte for byte, ran once"
                reason = f"{found.reason}; {ran}"
                return replace(found, reason=reason, memory=None, left_to_cpu=None)
        heavy = weight_bytes(original) > _HEAVY
        fitted = heavy and any(change.fit is not None for change in changes)
        how = {"in_turn": fitted, "approximate": fitted}
        return run(original, rewritten, samples=samples, tensors=names, **how)

    def _locally(
        self, original: Model, result: Model, changes: tuple[Change, ...], found: Comparison
    ) -> Comparison:
        """Settle what the outputs leave open by the rewritten tensors alone, if what comes after
        them is the same in both models."""
        rewritten, _ = _comparable(original, result, changes, self.options)
        old, new = original.skeleton, rewritten.skeleton
        known = {name for node in new.graph.node for name in node.output}
        names = (name for change in changes for name in change.tensors if name in known)
        tensors = list(dict.fromkeys(names))
        exact = all(change.site.exact and change.tensors for change in changes)
        ends = {name: pair[0] for name, pair in before_the_end(old, new, hidden=False).items()}
        if not exact or not all(ends.get(v.name, v.name) in tensors for v in old.graph.output):
            return found
        proof = prove_locally(
            original,
            rewritten,
            tensors,
            provider=self.provider,
            seed=self.options.seed,
            run_limits=self.run_limits,
        )
        if proof is None or not proof.holds:
            return replace(found, local=proof)
        reason = (
            f"the moved weights are equal bit for bit, and on random features the error of each "
            f"rewritten tensor is at most {proof.worst:.2g} of √K·u·(|W||x| + |b|), where "
            f"{proof.limit:g} is rounding; end to end, {found.reason}"
        )
        return replace(found, verdict=Verdict.EQUIVALENT, reason=reason, local=proof)


def prove_weights_alone(
    original: Model, result: Model, changes: tuple[Change, ...]
) -> tuple[Model, Comparison | None]:
    """Check that moved weights are bit for bit the old ones, and run nothing. Returns the rewritten
    model, in which it stands that it was not compared, and None; or what is wrong with a weight."""
    weights, problem = prove_weights(_steps(original, changes))
    if problem is not None:
        return result, Comparison(Verdict.DIFFERENT, problem, "nothing was run", weights=weights)
    marked = onnx.ModelProto()
    marked.CopyFrom(result.skeleton)
    set_property(marked.metadata_props, VALIDATED_KEY, "no")
    return replace(result, skeleton=marked), None


def _steps(
    original: Model, changes: tuple[Change, ...]
) -> list[tuple[Model, Model, tuple[Moved, ...]]]:
    """The model before and after each change, or several that were made in one go, with what they
    say was moved."""
    steps: list[tuple[Model, Model, tuple[Moved, ...]]] = []
    before = original
    for _, together in groupby(changes, key=lambda change: id(change.model)):
        made = list(together)
        after = replace(original, skeleton=made[-1].model)
        steps.append((before, after, tuple(claim for change in made for claim in change.moved)))
        before = after
    return steps


def _together(fits: Sequence[Fit]) -> Fit:
    """What is noted of several fits: that of the first, and the outputs of all."""
    merged = fits[0].copy()
    if classes := [name for fit in fits for name in fit.get("classes", ())]:
        merged["classes"] = classes
    if values := [name for fit in fits for name in fit.get("values", ())]:
        merged["values"] = values
    return merged


def _promise(
    original: Model, result: Model, comparison: Comparison, fit: Fit
) -> tuple[Model, Comparison]:
    """Write what was measured on held-out samples into the model, as its promise."""
    promise, words = make_promise(comparison, "fc-to-gap", fit)
    missed = [f"less than {words} requested" for words in missed_by(comparison, fit)]
    if promise.get("agreement_low", 1.0) < fit.get("keep", 0.0):
        missed.append(f"less than the {fit['keep']:.2%} requested")
    if "max_error" in fit and promise["sqnr"] < -20 * log10(fit["max_error"]):
        missed.append(f"more than the error of {fit['max_error']:.2%} requested")
    if missed:
        words = f"{words}, which is {' and '.join(missed)}"
        return result, replace(comparison, verdict=Verdict.DIFFERENT, reason=words)
    promise |= {
        "original": function_digest(original),
        "approximation": function_digest(result),
    }
    promised = onnx.ModelProto()
    promised.CopyFrom(result.skeleton)
    set_property(promised.metadata_props, PROMISE_KEY, json.dumps(promise))
    return replace(result, skeleton=promised), replace(
        comparison, verdict=Verdict.APPROXIMATE, reason=words
    )
