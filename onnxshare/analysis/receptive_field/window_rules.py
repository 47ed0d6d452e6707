"""How operators with windows move what a position sees: convolutions and pooling.

Each rule gives what the outputs of one node see; None means that it sees no input of the model.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxshare.analysis.receptive_field.axis_tracking import (
    UNKNOWN_PADS,
    WHOLE_INPUT,
    State,
    Step,
    forget,
    joined,
    mixed,
    slid,
)
from onnxshare.analysis.receptive_field.windows import Window, regular, transposed

#: What an operator reads along each axis that it does not leave as it is, or why nothing is known.
Reads = dict[int, Window | str]

DAMAGED = "attributes do not fit the rank"


def _axes(state: State, kernel: Sequence[int], *, channels_last: bool) -> list[int]:
    """The spatial axes; none where the kernel does not fit the rank."""
    first = 1 if channels_last else 2
    if state.rank is not None and state.rank != len(kernel) + 2:
        return []
    return list(range(first, first + len(kernel)))


#: Strides, dilations and pads at the beginning.
_Settings = tuple[list[int], list[int], list[int]]


def _four(step: Step, count: int) -> _Settings | None:
    """What a node says of them; None where they are damaged."""
    strides = list(step.attribute("strides", [])) or [1] * count
    dilations = list(step.attribute("dilations", [])) or [1] * count
    pads = list(step.attribute("pads", [])) or [0] * (2 * count)
    if not (len(strides) == len(dilations) == count and len(pads) == 2 * count):
        return None
    if min([*strides, *dilations], default=1) < 1:
        return None
    return strides, dilations, pads[:count]


def _reads(step: Step, axes: list[int], kernel: Sequence[int]) -> Reads:
    """Per axis what the operator reads at a position."""
    settings = _four(step, len(kernel))
    if settings is None or min(kernel, default=1) < 1 or not axes:
        return dict.fromkeys(axes, DAMAGED)
    automatic = step.attribute("auto_pad", "NOTSET")
    found: Reads = {}
    for axis, width, stride, dilation, pad in zip(axes, kernel, *settings, strict=True):
        reach = (width - 1) * dilation
        begin: int | None = 0 if automatic == "VALID" else pad
        if automatic in ("SAME_UPPER", "SAME_LOWER"):
            begin = _same(reach, stride, step.size(axis), upper=automatic == "SAME_UPPER")
        found[axis] = UNKNOWN_PADS if begin is None else regular(stride, -begin, reach - begin)
    return found


def _same(reach: int, stride: int, size: int | None, *, upper: bool) -> int | None:
    """Padding at the beginning so that ceil(size / stride) positions come out."""
    total = reach
    if stride > 1:
        if size is None:
            return None
        total = max((-(-size // stride) - 1) * stride + reach + 1 - size, 0)
    return total // 2 if upper else total - total // 2


def _slides(step: Step, state: State, reads: Reads) -> None:
    """Note which axes of the inputs a window slides over: that makes them image-like."""
    for key, place in state.places.items():
        if place.axis in reads and reads[place.axis] != WHOLE_INPUT:
            step.slides.add(key)


def with_others(step: Step, result: State, positions: Sequence[int] = ()) -> State:
    """The result with what computed weights, biases, scales and further operands add."""
    for position, state in enumerate(step.states):
        if position and state is not None:
            if position in positions:
                result = joined([result, state])
            else:
                result = joined([result, forget([state], "a computed operand")])
    return result


def convolution(
    step: Step, weight: int = 1, *, channels_last: bool = False, added: Sequence[int] = ()
) -> State:
    """Conv and its kin: a window over space, all channels."""
    state = step.seen("a computed kernel")
    reads = step.once(lambda: _convolution(step, state, weight, channels_last=channels_last))
    if not reads:
        return forget(step.tracked, "the kernel's size is unknown", state.rank)
    _slides(step, state, reads)
    return with_others(step, slid(state, reads)._replace(rank=len(reads) + 1), added)


def _kernel(step: Step, weight: int) -> list[int]:
    """The sizes of a convolution's kernel; none where one is unknown."""
    shape = step.shape(weight)
    kernel = list(step.attribute("kernel_shape", [])) or list(shape[2:] if shape else [])
    sizes = [size for size in kernel if isinstance(size, int)]
    return sizes if len(sizes) == len(kernel) else []


