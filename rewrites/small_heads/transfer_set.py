"""The maps that a head is asked about, and its answers: what a small head is distilled from.

Hinton, Vinyals and Dean (arXiv 1503.02531) call such a set the transfer set. Its maps are made from
those of the samples (`augmentation.py`) at their full size, because that is what the head reads; a
student may read them averaged to a coarser grid, which is all that is kept of them then. How many
there are depends on what they cost, in multiply-accumulates and in memory, and on no clock: a busy
machine makes the same as an idle one.

Channels are centred and scaled, so that one step size suits every head; both are folded into the
weights afterwards. A channel that is the same on all samples is left out. The order of the maps is
one of chance, so that neighbours are as good a batch as any.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod

import numpy as np

from onnxshare.io.tensors import Array
from rewrites.small_heads.augmentation import Augmentation
from rewrites.small_heads.head_layers import Chain
from rewrites.small_heads.spatial_weighting import constant_channels, grid
from rewrites.small_heads.sufficient_statistics import Singles, blocks

#: What a head gives for maps `[n, C, S]`, per group `[n, F]`.
Teacher = Callable[[Singles], Mapping[int, Array]]

#: Where all chance comes from.
_SEED = 0

#: Maps that are made, at most and at least; and multiply-accumulates of all answers to them.
_POOL = (2048, 32_000)
_ANSWERS = 3e11

#: Numbers of all maps that are kept, and of all samples' together.
_POOL_SIZE = 2**27

#: Maps made at a time.
_AT_ONCE = 512

#: Channels that vary less than this share of the liveliest are not scaled up as it is: the fit
#: would give them weights so large that a small change of theirs decides the answer.
_LEAST = 0.05


@dataclass(frozen=True)
class TransferSet:
    """Maps and a head's answers to them.

    Attributes:
        maps: `[M, c, s]` of the c channels that move, centred and scaled, on the grid: the upper
            half of each number in single precision (bfloat16), as more maps say more than more
            digits, and NumPy's conversion of half precision takes seven times as long.
        answers: per group `[M, F]`.
        samples, sample_answers: the same of the samples themselves.
        live: the places of the c channels.
        centre, gain: what was taken from these, and by what they were multiplied.
        spread: how far they move, as far as that counts.
        channels: C, how many there are with those that do not move.
        windows: the positions of each place of the grid, `[s, S]`; None for the maps as they are.
    """

    maps: Array = field(repr=False)
    answers: Mapping[int, Singles] = field(repr=False)
    samples: Singles = field(repr=False)
    sample_answers: Mapping[int, Singles] = field(repr=False)
    live: Array = field(repr=False)
    centre: Singles = field(repr=False)
    gain: Singles = field(repr=False)
    spread: Singles = field(repr=False)
    channels: int = 0
    windows: Array | None = field(default=None, repr=False)

    def flat(self, part: slice) -> Singles:
        """Some of the maps, `[n, c·s]`."""
        chosen = self.maps[part].reshape(len(self.maps[part]), -1)
        return np.left_shift(chosen, 16, dtype=np.uint32).view(np.float32)

    def on_maps(self, weight: Array) -> Array:
        """A weight `[R, C, S]` on the samples' maps as one `[R, c, s]` on these, of those the
        closest. What moves little counts little."""
        moved = weight[:, self.live] * self.spread[:, None]
        return moved if self.windows is None else np.asarray(moved @ np.linalg.pinv(self.windows))


def maps_for(size: int, kept: int, answer: int, *, quick: bool = False) -> int:
    """How many maps are made of samples with C·S = `size` numbers, of which `kept` stay on the
    grid, for a head of so many multiply-accumulates; a third for quick fits, which see each as
    often."""
    most = min(_POOL[1], _POOL_SIZE // max(1, kept), int(_ANSWERS // max(1, answer)))
    most = most // 3 if quick else most
    return max(most, min(_POOL[0], _POOL_SIZE // max(1, size)), 1)


def transfer_set(
    maps: Array, spatial: tuple[int, ...], teacher: Teacher, count: int, bins: int = 0
) -> TransferSet:
    """Make so many maps from the samples' `[N, C, S]`, and ask the head; `bins` windows along each
    axis of the grid, 0 for the maps as they are."""
    random = np.random.default_rng(_SEED)
    centre, gain, spread = _channels(maps)
    live = np.flatnonzero(gain)
    if not live.size:  # nothing moves: one channel of zeros does
        live = np.zeros(1, np.intp)
    rows = grid(spatial, bins).rows if bins else None

    def reduced(some: Singles) -> Singles:
        moved = (some[:, live] - centre[live, None]) * gain[live, None]
        return moved if rows is None else np.asarray(moved @ rows.T.astype(np.float32))

    still = np.flatnonzero(gain == 0)
    augmented = Augmentation(maps, spatial, random)
    positions = len(rows) if rows is not None else maps.shape[2]
    found = np.empty((count, len(live), positions), np.uint16)
    parts: list[Mapping[int, Array]] = []
    places = random.permutation(count)
    for made in augmented.batches(count):
        made[:, still] = maps[0, still]  # where a value became zero
        start = sum(len(next(iter(part.values()))) for part in parts)
        found[places[start : start + len(made)]] = _upper_half(reduced(made))
        parts.append(teacher(made))
    answers = {}
    for group in parts[0]:
        given = np.concatenate([np.asarray(part[group], np.float32) for part in parts])
        answers[group] = np.empty_like(given)
        answers[group][places] = given
    given = np.asarray(maps, np.float32)
    own = np.concatenate([reduced(given[part]) for part in blocks(len(given), given[0].size)])
    own_answers = {group: np.asarray(y, np.float32) for group, y in teacher(given).items()}
    return TransferSet(
        found, answers, own, own_answers, live, centre[live], gain[live], spread[live],
        maps.shape[1], rows,
    )  # fmt: skip


def _upper_half(values: Singles) -> Array:
    """The nearest numbers in bfloat16, as its 16 bits."""
    return ((np.ascontiguousarray(values).view(np.uint32) + 0x8000) >> 16).astype(np.uint16)


def _channels(maps: Array) -> tuple[Singles, Singles, Singles]:
    """The mean of each channel; by what it is multiplied: by the inverse of its spread over the
    samples, and the less the smaller that is where it is small; by 0 where it is constant; and that
    spread, small ones smaller still."""
    centre = maps.mean(axis=(0, 2), dtype=np.float64)
    spread = np.sqrt(maps.var(axis=0, dtype=np.float64).mean(axis=1))
    spread[constant_channels(maps, np.arange(len(maps)))] = 0
    least = np.maximum(spread, _LEAST * float(spread.max()) or 1.0)
    found = centre, spread / least**2, spread * (spread / least) ** 2
    centre, gain, spread = (values.astype(np.float32) for values in found)
    return centre, gain, spread


class HeadAnswers:
    """The head itself, in single precision, its weights read once."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._layers = []
        for place, layer in enumerate(chain.layers):
            if layer.parent < 0:
                fc = layer.fc
                weight = np.empty((fc.out_features, fc.in_features), np.float32)
                for part, piece in chain.parts(place):
                    weight[part] = piece.reshape(len(piece), -1)
            else:
                weight = chain.weight(place).astype(np.float32, copy=False)
            self._layers.append((weight, chain.bias(place).astype(np.float32)))

    def __call__(self, maps: Singles) -> Mapping[int, Array]:
        """Per leaf its outputs `[n, F]` for maps `[n, C, S]`."""
        parts = [self._some(maps[part]) for part in blocks(len(maps), prod(maps.shape[1:]))]
        return {leaf: np.concatenate([part[leaf] for part in parts]) for leaf in self._chain.leaves}

    def _some(self, maps: Singles) -> dict[int, Array]:
        found: dict[int, Array] = {}
        flat = maps.reshape(len(maps), -1)
        for place, (weight, bias) in enumerate(self._layers):
            parent = self._chain.layers[place].parent
            given: Array = flat
            if parent >= 0:
                given = self._chain.step(place).value(found[parent]).astype(np.float32, copy=False)
            found[place] = given @ weight.T + bias
        return found
