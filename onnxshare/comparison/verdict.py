"""From figures to a verdict that can be believed both ways.

A tolerance that is a fixed number passes wrong models whose outputs are small or do not move, and
refuses right ones whose outputs are large. Here it comes from model A itself: `FACTOR` times the
noise that A shows when only rounding changes (`rounding_noise.py`), per output channel. A channel
is evidence only if it is *live*: if it moves over the inputs by more than `VISIBILITY` tolerances,
and answers by more than `ANSWER` tolerances when the inputs move by under 1 % (a saturated softmax
jumps between 0 and 1 and yet answers to nothing).

Measured on the CPU, errors as shares of the tolerance. An FC turned into a convolution correctly,
on 1,100 random nets (1 to 12,544 inputs to the FC, 1 to 100 outputs, weights of size 0.001 to 10,
biases up to 1,000, plain, ReLU and softmax outputs, five kinds of inputs), on nets of up to
25,088 inputs and on nine models that other people trained: mostly under 0.2, never over 1. The
same with mixed-up axes, height and width swapped, two rows swapped, the bias dropped or one
channel scaled by 1.01: from 19 upwards where the outputs live, but for that scaling behind a
sigmoid (3.8), and a bias of 0.04 dropped next to scores of thousands (2.4); none passed.
Channels that a ReLU keeps at 0 on every sample show nothing: then the tensor before it is compared.

What is noise for large samples may be an error for small ones: two biases of a hidden layer
swapped in a net that people use (maxpool, MNIST) came to 0.97 of the tolerance on random inputs
of all scales, and far beyond it on the small ones alone, so these are looked at alone too. On 35
settings (7 nets, 5 kinds of inputs) and on rewrites of our own and of nine models that other people
trained, this and the rounds after it (`strategy.py`), which read the weights in the end
(`weight_difference.py`), called no right rewrite different and passed none of 566 corrupted ones
(the outputs alone: 2 of 487, which move them by less than half of the tolerance); inputs that are
all zero stay `inconclusive` (`benchmarks/validation_rates.py`, where the figures of other rules
stand next to these). Several layers that are corrupted at once, in hidden units that no input
wakes, can still hide from `compare`; `rewrite` sees each layer, and passed none of 352.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from onnxshare.comparison.promise import Promise, hold
from onnxshare.comparison.results import OutputComparison, Verdict
from onnxshare.comparison.target import Target, agreement_lower_bound
from onnxshare.comparison.tensor_statistics import Floats, Tally
from onnxshare.comparison.tolerance import NONE, tolerated
from onnxshare.io.node_reader import reads
from onnxshare.io.tensors import Array
from onnxshare.support.option_text import option

#: Tolerance over noise. The noise is a maximum over few runs and another kernel may round more.
FACTOR = 16.0

#: Movement over tolerance: an error of 1 % of the movement must be visible.
VISIBILITY = 100.0

#: Answer to inputs moved by under 1 %, over tolerance.
ANSWER = 4.0

#: Groups of channels that are told apart in reports.
_GROUPS = 256

#: The smallest noise assumed, in units in the last place of the channel's largest value.
_LEAST_UNITS = 1.0


@dataclass(frozen=True)
class Judged:
    """A tensor's figures, measured against its tolerances.

    Attributes:
        tally: the figures.
        row: the report's row.
        excess: whether the difference is more than rounding explains.
        live: per channel whether it is evidence.
        ratio: per channel error over tolerance.
    """

    tally: Tally
    row: OutputComparison
    excess: bool
    live: np.ndarray[Any, np.dtype[np.bool_]]
    ratio: Floats

    @property
    def lives(self) -> bool:
        """Whether at least half of the channels are evidence, or no input could move any."""
        return self.tally.fixed or (self.live.size > 0 and float(self.live.mean()) >= 0.5)


def tolerances(tally: Tally) -> Floats:
    """Return what rounding explains, per channel: `FACTOR` times the largest of

    - the channel's own noise;
    - the middle noise of all channels, relative to how far each moves, times this channel's
      movement: few samples may let one channel off with no noise at all (the largest instead of
      the middle where values jump by quantization steps);
    - one unit in the last place of the channel's largest value;
    - for channels that barely change, and so are not evidence anyway, the middle noise relative to
      the largest values: what does not move has its noise measured by few draws only.
    """
    movement, largest = tally.movement, tally.largest
    pool = np.max if tally.discrete else np.median
    least = _LEAST_UNITS * tally.epsilon * largest
    still = movement <= VISIBILITY * FACTOR * least
    scales = np.where(still, largest, movement)
    pooled = np.zeros_like(scales)
    for group, base in ((~still, movement), (still, largest)):
        known = base > 0
        if group.any() and known.any():
            pooled[group] = float(pool(tally.noise[known] / base[known])) * scales[group]
    noise = np.maximum(tally.noise, np.maximum(pooled, least))
    return np.asarray(FACTOR * noise)


def judge(tally: Tally, *, internal: bool) -> Judged:
    """Measure one tensor's errors against its tolerances."""
    known: dict[str, Any] = {**tally.figures(), **_classes(tally)}
    known["kept"] = tuple(tally.measures.values())
    if tally.problem or not tally.numeric or not tally.error.size:
        row = OutputComparison(tally.name, internal, live=tally.varied, **known)
        return Judged(tally, row, bool(tally.problem), np.zeros(0, dtype=np.bool_), np.zeros(0))
    allowed = tolerances(tally)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(tally.error > 0, tally.error / allowed, 0.0)
    live = tally.movement > VISIBILITY * allowed
    if tally.response is not None:
        live &= tally.response > ANSWER * allowed
    worst = int(ratio.argmax())
    row = OutputComparison(
        tally.name,
        internal,
        tolerance=float(allowed[worst]),
        worst=float(ratio[worst]),
        live=float(live.mean()),
        worst_channel=worst,
        channel_errors=_by_channel(ratio),
        **known,
    )
    return Judged(tally, row, float(ratio[worst]) > 1.0, live, ratio)


