"""A row of the table of operators, the roles that constants have in it, and what its formula is
given and answers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from onnxshare.analysis.results import Sharing
from onnxshare.graph.index import Node, Stored
from onnxshare.graph.operator_traits import UNKNOWN, Traits
from onnxshare.io.tensors import types
from onnxshare.shapes.types import per_sample

Sizes = tuple[int, ...]

#: Element types of weights and activations; others are counters, indices and masks.
FLOATS = types(
    "FLOAT FLOAT16 DOUBLE BFLOAT16 FLOAT8E4M3FN FLOAT8E4M3FNUZ FLOAT8E5M2 FLOAT8E5M2FNUZ "
    "FLOAT4E2M1 COMPLEX64 COMPLEX128"
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
        extra_flops: arithmetic that is not a multiply-accumulate, one per element and operation;
            None where it depends on data.
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

    @classmethod
    def of(
        cls,
        uses: dict[int, int],
        macs: int = 0,
        extra: int | None = 0,
        sharing: Sharing = Sharing(),  # noqa: B008 - it is frozen
        unshared: int | None = None,
        dense: int | None = None,
    ) -> Work:
        """Work whose connections are those by input."""
        return cls(sum(uses.values()), sharing, macs, extra, unshared, dense, uses)

    def of_rows(self, rows: int) -> Work:
        """The work of so many rows of a sample, each of which is given this work."""
        if rows == 1:
            return self
        uses = None if self.uses is None else {at: rows * n for at, n in self.uses.items()}
        token = self.sharing.token * (rows if self.connections else 1)
        return Work(
            rows * self.connections,
            replace(self.sharing, token=max(1, token)),
            rows * self.macs,
            None if self.extra_flops is None else rows * self.extra_flops,
            None if self.unshared is None else rows * self.unshared,
            self.dense,
            uses,
        )

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
        attribute_weight: parameters that the node holds in attributes, by their (negative) slots.
    """

    node: Node
    inputs: tuple[Sizes | None, ...]
    outputs: tuple[Sizes | None, ...]
    constants: tuple[Stored | None, ...]
    batch: int = 1
    attribute_weight: dict[int, Stored] = field(default_factory=dict)

    def input(self, position: int) -> Sizes:
        """Sizes of an input; raises Unknown where they are not known."""
        return _known(self.inputs, position)

    @property
    def output(self) -> Sizes:
        """Sizes of the first output; raises Unknown where they are not known."""
        return self.result(0)

    def result(self, position: int) -> Sizes:
        """Sizes of an output; raises Unknown where they are not known."""
        return _known(self.outputs, position)

    def constant(self, position: int) -> Stored | None:
        """The stored parameter that an input carries or an attribute holds, or None."""
        if position < 0:
            return self.attribute_weight.get(position)
        return self.constants[position] if position < len(self.constants) else None

    def weights(self, position: int) -> int:
        """Elements of a constant input; 0 for one that is computed or left out."""
        stored = self.constant(position)
        return stored.elements if stored is not None else 0

    def used(self, times: dict[int, int]) -> dict[int, int]:
        """The uses of those inputs that are stored parameters."""
        return {slot: count for slot, count in times.items() if self.constant(slot) is not None}

    def number(self, name: str, default: int = 0) -> int:
        """A whole number among the node's attributes."""
        return int(self.node.attribute(name, default))

    def has(self, position: int) -> bool:
        """Whether an input is there."""
        return bool(self.node.input(position))

    def rows(self) -> int:
        """Rows of features in the first input, per sample; raises Unknown as `input`."""
        sizes = self.input(0)
        return self.per_sample(sizes) // sizes[-1] if sizes and sizes[-1] else 0

    def per_sample(self, sizes: Sizes) -> int:
        """Elements of a tensor that belong to one sample."""
        return per_sample(sizes, self.batch)

    def share(self, rows: int) -> int:
        """How many of so many rows of a run belong to one sample."""
        return rows // self.batch if rows % self.batch == 0 else rows


def _known(sizes: tuple[Sizes | None, ...], position: int) -> Sizes:
    found = sizes[position] if position < len(sizes) else None
    if found is None:
        raise Unknown
    return found


#: What a constant input counts as.
PARAM, STATISTIC, CONSTANT = "params", "statistics", "constants"
QUANTIZATION, STRUCTURE = "quantization", "structure"

#: What an element-wise operand counts as depends on it: several floats are parameters, one is a
#: constant, and anything else is structure. A quantized operand is not told by its type.
OPERAND, QUANTIZED_OPERAND = "operand", "quantized operand"

#: The letters that rows of the table write roles with, as in "SPPTT".
_ROLES = {
    "P": PARAM,
    "T": STATISTIC,
    "C": CONSTANT,
    "Q": QUANTIZATION,
    "S": STRUCTURE,
    "O": OPERAND,
    "X": QUANTIZED_OPERAND,
}


#: Element types that few tensors have but quantized ones.
NARROW = types("INT8 UINT8 INT4 UINT4 INT2 UINT2")


@dataclass(frozen=True, eq=False)
class AttributeWeight:
    """Numbers that an operator holds in an attribute.

    Attributes:
        attributes: its names, of which a node has one at most.
        role: what the numbers count as.
        rows: attributes of which one says how many rows the numbers have: by its value, or by how
            many values it has. () for a vector.
    """

    attributes: tuple[str, ...]
    role: str = PARAM
    rows: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Operator:
    """A row of the table.

    Attributes:
        kind: conv, fc, recurrent, embedding, norm, elementwise, pool, layout or other.
        roles: what a constant counts as, a letter (`_ROLES`) per input; inputs beyond them are
            structure. None: every input is an element-wise operand.
        work: the formula; None for an unknown operator.
        multiplies: whether it has multiply-accumulates at all, besides the kinds that always do.
            Those of an operator that has none are 0 whatever its sizes.
        attribute_weight: numbers in attributes; the first has slot −1, the second −2, and so on.
        unpack: what a weight is that is stored in fewer elements than it has: from the node, the
            stored tensor and the input's position to the tensor as the operator reads it.
        traits: what it does to its data, of an operator of another package; the traits of all
            others stand in `graph/operator_traits.py`.
    """

    kind: str
    roles: str | None
    work: Callable[[Context], Work] | None
    multiplies: bool = False
    attribute_weight: tuple[AttributeWeight, ...] = ()
    unpack: Callable[[Node, Stored, int], Stored] | None = None
    traits: Traits = UNKNOWN

    def role(self, position: int, stored: Stored, dtype: int | None) -> str:
        """What a constant counts as in an input, whose element type there is `dtype`."""
        if self.roles is None:
            role = OPERAND
        else:
            role = _ROLES[self.roles[position]] if position < len(self.roles) else STRUCTURE
        if role not in (OPERAND, QUANTIZED_OPERAND):
            return role
        # What nobody knows, looks up rows or passes them on may hold quantized weights.
        if dtype in NARROW and (self.work is None or self.kind in ("embedding", "layout")):
            role = QUANTIZED_OPERAND
        if role == OPERAND and dtype not in FLOATS:
            return STRUCTURE
        return PARAM if stored.elements > 1 else CONSTANT

    @property
    def has_macs(self) -> bool:
        """Whether it may have multiply-accumulates."""
        return self.multiplies or self.work is None or self.kind in ("conv", "fc", "recurrent")
