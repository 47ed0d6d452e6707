"""What a head is for, classes, of which the largest score counts, or values; and how well a small
one does, as text."""

from __future__ import annotations

from onnxshare.graph.index import Graph
from onnxshare.graph.operator_traits import Effect, traits_of
from onnxshare.runtime.latency import Latency
from onnxshare.support.option_text import option
from rewrites.small_heads.certificate import Estimate, Target
from rewrites.small_heads.head_layers import Chain
from rewrites.small_heads.search_result import Candidate, Search


def class_leaves(chain: Chain, *, asked: bool) -> frozenset[int]:
    """The leaves whose largest output is what counts: those that a Softmax, LogSoftmax, ArgMax,
    Hardmax or TopK reads; where there are none and classes were requested, those of two or more
    outputs."""
    graph = chain.subject.graph
    found = {
        leaf
        for leaf in chain.leaves
        if chain.layers[leaf].fc.out_features > 1 and _classified(graph, chain.layers[leaf].result)
    }
    if not found and asked:
        found = {leaf for leaf in chain.leaves if chain.layers[leaf].fc.out_features > 1}
    return frozenset(found)


def _classified(graph: Graph, name: str) -> bool:
    pending, seen = [name], {name}
    while pending:
        for reader in graph.main.readers(pending.pop()):
            traits = traits_of(reader)
            if traits.effect is Effect.SOFTMAX or reader.op_type in ("ArgMax", "TopK"):
                return True
            passes = traits.carries or reader.op_type in ("Div", "Mul")
            if passes and reader.outputs[0] not in seen:
                seen.add(reader.outputs[0])
                pending.append(reader.outputs[0])
    return False


def task_words(chain: Chain, classes: frozenset[int]) -> str:
    """What the head's outputs were taken for, and why."""
    words = []
    for leaf in chain.leaves:
        layer = chain.layers[leaf]
        if leaf not in classes:
            words.append(f"'{layer.result}' is taken for values")
        elif _classified(chain.subject.graph, layer.result):
            words.append(f"'{layer.result}' gives classes: a softmax or arg-max reads it")
        else:
            words.append(f"'{layer.result}' gives classes, as was requested")
    return "; ".join(words)


def values_words(chain: Chain, classes: frozenset[int]) -> list[str]:
    """How to say that outputs which were taken for values are classes, where they could be."""
    layers = [chain.layers[leaf] for leaf in chain.leaves if leaf not in classes]
    return [
        f"if the largest element of '{layer.result}' names a class, say so with "
        f"{option('--keep 95%')} or with labels: the fit is then made for classes"
        for layer in layers
        if layer.fc.out_features > 1
    ]


def measured(found: Estimate, target: Target) -> str:
    """What was measured and its bound, as text."""
    parts = []
    for criterion in target.criteria:
        measure = found.measure(criterion)
        parts += [] if measure is None else [criterion.said(measure)]
    if target.max_error is not None and found.error is not None:
        high = found.error_high or 0.0
        parts.append(f"has a relative error of {found.error:.2%} (at most {high:.2%})")
    return " and ".join(parts)


def latency_words(found: Latency) -> str:
    """What was timed, as text."""
    if found.a is None or found.b is None or found.ratio is None or found.ci95 is None:
        return f"its latency is not known: {found.reason}"
    low, high = found.ci95
    samples = "one sample takes" if found.batch == 1 else f"{found.batch} samples take"
    return (
        f"{samples} {found.b * 1e3:.3g} ms instead of {found.a * 1e3:.3g} ms, {found.ratio:.2f} of "
        f"the time ({low:.2f} to {high:.2f}): {found.result}"
    )


def best_words(found: Search) -> str:
    """How close the search came."""
    tried = [(item.method, item.estimate) for item in found.candidates if item.estimate is not None]
    late = f"; the time limit left {found.too_late} untried" if found.too_late else ""
    if not tried:
        return f"no method makes it smaller{late}"
    # By the estimates, not the bounds: candidates were tried on different numbers of samples.
    name, best = min(tried, key=lambda item: item[1].used(found.target))
    return (
        f"of {len(tried)} tried on up to {found.samples:,} samples the best, {name}, "
        f"{measured(best, found.target)} on {best.samples:,}{late}"
    )


def tried_words(item: Candidate, target: Target) -> str:
    """What became of a candidate in cross-validation, as one line."""
    if item.estimate is None:
        return f"{item.method}: not tried: {item.refused}"
    return (
        f"{item.method}: {item.params:,} parameters, {measured(item.estimate, target)} on "
        f"{item.estimate.samples:,} samples: {'enough' if item.reaches else 'not enough'}"
    )
