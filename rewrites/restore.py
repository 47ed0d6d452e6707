"""Brings an FC's output, held as a map of one position, back to its old shape."""

from __future__ import annotations

import numpy as np

from onnxshare.analysis.heads.head import Subject
from onnxshare.graph.index import Node
from onnxshare.io.tensors import Array
from rewrites.emitter import Emitter
from rewrites.refusal import Refusal


def is_plain(index: Array, samples: int) -> bool:
    """Whether a tensor is `[samples, features…]` in the order in which the map holds them."""
    return index.ndim > 1 and int(index.shape[0]) == samples and _in_order(index)


def vector_to_old(
    subject: Subject, out: Emitter, node: Node, source: str, index: Array, name: str, samples: int
) -> None:
    """Emit what brings a tensor `[N, F]` or `[N, F, 1, …]` to its old shape, under its old name.

    Args:
        subject: the model.
        out: where to emit.
        node: the old node whose place is taken.
        source: the tensor.
        index: for each element of the old tensor its index in `source`.
        name: the old tensor's name.
        samples: N under the probe.

    Raises:
        Refusal: the old form is more than a reshape or a transpose, or cannot be written in
            this opset.
    """
    if not _in_order(index):
        if index.ndim != 2 or not _in_order(index.T):
            raise Refusal(f"the output of '{node.name}' is permuted")
        rows = out.emit(node, "Flatten", [source], f"{name}_rows", {"axis": 1})
        out.emit_as(node, "Transpose", [rows], name, {"perm": [1, 0]})
    elif index.ndim == 2 and int(index.shape[0]) == samples:
        out.emit_as(node, "Flatten", [source], name, {"axis": 1})
    else:
        target = _target(subject, node, index, samples)
        shape = out.constant(np.array(target, np.int64), f"{name}_shape")
        out.emit_as(node, "Reshape", [source, shape], name)


def _target(subject: Subject, node: Node, index: Array, samples: int) -> list[int]:
    """The old sizes, with -1 for a batch that is not fixed."""
    if subject.graph.opset < 5:
        raise Refusal("the shape of its output cannot be written in an opset below 5")
    target = list(index.shape)
    if subject.probe.dynamic:
        axis = next((place for place, size in enumerate(target) if size != 1), None)
        if axis is None or target[axis] != samples:
            raise Refusal(f"the batch axis of the output of '{node.name}' is not to be seen")
        target[axis] = -1
    return target


def _in_order(index: Array) -> bool:
    return bool(np.array_equal(index.reshape(-1), np.arange(index.size)))
