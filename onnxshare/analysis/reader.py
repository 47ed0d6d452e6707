"""What a node that reads a quantised weight is asked: its tensors, scales and zero points."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from onnxshare.analysis.dequantized import Dequantized, reading, spread
from onnxshare.graph.constant_values import Values
from onnxshare.graph.index import Graph, Node, Stored
from onnxshare.io.tensors import Array


@dataclass(frozen=True)
class Reader:
    """A node, and what its constant inputs hold."""

    graph: Graph
    values: Values
    node: Node

    def has(self, position: int) -> bool:
        """Whether an input is there."""
        return position < len(self.node.inputs) and bool(self.node.inputs[position])

    def stored(self, position: int) -> Stored | None:
        """The stored tensor of an input, which no node rearranges before."""
        if not self.has(position):
            return None
        return self.graph.stored(self.node.scope, self.node.inputs[position])

    def value(self, position: int) -> Array | None:
        """The value of an input; None where it is left out or computed from data."""
        if not self.has(position):
            return None
        return self.values.get(self.node.scope, self.node.inputs[position])

    def zero(self, position: int, scale: Array | None) -> Array | None:
        """A zero point, zeros where it is left out; one number stands for all."""
        if scale is None or not self.has(position):
            return None if scale is None else np.zeros(scale.shape, np.float32)
        zero = self.value(position)
        if zero is not None and zero.size == 1 and scale.size > 1:
            return np.broadcast_to(zero.reshape(()), scale.shape)
        return zero

    def linear(
        self, data: int, scale: int, zero: int, axis: int = 0, block: int = 0
    ) -> Iterator[Dequantized | None]:
        """The reading of an input by a scale per tensor, per axis or per block."""
        stored, scales = self.stored(data), self.value(scale)
        if stored is not None and scales is not None:
            yield self.by(stored, scales, self.zero(zero, scales), axis, block)

    def by(
        self, stored: Stored, scale: Array, zero: Array | None, axis: int = 0, block: int = 0
    ) -> Dequantized | None:
        """The reading of a tensor by these."""
        shape = stored.shape
        if zero is None:
            return None
        blocks = None
        if block and scale.size > 1:
            axis += len(shape) if axis < 0 else 0
            blocks = tuple(block if place == axis else 1 for place in range(len(shape)))
        one, other = spread(scale, shape, axis, block), spread(zero, shape, axis, block)
        return reading(stored, shape, one, other, blocks)