def _by_channel(ratio: Array) -> tuple[float, ...]:
    """The ratios, or of many the largest of each group of neighbors."""
    count = min(len(ratio), _GROUPS)
    starts = len(ratio) * np.arange(count) // count
    return tuple(np.maximum.reduceat(ratio, starts).tolist())


def _classes(tally: Tally) -> dict[str, Any]:
    """Agreement of the classes, and how low it may be in truth."""
    if not tally.classes:
        return {}
    found = {
        "argmax_agreement": tally.agree / tally.samples,
        "confidence_low": agreement_lower_bound(tally.agree, tally.samples),
    }
    if tally.classes > 5:
        found["top5_agreement"] = tally.agree_five / tally.samples
        found["top5_confidence_low"] = agreement_lower_bound(tally.agree_five, tally.samples)
    return found


def decide(
    judged: Sequence[Judged],
    covers: Mapping[str, Sequence[str]],
    promise: Promise | None,
    random: bool,
    tolerance: Target = NONE,
) -> tuple[Verdict, str]:
    """Return the verdict and the reason for it, in one sentence.

    `covers` are per output the internal tensors it is computed from: they may be evidence for it.
    The tolerance is the error that is allowed; it takes the place of a promise.
    """
    wrong = [item for item in judged if item.excess]
    if wrong and tolerance:
        return _tolerated(judged, tolerance)
    if wrong and promise is not None:
        return _approximate(judged, promise, random)
    if wrong:
        worst = max(wrong, key=lambda item: (bool(item.tally.problem), item.row.worst or 0.0))
        return Verdict.DIFFERENT, _difference(worst)
    alive = {item.row.name for item in judged if item.lives}
    dead = [
        item.row.name
        for item in judged
        if not item.row.internal
        and item.row.name not in alive
        and not alive.intersection(covers.get(item.row.name, ()))
    ]
    if dead or not alive:
        if tolerance:
            return _tolerated(judged, tolerance)
        return Verdict.INCONCLUSIVE, _dead(judged, dead)
    if all(item.tally.bit_equal for item in judged):
        fixed = [f"'{item.row.name}'" for item in judged if item.tally.fixed]
        words = ", and move with the inputs" if len(fixed) < len(judged) else ""
        if fixed:
            words += f", but for {', '.join(fixed)}" if words else ""
            words += ", which no input reaches"
        return Verdict.IDENTICAL, (
            f"all outputs are equal bit for bit{words}" + _unseen(judged, alive, covers)
        )
    worst = max(judged, key=lambda item: item.row.worst or 0.0)
    return Verdict.EQUIVALENT, (
        "no error is larger than rounding explains: "
        f"at most {worst.row.worst or 0.0:.0%} of the tolerance, in '{worst.row.name}'"
        + _unseen(judged, alive, covers)
    )


