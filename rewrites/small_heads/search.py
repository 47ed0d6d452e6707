"""Finds the cheapest small head that keeps a promise.

Every candidate's whole pipeline, masks, priors and λ included, is cross-validated: each sample is
predicted by a head fitted without it. Of the candidates whose bound (`certificate.py`) reaches the
target the cheapest is chosen. What takes long, the fits that go step by step and those of a large
head, is fitted once, without a fifth of the samples, and predicts these: too few for a bound, so
that there the share itself is asked to reach the target. Choosing makes estimates too good, so they
promise nothing: what is chosen has to be certified on samples that the search never saw.

Where the latency counts, each candidate that reaches the target is timed against the original in
pairs (`onnxshare/runtime/latency.py`). Ratios within 3 % of each other show no difference. Those
that are as close to the fastest come first, then those as close to the fastest of the rest, and so
on; among them the candidate of fewer parameters is the cheaper one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from time import monotonic

import numpy as np

from onnxshare.io.tensors import Array
from onnxshare.runtime.latency import MARGIN, Latency
from onnxshare.support.progress import log, report
from rewrites.refusal import Refusal
from rewrites.small_heads import blas_threads
from rewrites.small_heads.certificate import Estimate, Target, estimate
from rewrites.small_heads.descriptions import task_words, tried_words
from rewrites.small_heads.emit_head import check_head
from rewrites.small_heads.fit_head import HeadFitter, expected_params
from rewrites.small_heads.fitted_head import SmallHead
from rewrites.small_heads.int8_weights import PER_CHANNEL, check_int8
from rewrites.small_heads.methods import Method, family, stored_in_int8
from rewrites.small_heads.search_result import SURE, TOO_LATE, Candidate, Search
from rewrites.small_heads.sufficient_statistics import blocks
from rewrites.small_heads.training_data import HeadData

_FOLDS = 5

#: Heads of at least so many weights are fitted once, without one part of the samples, in place of
#: five times, and so are heads that are fitted step by step. Fewer are tried of such heads: of
#: neighbours in size one, and none that is larger than so many whose bounds reach the target.
_LARGE = 2**22
_SURE = 2


#: Runs the model with a head in place of its own: per leaf the outputs `[N, F]` on all samples.
RunHead = Callable[[SmallHead], Mapping[int, Array]]


@dataclass(frozen=True)
class CrossValidated:
    """What a method does on samples `[n]` that it was not fitted to: the heads, one per part that
    was left out, and per leaf the predictions `[n, F]`."""

    heads: tuple[SmallHead, ...]
    samples: Array
    outputs: Mapping[int, Array]


class CrossValidation:
    """Samples in parts: for each method, some of them are predicted by a head that was fitted
    without them. What stands between FCs and is not known here has to be run: `run_head` gives a
    head's outputs on all samples."""

    def __init__(self, data: HeadData, seed: int = 0, run_head: RunHead | None = None) -> None:
        self.data, self._run_head = data, run_head
        order = np.random.default_rng([seed, 1]).permutation(data.count)
        folds = min(_FOLDS, data.count)
        parts = [np.sort(order[fold::folds]) for fold in range(folds)]
        self._folds = [(part, self._fitter(part)) for part in parts]

    def _fitter(self, unseen: Array) -> HeadFitter:
        seen = np.setdiff1d(np.arange(self.data.count), unseen, assume_unique=True)
        return HeadFitter(self.data, seen)

    def once(self, method: Method) -> bool:
        """Whether a method is fitted only once, without the first part."""
        dear = self.data.chain.params >= _LARGE or self._has_to_run(method)
        return method.taught or method.form == "original" or dear

    def _has_to_run(self, method: Method) -> bool:
        """Whether what a head by a method answers takes a run of the model."""
        layers = self.data.chain.layers
        unknown = any(layer.parent >= 0 and layer.step is None for layer in layers)
        return unknown and not method.whole

    def _answers(self, head: SmallHead, chosen: Array) -> Mapping[int, Array]:
        """Per leaf a fitted head's outputs on the chosen samples."""
        if self._run_head is None or not self._has_to_run(head.method):
            return predict(self.data, head, chosen)
        return {leaf: values[chosen] for leaf, values in self._run_head(head).items()}

    def run(
        self, method: Method, target: Target | None = None, deadline: float = inf
    ) -> CrossValidated:
        """Fit a method without each part in turn, and predict that part.

        Fits that go step by step are quick ones here: what they keep is less than what is kept
        later. With a target parts are left out once not even a perfect rest would keep it.

        Raises:
            Refusal: the method does not suit the head, would make nothing smaller, or the deadline
                (of `monotonic`) is past before all parts are fitted.
        """
        data, chain = self.data, self.data.chain
        wanted = {leaf: data.results[leaf] for leaf in chain.leaves}
        given = {leaf: values.astype(np.float64) for leaf, values in wanted.items()}
        heads, predicted = [], np.zeros(data.count, np.bool_)
        folds = self._folds[: 1 if self.once(method) else None]
        if method.form == "original":  # nothing of it is fitted, so that all samples measure it
            folds = [(np.arange(data.count), HeadFitter(data, np.arange(data.count)))]
        for unseen, fitter in folds:
            if monotonic() >= deadline:
                raise Refusal(TOO_LATE)
            head = fitter.fit(method, quick=True)
            if head.params >= chain.params and head.bytes >= chain.bytes:
                raise Refusal("it is no smaller than the head")
            heads.append(head)
            for leaf, values in self._answers(head, unseen).items():
                given[leaf][unseen] = values
            predicted[unseen] = True
            if target is None:
                continue
            if not estimate(wanted, given, data.classes, target, data.labels).could_reach(target):
                break
        chosen = np.flatnonzero(predicted)
        return CrossValidated(
            tuple(heads), chosen, {leaf: values[chosen] for leaf, values in given.items()}
        )


