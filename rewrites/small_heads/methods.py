"""The family of small heads, by name.

A name is `FORM+WEIGHTING`:

- the weighting over space: `gap`, `grid:K` (average pooling to K windows along each axis),
  `mask:R` (R spatial weightings shared by all channels), `depthwise` (one weighting per channel),
  or none: all positions;
- the form: none (only the FCs that read the map become smaller), `collapse` (all FCs become one
  linear layer), `stack:R` (each FC layer by layer, the hidden ones of rank R), `mlp:H` (all FCs
  become two, with H hidden units between them).

`mlp:H` goes with the weighting `separable:K`, and that with no other form: K features, each a
mixture of channels under a spatial weighting.

So `mask:4`, `collapse`, `collapse+gap`, `stack:16`, `stack:12+mask:8`, `mlp:16+separable:24`.
`exact` is the convolution over the whole map: nothing smaller.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from onnxshare.errors import UsageError

#: Weightings and forms that take a number.
_COUNTED = ("grid", "mask", "stack", "mlp", "separable")

_NAMES = (
    "gap, grid:K, mask:R, depthwise, collapse, stack:R, collapse+gap, collapse+mask:R, "
    "stack:R+mask:R and so on, mlp:H+separable:K, exact, auto"
)


@dataclass(frozen=True)
class Method:
    """One member of the family.

    Attributes:
        form: `first`, `collapse`, `stack`, `mlp` or `exact`.
        weighting: `gap`, `grid`, `mask`, `depthwise`, `separable` or `full`.
        count: windows per axis of a grid, masks, or separable features.
        rank: of the hidden layers of a stack, or the hidden units of an mlp.
    """

    form: str
    weighting: str
    count: int = 1
    rank: int = 0

    @property
    def name(self) -> str:
        """The name as it is written on the command line."""
        form = f"{self.form}:{self.rank}" if self.rank else self.form
        space = (
            self.weighting if self.weighting not in _COUNTED else f"{self.weighting}:{self.count}"
        )
        words = ("" if form == "first" else form, "" if space == "full" else space)
        return "+".join(filter(None, words))

    @property
    def whole(self) -> bool:
        """Whether all FCs of the head go, and nothing of what is between them stays."""
        return self.form in ("collapse", "mlp")


EXACT = Method("exact", "full")


def describe(method: Method) -> str:
    """A method as text."""
    space = {
        "gap": "global average pooling",
        "grid": f"average pooling to a grid of {method.count}",
        "mask": f"{method.count} spatial masks" if method.count > 1 else "one spatial mask",
        "depthwise": "one spatial mask per channel",
        "full": "all positions",
        "separable": f"{method.count} mixtures of channels with a spatial mask each",
    }[method.weighting]
    form = {
        "first": "a smaller first FC",
        "collapse": "all FCs collapsed to one",
        "stack": f"hidden FCs of rank {method.rank}",
        "mlp": f"one hidden layer of {method.rank}",
    }[method.form]
    return f"'{method.name}': {space}, {form}, fitted"


def parse(name: str) -> Method:
    """Read a name. Raises UsageError where there is no such method."""
    problem = UsageError(f"there is no method '{name}'", f"available: {_NAMES}")
    if name == "exact":
        return EXACT
    found: dict[str, int] = {}
    for part in name.split("+"):
        match = re.fullmatch(r"([a-z]+)(?::([1-9][0-9]{0,5}))?", part)
        if match is None or (match[1] in _COUNTED) != (match[2] is not None) or match[1] in found:
            raise problem
        found[match[1]] = int(match[2] or 1)
    form = next((key for key in ("collapse", "stack", "mlp") if key in found), "first")
    rank = found.pop(form, 0)
    if len(found) > 1 or not set(found) <= {"gap", "grid", "mask", "depthwise", "separable"}:
        raise problem
    weighting, count = next(iter(found.items()), ("full", 1))
    if (form, weighting) == ("first", "full") or (form == "mlp") != (weighting == "separable"):
        raise problem
    return Method(form, weighting, count, rank if form in _COUNTED else 0)


#: Hidden units and separable features of an mlp, per output of the head.
_MLPS = ((1.6, 2.4), (2.0, 2.8), (3.2, 4.0))


def family(depth: int, outputs: int, positions: int) -> list[Method]:
    """The methods that a search tries, before any is fitted, for a depth of FCs one after the
    other.

    Ranks of 1.2 to 1.6 times the outputs, over all leaves, were enough in experience, and the
    search goes to twice that.
    """
    spaces = [("gap", 1), ("grid", 2), *(("mask", count) for count in (2, 4, 8, 16))]
    spaces = [item for item in spaces if item[1] < positions]
    spaces.append(("depthwise", 1))
    if depth == 1:  # a collapse of one FC is that FC
        return [Method("first", kind, count) for kind, count in spaces]
    found = [Method("collapse", kind, count) for kind, count in [*spaces, ("full", 1)]]
    ranks = sorted({max(2, round(outputs * factor)) for factor in (1.2, 1.6, 2.4)})
    for rank in ranks:
        for kind, count in spaces:
            if kind in ("mask", "depthwise") and count in (1, 4, 8, 16):
                found.append(Method("stack", kind, count, rank))
        found.append(Method("stack", "full", 1, rank))
    found += [Method("first", kind, count) for kind, count in spaces if kind != "depthwise"]
    found += [  # last, as each takes longer than all others together
        Method("mlp", "separable", round(outputs * features), round(outputs * units))
        for units, features in _MLPS
    ]
    return found
