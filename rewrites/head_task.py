"""What a head is for: classes, of which the largest score counts, or values."""

from __future__ import annotations

from onnxshare.graph.index import Graph
from rewrites.chain import Chain

#: What makes classes of scores.
_CLASSIFIES = frozenset(("Softmax", "LogSoftmax", "ArgMax", "Hardmax", "TopK"))

#: What may stand between scores and that.
_PASSES = frozenset(
    ("Identity", "Cast", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Div", "Mul")
)


def class_leaves(chain: Chain, *, asked: bool) -> frozenset[int]:
    """The leaves whose largest output is what counts: those that a Softmax, LogSoftmax, ArgMax,
    Hardmax or TopK reads; where there are none and classes were asked for, those of two or more
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
            if reader.op_type in _CLASSIFIES:
                return True
            if reader.op_type in _PASSES and reader.outputs[0] not in seen:
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
            words.append(f"'{layer.result}' gives classes, as was asked for")
    return "; ".join(words)


def values_words(chain: Chain, classes: frozenset[int]) -> list[str]:
    """How to say that outputs which were taken for values are classes, where they could be."""
    found = []
    for leaf in chain.leaves:
        layer = chain.layers[leaf]
        if leaf not in classes and layer.fc.out_features > 1:
            found.append(
                f"if the largest element of '{layer.result}' names a class, say so with --keep 95% "
                "or with labels: the fit is then made for classes"
            )
    return found
