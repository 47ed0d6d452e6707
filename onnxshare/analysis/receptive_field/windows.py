"""Windows: which stretch of an input axis each position of a map sees.

A convolution or pooling with kernel k, dilation d, stride s and padding p reads, at position i, the
positions i·s - p to i·s - p + (k - 1)·d of the map before it. Sent through the window of that map
this gives the recurrences of Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional
Neural Networks", Distill, 2019 (https://distill.pub/2019/computing-receptive-fields):

    size' = size + (k - 1)·d·stride,   stride' = stride·s,   start' = start - p·stride

Upsampling and transposed convolutions have no such single size: neighbouring positions see windows
of different sizes and distances, over and over. So a window is kept per position of one period.
"""

from __future__ import annotations

from fractions import Fraction
from math import ceil, floor, gcd, lcm
from typing import NamedTuple

#: The longest period that is followed; upsampling 2,048 times is far beyond real networks.
MAX_PERIOD = 1024

#: Sizes and strides beyond this are nobody's network, and JSON readers lose their last digits.
_LARGEST = 2**53


class Window(NamedTuple):
    """What each position of a map sees of one axis of an input.

    Position q·period + r sees the input's positions lows[r] + q·step to highs[r] + q·step, both
    included, where the period is the length of `lows` and `highs`, and 0 <= r < period. Both rise
    with the position or stay.
    """

    step: int
    lows: tuple[int, ...]
    highs: tuple[int, ...]

    @property
    def stride(self) -> int | float:
        """Distance between the windows of neighbouring positions, on average."""
        period = len(self.lows)
        return self.step / period if self.step % period else self.step // period

    @property
    def size(self) -> int:
        """The width of the widest window of a period."""
        if len(self.lows) == 1:
            return self.highs[0] - self.lows[0] + 1
        return max(high - low + 1 for low, high in zip(self.lows, self.highs, strict=True))

    def low(self, position: int) -> int:
        """The first input position that a position sees."""
        turns, place = divmod(position, len(self.lows))
        return self.lows[place] + turns * self.step

    def high(self, position: int) -> int:
        """The last input position that a position sees."""
        turns, place = divmod(position, len(self.highs))
        return self.highs[place] + turns * self.step


#: Each position sees itself.
ITSELF = Window(1, (0,), (0,))


def regular(stride: int, first: int, last: int) -> Window:
    """The window of an operator that reads the positions i·stride + first to i·stride + last."""
    return Window(stride, (first,), (last,))


def through(reads: Window, seen: Window) -> Window | None:
    """What an operator sees that reads `reads` of a map whose positions see `seen`; None where
    the period or the numbers grow beyond all bounds."""
    if len(reads.lows) == 1 == len(seen.lows):
        low = seen.lows[0] + reads.lows[0] * seen.step
        high = seen.highs[0] + reads.highs[0] * seen.step
        return _bounded(Window(reads.step * seen.step, (low,), (high,)))
    period = len(seen.lows)
    turns = period // gcd(reads.step, period)
    positions = range(len(reads.lows) * turns)
    if len(positions) > MAX_PERIOD:
        return None
    return _bounded(
        _shortest(
            Window(
                reads.step * turns // period * seen.step,
                tuple(seen.low(reads.low(position)) for position in positions),
                tuple(seen.high(reads.high(position)) for position in positions),
            )
        )
    )


def union(one: Window, other: Window) -> Window | None:
    """The smallest window that holds both; None where their strides differ, or the period grows
    beyond its bound."""
    if one == other:
        return one
    if one.step * len(other.lows) != other.step * len(one.lows):
        return None
    period = lcm(len(one.lows), len(other.lows))
    if period == 1:
        low, high = min(one.lows[0], other.lows[0]), max(one.highs[0], other.highs[0])
        return Window(one.step, (low,), (high,))
    if period > MAX_PERIOD:
        return None
    return _shortest(
        Window(
            one.step * (period // len(one.lows)),
            tuple(min(one.low(i), other.low(i)) for i in range(period)),
            tuple(max(one.high(i), other.high(i)) for i in range(period)),
        )
    )


def fixed(seen: Window, position: int) -> Window:
    """What one position sees, whatever is asked of it later."""
    return Window(0, (seen.low(position),), (seen.high(position),))


def transposed(kernel: int, stride: int, dilation: int, pad: int) -> Window | None:
    """What a transposed convolution reads: position i gets input j through the kernel's element
    i + pad - j·stride, where there is one. None where some positions get nothing, or where a
    dilation together with a stride makes the order of what they get irregular."""
    reach = (kernel - 1) * dilation
    if stride > min(kernel, MAX_PERIOD) or (stride > 1 and dilation > 1):
        return None
    return Window(
        1,
        tuple(-((reach - pad - place) // stride) for place in range(stride)),
        tuple((place + pad) // stride for place in range(stride)),
    )


def resampled(inverse: Fraction, *, half_pixel: bool, mode: str, nearest: str) -> Window | None:
    """What Resize reads (https://onnx.ai/onnx/operators/onnx__Resize.html), `inverse` positions of
    the input per position of the output; `nearest` and `mode` are its attributes, `half_pixel` says
    whether positions are the centres of pixels. None where the period is beyond its bound, or where
    what is read does not rise with the position."""
    period = inverse.denominator
    if period > MAX_PERIOD:
        return None
    middle = Fraction(1, 2) if half_pixel else Fraction(0)
    reads = [_taps((place + middle) * inverse - middle, mode, nearest) for place in range(period)]
    lows, highs = tuple(low for low, _ in reads), tuple(high for _, high in reads)
    turned = (*lows, lows[0] + inverse.numerator), (*highs, highs[0] + inverse.numerator)
    if any(sorted(ends) != list(ends) for ends in turned):
        return None  # a cubic reads one position where it meets it, and four next to it
    return Window(inverse.numerator, lows, highs)


def _taps(at: Fraction, mode: str, nearest: str) -> tuple[int, int]:
    if mode == "nearest":
        half = Fraction(1, 2)
        rounded = {
            "round_prefer_floor": ceil(at - half),
            "round_prefer_ceil": floor(at + half),
            "floor": floor(at),
            "ceil": ceil(at),
        }[nearest]
        return rounded, rounded
    if at.denominator == 1:  # the other taps have weight 0
        return int(at), int(at)
    return (floor(at), ceil(at)) if mode == "linear" else (floor(at) - 1, floor(at) + 2)


def _shortest(window: Window) -> Window:
    """The same window with the shortest period that tells it."""
    period = len(window.lows)
    for shorter in range(1, period):
        if period % shorter or window.step * shorter % period:
            continue
        step = window.step * shorter // period
        cut = Window(step, window.lows[:shorter], window.highs[:shorter])
        if all(
            (cut.low(i), cut.high(i)) == (window.lows[i], window.highs[i])
            for i in range(shorter, period)
        ):
            return cut
    return window


def _bounded(window: Window) -> Window | None:
    reach = max(window.step, abs(window.lows[0]), abs(window.highs[-1]))
    return window if reach < _LARGEST else None
