"""How layout, element-wise and mixing operators move what a position sees.

Mixing operators let each position see all others along an axis: normalizations, reductions, matrix
products. The rules are like those of `window_rules.py`.
"""

from __future__ import annotations

from collections.abc import Collection

from onnxshare.analysis.heads.element_order import trains
from onnxshare.analysis.receptive_field.axis_tracking import (
    NO_RANK,
    RESHAPED,
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
    stretched,
)
from onnxshare.shapes.types import Shape


def kept(step: Step) -> State:
    """One tensor in, the same positions out."""
    return joined(step.tracked)


def elementwise(step: Step) -> State:
    """Element-wise operators, with broadcasting."""
    if len(step.states) == 1:
        return step.tracked[0]
    result = step.result()
    if result is None:
        ranks = [state.rank if state is not None else None for state in step.states]
        shapes = [step.shape(position) for position in range(len(ranks))]
        sure = all(
            shape is not None or rank is not None or not step.node.input(position)
            for position, (shape, rank) in enumerate(zip(shapes, ranks, strict=True))
        )
        known = [rank for rank in ranks if rank is not None]
        known += [len(shape) for shape in shapes if shape is not None]
        result = (None,) * max(known) if sure and known else None
    wide = [
        stretched(state, step.shape(position), result)
        for position, state in enumerate(step.states)
        if state is not None
    ]
    return joined(wide)


def expanded(step: Step) -> State:
    """Expand: broadcasting to a size."""
    return stretched(step.seen("a computed size"), step.shape(0), step.result())


def transposed(step: Step) -> State:
    """Transpose: the axes in another order."""
    state, rank = step.ranked()
    order = list(step.attribute("perm", [])) or list(reversed(range(rank)))
    if sorted(order) != list(range(rank)):
        return forget([state], "perm does not fit the rank", rank)
    return renumbered(state, {axis: to for to, axis in enumerate(order)}, rank)


def squeezed(step: Step) -> State:
    """Squeeze: axes of one position go away."""
    (state, rank), shape = step.ranked(), step.shape(0)
    axes = step.integers(1, "axes")
    if axes is None and not step.node.input(1) and shape is not None and None not in shape:
        axes = [axis for axis, size in enumerate(shape) if size == 1]
    if axes is None:
        return forget([state], "squeezed along unknown axes")
    return _without(state, rank, {axis % rank for axis in axes})


def _without(state: State, rank: int, gone: Collection[int]) -> State:
    left = [axis for axis in range(rank) if axis not in gone]
    return renumbered(state, {axis: to for to, axis in enumerate(left)}, len(left))


def unsqueezed(step: Step) -> State:
    """Unsqueeze: new axes of one position."""
    state, rank = step.ranked()
    axes = step.integers(1, "axes")
    if axes is None:
        return forget(step.tracked, NO_RANK)
    rank += len(axes)
    new = {axis % rank for axis in axes}
    places = [axis for axis in range(rank) if axis not in new]
    return renumbered(state, dict(enumerate(places)), rank)


def flattened(step: Step) -> State:
    """Flatten: two axes, each of those before and after one axis."""
    state, rank = step.ranked(2)
    cut = int(step.attribute("axis", 1))
    cut += rank if cut < 0 else 0
    shape: Shape = step.shape(0) or (None,) * rank
    groups = [(list(range(cut)), [0]), (list(range(cut, rank)), [1])]
    return _regrouped(state, shape, None, groups, 2)


def reshaped(step: Step) -> State:
    """Reshape: axes that keep their size at the same place in the order of elements are followed,
    those that are merged or taken apart are not."""
    state, before, after = step.seen("a computed size"), step.shape(0), step.result()
    if before is None or after is None:
        return forget([state], RESHAPED)
    if before == after and None not in before:
        return state
    return _regrouped(state, before, after, _groups(before, after), len(after))


_Groups = list[tuple[list[int], list[int]]]


def _groups(before: Shape, after: Shape) -> _Groups:
    """Which axes of a tensor become which, in groups of equally many elements."""
    first = 0
    while first < min(len(before), len(after)) and _same(before[first], after[first]):
        first += 1
    last = 0
    shorter = min(len(before), len(after)) - first
    while last < shorter and _same(before[-1 - last], after[-1 - last]):
        last += 1
    ends = (len(before) - last, len(after) - last)
    middle = _middle(before, after, first, ends)
    return [
        *(([axis], [axis]) for axis in range(first)),
        *middle,
        *(([ends[0] + axis], [ends[1] + axis]) for axis in range(last)),
    ]


