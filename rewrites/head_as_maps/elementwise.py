"""Carries the element-wise steps of a head over to maps: each constant goes where its element went.

They commute with any layout, so each is copied once per map of the map, its constants moved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import numpy as np

from onnxshare.analysis.heads import element_order
from onnxshare.analysis.heads.head import Subject
from onnxshare.graph.index import Node
from onnxshare.graph.operator_traits import traits_of
from onnxshare.io.tensors import Array
from rewrites.edits.node_emitter import Emitter
from rewrites.edits.node_uses import values_of
from rewrites.head_as_maps.maps import HeadMap, Part, constants_of, is_plain
from rewrites.refusal import Refusal


class Steps:
    """The element-wise steps of one head."""

    def __init__(self, subject: Subject, out: Emitter) -> None:
        self._subject, self._out = subject, out
        self._graph = subject.graph

    def elementwise(self, node: Node, data: str, head_map: HeadMap) -> HeadMap:
        """Copy a node that works on each element, its constants moved.

        Raises:
            Refusal: a constant cannot be moved.
        """
        operands: dict[str, list[str]] = {}
        for name in node.inputs:
            if name and name != data and name not in operands:
                operands[name] = self._operand(node, name, head_map)
        parts = []
        for place, part in enumerate(head_map.parts):
            inputs = [
                part.name if name == data else operands[name][place] if name else ""
                for name in node.inputs
            ]
            parts.append(self._copy(node, inputs, part))
        return replace(head_map, parts=tuple(parts))

    def combine(self, node: Node, first: HeadMap, second: HeadMap) -> HeadMap:
        """Copy a node that works on two tensors of the head, element by element.

        Raises:
            Refusal: they are not the same elements in the same order.
        """
        alike = [part.sizes for part in first.parts] == [part.sizes for part in second.parts]
        if not (alike and np.array_equal(first.index, second.index)):
            raise Refusal(f"node '{node.name}' combines tensors that are not laid out alike")
        parts = [
            self._copy(node, [one.name, other.name], one)
            for one, other in zip(first.parts, second.parts, strict=True)
        ]
        return replace(first, parts=tuple(parts))

    def _operand(self, node: Node, name: str, head_map: HeadMap) -> list[str]:
        """A constant operand per map, moved to where its elements went; single elements stay as
        named."""
        stored = self._graph.source(self._graph.main, name)
        if stored is None and element_order.dynamic_scale(self._graph, self._graph.main, name):
            return self._dynamic(node, name, head_map)
        if traits_of(node).data == (0,):
            if stored is not None and stored.elements == 1:
                return [name] * len(head_map.parts)
            raise Refusal(f"'{name}' of node '{node.name}' is computed, or one per channel")
        value = values_of(self._subject, self._graph.main, name)
        spread = _spread(value, head_map, node, name)
        if value.size == 1 and value.ndim <= len(head_map.parts[0].sizes) + 1:
            return [name] * len(head_map.parts)
        return self._constants(spread, head_map, node, f"{name}_map")

    def _dynamic(self, node: Node, name: str, head_map: HeadMap) -> list[str]:
        """A scale that is computed: one number as it is, one per output along the channels."""
        sizes = self._subject.probe.shapes.sizes(self._graph.main, name)
        if sizes is not None and len(sizes) < 2 and prod(sizes) == 1:
            return [name] * len(head_map.parts)
        channels = head_map.parts[0].sizes[0]
        if (
            not head_map.vector
            or sizes != (channels,)
            or not is_plain(head_map.index, head_map.samples)
        ):
            raise Refusal(f"the scale '{name}' of node '{node.name}' is computed")
        shape = [channels, *(1 for _ in head_map.parts[0].sizes[1:])]
        target = self._out.constant(np.array(shape, np.int64), f"{name}_shape")
        return [self._out.emit(node, "Reshape", [name, target], f"{name}_map")]

    def quantize(self, node: Node, head_map: HeadMap) -> HeadMap:
        """DynamicQuantizeLinear takes one range over the whole tensor, in any layout the same:
        scale and zero point stay under their names.

        Raises:
            Refusal: the tensor is several maps, each with a range of its own.
        """
        if len(head_map.parts) > 1:
            raise Refusal(f"{node.op_type} '{node.name}' takes its range over several maps")
        part = head_map.parts[0]
        wanted = f"{node.outputs[0]}_map"
        name = self._out.copy(node, [part.name], wanted, others=node.outputs[1:])
        return replace(head_map, parts=(replace(part, name=name),))

    def _per_channel(self, node: Node, name: str, head_map: HeadMap) -> str:
        """A constant over axis 1 of a tensor, as one number per channel of its map."""
        value = values_of(self._subject, self._graph.main, name)
        spread = _spread(
            value.reshape(-1, *(1 for _ in head_map.index.shape[2:])), head_map, node, name
        )
        (moved,) = constants_of(head_map, spread, node)
        channels = np.broadcast_to(moved.reshape(-1), head_map.sizes[:1])
        return self._out.constant(channels, f"{name}_map")

    def _constants(self, spread: Array, head_map: HeadMap, node: Node, wanted: str) -> list[str]:
        return [self._out.constant(item, wanted) for item in constants_of(head_map, spread, node)]

    def _copy(self, node: Node, inputs: Sequence[str], part: Part) -> Part:
        name = self._out.copy(node, list(inputs), f"{node.outputs[0]}_map")
        return replace(part, name=name)

    def normalize(self, node: Node, head_map: HeadMap) -> tuple[HeadMap, str | None]:
        """BatchNormalization after an FC normalizes channels as before; before it, the features
        are elements of the map, so it becomes a product and a sum:

            γ · (x − μ) / √(σ² + ε) + β = x · s + (β − μ · s),  s = γ / √(σ² + ε)

        Returns:
            The map, and a note for the user if constants were computed.

        Raises:
            Refusal: it is not in its inference form, or not over features.
        """
        index = head_map.index
        if element_order.trains(node) or index.ndim < 2 or (index.ndim > 2 and not head_map.vector):
            raise Refusal(f"BatchNormalization '{node.name}' is not in its inference form")
        if head_map.vector:
            if not node.attribute("spatial", 1):
                raise Refusal(f"BatchNormalization '{node.name}' is not over features")
            names = list(node.inputs[1:5])
            if index.ndim > 2 or not is_plain(index, head_map.samples):
                names = [self._per_channel(node, name, head_map) for name in names]
            parts = [self._copy(node, [part.name, *names], part) for part in head_map.parts]
            return replace(head_map, parts=tuple(parts)), None
        constants = [values_of(self._subject, self._graph.main, name) for name in node.inputs[1:5]]
        scale, shift, mean, variance = (item.astype(np.float64) for item in constants)
        dtype = constants[0].dtype
        factor = scale / np.sqrt(variance + float(node.attribute("epsilon", 1e-5)))
        offset = shift - mean * factor
        names = [part.name for part in head_map.parts]
        for op_type, vector in (("Mul", factor), ("Add", offset)):
            spread = np.broadcast_to(vector.astype(dtype), head_map.index.shape)
            operands = self._constants(spread, head_map, node, f"{node.name}_{op_type}")
            names = [
                self._out.emit(node, op_type, [name, operand], f"{node.outputs[0]}_{op_type}")
                for name, operand in zip(names, operands, strict=True)
            ]
        made = [replace(part, name=n) for part, n in zip(head_map.parts, names, strict=True)]
        note = f"BatchNormalization '{node.name}' was folded into a product and a sum"
        return replace(head_map, parts=tuple(made)), note


def _spread(value: Array, head_map: HeadMap, node: Node, name: str) -> Array:
    try:
        return np.broadcast_to(value, head_map.index.shape)
    except ValueError:
        raise Refusal(
            f"the constant '{name}' of node '{node.name}' changes the shape of its data"
        ) from None
