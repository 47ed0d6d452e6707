"""How often the promise of a searched head is broken, over random draws of samples.

Each draw takes samples for a search and as many others for the certification, and the rest of the
images say what is true. Beside it: what would have been promised without the certification, by the
bound of the cross-validation that chose, and by the bare cross-validation estimate.

Run: python benchmarks/promises.py [--draws N] [--net NAME]
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass

import numpy as np
from heads import Measured, bundled

from onnxshare.inputs import Array
from rewrites.certify import Estimate, Target, estimate, fixed_sequence
from rewrites.methods import parse
from rewrites.search import Search, ladder, predict, search
from rewrites.small_head import fit_head


@dataclass(frozen=True)
class Case:
    """A net, what is to be kept, and how many samples a search and a certification get each."""

    net: str
    keep: float
    samples: int


CASES = (Case("lenet5", 0.8, 200), Case("vgg_small", 0.85, 200))


def joined(net: str) -> Measured:
    """A net on all its images, calibration and test together."""
    first, second = bundled(net)
    maps = np.concatenate([first.data.maps, second.data.maps])
    results = {
        place: np.concatenate([values, second.data.results[place]])
        for place, values in first.data.results.items()
    }
    return Measured(first.chain, type(first.data)(maps, results), None)


def truth(all_: Measured, search_rows: Array, method: str, rows: Array) -> Estimate:
    """What a head fitted on some rows does on others."""
    head = fit_head(all_.chain, all_.data, search_rows, parse(method), all_.classes)
    given = predict(all_.chain, all_.data, head, rows)
    wanted = {leaf: all_.data.results[leaf][rows] for leaf in all_.chain.leaves}
    return estimate(wanted, given, all_.classes)


def by_estimate(found: Search, keep: float) -> str:
    """The cheapest candidate whose bare estimate keeps it."""
    good = [
        item
        for item in found.candidates
        if item.estimate and item.estimate.samples == found.samples and item.params
        if (item.estimate.agreement or 0.0) >= keep
    ]
    return min(good, key=lambda item: item.params or 0).method if good else "exact"


def draw(case: Case, all_: Measured, seed: int) -> Counter[str]:
    order = np.random.default_rng(seed).permutation(all_.data.count)
    seen, held = order[: case.samples], order[case.samples : 2 * case.samples]
    rest = order[2 * case.samples :]
    target = Target(keep=case.keep)
    found = search(all_.chain, all_.take(seen).data, target, all_.classes, seed=seed)
    counts: Counter[str] = Counter()
    if found.chosen != "exact":
        counts["bound made"] += 1
        true = truth(all_, seen, found.chosen, rest).agreement or 0.0
        counts["bound broken"] += true < case.keep
        order_ = ladder(found, "params")
        tested = fixed_sequence(order_, lambda name: truth(all_, seen, name, held), target)
        passed = [name for name, found_ in tested if found_.reaches(target)]
        if passed:
            counts["certified made"] += 1
            kept = truth(all_, seen, passed[-1], rest).agreement or 0.0
            counts["certified broken"] += kept < case.keep
    bare = by_estimate(found, case.keep)
    if bare != "exact":
        counts["bare made"] += 1
        counts["bare broken"] += (truth(all_, seen, bare, rest).agreement or 0.0) < case.keep
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--net", default="", help="only this one")
    given = parser.parse_args()
    draws = given.draws
    print("| Net | Promise | Draws | Promised by | Made | Broken | Of all draws |")
    print("|---|---|---:|---|---:|---:|---:|")
    for case in (case for case in CASES if given.net in case.net):
        all_ = joined(case.net)
        counts: Counter[str] = Counter()
        for seed in range(draws):
            counts += draw(case, all_, seed)
        for kind, words in (
            ("certified", "search, then certification"),
            ("bound", "bound of the cross-validation"),
            ("bare", "bare cross-validation"),
        ):
            made, broken = counts[f"{kind} made"], counts[f"{kind} broken"]
            print(
                f"| {case.net} | ≥ {case.keep:.0%}, {case.samples} + {case.samples} samples | "
                f"{draws} | {words} | {made} | {broken} | {broken / draws:.0%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