def predict(data: HeadData, head: SmallHead, chosen: Array) -> Mapping[int, Array]:
    """Per leaf a fitted head's outputs on the chosen samples, block by block."""
    cut = blocks(len(chosen), int(np.prod(data.maps.shape[1:])))
    parts = [head.predict(data.maps[chosen[part]]) for part in cut]
    return {leaf: np.concatenate([part[leaf] for part in parts]) for leaf in data.chain.leaves}


#: How the chosen candidate is chosen.
OBJECTIVES = ("params", "macs", "bytes", "latency")


def search(
    data: HeadData,
    target: Target,
    *,
    objective: str = "params",
    latency: Callable[[Method], Latency] | None = None,
    run_head: RunHead | None = None,
    activations: bool = False,
    seed: int = 0,
    deadline: float = inf,
) -> Search:
    """Cross-validate the family, the smallest first, and choose the cheapest in `objective`;
    `latency` times a method's model against the original, and is wanted where that is the
    objective; `run_head` as of `CrossValidation`. Heads in 8 bits are tried with `activations` in 8
    bits too where that is requested. Past the deadline (of `monotonic`) nothing more is tried."""
    chain = data.chain
    large = chain.params >= _LARGE
    methods = _methods(data, objective, activations=activations, dear=large)
    found, validation, sure = list[Candidate](), CrossValidation(data, seed, run_head), 0
    for place, method in enumerate(methods):
        report(f"trying {method.name}", place, len(methods))
        if large and sure == _SURE and objective in ("params", "bytes"):
            found.append(Candidate(method.name, refused=SURE))
        else:
            with blas_threads.one():
                found.append(_try(validation, method, target, deadline))
        estimated = found[-1].estimate
        sure += method.form != "original" and estimated is not None and estimated.reaches(target)
        log(f"{place + 1} of {len(methods)}: {tried_words(found[-1], target)}")
    if latency is not None:
        found = [
            replace(item, latency=latency(method)) if item.reaches else item
            for item, method in zip(found, methods, strict=True)
        ]
    found.sort(key=lambda item: (item.params is None, item.params or 0))
    good = [item for item in found if item.reaches]
    best = next(iter(by_cost(good, objective)), None)
    chosen = "exact" if best is None else best.method
    marked = tuple(replace(item, chosen=item is best) for item in found)
    words = task_words(chain, data.classes)
    costs = {"macs": chain.macs, "bytes": chain.bytes, "latency": 1}
    before = costs.get(objective, chain.params)
    return Search(
        target,
        words,
        data.count,
        chain.params,
        marked,
        chosen,
        objective=objective,
        before=before,
    )


