"""Shapes and a weight usage of a model, or an error where no shapes can fit.

What is wrong must follow from inputs and weights alone. A size that was only assumed (one sample)
and a shape that the file only declares never count against a model: where a node does not fit,
it is judged again without them, and an error is what fails then too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

from onnxshare.analysis import weight_usage as walk
from onnxshare.analysis.shape_rules import in_words
from onnxshare.analysis.weight_usage import WeightUsage
from onnxshare.errors import ModelError
from onnxshare.graph.constant_values import Values
from onnxshare.graph.index import Graph, Node, Scope
from onnxshare.graph.onnx_sandbox import InferenceRefused
from onnxshare.io.tensors import Array
from onnxshare.shapes.computed_sizes import label
from onnxshare.shapes.inference import InputShapes, Shapes, infer
from onnxshare.support.option_text import option

#: How onnx's inference reports one node: its operator, its name if it has one, and what is wrong.
#: It has no codes, so its words must do.
_REPORT = re.compile(r"\(op_type:([^,()]+?)(?:, node name: (.*?))?\): \[\w+\] (.*)")
_NESTED = "Inference error(s): "
#: What onnx says of a node that reads a result which it could not infer.
_UNTYPED = "expected to have type but instead is null"
#: So many nodes that do not fit are left out, one after another.
_MAX_DOUBTED = 16
_HOLDERS = frozenset(("If", "Loop", "Scan"))


@dataclass(frozen=True)
class Survey:
    """What is known of a graph before anything is added up."""

    shapes: Shapes
    values: Values
    usage: WeightUsage


@dataclass(frozen=True)
class _Misfit:
    """A node whose shapes cannot fit, and why; and whether onnx reports it, which errs in what it
    follows of values."""

    node: Node
    reason: str
    reported: bool = False


def survey(graph: Graph, input_shapes: InputShapes | None = None) -> Survey:
    """Infer all shapes and look at all nodes.

    Raises:
        UsageError: `input_shapes` does not fit the inputs.
        ModelError: the shapes of a node cannot fit, whatever the batch.
    """
    found, misfit = _look(graph, input_shapes, 1, proven=False)
    if misfit is None:
        return found
    proof, proven = _look(graph, input_shapes, None, proven=True)
    if proven is not None:
        raise ModelError(
            f"{graph.model.name}: {_sentence(proven, proof.shapes)}",
            "no runtime can run this model: export it again"
            + (f", or give other sizes with {option('--input-shape')}" if input_shapes else ""),
        )
    for_one, alone = _look(graph, input_shapes, 1, proven=True)
    if alone is not None:
        misfit = alone
        warning = (
            f"for one sample, {_sentence(alone, for_one.shapes)}; the model may hold a fixed "
            "batch, or the given sizes are too small: what follows from that node is unknown"
        )
    elif misfit.reported:
        return found
    else:
        warning = (
            f"{_sentence(misfit, found.shapes)}; the file may declare a wrong shape: what follows "
            "from that node is unknown"
        )
    doubted: list[Node] = []
    while misfit is not None and misfit.node not in doubted and len(doubted) < _MAX_DOUBTED:
        doubted.append(misfit.node)
        found, misfit = _look(graph, input_shapes, 1, proven=False, doubted=doubted)
        if misfit is not None and misfit.reported:
            break
    found.shapes.warnings.append(warning)
    return found


def _look(
    graph: Graph,
    input_shapes: InputShapes | None,
    batch: int | None,
    *,
    proven: bool,
    doubted: Sequence[Node] = (),
) -> tuple[Survey, _Misfit | None]:
    """What is known, and a node that does not fit, if one does not in what can run."""
    excused: list[Node] = []
    impossible: dict[str, str] = {}
    while True:
        infer_with = partial(
            infer, graph, input_shapes, batch, proven=proven, impossible=impossible,
            doubted=[*doubted, *excused],
        )  # fmt: skip
        found, misfit = _look_once(graph, infer_with, [*doubted, *excused], impossible)
        if misfit is None or len(excused) == _MAX_DOUBTED:
            break
        if misfit.node in excused or not _excused(misfit, found, impossible):
            break
        excused.append(misfit.node)
    found.shapes.warnings.extend(impossible.values())
    return found, misfit


def _excused(misfit: _Misfit, found: Survey, impossible: dict[str, str]) -> bool:
    """Whether a node that does not fit is in a branch of an If that does not run: not under this
    condition, or, where that is not known, because the other branch can."""
    scope: Scope | None = misfit.node.scope
    while scope is not None and (holder := scope.holder) is not None:
        branches = holder.scope.children[holder.position]
        name = next(name for name, branch in branches.items() if branch is scope)
        if holder.op_type == "If" and len(branches) > 1:
            taken = found.values.branch(holder)
            if taken is None and not (found.shapes.dims or found.shapes.open):
                return False  # all sizes are the model's own: runtimes refuse it as it is
            if taken is None:
                impossible[scope.path] = (
                    f"If '{holder.name}': its {name} cannot run with these sizes: "
                    f"{_sentence(misfit, found.shapes)}"
                )
            if taken != name:
                return True
        scope = scope.parent
    return False


def _look_once(
    graph: Graph,
    infer_with: Callable[..., Shapes],
    doubted: Sequence[Node],
    impossible: Collection[str],
) -> tuple[Survey, _Misfit | None]:
    misfit = None
    try:
        shapes = infer_with(strict=True)
    except InferenceRefused as refused:
        shapes = infer_with()
        misfit = next(_reported(graph, shapes, refused.reason), None)
    values = Values(graph, shapes.fully_known(), impossible, shapes.lengths)
    usage = walk.take(graph, shapes, values)
    judged: dict[tuple[int, int], str | None] = {}
    for use in usage.nodes if misfit is None else ():
        if use.node in doubted:
            continue
        if use.pattern.misfit is not None:
            misfit = _Misfit(use.node, use.pattern.misfit)
            break
        if use.node.op_type == "Gather" and use.node.standard:
            reason = _out_of_range(use.node, graph, shapes, values, judged)
            if reason is not None:
                misfit = _Misfit(use.node, reason)
                break
    return Survey(shapes, values, usage), misfit


def _reported(graph: Graph, shapes: Shapes, reports: str) -> Iterator[_Misfit]:
    """The nodes of the model that onnx reports. What it finds inside operators that it expands into
    others, or in what stands in for an operator it does not know, does not count against a
    model."""
    for line in reports.splitlines():
        report = _REPORT.search(line)
        while report is not None and report[3].startswith(_NESTED):
            report = _REPORT.search(report[3]) if report[1] in _HOLDERS else None
        if report is None:
            continue
        op_type, name, reason = report[1], report[2] or "", report[3].strip()
        if reason.endswith(_UNTYPED):
            continue
        like = [
            n for n in graph.nodes() if n.op_type == op_type and name in (n.proto.name, label(n))
        ]
        # Several may have no name: it is one whose result is not known.
        like.sort(key=lambda n: all(shapes.sizes(n.scope, o) is not None for o in n.outputs if o))
        if like and not (op_type == "Range" and _of_one_element(like[0], shapes)):
            yield _Misfit(like[0], f"{reason[:1].lower()}{reason[1:]}".rstrip("."), reported=True)


def _of_one_element(node: Node, shapes: Shapes) -> bool:
    """Whether all inputs have one element: runtimes take `[1]` where onnx asks for a scalar."""
    found = [shapes.sizes(node.scope, name) for name in node.inputs]
    return all(sizes is not None and prod(sizes) == 1 for sizes in found)


def _out_of_range(
    node: Node,
    graph: Graph,
    shapes: Shapes,
    values: Values,
    judged: dict[tuple[int, int], str | None],
) -> str | None:
    """Why a Gather of constant indices cannot be done; `judged` holds what was said of the same
    indices along as many positions, because equal Constant nodes share their tensor."""
    shape = shapes.get(node.scope, node.inputs[0])
    axis = int(node.attribute("axis", 0))
    size = shape[axis] if shape is not None and -len(shape) <= axis < len(shape) else None
    if not isinstance(size, int):
        return None
    stored = graph.stored(node.scope, node.inputs[1])
    key = (id(node if stored is None or stored.tensor is None else stored.tensor), size)
    if key not in judged:
        judged[key] = _outside(values.get(node.scope, node.inputs[1]), size)
    return judged[key]


def _outside(indices: Array | None, size: int) -> str | None:
    if indices is None or not indices.size:
        return None
    if indices.dtype.kind not in "iu" or -size <= indices.min() <= indices.max() < size:
        return None
    return f"the indices reach from {indices.min()} to {indices.max()} along an axis of {size}"


def _sentence(misfit: _Misfit, shapes: Shapes) -> str:
    node = misfit.node
    read = [in_words(shapes.get(node.scope, name)) for name in node.inputs if name]
    verb = "do" if len(read) > 1 else "does"
    return f"node '{node.name}' ({node.op_type}): {', '.join(read)} {verb} not fit: {misfit.reason}"
