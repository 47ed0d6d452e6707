"""Makes new feature maps out of those of a few samples, so that a head can be asked about more.

The head that is to be replaced answers any map, not only those of the samples: its answers are
labels that cost nothing. A fit to the few maps alone, of thousands of weights to a thousand
samples, learns them by heart; a fit to maps in their vicinity (Chapelle, Weston, Bottou and Vapnik,
"Vicinal risk minimization", 2000) has to do what the head does. A sample's map is first moved along
the difference between two of its nearest neighbours: a direction in which samples do differ (as in
Chawla et al., "SMOTE", JAIR 2002, and DeVries and Taylor, "Dataset Augmentation in Feature Space",
arXiv 1702.05538). Then from the result a and the map b of another sample, sometimes a neighbour,
with a share t drawn evenly from 0 to 1, one of

- t·a + (1 − t)·b                       (mixup: Zhang et al., arXiv 1710.09412);
- a inside a box of t of the map, b outside (CutMix: Yun et al., arXiv 1905.04899);
- each whole channel from a with probability t, else from b;

and then each value becomes zero with a small probability (dropout: Srivastava et al., 2014). None
of this looks at the input, so it is the same for images, sound and everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from onnxshare.io.tensors import Array
from rewrites.small_heads.sufficient_statistics import Singles

#: The probability that a value becomes zero.
_DROPPED = 0.1

#: How many neighbours a sample has; how often its map is moved along the difference of two; how
#: often the map it is mixed with is one of them.
_NEIGHBOURS, _MOVED, _NEAR = 10, 0.8, 0.3

#: Neighbours are looked for in so many random directions where maps have more values: distances
#: stay what they are, within some percent (Johnson and Lindenstrauss, 1984).
_DIRECTIONS = 512

#: Neighbours are looked for among so many samples at most: the time grows with both numbers.
_AMONG = 4000

#: Maps made at a time.
_BLOCK = 512


class Augmentation:
    """Maps near those of the samples, `[N, C, S]`, which have these spatial sizes, S together."""

    def __init__(self, maps: Array, spatial: tuple[int, ...], random: np.random.Generator) -> None:
        self._maps: Singles = np.asarray(maps, np.float32)
        self._spatial = spatial
        self._random = random
        self._lowest = self._maps.min(initial=np.inf)
        self._near = _neighbours(self._maps.reshape(len(maps), -1), random)
        self._ways: tuple[Callable[[Singles, Singles, Singles], Singles], ...] = (
            _mixed, self._boxed, self._switched
        )  # fmt: skip

    def batches(self, count: int) -> Iterator[Singles]:
        """So many maps, some at a time, `[n, C, S]`; each sample is the first of a pair equally
        often."""
        samples = len(self._maps)
        rounds = -(-count // samples)
        order = np.concatenate([self._random.permutation(samples) for _ in range(rounds)])
        for place, start in enumerate(range(0, count, _BLOCK)):
            chosen = order[start : min(start + _BLOCK, count)]
            first, second = self._moved(chosen), self._maps[self._partners(chosen)]
            share = self._random.random((len(first), 1, 1), dtype=np.float32)
            made = self._ways[place % len(self._ways)](first, second, share)
            made *= self._random.random(made.shape, dtype=np.float32) >= _DROPPED
            yield made

    def _moved(self, chosen: Array) -> Singles:
        """The maps of these samples, most of them moved; none gets a value below all that are."""
        maps = self._maps[chosen]
        if self._near.shape[1] < 2:
            return maps
        moves = self._random.random(len(chosen)) < _MOVED
        length = self._random.random((int(moves.sum()), 1, 1), dtype=np.float32)
        one, other = (self._maps[self._neighbour(chosen[moves])] for _ in range(2))
        maps[moves] = np.maximum(maps[moves] + length * (one - other), self._lowest)
        return maps

    def _partners(self, chosen: Array) -> Array:
        """The samples that these are mixed with."""
        found = self._random.integers(len(self._maps), size=len(chosen))
        if not self._near.shape[1]:
            return found
        close = self._random.random(len(chosen)) < _NEAR
        return np.where(close, self._neighbour(chosen), found)

    def _neighbour(self, chosen: Array) -> Array:
        """One of the nearest of each of these samples."""
        which = self._random.integers(self._near.shape[1], size=len(chosen))
        return np.asarray(self._near[chosen, which])

    def _switched(self, first: Singles, second: Singles, share: Singles) -> Singles:
        kept = self._random.random((*first.shape[:2], 1), dtype=np.float32) < share
        return np.where(kept, first, second)

    def _boxed(self, first: Singles, second: Singles, share: Singles) -> Singles:
        kept = np.ones((len(first), 1), np.bool_)
        part = share[:, 0, 0].astype(np.float64) ** (1 / len(self._spatial))
        for size in self._spatial:
            length = np.maximum(1, np.round(size * part)).astype(int)
            start = np.floor(self._random.random(len(first)) * (size - length + 1)).astype(int)
            places = np.arange(size)
            inside = (places >= start[:, None]) & (places < (start + length)[:, None])
            kept = (kept[:, :, None] & inside[:, None, :]).reshape(len(first), -1)
        return np.where(kept[:, None, :], first, second)


def _mixed(first: Singles, second: Singles, share: Singles) -> Singles:
    return second + share * (first - second)


def _neighbours(maps: Singles, random: np.random.Generator) -> Array:
    """The nearest other samples of each sample, `[N, few]`, by the Euclidean distance of maps."""
    samples, size = maps.shape
    few = min(_NEIGHBOURS, samples - 1)
    found = np.zeros((samples, few), np.intp)
    if not few:
        return found
    points = maps - maps.mean(axis=0)
    if size > _DIRECTIONS:
        points = points @ random.standard_normal((size, _DIRECTIONS), dtype=np.float32)
    among = np.arange(samples)
    if samples > _AMONG:
        among = random.choice(samples, _AMONG, replace=False)
    others = points[among]
    lengths = np.einsum("nd,nd->n", others, others)
    for start in range(0, samples, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, samples))
        distances = lengths - 2 * (points[rows] @ others.T)  # but for a constant of each row
        distances[rows[:, None] == among] = np.inf
        found[rows] = among[np.argpartition(distances, few - 1, axis=1)[:, :few]]
    return found
