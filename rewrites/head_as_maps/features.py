"""Steps over the features of a head's results, carried over to maps: what takes, joins, reduces,
normalizes or orders features works at each position on the channels, as it did on `[N, F]`.

A result of several axes, such as `[N, digits, classes]`, has all its features as channels. An index
tells which element is in which channel; where an operator needs the axes apart, they are put last,
behind the positions: `[N, …, digits, classes]`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import onnx

from onnxshare.analysis.heads import element_order
from onnxshare.analysis.heads.head import Subject
from onnxshare.graph.index import Node
from onnxshare.graph.numpy_operators import OPERATORS
from onnxshare.graph.operator_traits import Effect, traits_of
from onnxshare.graph.reference_values import evaluable, evaluate
from onnxshare.io.tensors import Array
from onnxshare.support.option_text import option
from rewrites.edits.node_emitter import Emitter
from rewrites.edits.node_uses import values_of
from rewrites.head_as_maps.maps import HeadMap, one
from rewrites.head_as_maps.sample_rows import keeps_samples_apart, on_rows
from rewrites.refusal import Refusal

#: What takes elements, or repeats them.
_PICKS = frozenset((Effect.CUT, Effect.LOOKUP, Effect.REPEAT))

#: What works along axes.
_ALONG = frozenset((Effect.REDUCTION, Effect.NORMALIZATION, Effect.SOFTMAX, Effect.ORDERING))

#: Since this opset operands broadcast by themselves.
_BROADCASTS = 7

#: Before this opset a Softmax works on all axes from its own on.
_ONE_AXIS = 13


@dataclass(frozen=True)
class _Along:
    """Over which axes of its data an operator works, and where it is told so."""

    axes: tuple[int, ...]
    attribute: str = ""
    place: int | None = None
    to_the_last: bool = False


class Features:
    """The steps over features of one head.

    Args:
        subject: the model.
        out: where nodes and constants are emitted.
        samples: N under the probe.
        feature_maps: what the head reads, and so moves with the position.
    """

    def __init__(
        self, subject: Subject, out: Emitter, samples: int, feature_maps: Iterable[str]
    ) -> None:
        self._subject, self._out, self._samples = subject, out, samples
        self._graph = subject.graph
        self._images = self._graph.inputs_of(feature_maps)

    def carry(self, node: Node, head_maps: dict[str, HeadMap]) -> dict[str, HeadMap]:
        """The maps of a node's outputs, where it reads results of FCs.

        Raises:
            Refusal: it cannot be carried over.
        """
        effect = traits_of(node).effect
        read = {name: head_maps[name] for name in node.inputs if name in head_maps}
        if effect is Effect.JOIN or traits_of(node).elementwise:
            read |= self._alongside(node, read)
        if any(not head_map.vector for head_map in read.values()):
            raise Refusal(f"node '{node.name}' reads something that is not part of the head")
        if effect is Effect.JOIN:
            return self._join(node, read)
        if traits_of(node).elementwise and self._graph.opset >= _BROADCASTS:
            return self._combine(node, read)
        if node.inputs[0] in read and len(read) == 1:
            views = traits_of(node).views or effect is Effect.LOOKUP
            if effect in _PICKS and views and node.op_type not in ("Unique", "Trilu"):
                return self._pick(node, read[node.inputs[0]])
            along = self._along(node, read[node.inputs[0]].index)
            if along is not None:
                return self._reduce(node, read[node.inputs[0]], along)
        if self._by_sample(node, read):
            rows = {name: self.in_order(node, head_map) for name, head_map in read.items()}
            output = node.outputs[0]
            return {output: on_rows(self._out, node, rows, self._sizes(output))}
        raise Refusal(f"node '{node.name}' ({node.op_type}) cannot work on a map of outputs")

    def _by_sample(self, node: Node, read: dict[str, HeadMap]) -> bool:
        """Whether a node makes of each sample a result of its own."""
        others = [name for name in node.inputs if name and name not in read]
        stored = all(self._graph.source(node.scope, name) is not None for name in others)
        if not stored or self._graph.opset < _BROADCASTS:
            return False
        head = {name: head_map.index.shape for name, head_map in read.items()}
        result = self._sizes(node.outputs[0])
        if any(sizes[:1] != (self._samples,) for sizes in (*head.values(), result)):
            return False
        sizes_of = {name: self._sizes(name) for name in others}
        return keeps_samples_apart(self._subject, node, head, sizes_of)

    def _alongside(self, node: Node, read: dict[str, HeadMap]) -> dict[str, HeadMap]:
        """Rows that a node reads next to results of FCs and that the image has no part in, such as
        another input: the same at every position, so maps of one position that broadcast.

        Raises:
            Refusal: one moves with the image in a way that is not known, or is not one row per
                sample.
        """
        found: dict[str, HeadMap] = {}
        for name in dict.fromkeys(filter(None, node.inputs)):
            if name in read or self._graph.source(node.scope, name) is not None:
                continue
            if self._images & self._graph.inputs_of([name]):
                raise Refusal(
                    f"node '{node.name}' ({node.op_type}) reads '{name}' too, which comes from the "
                    "image and not from the head"
                )
            sizes, result = self._sizes(name), self._sizes(node.outputs[0])
            if sizes in ((), (1,)) and traits_of(node).elementwise:
                continue
            if len(sizes) != len(result) or sizes[:1] != result[:1]:
                raise Refusal(
                    f"node '{node.name}' ({node.op_type}) reads '{name}' too, which is not one row "
                    "per sample"
                )
            positions = next(iter(read.values())).sizes[1:]
            made = self._as_map(node, name, read)
            count, index = prod(sizes[1:]), element_order.index_of(sizes)
            found[name] = one(made, (count, *positions), index, vector=True)
        return found

    def _as_map(self, node: Node, name: str, read: dict[str, HeadMap]) -> str:
        """Rows as a map, which a Concat needs as large as those of the head."""
        like = next(iter(read.values()))
        ones = [1] * (len(like.sizes) - 1)
        target = self._out.constant(np.array([0, -1, *ones], np.int64), f"{name}_as_map")
        made = self._out.emit(node, "Reshape", [name, target], f"{name}_map")
        if traits_of(node).effect is not Effect.JOIN:
            return made
        shape = self._out.emit(node, "Shape", [like.name], f"{name}_size")
        axes = self._out.constant(np.arange(2, 2 + len(ones)), f"{name}_axes")
        positions = self._out.emit(node, "Gather", [shape, axes], f"{name}_positions", {"axis": 0})
        first = self._out.constant(np.array([1, 1], np.int64), f"{name}_ones")
        target = self._out.emit(node, "Concat", [first, positions], f"{name}_to", {"axis": 0})
        return self._out.emit(node, "Expand", [made, target], f"{name}_everywhere")

    def in_order(self, node: Node, head_map: HeadMap) -> HeadMap:
        """A map whose channels are the elements of a sample, in their order."""
        return self._taken(node, head_map, head_map.index)

    def again(self, node: Node, head_map: HeadMap) -> HeadMap:
        """The same map under another name, for a second output."""
        name = self._out.emit(node, "Identity", [head_map.name], f"{node.outputs[0]}_map")
        return one(name, head_map.sizes, head_map.index, vector=True)

    def _channels(self, node: Node, head_map: HeadMap, index: Array) -> Array:
        """Which channels of a map an index names, the same in each sample.

        Raises:
            Refusal: it mixes samples.
        """
        features, samples = head_map.sizes[0], np.arange(self._samples)[:, None]
        if index.size and index.size % self._samples == 0:
            rows = index.reshape(self._samples, -1) - samples * features
            inside = rows.min() >= 0 and rows.max() < features
            if inside and not np.any(rows != rows[:1]):
                return np.asarray(rows[0])
        raise Refusal(f"node '{node.name}' ({node.op_type}) mixes samples, or takes none")

    def _taken(self, node: Node, head_map: HeadMap, index: Array) -> HeadMap:
        """The map of a tensor whose elements are those of a map that an index names."""
        channels = self._channels(node, head_map, index)
        fresh = element_order.index_of(index.shape)
        if np.array_equal(channels, np.arange(head_map.sizes[0])):
            return replace(head_map, index=fresh)
        name = self._gather(node, head_map.name, channels)
        return one(name, (len(channels), *head_map.sizes[1:]), fresh, vector=True)

    def _gather(self, node: Node, name: str, channels: Array) -> str:
        wanted = self._out.constant(channels.astype(np.int64), f"{node.outputs[0]}_channels")
        return self._out.emit(node, "Gather", [name, wanted], f"{name}_taken", {"axis": 1})

    def _pick(self, node: Node, head_map: HeadMap) -> dict[str, HeadMap]:
        """What takes, cuts or repeats elements takes channels."""
        results = self._picked(node, head_map.index)
        return {
            name: self._taken(node, head_map, index - 1)  # 0 is what it fills in
            for name, index in zip(filter(None, node.outputs), results, strict=True)
        }

    def _picked(self, node: Node, index: Array) -> list[Array]:
        values, main = self._subject.probe.values, self._graph.main
        filled = index + 1
        given = [filled, *(values.get(main, n) if n else None for n in node.inputs[1:])]
        found = None
        if node.op_type == "Split" and node.standard:
            axis = int(node.attribute("axis", 0))
            sizes = [self._sizes(name)[axis] for name in node.outputs]
            return np.split(filled, np.cumsum(sizes)[:-1], axis)
        try:
            if node.standard and node.op_type in OPERATORS:
                found = [OPERATORS[node.op_type](node, given)]
            elif evaluable(node):
                found = evaluate(node, given, self._graph.opset)
        except (ValueError, IndexError, TypeError):
            pass
        if found is None or any(item is None for item in found):
            raise Refusal(f"node '{node.name}' ({node.op_type}) cannot work on a map of outputs")
        return [np.asarray(item) for item in found]

    def _sizes(self, name: str) -> tuple[int, ...]:
        sizes = self._subject.probe.shapes.sizes(self._graph.main, name)
        if sizes is None:
            raise Refusal(f"the sizes of '{name}' are unknown: give {option('--input-shape')}")
        return sizes

    def _join(self, node: Node, read: dict[str, HeadMap]) -> dict[str, HeadMap]:
        """A Concat joins channels; where it joins along another axis, the index says so."""
        data = [n for n in node.inputs if n in read or not self._graph.source(node.scope, n)]
        scales = 0 if node.op_type == "Concat" else 2 * len(data) + 2
        if any(name not in read for name in data) or len(data) + scales != len(node.inputs):
            raise Refusal(f"node '{node.name}' reads something that is not part of the head")
        counts = [read[name].sizes[0] for name in data]
        starts, total = np.cumsum([0, *counts]), sum(counts)
        parts = []
        for name, count, start in zip(data, counts, starts, strict=False):
            self._channels(node, read[name], read[name].index)
            samples, channels = np.divmod(read[name].index, count)
            parts.append(samples * total + start + channels)
        try:
            index = np.concatenate(parts, int(node.attribute("axis", 1)))
        except ValueError:
            raise Refusal(f"node '{node.name}' joins along samples") from None
        inputs = [read[name].name if name in read else name for name in node.inputs]
        wanted = f"{node.outputs[0]}_map"
        name = self._out.copy(node, inputs, wanted, {"axis": 1})
        made = one(name, (total, *read[data[0]].sizes[1:]), index, vector=True)
        return {node.outputs[0]: self.in_order(node, made)}

    def _combine(self, node: Node, read: dict[str, HeadMap]) -> dict[str, HeadMap]:
        """An element-wise node over several tensors, which broadcast as they did: the channels of
        each are taken in the order of the first that has all."""
        values: dict[str, Array] = {}
        for name in filter(None, node.inputs):
            if name in read:
                values[name] = read[name].index
            elif self._graph.source(node.scope, name) is None:  # one number, as it is
                values[name] = np.zeros(self._sizes(name))
            else:
                values[name] = values_of(self._subject, self._graph.main, name)
        shape = self._sizes(node.outputs[0])
        spread = {name: np.broadcast_to(value, shape) for name, value in values.items()}
        channels = {n: self._channels(node, read[n], spread[n]) for n in read}
        count = prod(shape) // self._samples
        order = np.arange(count)
        for own in channels.values():
            if np.array_equal(np.sort(own), order):
                order = own
                break
        back = np.argsort(order)
        positions = next(iter(read.values())).sizes[1:]
        names = {"": ""}
        for name, value in spread.items():
            if name in read:
                own, features = channels[name][back], read[name].sizes[0]
                whole = features == 1 or np.array_equal(own, np.arange(features))
                names[name] = read[name].name if whole else self._gather(node, read[name].name, own)
            elif values[name].size == 1 and values[name].ndim <= len(positions) + 2:
                names[name] = name
            else:
                rows = value.reshape(self._samples, count)
                if np.any(rows != rows[:1]):
                    raise Refusal(f"a constant of node '{node.name}' differs between samples")
                moved = rows[0][back].reshape(count, *(1 for _ in positions))
                names[name] = self._out.constant(moved, f"{name}_map")
        made = self._out.copy(node, [names[n] for n in node.inputs], f"{node.outputs[0]}_map")
        index = element_order.index_of((self._samples, count))[:, order].reshape(shape)
        return {node.outputs[0]: one(made, (count, *positions), index, vector=True)}

    def _along(self, node: Node, index: Array) -> _Along | None:
        """Over which axes a node works; None where that is not known of its operator."""
        effect, rank = traits_of(node).effect, index.ndim
        kind = node.op_type.removeprefix("QLinear").removeprefix("Simplified")
        version = int(node.attribute("opset", self._graph.opset))
        if effect not in _ALONG or rank == 0:
            return None
        try:
            schema = onnx.defs.get_schema(kind, version)
        except onnx.defs.SchemaError:
            return None
        inputs = [item.name for item in schema.inputs[: len(node.inputs)]]
        for word in ("axes", "axis"):
            if word in inputs and node.inputs[inputs.index(word)]:
                place = inputs.index(word)
                axes = self._subject.probe.values.integers(self._graph.main, node.inputs[place])
                return _Along(tuple(axis % rank for axis in axes), "", place) if axes else None
        given = schema.attributes.get("axes")
        if given is not None:
            axes = list(node.attribute("axes", list(given.default_value.ints)))
            return _Along(tuple(axis % rank for axis in axes), "axes") if axes else None
        given = schema.attributes.get("axis")
        if given is None:
            return None
        axis = int(node.attribute("axis", given.default_value.i)) % rank
        last = kind.endswith(("LayerNormalization", "RMSNormalization"))
        last = last or (effect is Effect.SOFTMAX and version < _ONE_AXIS)
        return _Along(tuple(range(axis, rank)) if last else (axis,), "axis", None, last)

    def _reduce(self, node: Node, head_map: HeadMap, along: _Along) -> dict[str, HeadMap]:
        """A node over axes of features works on the channels, or on their axes put last."""
        batched = head_map.index.ndim > 0 and head_map.index.shape[0] == self._samples
        if 0 in along.axes if batched else self._samples > 1:
            raise Refusal(f"{node.op_type} '{node.name}' is not over the features")
        if any(n and self._graph.source(node.scope, n) is None for n in node.inputs[1:]):
            raise Refusal(f"node '{node.name}' reads something that is not part of the head")
        shape = head_map.index.shape[batched:]
        named = [name for name in node.outputs if name]
        if named != list(node.outputs):
            raise Refusal(f"node '{node.name}' ({node.op_type}) cannot work on a map of outputs")
        made = self.in_order(node, head_map)
        rank = len(made.sizes)
        direct = len(shape) == 1 and not along.to_the_last
        shift = 1 - along.axes[0] if direct else rank - batched
        attributes: dict[str, object] = {}
        axes = [axis + shift for axis in along.axes]
        inputs = [made.name, *node.inputs[1:]]
        if along.place is not None:
            values = values_of(self._subject, self._graph.main, node.inputs[along.place])
            moved = np.array(axes, values.dtype).reshape(values.shape)
            inputs[along.place] = self._out.constant(moved, f"{node.outputs[0]}_axes")
        else:
            attributes[along.attribute] = axes if along.attribute == "axes" else axes[0]
        if direct and node.attribute("keepdims", 1) == 0:
            attributes["keepdims"] = 1
        if not direct:
            order = [0, *range(2, rank + 1), 1]
            inputs[0] = self._turned(node, inputs[0], order)
            inputs[0] = self._split(node, inputs[0], rank, shape)
        others = [self._out.new_name(f"{name}_map") for name in named[1:]]
        first = self._out.copy(node, inputs, f"{named[0]}_map", attributes, others=tuple(others))
        found = {}
        for name, result in zip(named, [first, *others], strict=True):
            sizes = self._sizes(name)
            count = prod(sizes) // self._samples
            if not direct:
                result = self._split(node, result, rank, (count,), sizes[batched:])
                result = self._turned(node, result, [0, rank, *range(1, rank)])
            index = element_order.index_of(sizes)
            found[name] = one(result, (count, *made.sizes[1:]), index, vector=True)
        return found

    def _turned(self, node: Node, name: str, order: list[int]) -> str:
        return self._out.emit(node, "Transpose", [name], f"{name}_turned", {"perm": order})

    def _split(
        self,
        node: Node,
        name: str,
        rank: int,
        shape: tuple[int, ...],
        before: tuple[int, ...] | None = None,
    ) -> str:
        """The last axis of `[N, …, F]` as several, or several as one."""
        if len(shape) == (1 if before is None else len(before)):
            return name
        target = self._out.constant(
            np.array([0] * rank + list(shape), np.int64), f"{node.outputs[0]}_shape"
        )
        return self._out.emit(node, "Reshape", [name, target], f"{name}_axes")
