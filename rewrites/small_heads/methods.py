"""The family of small heads, by name.

A name is `FORM+WEIGHTING`, with `+int8` where its weights are stored in 8 bits, and `+w8a8` where
what they are multiplied with (activations) is too:

- the weighting over space: `gap`, `grid:K` (average pooling to K windows along each axis),
  `mask:R` (R spatial weightings shared by all channels), `depthwise` (one weighting per channel),
  or none: all positions;
- the form: none (only the FCs that read the map become smaller), `collapse` (all FCs become one
  linear layer), `stack:R` (each FC layer by layer, the hidden ones of rank R), `mlp:H` (all FCs
  become two, with H hidden units between them), `prune` (the FCs as they are, without the hidden
  units that never change on the samples).

`mlp:H` goes with the weighting `separable:K`: K features, each a mixture of channels under a
spatial weighting, of the map as it is or, with `grid:G`, averaged to G windows along each axis
first. With `collapse`, or alone on a head of one FC, these features make one linear layer.

So `mask:4`, `collapse`, `collapse+gap`, `stack:16`, `stack:12+mask:8`, `mlp:16+separable:24`,
`mlp:16+separable:24+grid:4`, `stack:32+int8`, `prune+int8`. `int8` alone is the head as it is, its
weights in 8 bits, `w8a8` the same with its activations. `exact` is the convolution over the whole
map: nothing smaller.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, prod

from onnxshare.errors import UsageError

#: Weightings and forms that take a number.
_COUNTED = ("grid", "mask", "stack", "mlp", "separable")

_NAMES = (
    "gap, grid:K, mask:R, depthwise, collapse, stack:R, collapse+gap, collapse+mask:R, "
    "stack:R+mask:R and so on, separable:K, collapse+separable:K, mlp:H+separable:K, "
    "mlp:H+separable:K+grid:G, prune, each with +int8 or +w8a8, int8, w8a8, exact, auto"
)


@dataclass(frozen=True)
class Method:
    """One member of the family.

    Attributes:
        form: `first`, `collapse`, `stack`, `mlp`, `prune`, `original` (the FCs as they are) or
            `exact`.
        weighting: `gap`, `grid`, `mask`, `depthwise`, `separable` or `full`.
        count: windows per axis of a grid, masks, or separable features.
        rank: of the hidden layers of a stack, or the hidden units of an mlp.
        bins: windows per axis that the map is averaged to before separable features; 0 for all of
            it.
        int8: whether its weights are stored in 8 bits.
        int8_activations: whether what they are multiplied with is in 8 bits too.
    """

    form: str
    weighting: str
    count: int = 1
    rank: int = 0
    bins: int = 0
    int8: bool = False
    int8_activations: bool = False

    @property
    def name(self) -> str:
        """The name as it is written on the command line."""
        form = f"{self.form}:{self.rank}" if self.rank else self.form
        space = (
            self.weighting if self.weighting not in _COUNTED else f"{self.weighting}:{self.count}"
        )
        before = f"grid:{self.bins}" if self.bins else ""
        words = (
            "" if self.form in ("first", "original") else form,
            "" if space == "full" else space,
            before,
            "w8a8" if self.int8_activations else "int8" if self.int8 else "",
        )
        return "+".join(filter(None, words))

    @property
    def whole(self) -> bool:
        """Whether all FCs of the head go, and nothing of what is between them stays."""
        return self.form in ("collapse", "mlp", "prune")

    @property
    def taught(self) -> bool:
        """Whether it has no closed form, and is fitted step by step."""
        return self.weighting == "separable"


EXACT = Method("exact", "full")

#: The head as it is, its weights in 8 bits.
INT8 = Method("original", "full", int8=True)

#: The same, and what they are multiplied with.
W8A8 = replace(INT8, int8_activations=True)

#: The FCs without the hidden units that never change on the samples.
PRUNE = Method("prune", "full")


def describe(method: Method) -> str:
    """A method as text."""
    words = "weights and activations" if method.int8_activations else "weights"
    stored = f", {words} in 8 bits" if method.int8 else ""
    if method.form == "original":
        return f"'{method.name}': the FCs as they are{stored}"
    if method.form == "prune":
        return f"'{method.name}': the FCs without units that never change on the samples{stored}"
    space = {
        "gap": "global average pooling",
        "grid": f"average pooling to a grid of {method.count}",
        "mask": f"{method.count} spatial masks" if method.count > 1 else "one spatial mask",
        "depthwise": "one spatial mask per channel",
        "full": "all positions",
        "separable": f"{method.count} mixtures of channels with a spatial mask each",
    }[method.weighting]
    if method.bins:
        space += f" on a grid of {method.bins}"
    form = {
        "first": "a smaller first FC",
        "collapse": "all FCs collapsed to one",
        "stack": f"FCs of rank {method.rank}",
        "mlp": f"one hidden layer of {method.rank}",
    }[method.form]
    return f"'{method.name}': {space}, {form}, fitted{stored}"


def parse(name: str) -> Method:
    """Read a name. Raises UsageError where there is no such method."""
    problem = UsageError(f"there is no method '{name}'", f"available: {_NAMES}")
    if name == "exact":
        return EXACT
    found: dict[str, int] = {}
    for part in name.split("+"):
        match = re.fullmatch(r"([a-z]+|int8|w8a8)(?::([1-9][0-9]{0,5}))?", part)
        if match is None or (match[1] in _COUNTED) != (match[2] is not None) or match[1] in found:
            raise problem
        found[match[1]] = int(match[2] or 1)
    weights, both = (found.pop(name, 0) > 0 for name in ("int8", "w8a8"))
    if weights and both:
        raise problem
    if (weights or both) and not found:
        return W8A8 if both else INT8
    form = next((key for key in ("collapse", "stack", "mlp", "prune") if key in found), "first")
    rank = found.pop(form, 0)
    bins = found.pop("grid", 0) if "separable" in found else 0
    if len(found) > 1 or not set(found) <= {"gap", "grid", "mask", "depthwise", "separable"}:
        raise problem
    weighting, count = next(iter(found.items()), ("full", 1))
    separable = weighting == "separable"
    if (form, weighting) == ("first", "full") or (form == "mlp" and not separable):
        raise problem
    if (form == "stack" and separable) or (form == "prune" and weighting != "full"):
        raise problem
    rank = rank if form in _COUNTED else 0
    return Method(form, weighting, count, rank, bins, weights or both, both)


#: Positions that a large map is averaged to, about.
_WINDOWS = 36

#: Numbers of a map, C·S: a map of more is only read averaged, to as few as the second if it can.
_WIDEST = (2**14, 2**13)


def grids(channels: int, spatial: Sequence[int]) -> list[int]:
    """The grids on which separable features are tried: windows along each axis, as even as can be,
    and 0 for the whole map, where it is not too large."""
    longest = max(spatial)
    bins = ceil(longest / ceil(longest / round(_WINDOWS ** (1 / len(spatial)))))
    while bins > 2 and channels * prod(min(bins, size) for size in spatial) > _WIDEST[1]:
        bins = ceil(bins / 2)
    if bins == longest:
        return [0]
    return [bins, 0] if channels * prod(spatial) <= _WIDEST[0] else [bins]


def _mlps(outputs: int, channels: int, spatial: Sequence[int], *, dear: bool) -> list[Method]:
    """Hidden layers, the smallest first, each of twice the units of the one before: from 1.6 units
    for each of few outputs, and fewer where there are many, which lie in a space of fewer
    dimensions."""
    found, units = list[Method](), max(4, round(min(1.6 * outputs, 13 + outputs**0.5)))
    extra = round(min(0.8 * outputs, units / 2))
    while units <= 4 * max(4, round(min(1.6 * outputs, 8 * outputs**0.5))):
        found += [
            Method("mlp", "separable", units + extra, units, bins)
            for bins in grids(channels, spatial)
        ]
        units *= 4 if dear else 2
    return found


#: Ranks of a stack per output. None is above the number of samples: these span no more directions.
_RANKS = (1.2, 1.6, 2.4)


def family(
    depth: int,
    outputs: int,
    channels: int,
    spatial: Sequence[int],
    *,
    samples: int = 10**9,
    dear: bool = False,
) -> list[Method]:
    """The methods that a search tries, before any is fitted, for a depth of FCs one after the
    other, on maps of so many channels and these spatial sizes, of so many samples.

    Ranks of 1.2 to 1.6 times the outputs, over all leaves, were enough in experience, and the
    search goes to twice that. Where each fit is `dear`, of neighbours in size one is tried.
    """
    taught = _mlps(outputs, channels, spatial, dear=dear)  # last, as each takes longer than others
    masks = (4, 16) if dear else (2, 4, 8, 16)
    spaces = [("gap", 1), ("grid", 2), *(("mask", count) for count in masks)]
    spaces = [item for item in spaces if item[1] < prod(spatial)]
    spaces.append(("depthwise", 1))
    if depth == 1:  # a collapse of one FC is that FC
        found = [Method("first", kind, count) for kind, count in spaces]
        found += [Method("stack", "full", 1, rank) for rank in _halves(outputs)]
        linear = [
            Method("first", "separable", rank + rank // 2, 0, bins)
            for rank in _halves(2 * outputs)[:2]
            for bins in grids(channels, spatial)
        ]
        taught = linear + taught
        weights = outputs * channels * prod(spatial)
        return found + [m for m in taught if m.count * (channels + (m.rank or outputs)) < weights]
    found = [Method("collapse", kind, count) for kind, count in [*spaces, ("full", 1)]]
    span = min(outputs, samples / max(_RANKS))
    ranks = sorted({max(2, round(span * factor)) for factor in _RANKS})
    for rank in ranks:
        for kind, count in spaces if not dear or rank == ranks[len(ranks) // 2] else ():
            if kind in ("mask", "depthwise") and count in (1, 4, 8, 16):
                found.append(Method("stack", kind, count, rank))
        found.append(Method("stack", "full", 1, rank))
    found += [Method("first", kind, count) for kind, count in spaces if kind != "depthwise"]
    return [*found, PRUNE, *taught]


def _halves(most: int) -> list[int]:
    """Ranks below this, each about 1.4 times smaller, down to 2."""
    ranks = {round(most * 2 ** (-step / 2)) for step in range(1, 2 * most.bit_length())}
    return sorted((rank for rank in ranks if rank >= 2), reverse=True)


#: Further ranks of a stack that a search for few bytes tries, per output of the head: in 8 bits a
#: higher rank still costs less than a low one in floats.
_MORE_RANKS = (3.2, 4.8)


def stored_in_int8(
    methods: list[Method], outputs: int, objective: str, *, activations: bool = False
) -> list[Method]:
    """The methods that a search tries where 8 bits can be written: the head as it is in 8 bits too,
    and for few bytes all of them in 8 bits; `activations` are in 8 bits where that is requested.
    Else arithmetic stays in floats, so that for the latency none is in 8 bits."""
    if activations:
        plain = stored_in_int8(methods, outputs, "params" if objective == "latency" else objective)
        return [replace(item, int8_activations=item.int8) for item in plain]
    if objective == "latency":
        return methods
    if objective != "bytes":
        return [INT8, *methods]
    found = [replace(method, int8=True) for method in methods]
    if any(method.form == "stack" for method in methods):
        ranks = (round(outputs * factor) for factor in _MORE_RANKS)
        found += [Method("stack", "full", 1, max(2, rank), int8=True) for rank in ranks]
    return [INT8, *dict.fromkeys(found)]
