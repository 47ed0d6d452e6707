"""Runs a rewritten model beside the original, with the inner tensors that stand for each other."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import onnx

from onnxshare.comparison.compare import compare
from onnxshare.comparison.results import Comparison
from onnxshare.comparison.strategy import stricter_of
from onnxshare.io.load import Model
from onnxshare.runtime.limits import RunLimits
from onnxshare.runtime.ort_weights import weight_bytes
from onnxshare.samples.samples import Samples, random_samples
from rewrites.base import Change, Options
from rewrites.fully_convolutional import as_vectors
from rewrites.trunk import run_trunk_once

#: Bytes of weights from which on no two sessions are held at once.
_HEAVY = 2**28


def run_both(
    original: Model,
    result: Model,
    changes: tuple[Change, ...],
    samples: Samples | None,
    *,
    options: Options,
    provider: str,
    seed: int,
    count: int,
    large: bool,
    run_limits: RunLimits | None,
) -> Comparison:
    """Compare a rewritten model with the original, inner tensors included."""
    rewritten, names = comparable(original, result, changes, options)
    run = partial(compare, provider=provider, seed=seed, count=count, run_limits=run_limits)
    if large and all(change.site.exact for change in changes):
        given = samples or random_samples(
            stricter_of(original.skeleton, rewritten.skeleton), count, seed
        )
        rest = run_trunk_once(original, rewritten, given, provider=provider, run_limits=run_limits)
        if rest is not None:
            made = {name for node in rest.a.skeleton.graph.node for name in node.output}
            inside = [name for name in names if name in made]
            heavy = weight_bytes(rest.a) > _HEAVY
            found = run(rest.a, rest.b, samples=rest.samples, tensors=inside, in_turn=heavy)
            reason = f"{found.reason}; {_ran_once(rest.shared)}"
            return replace(found, reason=reason, memory=None, left_to_cpu=None)
    return run(original, rewritten, samples=samples, tensors=names)


def _ran_once(count: int) -> str:
    before = "the node" if count == 1 else f"the {count} nodes"
    return f"{before} before, the same in both models byte for byte, ran once"


def comparable(
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
        if change.fit is None:  # an approximation differs, and that is no news
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