def _tolerated(judged: Sequence[Judged], tolerance: Target) -> tuple[Verdict, str]:
    kept, words = tolerated(tolerance, judged)
    still = [item.row.name for item in judged if not (item.row.internal or item.tally.moves)]
    if kept and still:
        return Verdict.INCONCLUSIVE, _dead(judged, still)
    return (Verdict.APPROXIMATE if kept else Verdict.DIFFERENT), words


def _approximate(judged: Sequence[Judged], promise: Promise, random: bool) -> tuple[Verdict, str]:
    broken = [item for item in judged if item.tally.problem]
    if broken:
        return Verdict.DIFFERENT, _difference(broken[0])
    if random:
        return Verdict.INCONCLUSIVE, (
            f"{promise.rewrite} is an approximation, and random samples say nothing about it: "
            f"pass {option('--samples')}"
        )
    if promise.target.max_loss is not None and not any(sum(i.tally.right) for i in judged):
        return Verdict.INCONCLUSIVE, (
            f"{promise.rewrite} is an approximation that promises accuracy: pass "
            f"{option('--samples')} with labels"
        )
    kept, words = hold([item.row for item in judged], promise)
    if kept and not any(item.lives for item in judged):
        dead = [item.row.name for item in judged if not item.row.internal]
        return Verdict.INCONCLUSIVE, _dead(judged, dead)
    return (Verdict.APPROXIMATE if kept else Verdict.DIFFERENT), words


def _difference(item: Judged) -> str:
    what = "internal tensor" if item.row.internal else "output"
    if item.tally.problem:
        return f"{what} '{item.row.name}' {item.tally.problem}"
    row = item.row
    return (
        f"{what} '{row.name}' differs by {row.worst:.3g} times what rounding explains "
        f"(largest error {row.max_abs:.3g})"
    )


def _unseen(judged: Sequence[Judged], alive: set[str], covers: Mapping[str, Sequence[str]]) -> str:
    """Say so where some channels passed only because they did not move."""
    for item in judged:
        still = int((~item.live).sum())
        if still and not (item.row.internal or item.tally.fixed):
            channels = f"{still} of {item.live.size} channels of '{item.row.name}'"
            before = [name for name in covers.get(item.row.name, ()) if name in alive]
            if before:
                return f"; {channels} barely changed; '{before[-1]}' before it was judged instead"
            return f"; {channels} barely changed, and could not be judged"
    return ""


def _dead(judged: Sequence[Judged], dead: Sequence[str]) -> str:
    if not dead:
        return "no floating-point output was compared: nothing shows that the models agree"
    item = next(item for item in judged if item.row.name == dead[0])
    if not item.tally.numeric:
        return (
            f"output '{dead[0]}' holds no floating-point values: equal ones prove little, and no "
            "tensor before it could be compared in its place"
        )
    if item.tally.numberless:
        return f"output '{dead[0]}' is NaN or infinite throughout, which proves nothing"
    share = "none" if not item.live.size else f"{item.live.mean():.0%}"
    if item.tally.samples < 2:
        return (
            f"output '{dead[0]}' was seen once, and one sample cannot show whether it moves with "
            f"the inputs, so equal values prove nothing: pass more {option('--samples')}"
        )
    return (
        f"output '{dead[0]}' barely changes with these inputs ({share} of its channels do), so "
        f"equal values prove nothing: pass other {option('--samples')}"
    )


def upstream(proto: onnx.ModelProto, output: str, names: Sequence[str]) -> tuple[str, ...]:
    """Return those of `names` that `output` is computed from."""
    if not names:
        return ()
    makers = {name: node for node in proto.graph.node for name in node.output}
    seen: set[str] = set()
    stack = [output]
    while stack:
        name = stack.pop()
        if name not in seen:
            seen.add(name)
            if name in makers:
                stack.extend(reads(makers[name]))
    return tuple(name for name in names if name in seen)
