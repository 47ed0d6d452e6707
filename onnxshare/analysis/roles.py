"""A row of the table of operators, and the roles that constants have in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onnx import TensorProto

from onnxshare.analysis.work import FLOATS, Context, Work
from onnxshare.graph.index import Node, Stored

#: What a constant input counts as.
PARAM, STATISTIC, CONSTANT, QUANTIZATION, STRUCTURE = (
    "params",
    "statistics",
    "constants",
    "quantization",
    "structure",
)

#: What an element-wise operand counts as depends on it: several floats are parameters, one is a
#: constant, and anything else is structure. A quantised operand is not told by its type.
OPERAND, QUANTISED_OPERAND = "operand", "quantised operand"


#: Element types that few tensors have but quantised ones.
NARROW = frozenset(
    getattr(TensorProto, name)
    for name in ("INT8", "UINT8", "INT4", "UINT4", "INT2", "UINT2")
    if hasattr(TensorProto, name)
)


@dataclass(frozen=True, eq=False)
class Held:
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
        roles: what a constant counts as, per input; inputs beyond the list are structure.
            None: every input is an element-wise operand.
        work: the formula; None for an unknown operator.
        multiplies: whether it has multiply-accumulates at all, besides the kinds that always do.
            Those of an operator that has none are 0 whatever its sizes.
        held: numbers in attributes; the first has slot −1, the second −2, and so on.
        unpack: what a weight is that is stored in fewer elements than it has: from the node, the
            stored tensor and the input's position to the tensor as the operator reads it.
    """

    kind: str
    roles: tuple[str, ...] | None
    work: Callable[[Context], Work] | None
    multiplies: bool = False
    held: tuple[Held, ...] = ()
    unpack: Callable[[Node, Stored, int], Stored] | None = None

    def role(self, position: int, stored: Stored, dtype: int | None) -> str:
        """What a constant counts as in an input, whose element type there is `dtype`."""
        if self.roles is None:
            role = OPERAND
        else:
            role = self.roles[position] if position < len(self.roles) else STRUCTURE
        if role not in (OPERAND, QUANTISED_OPERAND):
            return role
        # What nobody knows, looks up rows or passes them on may hold quantised weights.
        if dtype in NARROW and (self.work is None or self.kind in ("embedding", "layout")):
            role = QUANTISED_OPERAND
        if role == OPERAND and dtype not in FLOATS:
            return STRUCTURE
        return PARAM if stored.elements > 1 else CONSTANT

    @property
    def has_macs(self) -> bool:
        """Whether it may have multiply-accumulates."""
        return self.multiplies or self.work is None or self.kind in ("conv", "fc", "recurrent")