def _same(one: int | str | None, other: int | str | None) -> bool:
    return one is not None and one == other


def _middle(before: Shape, after: Shape, first: int, ends: tuple[int, int]) -> _Groups:
    """The groups between the axes that stay: each as small as equal products make it."""
    old, new = list(range(first, ends[0])), list(range(first, ends[1]))
    sizes = [*(before[axis] for axis in old), *(after[axis] for axis in new)]
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        return [(old, new)]
    groups: _Groups = []
    while old and new:
        left, right = [old.pop(0)], [new.pop(0)]
        one, other = _count(before[left[0]]), _count(after[right[0]])
        while one != other:
            side, axes, shape = (left, old, before) if one < other else (right, new, after)
            if not axes:
                return [*groups, (left + old, right + new)]
            side.append(axes.pop(0))
            one, other = (
                (one * _count(shape[side[-1]]), other)
                if side is left
                else (one, other * _count(shape[side[-1]]))
            )
        groups.append((left, right))
    if (old or new) and groups:
        left, right = groups.pop()
        groups.append((left + old, right + new))
    return groups or [(old, new)]


def _count(size: int | str | None) -> int:
    return size if isinstance(size, int) else 0


def _regrouped(
    state: State, before: Shape, after: Shape | None, groups: _Groups, rank: int
) -> State:
    """Axes in groups: alone in its group but for axes of one position, an axis is followed."""
    found: dict[int, tuple[int | None, bool]] = {}
    for old, new in groups:
        long = [axis for axis in old if before[axis] != 1]
        wide = [axis for axis in new if after is None or after[axis] != 1]
        same = len(long) == 1 == len(wide)
        if same and after is not None and len(old) + len(new) > 2:
            same = _same(before[long[0]], after[wide[0]])
        at = wide[0] if wide else None
        found |= {axis: (at, same) if axis in long else (None, True) for axis in old}

    def move(place: Place) -> Place:
        if place.axis is None or place.axis not in found:
            return place
        axis, followed = found[place.axis]
        if not followed:
            return lost(place, RESHAPED)._replace(axis=axis)
        return stopped(place) if axis is None else place._replace(axis=axis)

    return changed(state, move, rank)


def everything(step: Step) -> State:
    """Every output depends on every input element."""
    return changed(joined(step.tracked), lambda place: WHOLE)


def normalized(step: Step) -> State:
    """BatchNormalization and quantization: element by element, with operands per channel."""
    states = [step.seen("a computed operand")]
    states += [forget([state], "a computed operand") for state in step.tracked[1:]]
    if step.node.op_type == "BatchNormalization" and trains(step.node):
        return everything(step)
    return joined(states)


def along_axis(step: Step) -> State:
    """Softmax, layer normalization and their like: everything along some axes."""
    state, rank = step.ranked()
    others = [forget([other], "a computed operand") for other in step.tracked[1:]]
    name = step.node.op_type
    if name in ("InstanceNormalization", "GroupNormalization"):
        first = 2 if name == "InstanceNormalization" else 1
        return joined([mixed(state, frozenset(range(first, rank))), *others])
    if name == "MeanVarianceNormalization":
        axes = list(step.attribute("axes", [])) or [0, 2, 3]
        return mixed(state, frozenset(axis % rank for axis in axes))
    older = name in ("Softmax", "LogSoftmax", "Hardmax") and step.opset < 13
    axis = int(step.attribute("axis", 1 if older else -1)) % rank
    several = older or name.endswith(("LayerNormalization", "RMSNormalization"))
    axes = list(range(axis, rank)) if several else [axis]
    return joined([mixed(state, frozenset(axes)), *others])


def reduced(step: Step) -> State:
    """Reductions: everything along their axes, which go away or keep one position."""
    state, rank = step.ranked()
    single = step.node.op_type in ("ArgMax", "ArgMin")
    axes = [int(step.attribute("axis", 0))] if single else step.integers(1, "axes")
    if axes is None:
        if step.node.input(1):
            return forget([state], "reduced along unknown axes")
        axes = [] if step.attribute("noop_with_empty_axes", 0) else list(range(rank))
    gone = frozenset(axis % rank for axis in axes) if rank else frozenset()
    result = mixed(state, gone)
    return result if step.attribute("keepdims", 1) else _without(result, rank, gone)


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
