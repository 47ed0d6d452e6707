"""The layers before a head that slides: whether each position of their maps is what they give on
the crop under it.

That holds where what a position sees moves along with it, and no border is in sight. Both are
asked of the receptive fields; what cannot be followed there may be anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx

from onnxshare.analysis.heads.head import Subject
from onnxshare.analysis.receptive_field.axis_tracking import WHOLE_INPUT, Place
from onnxshare.analysis.receptive_field.fields import ReceptiveFields
from onnxshare.graph.index import Node
from onnxshare.graph.operator_traits import traits_of
from rewrites.edits.node_emitter import Emitter


class Trunk:
    """The layers before the heads of a model; `replaced` are the nodes of these, and all after
    them."""

    def __init__(self, subject: Subject, replaced: set[Node]) -> None:
        self._graph, self._shapes = subject.graph, subject.probe.shapes
        self._fields = ReceptiveFields(self._graph, self._shapes, subject.probe.values)
        made = {name for node in replaced for name in node.outputs}
        read = {name for node in replaced for name in node.inputs} - made
        self._maps = [name for name in sorted(read) if self._fields.places(name)]
        self._needed = set(self._maps or read)
        self._nodes: list[Node] = []
        for node in reversed(self._graph.main.nodes):
            if not traits_of(node).shape_only and not self._needed.isdisjoint(node.outputs):
                self._nodes.insert(0, node)
                self._needed.update(self._reads(node))
        self._padded: list[Node] = []
        self._lost: dict[bool, tuple[Node, str]] = {}
        self._finer: Node | None = None
        for node in self._nodes:
            for place, before in self._places(node):
                self._judge(node, place, before)
        self._take_sizes()

    @property
    def images(self) -> dict[str, list[int]]:
        """The spatial axes of each input that is an image, or a signal, or a volume."""
        return self._fields.images

    def strides(self) -> dict[int, set[int]]:
        """By how many positions of an image one moves with each position of a map, by the axis of
        the map. Axes that move otherwise are left out."""
        found: dict[int, set[int]] = {}
        for name in self._maps:
            for axis, window, *_ in self._fields.places(name).values():
                if axis is not None and window is not None and len(window.lows) == 1:
                    found.setdefault(axis, set()).add(window.step)
        return found

    def free(self, out: Emitter) -> None:
        """Write Reshapes to fixed sizes that only move axes of one position, as exporters write
        for images of one channel, as Squeeze and Unsqueeze, which take any size."""
        for node in self._nodes:
            if node.op_type != "Reshape" or not node.standard or not self._moving(node):
                continue
            name, result = node.inputs[0], node.outputs[0]
            moved = _ones(*(self._shapes.sizes(node.scope, item) or () for item in (name, result)))
            if moved is None:
                continue
            gone, new = moved
            if gone:
                wanted = out.new_name(f"{result}_squeezed") if new else result
                name = out.emit_axes(node, "Squeeze", name, gone, wanted)
            if new:
                out.emit_axes(node, "Unsqueeze", name, new, result)
            if gone or new:
                out.remove(node)

    def _moving(self, node: Node) -> bool:
        """Whether positions of an image lie along an axis of the result of a node."""
        places = self._fields.places(node.outputs[0]).values()
        return any(place.axis is not None for place in places)

    def tied(self, shapes: Mapping[str, list[int]], more: int) -> str | None:
        """The first node whose result does not grow with the image, as text.

        Args:
            shapes: the shapes of all tensors where the image is larger; of none where one does not
                fit.
            more: by how many positions it is larger.
        """
        for node in self._nodes:
            for name in filter(self._needed.__contains__, node.outputs):
                old, new = self._shapes.sizes(self._graph.main, name), shapes.get(name)
                for axis, window, *_ in self._fields.places(name).values():
                    if axis is None or not old:
                        continue
                    least = more // window.step if window and len(window.lows) == 1 else 1
                    if not new or len(new) <= axis or new[axis] - old[axis] < least:
                        return named(node)
        still = (node for node in self._nodes if not self._moving(node))
        return next(map(named, still), None)  # such as what cuts a vector into rows

    def notes(self) -> list[str]:
        """What keeps positions from being equal to what the original gives on their crops."""
        notes = []
        if self._padded:
            count, what = len(self._padded), named(self._padded[0])
            who = f"{what} pads its" if count == 1 else f"{count} nodes ({what} first) pad their"
            notes.append(
                f"{who} borders before the head: inside a larger image an output that sees them is "
                "close to, but not equal to, what the original gives on that crop"
            )
        for whole, (node, reason) in self._lost.items():
            what = " looks at the whole image" if whole else f": {reason}"
            text = "an output may differ from what the original gives on its crop"
            notes.append(f"{named(node)}{what}, so {text}")
        return notes

    def _reads(self, node: Node) -> list[str]:
        inner = self._graph.captured(node) if node.position in node.scope.children else []
        return [*node.inputs, *inner]

    def _places(self, node: Node) -> Iterator[tuple[tuple[Place, str], list[tuple[Place, str]]]]:
        """What each needed output sees of each axis of an image, and what the inputs see of it;
        with the tensors."""
        read = {name: self._fields.places(name) for name in self._reads(node) if name}
        for name in filter(self._needed.__contains__, node.outputs):
            for key, place in self._fields.places(name).items():
                before = [(places[key], at) for at, places in read.items() if key in places]
                yield (place, name), before

    def _judge(self, node: Node, after: tuple[Place, str], before: list[tuple[Place, str]]) -> None:
        """Note a node behind which positions no longer are what they are on a crop."""
        window = after[0].window
        seen = [place.window for place, _ in before if place.window is not None]
        if not seen or len(seen) < len(before):
            return  # a node before it is noted already
        if window is None:
            self._lose(node, after[0].note)
            return
        period = len(window.lows)
        periods = [len(item.lows) for item in seen]
        if len(seen) > 1 and max(periods) > period:
            self._lose(node, "positions of several kinds are combined")
        if period > max(periods):
            self._finer = node
        if after[1] in self._maps and period > 1:
            reason = "its positions lie closer than those of the image, or differ in turn"
            self._lose(self._finer or node, reason)
        low, high = self._reach(*after)
        ends = [self._reach(*item) for item in before]
        grows = window.size > max(item.size for item in seen)
        rounds = str(node.attribute("auto_pad", "")).startswith("SAME") or bool(
            node.attribute("ceil_mode", 0) and window.step != seen[0].step
        )
        outside = low < min(first for first, _ in ends) or high > max(last for _, last in ends)
        if (outside or (grows and rounds)) and self._padded[-1:] != [node]:
            self._padded.append(node)

    def _reach(self, place: Place, name: str) -> tuple[int, int]:
        """The first and the last position of the image that any position of a tensor sees."""
        shape, window = self._shapes.get(self._graph.main, name), place.window
        assert window is not None
        size = shape[place.axis] if shape is not None and place.axis is not None else 1
        return window.low(0), window.high(size - 1 if isinstance(size, int) else 0)

    def _lose(self, node: Node, reason: str) -> None:
        self._lost.setdefault(reason == WHOLE_INPUT, (node, reason))

    def _take_sizes(self) -> None:
        """Note the first node that computes with the size of the image, as with coordinates."""
        sized: set[str] = set()
        even: set[str] = set()  # the same number everywhere, as many as the image asks for
        for node in self._graph.main.nodes:
            traits, reads = traits_of(node), self._reads(node)
            values = [name for at, name in enumerate(reads) if at not in traits.shape_inputs]
            if any(self._fields.places(name) for name in node.outputs):
                if not (self._needed.isdisjoint(node.outputs) or sized.isdisjoint(values)):
                    self._lose(node, "it takes in what is computed from the size of the image")
                    return
            elif traits.shape_only and any(map(self._fields.places, reads)):
                sized.update(node.outputs)
            elif not (sized | even).isdisjoint(reads):
                fills = traits.elementwise or node.op_type in ("ConstantOfShape", "Expand")
                (even if fills and sized.isdisjoint(values) else sized).update(node.outputs)


def _ones(before: tuple[int, ...], after: tuple[int, ...]) -> tuple[list[int], list[int]] | None:
    """The axes of one position that a Reshape takes out, and those that it puts in; None where it
    does more than that."""
    gone, new = [], []
    first = second = 0
    while first < len(before) or second < len(after):
        one, other = before[first : first + 1], after[second : second + 1]
        if one == other:
            first, second = first + 1, second + 1
        elif other == (1,):
            new.append(second)
            second += 1
        elif one == (1,):
            gone.append(first)
            first += 1
        else:
            return None
    return gone, new


def named(node: Node | onnx.NodeProto) -> str:
    """A node as text."""
    return f"node '{node.name}' ({node.op_type})"
