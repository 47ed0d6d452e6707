"""How often the promise of a searched head is broken, over random draws of samples.

Each draw takes samples for a search and as many others for the certification, and the rest of the
images say what is true. Beside it: what would have been promised without the certification, by the
bound of the cross-validation that chose, and by the bare cross-validation estimate. One search
serves all promises of a kind in a draw: candidates that it leaves early cannot keep the least of
them.

The bundled nets bring their images; those of the zoo are measured where ONNXSHARE_ZOO names the
folder that holds it, and the trained ones (`trained_nets.py`) where --trained names theirs. With
--log, draws that are in that file already are not made again.

Run: python benchmarks/promises.py [--draws N] [--net NAME] [--jobs N] [--log FILE]
     [--trained FOLDER]
"""

from __future__ import annotations

import os

# The products of a search are small: threads of the BLAS would only wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from heads import Measured
from small_heads import nets

import onnxshare
from onnxshare.comparison.target import agreement_lower_bound
from onnxshare.samples.samples import Array
from rewrites.small_heads import blas_threads
from rewrites.small_heads.certificate import Estimate, Target, estimate, fixed_sequence
from rewrites.small_heads.fit_head import fit_head
from rewrites.small_heads.methods import parse
from rewrites.small_heads.search import ladder, predict, search
from rewrites.small_heads.search_result import Candidate, Search


@dataclass(frozen=True)
class Case:
    """A net, what is to be kept, and how many samples a search and a certification get each."""

    net: str
    targets: tuple[Target, ...]
    samples: int = 200


def keeps(*shares: float) -> tuple[Target, ...]:
    return tuple(Target(keep=share) for share in shares)


CASES = (
    Case("lenet5", keeps(0.8, 0.85, 0.9)),
    Case("vgg_small", keeps(0.85, 0.9, 0.95)),
    Case("zkml_lenet_small", keeps(0.9, 0.95, 0.97)),
    Case("pairs", keeps(0.85, 0.9)),
    Case("wide", keeps(0.85, 0.9)),
    Case("zkml_lenet_small", tuple(Target(keep_top=(2, share)) for share in (0.97, 0.98))),
    Case("zkml_lenet_small", tuple(Target(within=(1, share)) for share in (0.9, 0.95))),
    Case("zkml_lenet_small", tuple(Target(max_loss=points) for points in (0.02, 0.04))),
)

#: The ways to promise, as they are counted and as text.
WAYS = {
    "certified": "search, then certification",
    "bound": "bound of the cross-validation",
    "bare": "bare cross-validation",
}

#: Per promise and way whether the rest of the images keeps it; None where nothing was promised.
Kept = dict[str, dict[str, bool | None]]


@cache
def joined(net: str, trained: str) -> Measured:
    """A net on all its images, calibration and test together."""
    first, second = nets(trained)[net](net)
    maps = np.concatenate([first.data.maps, second.data.maps])
    results = {
        place: np.concatenate([values, second.data.results[place]])
        for place, values in first.data.results.items()
    }
    labels = None
    if first.labels is not None and second.labels is not None:
        labels = np.concatenate([first.labels, second.labels])
    data = replace(first.data, maps=maps, results=results, labels=labels)
    return Measured(first.chain, data, labels)


def cheapest(candidates: list[Candidate]) -> str:
    return min(candidates, key=lambda item: item.params or 0).method if candidates else "exact"


def draw(case: Case, seed: int, trained: str) -> Kept:
    all_ = joined(case.net, trained)
    order = np.random.default_rng(seed).permutation(all_.data.count)
    seen, held = order[: case.samples], order[case.samples : 2 * case.samples]
    rest = order[2 * case.samples :]
    loosest = min(case.targets, key=lambda target: target.criteria[0].least)
    found = search(all_.take(seen).data, loosest, seed=seed)

    @cache
    def outputs(method: str) -> dict[int, Array]:
        with blas_threads.one():
            head = fit_head(all_.data, seen, parse(method))
        return dict(predict(all_.data, head, np.arange(all_.data.count)))

    def truth(method: str, rows: Array, target: Target) -> Estimate:
        wanted = {leaf: all_.data.results[leaf][rows] for leaf in all_.chain.leaves}
        given = {leaf: values[rows] for leaf, values in outputs(method).items()}
        labels = None if all_.labels is None else all_.labels[rows]
        return estimate(wanted, given, all_.classes, target, labels)

    def promised(target: Target) -> dict[str, str]:
        again = _held_against(found, target)
        order = ladder(again, "params")
        tested = fixed_sequence(order, lambda name: truth(name, held, target), target)
        passed = [name for name, result in tested if result.reaches(target)]
        whole = [item for item in found.candidates if _whole(found, item)]
        bare = [item for item in whole if item.estimate and item.estimate.could_reach(target)]
        return {
            "certified": passed[-1] if passed else "exact",
            "bound": cheapest([item for item in again.candidates if item.reaches]),
            "bare": cheapest(bare),
        }

    return {
        target.words: {
            way: None if method == "exact" else truth(method, rest, target).could_reach(target)
            for way, method in promised(target).items()
        }
        for target in case.targets
    }


