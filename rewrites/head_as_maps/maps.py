"""Maps: the maps that stand for a tensor of a head, and where each of its elements is in them.

Brings an FC's output, held as a map of one position, back to its old shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from onnxshare.analysis.heads import element_order
from onnxshare.analysis.heads.head import SEVERAL, Subject
from onnxshare.graph.index import Node
from onnxshare.io.tensors import Array
from rewrites.edits.node_emitter import Emitter
from rewrites.refusal import Refusal


@dataclass(frozen=True)
class Part:
    """One map: its name in the new graph, and its sizes `(C, spatial…)`."""

    name: str
    sizes: tuple[int, ...]

    @property
    def features(self) -> int:
        """Its values per sample."""
        return prod(self.sizes)


@dataclass(frozen=True)
class HeadMap:
    """The map that stands for a tensor of the head, or several that were joined.

    Attributes:
        parts: the maps.
        index: for each element of the old tensor its index in the map, batch included; the
            elements of a second map are numbered after those of the first.
        vector: whether it holds an FC's output: one position, features as channels.
    """

    parts: tuple[Part, ...]
    index: Array
    vector: bool = False

    @property
    def name(self) -> str:
        """The name of its only map."""
        return self._only.name

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes `(C, spatial…)` of its only map."""
        return self._only.sizes

    @property
    def samples(self) -> int:
        """How many samples the old tensor holds."""
        return self.index.size // sum(part.features for part in self.parts)

    @property
    def _only(self) -> Part:
        if len(self.parts) > 1:
            raise Refusal("its FC reads several feature maps")
        return self.parts[0]

    def starts(self) -> list[int]:
        """For each part the number of its first element, and after them the number of all."""
        counts = [0, *(self.samples * part.features for part in self.parts)]
        return [int(count) for count in np.cumsum(counts)]


def one(name: str, sizes: tuple[int, ...], index: Array, *, vector: bool = False) -> HeadMap:
    """A map of one map."""
    return HeadMap((Part(name, sizes),), index, vector)


def join(node: Node, head_maps: list[HeadMap], axis: int) -> HeadMap:
    """The map of what a Concat makes: all maps side by side, none of them touched.

    Raises:
        Refusal: the parts do not go together.
    """
    index: list[Array] = []
    parts: list[Part] = []
    start = 0
    for head_map in head_maps:
        index.append(head_map.index + start)
        start += head_map.index.size
        parts.extend(head_map.parts)
    if len({len(part.sizes) for part in parts}) > 1:
        raise Refusal(f"{node.op_type} '{node.name}' joins maps with different numbers of axes")
    if len({head_map.samples for head_map in head_maps}) > 1:
        raise Refusal(f"{node.op_type} '{node.name}' joins maps of different batches")
    try:
        return HeadMap(tuple(parts), np.concatenate(index, axis=axis))
    except ValueError:
        raise Refusal(f"{node.op_type} '{node.name}' joins along samples") from None


@dataclass(frozen=True)
class Columns:
    """The columns of an FC that read one part of its data.

    Attributes:
        part: the map.
        columns: which columns, ascending; None for all.
        order: for each of them the index within the sample `[C, spatial…]`.
    """

    part: Part
    columns: Array | None
    order: Array


def columns_of(head_map: HeadMap, rows: Array) -> tuple[Columns, ...]:
    """Which columns of rows × columns of indices read which part, and in which order.

    Raises:
        Refusal: rows are not samples, or the columns of a part differ between them.
    """
    samples = head_map.samples
    if len(head_map.parts) == 1:
        part = head_map.parts[0]
        return (Columns(part, None, _order(rows, samples, part)),)
    if rows.shape[0] != samples:
        raise Refusal("each row that its FC reads is a part of a sample, or mixes samples")
    found = []
    starts = head_map.starts()
    for part, start, end in zip(head_map.parts, starts, starts[1:], strict=False):
        inside = (rows >= start) & (rows < end)
        if not np.array_equal(inside, np.broadcast_to(inside[:1], inside.shape)):
            raise Refusal("a row of its FC mixes samples: axis 0 is not a batch")
        columns = np.flatnonzero(inside[0])
        found.append(Columns(part, columns, _order(rows[:, columns] - start, samples, part)))
    return tuple(found)


def _order(rows: Array, samples: int, part: Part) -> Array:
    order = element_order.column_order(rows, (samples, *part.sizes))
    if isinstance(order, str):
        raise Refusal(order)
    return order


def constants_of(head_map: HeadMap, spread: Array, node: Node) -> list[Array]:
    """Values given for each element of the old tensor, per part as `[C, spatial…]`, with axes
    along which they do not change reduced to size 1.

    Raises:
        Refusal: they differ between samples.
    """
    flat = np.empty(head_map.index.size, spread.dtype)
    flat[head_map.index.reshape(-1)] = spread.reshape(-1)
    starts = head_map.starts()
    return [
        _reduced(flat[start:end].reshape(head_map.samples, *part.sizes), node)
        for part, start, end in zip(head_map.parts, starts, starts[1:], strict=False)
    ]


def _reduced(by_sample: Array, node: Node) -> Array:
    if not _same(by_sample, by_sample[:1]):
        raise Refusal(f"a constant of node '{node.name}' differs between samples")
    result: Array = by_sample[0]
    for axis in range(1, result.ndim):
        first = result.take([0], axis=axis)
        if _same(result, first):
            result = first
    return result


def _same(values: Array, reference: Array) -> bool:
    """Whether values equal a reference that broadcasts to them."""
    return bool(np.array_equal(values, np.broadcast_to(reference, values.shape)))


def is_plain(index: Array, samples: int) -> bool:
    """Whether a tensor is `[samples, features…]` in the order in which the map holds them."""
    return index.ndim > 1 and int(index.shape[0]) == samples and _in_order(index)


def vector_to_old(
    subject: Subject, out: Emitter, node: Node, source: str, index: Array, name: str, samples: int
) -> None:
    """Emit what brings `source`, `[N, F]` or `[N, F, 1, …]`, to the old shape of a node's result,
    under its old name; `index` holds for each element of the old tensor its place in `source`.

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
        ends = [prod(target[: place + 1]) for place in range(len(target))]
        lead = ends.index(samples) + 1 if samples in ends else 0
        sizes = (samples, SEVERAL)  # all of it, or next to frames that are folded into it
        axis = next((place for place in range(lead) if target[place] in sizes), None)
        if axis is None:
            raise Refusal(f"the batch axis of the output of '{node.name}' is not to be seen")
        target[axis] = -1
    return target


def _in_order(index: Array) -> bool:
    return bool(np.array_equal(index.reshape(-1), np.arange(index.size)))