def _convolution(step: Step, state: State, weight: int, *, channels_last: bool) -> Reads:
    """What a convolution reads along each axis but that of the batch."""
    sizes = _kernel(step, weight)
    axes = _axes(state, sizes, channels_last=channels_last)
    if not axes:
        return {}
    channel = axes[-1] + 1 if channels_last else 1
    return {**_reads(step, axes, sizes), channel: WHOLE_INPUT}


def pooling(step: Step) -> State | list[State]:
    """MaxPool, AveragePool, LpPool: a window over space, each channel on its own. `ceil_mode` only
    adds positions at the end. The second output of MaxPool holds places within the whole map."""
    state = step.seen("computed scales")
    reads = step.once(lambda: _pooling(step, state))
    if not reads:
        return forget(step.tracked, DAMAGED, state.rank)
    _slides(step, state, reads)
    result = with_others(step, slid(state, reads))
    places = forget([result], "places within the whole map", result.rank)
    return [result, *(places for _ in step.node.outputs[1:])]


def _pooling(step: Step, state: State) -> Reads:
    kernel = list(step.attribute("kernel_shape", []))
    last = bool(step.attribute("channels_last", 0)) or step.node.op_type == "NhwcMaxPool"
    return _reads(step, _axes(state, kernel, channels_last=last), kernel)


def global_pooling(step: Step) -> State:
    """Global pooling: everything along the spatial axes."""
    state, rank = step.ranked()
    spatial = range(1, rank - 1) if step.attribute("channels_last", 0) else range(2, rank)
    _slides(step, state, dict.fromkeys(spatial, DAMAGED))
    return with_others(step, mixed(state, frozenset(spatial)))


def transposed_convolution(step: Step) -> State:
    """ConvTranspose (https://onnx.ai/onnx/operators/onnx__ConvTranspose.html)."""
    state, sizes = step.seen("a computed kernel"), _kernel(step, 1)
    axes = _axes(state, sizes, channels_last=False)
    settings = _four(step, len(sizes))
    if not axes or settings is None or min(sizes) < 1:
        return forget(step.tracked, "the kernel's size is unknown", state.rank)
    reads: Reads = {}
    for index, axis in enumerate(axes):
        stride, dilation = settings[0][index], settings[1][index]
        pad = _transposed_pad(step, index, axis, (sizes[index] - 1) * dilation, settings)
        if pad is None:
            reads[axis] = UNKNOWN_PADS
            continue
        window = transposed(sizes[index], stride, dilation, pad)
        reads[axis] = window or "a transposed convolution with gaps"
    reads[1] = WHOLE_INPUT
    _slides(step, state, reads)
    return with_others(step, slid(state, reads)._replace(rank=len(sizes) + 2))


def _transposed_pad(
    step: Step, index: int, axis: int, reach: int, settings: _Settings
) -> int | None:
    """Padding at the beginning: as given, or what brings the output to the size requested."""
    stride, given = settings[0][index], settings[2][index]
    extra: list[int] = list(step.attribute("output_padding", [])) or [0] * len(settings[0])
    asked: list[int] = list(step.attribute("output_shape", []))
    automatic = step.attribute("auto_pad", "NOTSET")
    if automatic == "VALID" or (not asked and automatic == "NOTSET"):
        return 0 if automatic == "VALID" else given
    total = reach + 1 + extra[index] - stride
    if asked:
        size = step.size(axis)
        if size is None:
            return None
        total = stride * (size - 1) + extra[index] + reach + 1 - asked[index - len(settings[0])]
    return total // 2 if automatic == "SAME_UPPER" else total - total // 2
