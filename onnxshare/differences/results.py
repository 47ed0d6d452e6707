"""What a diff found: frozen, plain, and the shape of `diff --format json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from onnxshare.support.dataclass_tools import Result

#: Version of the JSON layout; it changes when a field changes its meaning or goes away.
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Change:
    """A field with its two values; None where there is none.

    Attributes:
        field: which one.
        before: in model A.
        after: in model B.
    """

    field: str
    before: Any
    after: Any


def field_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """The fields, of both together, whose values differ."""
    return [
        Change(name, before.get(name), after.get(name))
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name)
    ]


@dataclass(frozen=True)
class TotalChange:
    """One total in both models.

    Attributes:
        name: as in `inspect --format json`.
        before: of A; None if unknown.
        after: of B.
        delta: after - before.
        ratio: after / before; None where that is 0 or unknown.
    """

    name: str
    before: float | None
    after: float | None
    delta: float | None
    ratio: float | None


@dataclass(frozen=True)
class LayerChange:
    """A node that is not the same in both models.

    Attributes:
        change: added, removed, changed or renamed (nothing but its name).
        before: its name in A, with the subgraph it is in; None if added.
        after: its name in B; None if removed.
        op_type: its operator, in B unless it was removed.
        params: its parameters, in B unless it was removed.
        matched_by: name, output, weights or position; None if added or removed.
        changes: what differs.
    """

    change: str
    before: str | None
    after: str | None
    op_type: str
    params: int
    matched_by: str | None
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True)
class WeightChange:
    """A stored tensor that is not the same in both models.

    Attributes:
        change: what happened to it:
            added, removed;
            renamed (the same bytes under another name);
            merged (removed, and another tensor that holds the same is still there), copied (the
            other way round);
            reshaped (the same bytes, other dims);
            transposed (bit for bit, see `permutation`), transposed and reshaped;
            reordered (the same elements in another order, by a digest of 128 bits);
            requantized (the same numbers once what is quantized is dequantized, perhaps transposed,
            see `permutation`);
            quantized (B's is A's, each number rounded to the nearest step), dequantized (the other
            way round), with the largest difference, perhaps transposed;
            retyped (another element type);
            resized (other dims and other values);
            changed (other values).
        before: its name in A; None if added.
        after: its name in B; None if removed. For merged and copied ones, the tensor that holds
            the same.
        parameter: whether a node uses it as a parameter.
        dtype: element types in A and B.
        shape: dims in A and B.
        permutation: the order of axes that makes B's of A's.
        max_abs: largest |a - b| of all elements, where dims are the same and both are numbers of
            one kind.
        max_rel: that over the largest |a|.
    """

    change: str
    before: str | None
    after: str | None
    parameter: bool
    dtype: tuple[str | None, str | None]
    shape: tuple[tuple[int, ...] | None, tuple[int, ...] | None]
    permutation: tuple[int, ...] | None = None
    max_abs: float | None = None
    max_rel: float | None = None


@dataclass(frozen=True)
class PortChange:
    """An input or output of the model that is not the same in both.

    Attributes:
        side: input or output.
        name: its name.
        change: added, removed or changed.
        changes: what differs.
    """

    side: str
    name: str
    change: str
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True)
class Difference(Result):
    """Everything that changed from model A to model B.

    Attributes:
        a: name of model A.
        b: name of model B.
        differs: whether anything did.
        totals: all totals, those that stayed too.
        layers: the nodes that changed, in the order of B, then those that went.
        weights: the stored tensors that changed.
        ports: the inputs and outputs that changed.
        model: what changed of the model itself: IR version, opsets, metadata.
        same_layers: nodes that stayed as they were.
        same_weights: stored tensors that stayed as they were.
        notes: what could not be compared, or differs outside of all this.
        dims: the sizes of symbols for which the totals hold, of both models.
    """

    SHOWN = (
        *("schema_version", "a", "b", "differs", "totals", "layers", "weights", "ports", "model"),
        *("same_layers", "same_weights", "notes", "dims"),
    )
    schema_version: ClassVar[int] = SCHEMA_VERSION

    a: str
    b: str
    differs: bool
    totals: tuple[TotalChange, ...]
    layers: tuple[LayerChange, ...]
    weights: tuple[WeightChange, ...]
    ports: tuple[PortChange, ...]
    model: tuple[Change, ...]
    same_layers: int
    same_weights: int
    notes: tuple[str, ...] = ()
    dims: dict[str, int] = field(default_factory=dict)
