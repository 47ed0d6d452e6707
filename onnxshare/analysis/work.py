"""What an operator's formula is given, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

from onnx import TensorProto

from onnxshare.analysis.results import Sharing
from onnxshare.graph.index import Node, Stored

Sizes = tuple[int, ...]

#: Element types of weights and activations; others are counters, indices and masks.
FLOATS = frozenset(
    (
        TensorProto.FLOAT,
        TensorProto.FLOAT16,
        TensorProto.DOUBLE,
        TensorProto.BFLOAT16,
        TensorProto.FLOAT8E4M3FN,
        TensorProto.FLOAT8E4M3FNUZ,
        TensorProto.FLOAT8E5M2,
        TensorProto.FLOAT8E5M2FNUZ,
        TensorProto.FLOAT4E2M1,
        TensorProto.COMPLEX64,
        TensorProto.COMPLEX128,
    )
)


class Unknown(Exception):
    """A formula needs a size that shape inference did not find."""


@dataclass(frozen=True)
class Work:
    """What one node does for one sample.

    Attributes:
        connections: uses of stored parameters.
        sharing: the factors of the sharing ratio.
        macs: multiply-accumulates, bias not counted.
        extra_flops: arithmetic that is no multiply-accumulate, one per element and operation; None
            where it depends on data.
        unshared: weights if no two positions shared them, biases left out.
        dense: weights of an FC between the same input and output, biases left out.
        uses: the connections by input, where its weights are not all used equally often.
    """

    connections: int = 0
    sharing: Sharing = field(default_factory=Sharing)
    macs: int = 0
    extra_flops: int | None = 0
    unshared: int | None = None
    dense: int | None = None
    uses: dict[int, int] | None = None

    @property
    def flops(self) -> int | None:
        """Two per multiply-accumulate, and the rest; None where that depends on data."""
        return None if self.extra_flops is None else 2 * self.macs + self.extra_flops


@dataclass(frozen=True)
class Context:
    """A node with what is known about its tensors.

    A formula's answer may depend on the operator, its attributes, and the types and sizes of what
    it reads and makes, on no name and no value: nodes that agree in these are asked once.

    Attributes:
        node: the node.
        inputs: sizes per input; None where unknown or left out.
        outputs: sizes per output.
        constants: per input the stored parameter it carries, or None.
        batch: rows of one run, which totals are divided by.
        held: parameters that the node holds in attributes, by their (negative) slots.
    """

    node: Node
    inputs: tuple[Sizes | None, ...]
    outputs: tuple[Sizes | None, ...]
    constants: tuple[Stored | None, ...]
    batch: int = 1
    held: dict[int, Stored] = field(default_factory=dict)

    def input(self, position: int) -> Sizes:
        """Sizes of an input.

        Raises:
            Unknown: they are not known.
        """
        sizes = self.inputs[position] if position < len(self.inputs) else None
        if sizes is None:
            raise Unknown
        return sizes

    @property
    def output(self) -> Sizes:
        """Sizes of the first output.

        Raises:
            Unknown: they are not known.
        """
        return self.result(0)

    def result(self, position: int) -> Sizes:
        """Sizes of an output.

        Raises:
            Unknown: they are not known.
        """
        sizes = self.outputs[position] if position < len(self.outputs) else None
        if sizes is None:
            raise Unknown
        return sizes

    def constant(self, position: int) -> Stored | None:
        """The stored parameter that an input carries or an attribute holds, or None."""
        if position < 0:
            return self.held.get(position)
        return self.constants[position] if position < len(self.constants) else None

    def weights(self, position: int) -> int:
        """Elements of a constant input; 0 for one that is computed or left out."""
        stored = self.constant(position)
        return stored.elements if stored is not None else 0

    def has(self, position: int) -> bool:
        """Whether an input is there."""
        return position < len(self.node.inputs) and bool(self.node.inputs[position])

    def rows(self) -> int:
        """Rows of features in the first input, per sample.

        Raises:
            Unknown: its sizes are not known.
        """
        sizes = self.input(0)
        return self.per_sample(sizes) // sizes[-1] if sizes and sizes[-1] else 0

    def per_sample(self, sizes: Sizes) -> int:
        """Elements of a tensor that belong to one sample."""
        count = prod(sizes)
        return count // self.batch if sizes and sizes[0] % self.batch == 0 else count
