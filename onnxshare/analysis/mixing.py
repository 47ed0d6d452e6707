"""How operators that mix all positions along an axis move what a position sees: normalisations,
reductions, matrix products. The rules are like those of `sliding`.
"""

from __future__ import annotations

from onnxshare.analysis.layout import trains
from onnxshare.analysis.places import (
    NO_RANK,
    WHOLE,
    Place,
    State,
    Step,
    changed,
    forget,
    joined,
    lost,
    mixed,
    renumbered,
    stopped,
)


def everything(step: Step) -> State:
    """Every output depends on every input element."""
    return changed(joined(step.tracked), lambda place: WHOLE)


def normalised(step: Step) -> State:
    """BatchNormalization and quantisation: element by element, with operands per channel."""
    if step.data is None:
        return forget(step.tracked, "a computed operand")
    states = [step.data]
    states += [forget([state], "a computed operand") for state in step.tracked[1:]]
    if step.node.op_type == "BatchNormalization" and trains(step.node):
        return everything(step)
    return joined(states)


def along_axis(step: Step) -> State:
    """Softmax, layer normalisation and their like: everything along some axes."""
    state = step.data
    if state is None or state.rank is None:
        return forget(step.tracked, NO_RANK)
    others = [forget([other], "a computed operand") for other in step.tracked[1:]]
    name, rank = step.node.op_type, state.rank
    if name in ("InstanceNormalization", "GroupNormalization"):
        first = 2 if name == "InstanceNormalization" else 1
        return joined([mixed(state, frozenset(range(first, rank))), *others])
    if name == "MeanVarianceNormalization":
        axes = list(step.attribute("axes", [])) or [0, 2, 3]
        return mixed(state, frozenset(axis % rank for axis in axes))
    older = name in ("Softmax", "LogSoftmax", "Hardmax") and step.opset < 13
    axis = int(step.attribute("axis", 1 if older else -1)) % rank
    several = older or name in ("LayerNormalization", "RMSNormalization")
    axes = list(range(axis, rank)) if several else [axis]
    return joined([mixed(state, frozenset(axes)), *others])


def reduced(step: Step) -> State:
    """Reductions: everything along their axes, which go away or keep one position."""
    state = step.data
    if state is None or state.rank is None:
        return forget(step.tracked, NO_RANK)
    single = step.node.op_type in ("ArgMax", "ArgMin")
    axes = [int(step.attribute("axis", 0))] if single else step.integers(1, "axes")
    if axes is None:
        if step.given(1):
            return forget([state], "reduced along unknown axes")
        axes = [] if step.attribute("noop_with_empty_axes", 0) else list(range(state.rank))
    gone = frozenset(axis % state.rank for axis in axes) if state.rank else frozenset()
    result = mixed(state, gone)
    if step.attribute("keepdims", 1):
        return result
    left = [axis for axis in range(state.rank) if axis not in gone]
    return renumbered(result, {axis: to for to, axis in enumerate(left)}, len(left))


def product(step: Step, right: int = 1) -> State:
    """MatMul and its kin: everything along the inner axes, the others kept."""
    result, moved = step.result(), []
    for position, state in enumerate(step.states):
        if state is None:
            continue
        rank = len(result) if result is not None else state.rank
        if position not in (0, right) or state.rank is None or state.rank < 2 or rank is None:
            moved.append(forget([state], "a computed operand", rank))
            continue
        inner = state.rank - 1 if position == 0 else state.rank - 2
        inside = mixed(state, frozenset((inner,)))
        shift = rank - state.rank
        moved.append(renumbered(inside, {a: a + shift for a in range(state.rank)}, rank))
    return joined(moved)


def fully_connected(step: Step) -> State:
    """Gemm: everything along the inner axis; the rows kept."""
    state = step.data
    if state is None or len(step.tracked) > 1:
        return forget(step.tracked, "a computed operand", 2)
    rows = 1 if step.attribute("transA", 0) else 0
    return renumbered(mixed(state, frozenset((1 - rows,))), {rows: 0}, 2)


def gathered(step: Step) -> State:
    """Gather: along an axis of the data, or from a constant table by computed indices."""
    data, indices = step.states[0], step.states[1] if len(step.states) > 1 else None
    shapes = step.shape(0), step.shape(1)
    if shapes[0] is None or shapes[1] is None or (data is not None and indices is not None):
        return forget(step.tracked, NO_RANK)
    ranks = len(shapes[0]), len(shapes[1])
    rank = ranks[0] + ranks[1] - 1
    axis = int(step.attribute("axis", 0)) % max(ranks[0], 1)
    if indices is not None:
        return renumbered(indices, {own: own + axis for own in range(ranks[1])}, rank)
    if data is None:
        return forget(step.tracked, NO_RANK)
    index, size = step.integers(1), step.size(axis)

    def move(place: Place) -> Place:
        if place.axis != axis:
            return place
        if ranks[1] == 0 and index is not None and (index[0] >= 0 or size is not None):
            return stopped(place, index[0] + (size or 0) * (index[0] < 0))
        return lost(place, "positions gathered")._replace(axis=None)

    later = {own: own + ranks[1] - 1 for own in range(axis + 1, ranks[0])}
    return renumbered(
        changed(data, move), {own: later.get(own, own) for own in range(ranks[0])}, rank
    )
