"""Cross-validation: what a method of fitting does on samples that it was not fitted to."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from onnxshare.io.tensors import Array
from onnxshare.support.cpu_count import usable_cores
from rewrites import threads
from rewrites.certify import Target, estimate
from rewrites.chain import Chain
from rewrites.fitted import SmallHead
from rewrites.head_data import HeadData
from rewrites.methods import Method
from rewrites.moments import blocks
from rewrites.refusal import Refusal
from rewrites.small_head import fit_head

_FOLDS = 5

#: Fits at a time, at most: each needs some hundred megabytes.
_AT_ONCE = 4


@dataclass(frozen=True)
class CrossValidated:
    """What a method does on samples that it was not fitted to.

    Attributes:
        heads: one per fold.
        samples: the samples that were predicted, `[n]`.
        outputs: per leaf the predictions for these, `[n, F]`.
    """

    heads: tuple[SmallHead, ...]
    samples: Array
    outputs: Mapping[int, Array]


def cross_validate(
    chain: Chain,
    data: HeadData,
    method: Method,
    classes: frozenset[int],
    seed: int = 0,
    target: Target | None = None,
) -> CrossValidated:
    """Fit a method without each fold in turn, and predict that fold.

    Fits that go step by step are quick ones here: what they keep is less than what is kept later.

    Args:
        chain: the head.
        data: what it does on the samples.
        method: how it is fitted.
        classes: the leaves whose largest output counts.
        seed: of the folds.
        target: what has to be kept: folds are left out once not even a perfect rest would keep it.

    Raises:
        Refusal: the method does not suit the head, or would make nothing smaller.
    """
    order = np.random.default_rng([seed, 1]).permutation(data.count)
    folds = min(_FOLDS, data.count)
    wanted = {leaf: data.results[leaf] for leaf in chain.leaves}
    given = {leaf: values.astype(np.float64) for leaf, values in wanted.items()}
    heads, predicted = [], np.zeros(data.count, np.bool_)
    parts = [np.sort(order[fold::folds]) for fold in range(folds)]
    with closing(_fits(chain, data, method, classes, parts)) as fits:
        for unseen, head in zip(parts, fits, strict=True):
            if head.params >= chain.params:
                raise Refusal("it is no smaller than the head")
            heads.append(head)
            for leaf, values in predict(chain, data, head, unseen).items():
                given[leaf][unseen] = values
            predicted[unseen] = True
            if target is not None and not estimate(wanted, given, classes).could_reach(target):
                break
    chosen = np.flatnonzero(predicted)
    return CrossValidated(
        tuple(heads), chosen, {leaf: values[chosen] for leaf, values in given.items()}
    )


def _fits(
    chain: Chain,
    data: HeadData,
    method: Method,
    classes: frozenset[int],
    parts: Sequence[Array],
) -> Generator[SmallHead, None, None]:
    """The fits without each part in turn, made when they are asked for; those that go step by step
    side by side, as a step is too small to be shared."""
    everything = np.arange(data.count)

    def fit(unseen: Array) -> SmallHead:
        seen = np.setdiff1d(everything, unseen, assume_unique=True)
        return fit_head(chain, data, seen, method, classes, quick=True)

    workers = min(len(parts), usable_cores(), _AT_ONCE) if method.form == "mlp" else 1
    if workers == 1:
        yield from map(fit, parts)
        return
    from concurrent.futures import ThreadPoolExecutor  # takes time to import, and few need it

    with threads.one(), ThreadPoolExecutor(workers) as pool:
        waiting = [pool.submit(fit, part) for part in parts]
        try:
            for future in waiting:
                yield future.result()
        finally:
            for future in waiting:
                future.cancel()


def predict(chain: Chain, data: HeadData, head: SmallHead, chosen: Array) -> Mapping[int, Array]:
    """Per leaf a fitted head's outputs on the chosen samples, block by block."""
    parts = [
        head.predict(chain, data.maps[chosen[part]])
        for part in blocks(len(chosen), int(np.prod(data.maps.shape[1:])))
    ]
    return {leaf: np.concatenate([part[leaf] for part in parts]) for leaf in chain.leaves}