def _methods(data: HeadData, objective: str, *, activations: bool, dear: bool) -> list[Method]:
    """What is tried, the smallest first; but before these the head as it is, in 8 bits: where the
    time is limited, there is something then."""
    chain = data.chain
    outputs = sum(chain.layers[leaf].fc.out_features for leaf in chain.leaves)
    depth = max(len(chain.path(leaf)) for leaf in chain.leaves)
    samples, spatial = data.count - data.count // _FOLDS, chain.head.spatial
    methods = family(depth, outputs, chain.head.channels, spatial, samples=samples, dear=dear)
    if activations:
        check_int8(chain)  # what was requested is not left out in silence
    if chain.subject.graph.opset >= PER_CHANNEL:
        span = min(outputs, samples // 4)
        methods = stored_in_int8(methods, span, objective, activations=activations)
    return sorted(
        methods, key=lambda item: item.form != "original" and expected_params(chain, item)
    )


def by_cost(candidates: Sequence[Candidate], objective: str) -> list[Candidate]:
    """Candidates by what they cost, the cheapest first; of equal ones that of fewer parameters.
    What could not be timed costs the most."""

    def ratio(item: Candidate) -> float:
        found = item.cost(objective)
        return inf if found is None else found

    if objective != "latency":
        return sorted(candidates, key=lambda item: (ratio(item), item.params or 0))

    left, found = sorted(candidates, key=ratio), list[Candidate]()
    while left:
        level = ratio(left[0]) * (1 + MARGIN)
        alike = [item for item in left if ratio(item) <= level]
        found += sorted(alike, key=lambda item: item.params or 0)
        left = left[len(alike) :]
    return found


#: Neighbours on the ladder that are further apart get a rung between them, where there is one.
_APART = 4

#: A dearer head is a rung above a cheaper one if it misses so much less: where it does not, and
#: fails, the cheaper one is never measured.
_BETTER = 0.8


def ladder(found: Search, objective: str) -> list[str]:
    """The candidates to certify, in this order: from the surest to the cheapest.

    Of those that reach the target, those that are clearly better than all cheaper ones; and between
    two of them of very different sizes the best of a size between, though the smaller one seems to
    be better: that may be chance, and if it fails, less is lost. What was fitted once, and quickly,
    was measured on few samples, so that their bounds would not compare: estimates do.
    """

    def size(item: Candidate) -> float:
        return item.cost("bytes" if objective == "bytes" else "params") or 0

    def used(item: Candidate) -> float:
        return inf if item.estimate is None else item.estimate.used(found.target)

    reaching = [item for item in found.candidates if item.reaches and item.estimate is not None]
    kept: list[Candidate] = []
    for item in by_cost(reaching, objective):
        if kept and used(item) >= _BETTER * used(kept[-1]):
            continue
        others = [other for other in reaching if kept and size(kept[-1]) < size(other) < size(item)]
        if others and size(item) > _APART * size(kept[-1]):
            kept.append(min(others, key=used))
        kept.append(item)
    return [item.method for item in reversed(kept)]


def settle(found: Search, tested: Sequence[tuple[str, Estimate]]) -> Search:
    """The search with what the certification made of it: at least one candidate that was measured
    on held-out samples, in the order of the tests (`certificate.fixed_sequence`)."""
    measured = dict(tested)
    kept = {name: result.reaches(found.target) for name, result in tested}
    passed = [name for name, held in kept.items() if held]
    chosen = passed[-1] if passed else "exact"
    marked = tuple(
        replace(
            item,
            chosen=item.method == chosen,
            certificate=measured.get(item.method),
            certified=kept.get(item.method),
        )
        for item in found.candidates
    )
    return replace(
        found,
        candidates=marked,
        chosen=chosen,
        certificate=measured[chosen] if passed else tested[0][1],
        certified=bool(passed),
    )


def _try(validation: CrossValidation, method: Method, target: Target, deadline: float) -> Candidate:
    data = validation.data
    try:
        tried = validation.run(method, target, deadline)
        check_head(tried.heads[0])
    except Refusal as refusal:
        return Candidate(method.name, refused=str(refusal))
    params = max(head.params for head in tried.heads)
    macs = max(head.macs for head in tried.heads)
    chain = data.chain
    size = max(head.bytes for head in tried.heads)
    wanted = {leaf: data.results[leaf][tried.samples] for leaf in chain.leaves}
    labels = None if data.labels is None else data.labels[tried.samples]
    found = estimate(wanted, tried.outputs, data.classes, target, labels)
    if validation.once(method):
        reaches = found.could_reach(target)
    else:
        reaches = found.samples == data.count and found.reaches(target)
    return Candidate(method.name, params, macs, size, found, reaches=reaches)
