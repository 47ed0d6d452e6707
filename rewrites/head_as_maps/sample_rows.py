"""Operators that make of each sample a result of its own, on maps: positions become samples.

`[N, F, …]` is read as `[N · positions, F, …]`, which such an operator takes as it took `[N, F, …]`,
and its result becomes a map again. So a Pad over features, a product of two embeddings or a
GroupNormalization means at each position what it meant for one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

import numpy as np

from onnxshare.analysis.heads import element_order
from onnxshare.analysis.heads.head import Subject
from onnxshare.graph.index import Node
from onnxshare.graph.operator_traits import Effect, traits_of
from rewrites.edits.node_emitter import Emitter
from rewrites.head_as_maps.maps import HeadMap, one

#: Sizes of the tensors that a node reads: those of the head, and stored ones.
Sizes = Mapping[str, tuple[int, ...]]


def keeps_samples_apart(subject: Subject, node: Node, head: Sizes, stored: Sizes) -> bool:
    """Whether a node makes of each sample, along the first axes of `head`, a result of its own; all
    else that it reads is stored. It is not one that works along an axis of its own."""
    rule = _RULES.get(traits_of(node).effect)
    if rule is None or not node.standard or len(list(filter(None, node.outputs))) > 1:
        return False  # such as the places of a MaxPool, which count samples too
    return rule(subject, node, head, stored)


def _first_alone(subject: Subject, node: Node, head: Sizes, stored: Sizes) -> bool:
    return list(head) == [node.inputs[0]]


def _pad(subject: Subject, node: Node, head: Sizes, stored: Sizes) -> bool:
    """Nothing is added to the samples, nor cut off."""
    values, scope = subject.probe.values, node.scope
    pads = [*node.attribute("pads", node.attribute("paddings", []))]
    if len(node.inputs) > 1:
        pads = [*(values.integers(scope, node.inputs[1]) or [])]
    rank = len(head.get(node.inputs[0], ()))
    axes: list[int] = [*range(rank)]
    if len(node.inputs) > 3 and node.inputs[3]:
        axes = [axis % rank for axis in values.integers(scope, node.inputs[3]) or []]
    if not rank or len(pads) != 2 * len(axes) or not _first_alone(subject, node, head, stored):
        return False
    return not any(pads[at] for at in range(len(pads)) if axes[at % len(axes)] == 0)


def _matmul(subject: Subject, node: Node, head: Sizes, stored: Sizes) -> bool:
    """Its first axis is a batch, and not multiplied."""
    left, right = (head.get(name, stored.get(name, ())) for name in node.inputs)
    if len(head) == 2:
        return len(left) == len(right) > 2
    if node.inputs[0] in head:
        return len(left) > 1 and (len(right) < max(3, len(left)) or right[0] == 1)
    return len(right) > 2 and (len(left) < len(right) or left[0] == 1)


def _einsum(subject: Subject, node: Node, head: Sizes, stored: Sizes) -> bool:
    """One letter is the first of each tensor of the head and of the result, and nowhere else."""
    terms, arrow, result = str(node.attribute("equation", "")).replace(" ", "").partition("->")
    first = result[:1]
    if not arrow or not first.isalpha() or result.count(first) > 1:
        return False
    return all(
        part.count(first) == (name in head) and (name not in head or part[0] == first)
        for name, part in zip(node.inputs, terms.split(","), strict=True)
    )


def _product(subject: Subject, node: Node, head: Sizes, stored: Sizes) -> bool:
    rule = {"MatMul": _matmul, "Einsum": _einsum}.get(node.op_type)
    return rule is not None and rule(subject, node, head, stored)


def _one_hot(subject: Subject, node: Node, head: Sizes, stored: Sizes) -> bool:
    rank = len(head.get(node.inputs[0], ())) + 1
    axis = int(node.attribute("axis", -1)) % rank
    return axis > 0 and _first_alone(subject, node, head, stored)


def _repeat(subject: Subject, node: Node, head: Sizes, stored: Sizes) -> bool:
    rule = {"Pad": _pad, "OneHot": _one_hot}.get(node.op_type)
    return rule is not None and rule(subject, node, head, stored)


def _table(subject: Subject, node: Node, head: Sizes, stored: Sizes) -> bool:
    """A Gather of rows of a stored table."""
    rows = node.op_type == "Gather" and int(node.attribute("axis", 0)) == 0
    return rows and list(head) == [node.inputs[1]]


def _triangle(subject: Subject, node: Node, head: Sizes, stored: Sizes) -> bool:
    first = _first_alone(subject, node, head, stored)
    return node.op_type == "Trilu" and first and len(head[node.inputs[0]]) > 2


def _blocks(subject: Subject, node: Node, head: Sizes, stored: Sizes) -> bool:
    moved = node.attribute("blocksize", None) is not None  # or else it may move samples
    return moved and _first_alone(subject, node, head, stored)


#: What an effect asks of a node. Images come sample by sample.
_RULES: dict[Effect, Callable[[Subject, Node, Sizes, Sizes], bool]] = {
    Effect.CONVOLUTION: _first_alone,
    Effect.POOLING: _first_alone,
    Effect.GLOBAL_POOLING: _first_alone,
    Effect.NORMALIZATION: _first_alone,
    Effect.PERMUTATION: _blocks,
    Effect.CUT: _triangle,
    Effect.LOOKUP: _table,
    Effect.REPEAT: _repeat,
    Effect.PRODUCT: _product,
}


def on_rows(
    out: Emitter, node: Node, maps: Mapping[str, HeadMap], result: tuple[int, ...]
) -> HeadMap:
    """A node on maps whose channels are the elements of a sample in their order; `result` are the
    sizes of what it makes under the probe."""
    inputs, turned = list(node.inputs), ""
    positions = next(iter(maps.values())).sizes[1:]
    rank, output, count = len(positions) + 1, node.outputs[0], prod(result[1:])
    for place, name in enumerate(node.inputs):
        if name not in maps:
            continue
        last = [0, *range(2, rank + 1), 1]
        turned = out.emit(node, "Transpose", [maps[name].name], f"{name}_turned", {"perm": last})
        shape = np.array([-1, *maps[name].index.shape[1:]], np.int64)
        row = out.constant(shape, f"{name}_row")
        inputs[place] = out.emit(node, "Reshape", [turned, row], f"{name}_rows")
    made = out.copy(node, inputs, f"{output}_rows")
    sizes = out.emit(node, "Shape", [turned], f"{output}_sizes")
    kept = out.constant(np.arange(rank), f"{output}_kept")
    sizes = out.emit(node, "Gather", [sizes, kept], f"{output}_positions", {"axis": 0})
    features = out.constant(np.array([count], np.int64), f"{output}_features")
    sizes = out.emit(node, "Concat", [sizes, features], f"{output}_to", {"axis": 0})
    made = out.emit(node, "Reshape", [made, sizes], f"{output}_last")
    order = [0, rank, *range(1, rank)]
    made = out.emit(node, "Transpose", [made], f"{output}_map", {"perm": order})
    return one(made, (count, *positions), element_order.index_of(result), vector=True)