def _whole(found: Search, item: Candidate) -> bool:
    """Whether a candidate was tried on all samples that the search had for it."""
    tried = item.estimate is not None
    return tried and (_once(item) or item.estimate.samples == found.samples)


def _once(item: Candidate) -> bool:
    """Whether it was fitted once, and measured on a part of the samples."""
    return parse(item.method).taught


def _held_against(found: Search, target: Target) -> Search:
    """The search as it would have been for a target at least as high."""

    def reaches(item: Candidate) -> bool:
        if item.estimate is None or not _whole(found, item):
            return False
        if _once(item):
            return item.estimate.could_reach(target)
        return item.estimate.reaches(target)

    marked = tuple(replace(item, reaches=reaches(item)) for item in found.candidates)
    return replace(found, target=target, candidates=marked)


def drawn(case: Case, seeds: list[int], jobs: int, log: Path | None, trained: str) -> list[Kept]:
    """The draws of these seeds, those of a log not made again."""
    found: dict[int, Kept] = {}
    words = [target.words for target in case.targets]
    said = {"net": case.net, "promises": words, "samples": case.samples}
    if log is not None and log.exists():
        for entry in map(json.loads, log.read_text().splitlines()):
            if said.items() <= entry.items():
                found[entry["seed"]] = entry["kept"]
    left = [seed for seed in seeds if seed not in found]
    with (
        ProcessPoolExecutor(jobs) as pool,
        log.open("a") if log is not None else nullcontext() as file,
    ):
        cases, folders = [case] * len(left), [trained] * len(left)
        for seed, kept in zip(left, pool.map(draw, cases, left, folders), strict=True):
            found[seed] = kept
            if file is not None:
                print(json.dumps({**said, "seed": seed, "kept": kept}), file=file, flush=True)
    return [found[seed] for seed in seeds]


def interval(count: int, total: int) -> str:
    """The two-sided 95 % interval of a share (Clopper and Pearson, 1934)."""
    low = agreement_lower_bound(count, total, 0.975) or 0.0
    high = 1 - (agreement_lower_bound(total - count, total, 0.975) or 0.0)
    return f"{low:.1%} to {high:.1%}"


def row(case: Case, promise: str, draws: list[Kept]) -> str:
    cells = []
    for way in WAYS:
        outcomes = [draw[promise][way] for draw in draws]
        broken, made = outcomes.count(False), len(outcomes) - outcomes.count(None)
        cells.append(f"{made} | {broken / len(draws):.0%} ({interval(broken, len(draws))})")
    return f"| {case.net} | {promise} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--net", default="", help="only this one")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--log", type=Path, help="keeps every draw, and spares it the next time")
    parser.add_argument("--trained", default="", help="the folder of the nets that are trained")
    given = parser.parse_args()
    ways = " | ".join(f"{words}: made | broken" for words in WAYS.values())
    print(f"onnxshare {onnxshare.__version__}, {given.draws} draws per row; broken of all draws")
    print(f"\n| Net | Promise | {ways} |\n|---|---|{'---:|' * 2 * len(WAYS)}")
    known = nets(given.trained)
    for case in (case for case in CASES if given.net in case.net and case.net in known):
        draws = drawn(case, list(range(given.draws)), given.jobs, given.log, given.trained)
        for target in case.targets:
            print(row(case, target.words, draws), flush=True)


if __name__ == "__main__":
    main()
