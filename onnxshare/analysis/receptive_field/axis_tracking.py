"""Where the axes of a model's inputs are in a tensor, and what each position there sees of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from onnxshare.analysis.receptive_field.windows import Window, fixed, through, union
from onnxshare.errors import ModelFileError
from onnxshare.graph.constant_values import Values
from onnxshare.graph.index import Node
from onnxshare.io.node_reader import fits, value_of
from onnxshare.shapes.inference import Shapes
from onnxshare.shapes.types import Shape

#: Why no window can be given. These words are part of the report.
WHOLE_INPUT = "whole input"
STRIDES_DIFFER = "strides differ"
UNKNOWN_PADS = "SAME padding over unknown sizes (sizes of inputs set them)"
TOO_LARGE = "strides beyond all bounds"
RESHAPED = "positions reshaped"
NO_RANK = "rank unknown"


class Place(NamedTuple):
    """One axis of an input as a tensor sees it.

    Attributes:
        axis: the axis of the tensor along which the window moves; None where it stays.
        window: what a position sees; None where no window can be given.
        note: why not.
        edges: what positions at the edges see in place of what would be outside; "" for nothing.
    """

    axis: int | None
    window: Window | None
    note: str = ""
    edges: str = ""


#: Every position sees all of the axis.
WHOLE = Place(None, None, WHOLE_INPUT)

#: What tells convolutions apart.
Plan = tuple[object, ...]

#: An axis of an input of the model.
Key = tuple[str, int]


class State(NamedTuple):
    """What a tensor sees: its rank, where known, and the place of each input axis."""

    rank: int | None
    places: dict[Key, Place]


class NotFollowed(Exception):
    """An operator cannot be followed: why, and the rank of its results, where known."""

    def __init__(self, note: str, rank: int | None = None) -> None:
        super().__init__(note)
        self.note, self.rank = note, rank


def lost(place: Place, note: str) -> Place:
    """A place that cannot be followed; one that sees the whole input still does."""
    return place if place.note == WHOLE_INPUT else Place(place.axis, None, place.note or note)


def forget(states: list[State], note: str, rank: int | None = None) -> State:
    """The result of an operator that cannot be followed."""
    return State(
        rank, {key: lost(place, note) for state in states for key, place in state.places.items()}
    )


def changed(state: State, change: Callable[[Place], Place], rank: int | None = None) -> State:
    """Another place for each axis; the same rank unless given."""
    places = {key: change(place) for key, place in state.places.items()}
    return State(state.rank if rank is None else rank, places)


def mixed(state: State, axes: frozenset[int]) -> State:
    """The result of an operator that mixes all positions along some axes and keeps the rank."""
    return changed(state, lambda place: WHOLE if place.axis in axes else place)


def renumbered(state: State, axes: Mapping[int, int], rank: int) -> State:
    """The axes in new places; a place on an axis that goes away stays where it is."""

    def move(place: Place) -> Place:
        if place.axis is None:
            return place
        if place.axis in axes:
            return place._replace(axis=axes[place.axis])
        return stopped(place)

    return changed(state, move, rank)


def stopped(place: Place, position: int = 0) -> Place:
    """What one position sees: it moves no more."""
    window = fixed(place.window, position) if place.window is not None else None
    return Place(None, window, place.note, place.edges)


def seen(place: Place, reads: Window | str) -> Place:
    """What an operator sees through a place on its axis: its window, or why there is none."""
    if reads == WHOLE_INPUT:
        return WHOLE
    if place.window is None:
        return place
    if isinstance(reads, str):
        return Place(place.axis, None, reads)
    window = through(reads, place.window)
    return Place(place.axis, window, "" if window is not None else TOO_LARGE, place.edges)


def folded(state: State, edges: Mapping[int, str]) -> State:
    """The result of an operator that puts the inside, from elsewhere, outside the edges."""

    def move(place: Place) -> Place:
        if place.axis is None or place.window is None or place.axis not in edges:
            return place
        return place._replace(edges=place.edges or edges[place.axis])

    return changed(state, move)


def slid(state: State, reads: Mapping[int, Window | str]) -> State:
    """The result of an operator that reads windows along some axes."""
    places = {}
    for key, place in state.places.items():
        found = reads.get(place.axis) if place.axis is not None else None
        places[key] = place if found is None else seen(place, found)
    return State(state.rank, places)


def joined(states: list[State]) -> State:
    """The result of an operator that reads tensors of one shape, position by position."""
    first = states[0]
    if all(state is first for state in states):
        return first
    places = dict(first.places)
    for state in states[1:]:
        for key, place in state.places.items():
            places[key] = _both(places[key], place) if key in places else place
    return State(first.rank, places)


def _both(one: Place, other: Place) -> Place:
    if one == other or one.note == WHOLE_INPUT:
        return one
    if other.note == WHOLE_INPUT:
        return other
    if one.window is None or other.window is None:
        return one if one.window is None else other
    together = union(one.window, other.window) if one.axis == other.axis else None
    if together is None:
        return Place(one.axis, None, STRIDES_DIFFER)
    return Place(one.axis, together, "", one.edges or other.edges)


def stretched(state: State, shape: Shape | None, result: Shape | None) -> State:
    """A tensor broadcast to a shape: axes are counted from the last one, and what has one
    position is repeated."""
    if shape == result and shape is not None:
        return state
    rank = len(result) if result is not None else None
    if state.rank is None or rank is None or rank < state.rank:
        return forget([state], NO_RANK, rank)
    shift = rank - state.rank

    def move(place: Place) -> Place:
        if place.axis is None:
            return place
        if shape is not None and result is not None:
            axis = place.axis
            if shape[axis] == 1 and result[axis + shift] != 1:
                return stopped(place)
        return place._replace(axis=place.axis + shift)

    return changed(state, move, rank)


@dataclass(slots=True)
class Step:
    """A node of the main graph with what its inputs see.

    Attributes:
        node: the node.
        states: per input what it sees; None for one that sees no input of the model.
        shapes: the shapes of all tensors.
        values: constants, where an operator takes its axes or sizes from an input.
        opset: the version of the default domain.
        slides: gathers the axes that a convolution or pooling slides over.
        plans: what convolutions and poolings read, of those seen so far.
    """

    node: Node
    states: list[State | None]
    shapes: Shapes
    values: Values
    opset: int
    slides: set[Key]
    plans: dict[Plan, dict[int, Window | str]]
    _attributes: dict[str, Any] | None = field(default=None, init=False)

    def once(self, plan: Callable[[], dict[int, Window | str]]) -> dict[int, Window | str]:
        """What nodes of the same operator, attributes and shapes read: worked out once."""
        node, state = self.node, self.data
        told: object = node.operation
        if node.operation.attributes is None:  # nodes that share it may differ in them
            told = b"".join([item.SerializeToString() for item in node.proto.attribute])
        key = (
            node.op_type,
            told,
            self.shape(0),
            self.shape(1),
            self.shape(3),
            state.rank if state is not None else None,
        )
        found = self.plans.get(key)
        if found is None:
            found = self.plans[key] = plan()
        return found

    @property
    def data(self) -> State | None:
        """What the first input sees."""
        return self.states[0]

    def seen(self, note: str) -> State:
        """What the first input sees; raises NotFollowed where it sees no input of the model."""
        if self.states[0] is None:
            raise NotFollowed(note)
        return self.states[0]

    def ranked(self, rank: int | None = None) -> tuple[State, int]:
        """What the first input sees, and its number of axes; raises NotFollowed, for results of
        `rank` axes, where one is not known."""
        state = self.states[0]
        if state is None or state.rank is None:
            raise NotFollowed(NO_RANK, rank)
        return state, state.rank

    @property
    def tracked(self) -> list[State]:
        """The inputs that see an input of the model."""
        return [state for state in self.states if state is not None]

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute; the default where it is not given or of another kind."""
        if self._attributes is None:
            self._attributes = {a.name: value_of(a) for a in self.node.proto.attribute}
        value = self._attributes.get(name)
        return value if fits(value, default) else default

    def shape(self, position: int) -> Shape | None:
        """The shape of an input."""
        inputs = self.node.inputs
        return self._shape(inputs[position]) if position < len(inputs) else None

    def result(self, position: int = 0) -> Shape | None:
        """The shape of an output."""
        return self._shape(self.node.outputs[position])

    def _shape(self, name: str) -> Shape | None:
        return self.shapes.get(self.node.scope, name) if name else None

    def size(self, axis: int, position: int = 0) -> int | None:
        """The size of an input along an axis; None where unknown."""
        shape = self.shape(position)
        size = shape[axis] if shape is not None and -len(shape) <= axis < len(shape) else None
        return size if isinstance(size, int) else None

    def integers(self, position: int, name: str = "") -> list[int] | None:
        """Integers from an input, or from the attribute where older opsets had them; None where
        they are neither given nor constant."""
        if given := self.node.input(position):
            try:
                return self.values.integers(self.node.scope, given)
            except ModelFileError:
                return None
        return [int(item) for item in self.attribute(name, [])] or None

    def numbers(self, position: int) -> list[float] | None:
        """Numbers from a constant input; None where it is computed."""
        try:
            value = self.values.get(self.node.scope, self.node.inputs[position])
        except ModelFileError:
            return None
        return None if value is None else [float(item) for item in value.reshape(-1)]
