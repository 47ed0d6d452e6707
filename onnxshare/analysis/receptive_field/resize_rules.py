"""How operators that resize, cut or pad move what a position sees.

The rules are like those of `window_rules.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from onnxshare.analysis.receptive_field.axis_tracking import (
    NO_RANK,
    State,
    Step,
    folded,
    forget,
    joined,
    mixed,
    slid,
)
from onnxshare.analysis.receptive_field.window_rules import DAMAGED, with_others
from onnxshare.analysis.receptive_field.windows import MAX_PERIOD, Window, regular, resampled


def resize(step: Step) -> State:
    """Resize and Upsample by an integer, or by one over an integer."""
    state, _ = step.ranked()
    axes = {place.axis for place in state.places.values() if place.axis is not None}
    found = {axis: _resized(step, axis) for axis in sorted(axes)}
    reads = {axis: window for axis, window in found.items() if window is not None}
    return with_others(step, slid(state, reads))


def _resized(step: Step, axis: int) -> Window | str | None:
    """What Resize reads along an axis; None where the axis is left as it is."""
    before, result = step.size(axis), step.result()
    after = result[axis] if result is not None and axis < len(result) else None
    scale = _scale(step, axis)
    if scale is None:
        if not isinstance(after, int) or not before or not after:
            return "resized by an unknown factor"
        scale = Fraction(after, before)
    if scale == 1:
        return None
    if 1 not in (scale.numerator, scale.denominator):
        return "resized by a factor that is not an integer"
    upsample = step.node.op_type == "Upsample" or step.opset < 11
    default = "asymmetric" if upsample else "half_pixel"
    mapping = step.attribute("coordinate_transformation_mode", default)
    mode = step.attribute("mode", "nearest")
    smooth = step.attribute("antialias", 0) and scale < 1
    if mapping == "pytorch_half_pixel" and after == 1:
        return "resized to one position"
    whole = scale >= 1 or (before is not None and before % scale.denominator == 0)
    if mapping not in _HALF_PIXEL and mapping != "asymmetric":
        return f"resized with {mapping}"
    if smooth or (mapping == "half_pixel_symmetric" and not whole):
        return "resized with antialiasing" if smooth else f"resized with {mapping}"
    rounding = step.attribute("nearest_mode", "floor" if upsample else "round_prefer_floor")
    window = resampled(
        1 / scale,
        half_pixel=mapping in _HALF_PIXEL,
        mode="linear" if mode == "bilinear" else mode,
        nearest=rounding if rounding in _ROUNDINGS else "floor",
    )
    return window or "resized with an irregular reach"


_HALF_PIXEL = ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric")
_ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


def _scale(step: Step, axis: int) -> Fraction | None:
    """The scale of an axis where it is given as a number."""
    position = 1 if step.node.op_type == "Upsample" or step.opset < 11 else 2
    rank = step.data.rank if step.data is not None else None
    axes = list(step.attribute("axes", [])) or list(range(rank or 0))
    axes = [item % rank for item in axes] if rank else axes
    scales: Sequence[float] = step.attribute("scales", [])
    if step.node.input(position):
        scales = step.numbers(position) or ()
    if axis not in axes:
        return Fraction(1)
    if len(scales) != len(axes):
        return None
    return _exact(float(scales[axes.index(axis)]))


def _exact(scale: float) -> Fraction | None:
    """The integer, or one over an integer, that a float stands for; else the float itself."""
    if not 2**-20 < scale < 2**20:
        return None
    near = Fraction(round(scale)) if scale >= 1 else Fraction(1, round(1 / scale))
    return near if abs(scale / float(near) - 1) < 1e-6 else Fraction(scale)


def cut(step: Step) -> State:
    """Slice: shifts by where it starts, strides by its steps."""
    state, rank = step.ranked()
    starts = step.integers(1, "starts")
    axes = step.integers(3, "axes")
    if axes is None and not step.node.input(3):
        axes = list(range(len(starts or ())))
    steps = step.integers(4) if step.node.input(4) else [1] * len(axes or ())
    if not starts or axes is None or steps is None or not len(starts) == len(axes) == len(steps):
        return forget(step.tracked, "cut at a computed place", rank)
    reads: dict[int, Window | str] = {}
    for start, axis, stride in zip(starts, axes, steps, strict=True):
        axis += rank if axis < 0 else 0
        reads[axis] = _cut(start, stride, step.size(axis))
    return slid(state, reads)


def _cut(start: int, stride: int, size: int | None) -> Window | str:
    if stride < 1:
        return "reversed"
    if start < 0:
        if size is None:
            return "cut at an unknown place"
        start = max(0, start + size)
    return regular(stride, start, start)


#: What Pad puts outside the edges by its modes, where that is not one constant or the edge itself.
_OUTSIDE = {
    "reflect": "mirrored at the edges: positions there see the inside instead of the outside",
    "wrap": "wrapped around: positions at an edge see the opposite one instead of the outside",
}


def pad(step: Step) -> State:
    """Pad: what is added at the beginning shifts. Mirrored and repeated edges are edges too."""
    state, rank = step.ranked()
    pads = step.integers(1, "pads") or step.integers(1, "paddings")
    axes = step.integers(3) if step.node.input(3) else list(range(rank))
    if pads is None or axes is None or len(pads) != 2 * len(axes):
        return forget(step.tracked, "padded by a computed size", rank)
    reads: dict[int, Window | str] = {
        axis % rank: regular(1, -begin, -begin)
        for axis, begin in zip(axes, pads, strict=False)
        if begin
    }
    result = with_others(step, slid(state, reads))
    outside = _OUTSIDE.get(step.attribute("mode", "constant"))
    if outside is None:
        return result
    sizes = zip(axes, pads, pads[len(axes) :], strict=False)
    return folded(result, {axis % rank: outside for axis, *ends in sizes if max(ends) > 0})


def split(step: Step) -> list[State]:
    """Split: each output starts where the one before it ends."""
    state, rank = step.ranked()
    names = step.node.outputs
    axis = int(step.attribute("axis", 0)) % rank
    if all(place.axis != axis for place in state.places.values()):
        return [state] * len(names)
    found: list[State] = []
    start: int | None = 0
    for position in range(len(names)):
        reads = "split at an unknown place" if start is None else regular(1, start, start)
        found.append(slid(state, {axis: reads}))
        result = step.result(position)
        size = result[axis] if result is not None else None
        start = start + size if start is not None and isinstance(size, int) else None
    return found


def space_to_depth(step: Step) -> State:
    """SpaceToDepth and DepthToSpace: blocks of positions go to the channels, or come from them."""
    state, block = step.data, int(step.attribute("blocksize", 1))
    if state is None or not 0 < block <= MAX_PERIOD:
        return forget(step.tracked, DAMAGED)
    reads = regular(block, 0, block - 1)
    if step.node.op_type == "DepthToSpace":
        reads = Window(1, (0,) * block, (0,) * block)
    return mixed(slid(state, {2: reads, 3: reads}), frozenset((1,)))


def concatenated(step: Step) -> State:
    """Concat: the union, position by position; none along the axis itself."""
    state = joined(step.tracked)
    if state.rank is None:
        return forget(step.tracked, NO_RANK)
    axis = int(step.attribute("axis", 1)) % state.rank
    if all(place.axis != axis for place in state.places.values()):
        return state
    return slid(state, {axis: "joined end to end"})
