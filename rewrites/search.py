"""Finds the cheapest small head that keeps a promise.

Every candidate's whole pipeline, masks, priors and λ included, is cross-validated: each sample is
predicted by a head fitted without it. Of the candidates whose bound (`certify.py`) reaches the
target the cheapest is chosen. Choosing makes its estimate too good, so the estimate promises
nothing: what is chosen has to be certified on samples that the search never saw.

Where the latency counts, each candidate that reaches the target is timed against the original in
pairs (`onnxshare/runtime/latency.py`). Ratios within 3 % of each other show no difference: of those that
are as close to the fastest, and then of those that are as close to the fastest of the rest, and so
on, the candidate of fewer parameters is the cheaper one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf

from onnxshare.runtime.latency import MARGIN, Latency
from onnxshare.support.progress import report
from rewrites import threads
from rewrites.certify import Estimate, Target, estimate
from rewrites.chain import Chain
from rewrites.cross_validation import cross_validate
from rewrites.emit_head import check_head
from rewrites.head_data import HeadData
from rewrites.head_task import task_words
from rewrites.methods import Method, family
from rewrites.refusal import Refusal
from rewrites.search_result import Candidate, Search

#: How the chosen candidate is chosen.
OBJECTIVES = ("params", "macs", "bytes", "latency")


def search(
    chain: Chain,
    data: HeadData,
    target: Target,
    classes: frozenset[int],
    *,
    objective: str = "params",
    latency: Callable[[Method], Latency] | None = None,
    seed: int = 0,
) -> Search:
    """Cross-validate the whole family and choose.

    Args:
        chain: the head.
        data: what it does on the samples of the search.
        target: what has to be kept.
        classes: the leaves whose largest output counts.
        objective: what the cheapest is cheapest in.
        latency: times a method's model against the original; wanted where that is the objective.
        seed: of the folds.
    """
    methods = family(
        max(len(chain.path(leaf)) for leaf in chain.leaves),
        sum(chain.layers[leaf].fc.out_features for leaf in chain.leaves),
        chain.positions,
    )
    found = []
    for place, method in enumerate(methods):
        report(f"trying {method.name}", place, len(methods))
        with threads.suited_to(chain.params):
            found.append(_try(chain, data, method, target, classes, seed))
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
    words = task_words(chain, classes)
    return Search(target, words, data.count, chain.params, marked, chosen)


def by_cost(candidates: Sequence[Candidate], objective: str) -> list[Candidate]:
    """Candidates by what they cost, the cheapest first; of equal ones that of fewer parameters.

    Args:
        candidates: the candidates.
        objective: one of `OBJECTIVES`. What could not be timed costs the most.
    """
    if objective != "latency":
        return sorted(candidates, key=lambda item: (getattr(item, objective), item.params or 0))

    def ratio(item: Candidate) -> float:
        return inf if item.latency is None or item.latency.ratio is None else item.latency.ratio

    left, found = sorted(candidates, key=ratio), list[Candidate]()
    while left:
        level = ratio(left[0]) * (1 + MARGIN)
        alike = [item for item in left if ratio(item) <= level]
        found += sorted(alike, key=lambda item: item.params or 0)
        left = left[len(alike) :]
    return found


def ladder(found: Search, objective: str) -> list[str]:
    """The candidates to certify, in this order: from the surest to the cheapest.

    Of those that reach the target, those than which none is both cheaper and surer.
    """
    reaching = [item for item in found.candidates if item.reaches and item.estimate is not None]
    kept: list[tuple[tuple[float, float], str]] = []
    for item in by_cost(reaching, objective):
        assert item.estimate is not None
        if not kept or item.estimate.margin > kept[-1][0]:
            kept.append((item.estimate.margin, item.method))
    return [name for _, name in reversed(kept)]


def settle(found: Search, tested: Sequence[tuple[str, Estimate]]) -> Search:
    """The search with what the certification made of it.

    Args:
        found: the search.
        tested: the candidates that were measured on held-out samples, in the order of the tests
            (`certify.fixed_sequence`), at least one.
    """
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


def _try(
    chain: Chain,
    data: HeadData,
    method: Method,
    target: Target,
    classes: frozenset[int],
    seed: int,
) -> Candidate:
    try:
        tried = cross_validate(chain, data, method, classes, seed, target)
        check_head(chain, tried.heads[0])
    except Refusal as refusal:
        return Candidate(method.name, refused=str(refusal))
    params = max(head.params for head in tried.heads)
    macs = max(head.macs for head in tried.heads)
    size = next(iter(chain.pieces(chain.roots[0]))).dtype.itemsize
    wanted = {leaf: data.results[leaf][tried.samples] for leaf in chain.leaves}
    found = estimate(wanted, tried.outputs, classes)
    reaches = found.samples == data.count and found.reaches(target)
    return Candidate(method.name, params, macs, params * size, found, reaches=reaches)
