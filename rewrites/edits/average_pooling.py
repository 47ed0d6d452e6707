"""Average pooling over a whole map, however it is written."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod

from onnxshare.analysis.heads.element_order import data_input, elementwise
from onnxshare.analysis.heads.head import Subject
from onnxshare.graph.index import Graph, Node
from onnxshare.graph.operator_traits import Effect, traits_of
from onnxshare.shapes.inference import Shapes, infer

#: The first opset in which this attribute exists.
_COUNT_INCLUDE_PAD = 7


@dataclass(frozen=True)
class Pool:
    """A node that averages over all positions of a map.

    Attributes:
        node: the node.
        keeps: whether the result is a map of one position, else it is a vector.
        window: the sizes that an AveragePool covers; empty for one that needs no sizes.
        fault: why it is not quite the average, although it covers the map; None if it is.
        before: the node before it whose data it averages: a Transpose or Reshape, of which it
            reads the map in another layout, or a mean over the other axes.
    """

    node: Node
    keeps: bool = True
    window: tuple[int, ...] = ()
    fault: str | None = None
    before: Node | None = None

    @property
    def turned(self) -> Node | None:
        """The Transpose before it, if there is one."""
        return self.before if self.before and self.before.op_type == "Transpose" else None


class Pools:
    """Recognises pooling over whole maps in one model."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject

    @cached_property
    def _own(self) -> Shapes:
        """Shapes without the sizes that the user gave: those the model itself is bound to."""
        return infer(self._subject.graph)

    def recognise(self, node: Node) -> Pool | None:
        """The node as pooling over its whole map, or None if it is not."""
        if not node.standard:
            return None
        if node.op_type == "GlobalAveragePool":
            return Pool(node)
        if node.op_type == "ReduceMean":
            return self._reduction(node)
        if node.op_type == "AveragePool":
            return self._window(node)
        return None

    def rank(self, name: str) -> int:
        """The rank of a tensor; 0 if unknown."""
        main = self._subject.graph.main
        return len(self._subject.probe.shapes.get(main, name) or ())

    def spatial(self, name: str, *, own: bool = False) -> tuple[int, ...] | None:
        """The spatial sizes of a map where all are known; with `own` only sizes that the model
        fixes."""
        shapes = self._own if own else self._subject.probe.shapes
        shape = shapes.get(self._subject.graph.main, name) or ()
        sizes = tuple(size for size in shape[2:] if isinstance(size, int))
        return sizes if sizes and len(sizes) == len(shape) - 2 else None

    def _reduction(self, node: Node) -> Pool | None:
        rank = self.rank(node.inputs[0])
        axes = self._axes(node)
        if rank < 3 or axes is None:
            return None
        graph, keeps = self._subject.graph, bool(node.attribute("keepdims", 1))
        reduced, positions = {axis % rank for axis in axes}, set(range(2, rank))
        if reduced == positions and is_map(graph, node.inputs[0], rank):
            return Pool(node, keeps)
        before = graph.main.producers.get(node.inputs[0])
        if before is None or not before.standard:
            return None
        how = {
            Effect.PERMUTATION: self._turned,
            Effect.RESHAPE: self._joined,
            Effect.REDUCTION: self._in_steps,
        }.get(traits_of(before).effect)
        covers = how is not None and how(before, reduced, keeps=keeps)
        known = covers and is_map(graph, before.inputs[0], self.rank(before.inputs[0]))
        return Pool(node, keeps, before=before) if known else None

    def _turned(self, before: Node, reduced: set[int], *, keeps: bool) -> bool:
        """Whether a mean behind a Transpose leaves samples and channels."""
        if before.op_type != "Transpose":
            return False
        rank = self.rank(before.inputs[0])
        perm = [int(axis) for axis in before.attribute("perm", range(rank)[::-1])]
        kept = [perm[axis] for axis in range(rank) if axis not in reduced]
        return (sorted(kept) if keeps else kept) == [0, 1]

    def _joined(self, before: Node, reduced: set[int], *, keeps: bool) -> bool:
        """Whether a mean is over the one axis that the positions of a map were made."""
        main, shapes = self._subject.graph.main, self._subject.probe.shapes
        map_sizes = shapes.sizes(main, before.inputs[0])
        sizes = shapes.sizes(main, before.outputs[0])
        if map_sizes is None or len(map_sizes) < 4 or keeps or reduced != {2}:
            return False
        return sizes == (*map_sizes[:2], prod(map_sizes[2:]))

    def _in_steps(self, before: Node, reduced: set[int], *, keeps: bool) -> bool:
        """Whether a mean and the one before it are over all positions, each over some axes."""
        rank, axes = self.rank(before.inputs[0]), self._axes(before)
        if (
            before.op_type != "ReduceMean"
            or axes is None
            or keeps != bool(before.attribute("keepdims", 1))
        ):
            return False
        first = {axis % rank for axis in axes}
        left = [axis for axis in range(rank) if keeps or axis not in first]
        return first | {left[axis] for axis in reduced} == set(range(2, rank))

    def _axes(self, node: Node) -> list[int] | None:
        if name := node.input(1):  # since opset 18
            return self._subject.probe.values.integers(node.scope, name)
        given = node.attribute("axes")
        return None if given is None else [int(axis) for axis in given]

    def _window(self, node: Node) -> Pool | None:
        kernel = tuple(int(size) for size in node.attribute("kernel_shape", ()))
        sizes = self.spatial(node.inputs[0])
        one = set(self.spatial(node.outputs[0]) or ()) == {1}
        if sizes is None or len(kernel) != len(sizes) or not one:
            return None
        windows = [(*_reach(node, axis, size), size) for axis, size in enumerate(sizes)]
        if any(end < size for _, end, size in windows):
            return None
        # What operator sets before 7 make of padding is not said: taken for counted.
        old = self._subject.graph.opset < _COUNT_INCLUDE_PAD
        counts = old or node.attribute("count_include_pad", 0)
        fault = None
        if self.spatial(node.inputs[0], own=True) is None:
            fault = "the size of its map is not fixed: at another size it is not the whole map"
        elif any(begin > 0 or end > size for begin, end, size in windows) and counts:
            fault = "it counts its padding as zeros, so it is not the average of the map"
        elif any(int(step) != 1 for step in node.attribute("dilations", ())):
            fault = "it is dilated"
        return Pool(node, True, kernel, fault)


def _reach(node: Node, axis: int, size: int) -> tuple[int, int]:
    """How far the one window along an axis begins before the map, and reaches into it."""
    kernel = int(node.attribute("kernel_shape")[axis])
    auto = node.attribute("auto_pad", "NOTSET")
    before = 0
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        total = max(0, kernel - size)
        before = total // 2 if auto == "SAME_UPPER" else total - total // 2
    elif auto != "VALID" and node.attribute("pads"):
        before = int(node.attribute("pads")[axis])
    return before, kernel - before


def is_map(graph: Graph, name: str, rank: int) -> bool:
    """Whether the axes from 2 on are positions. With two or more of them that is taken for
    granted; one may as well be the features of a sequence, unless a convolution made it."""
    if rank != 3:
        return rank > 3
    while (node := graph.main.producers.get(name)) is not None and node.standard:
        traits = traits_of(node)
        if traits.effect in (Effect.CONVOLUTION, Effect.POOLING):
            return True
        before = data_input(graph, node) if elementwise(node) else None
        if before is None and (traits.elementwise or traits.effect is Effect.JOIN):
            before = next((n for n in node.inputs if graph.source(node.scope, n) is None), None)
        if before is None:
            return False
        name = before
    return False
