"""How often the promise of a searched head is broken, over random draws of samples.

Each draw takes samples for a search and as many others for the certification, and the rest of the
images say what is true. Beside it: what would have been promised without the certification, by the
bound of the cross-validation that chose, and by the bare cross-validation estimate. One search
serves all promises of a draw: candidates that it leaves early cannot keep the least of them.

The bundled nets bring their images; a model of the zoo is measured where ONNXSHARE_ZOO names the
folder that holds it. With --log, draws that are in that file already are not made again.

Run: python benchmarks/promises.py [--draws N] [--net NAME] [--jobs N] [--log FILE]
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
from heads import Measured, bundled
from small_heads import zoo

import onnxshare
from onnxshare.comparison.target import agreement_lower_bound
from onnxshare.samples.samples import Array
from rewrites.small_heads.certificate import Estimate, Target, estimate, fixed_sequence
from rewrites.small_heads.fit_head import fit_head
from rewrites.small_heads.methods import parse
from rewrites.small_heads.search import ladder, predict, search
from rewrites.small_heads.search_result import Candidate, Search


@dataclass(frozen=True)
class Case:
    """A net, what is to be kept, and how many samples a search and a certification get each."""

    net: str
    keeps: tuple[float, ...]
    samples: int


CASES = (
    Case("lenet5", (0.7, 0.75, 0.8, 0.85, 0.9), 200),
    Case("vgg_small", (0.75, 0.8, 0.85, 0.9, 0.95), 200),
    Case("zkml_lenet_small", (0.85, 0.9, 0.93, 0.95, 0.97), 200),
)

#: The ways to promise, as they are counted and as text.
WAYS = {
    "certified": "search, then certification",
    "bound": "bound of the cross-validation",
    "bare": "bare cross-validation",
}

#: Per promise and way the share of the rest that keeps its class; None where nothing was promised.
Kept = dict[str, dict[str, float | None]]


@cache
def joined(net: str) -> Measured:
    """A net on all its images, calibration and test together."""
    first, second = (zoo if net.startswith("zkml") else bundled)(net)
    maps = np.concatenate([first.data.maps, second.data.maps])
    results = {
        place: np.concatenate([values, second.data.results[place]])
        for place, values in first.data.results.items()
    }
    return Measured(first.chain, replace(first.data, maps=maps, results=results), None)


def cheapest(candidates: list[Candidate]) -> str:
    return min(candidates, key=lambda item: item.params or 0).method if candidates else "exact"


def draw(case: Case, seed: int) -> Kept:
    all_ = joined(case.net)
    order = np.random.default_rng(seed).permutation(all_.data.count)
    seen, held = order[: case.samples], order[case.samples : 2 * case.samples]
    rest = order[2 * case.samples :]
    part = all_.take(seen).data
    found = search(part, Target(keep=min(case.keeps)), seed=seed)

    @cache
    def outputs(method: str) -> dict[int, Array]:
        head = fit_head(all_.data, seen, parse(method))
        return dict(predict(all_.data, head, np.arange(all_.data.count)))

    def truth(method: str, rows: Array) -> Estimate:
        wanted = {leaf: all_.data.results[leaf][rows] for leaf in all_.chain.leaves}
        given = {leaf: values[rows] for leaf, values in outputs(method).items()}
        return estimate(wanted, given, all_.classes)

    def promised(keep: float) -> dict[str, str]:
        target = Target(keep=keep)
        again = _held_against(found, target)
        tested = fixed_sequence(ladder(again, "params"), lambda name: truth(name, held), target)
        passed = [name for name, result in tested if result.reaches(target)]
        whole = [item for item in found.candidates if _whole(found, item)]
        bare = [item for item in whole if item.estimate and item.estimate.could_reach(target)]
        return {
            "certified": passed[-1] if passed else "exact",
            "bound": cheapest([item for item in again.candidates if item.reaches]),
            "bare": cheapest(bare),
        }

    return {
        f"{keep}": {
            way: None if method == "exact" else truth(method, rest).agreement
            for way, method in promised(keep).items()
        }
        for keep in case.keeps
    }


def _whole(found: Search, item: Candidate) -> bool:
    """Whether a candidate was tried on all samples that the search had for it."""
    tried = item.estimate is not None
    return tried and (parse(item.method).taught or item.estimate.samples == found.samples)


def _held_against(found: Search, target: Target) -> Search:
    """The search as it would have been for a target at least as high."""

    def reaches(item: Candidate) -> bool:
        if item.estimate is None or not _whole(found, item):
            return False
        if parse(item.method).taught:
            return item.estimate.could_reach(target)
        return item.estimate.reaches(target)

    marked = tuple(replace(item, reaches=reaches(item)) for item in found.candidates)
    return replace(found, target=target, candidates=marked)


def drawn(case: Case, seeds: list[int], jobs: int, log: Path | None) -> list[Kept]:
    """The draws of these seeds, those of a log not made again."""
    found: dict[int, Kept] = {}
    said = {"net": case.net, "keeps": list(case.keeps), "samples": case.samples}
    if log is not None and log.exists():
        for entry in map(json.loads, log.read_text().splitlines()):
            if said.items() <= entry.items():
                found[entry["seed"]] = entry["kept"]
    left = [seed for seed in seeds if seed not in found]
    with (
        ProcessPoolExecutor(jobs) as pool,
        log.open("a") if log is not None else nullcontext() as file,
    ):
        for seed, kept in zip(left, pool.map(draw, [case] * len(left), left), strict=True):
            found[seed] = kept
            if file is not None:
                print(json.dumps({**said, "seed": seed, "kept": kept}), file=file, flush=True)
    return [found[seed] for seed in seeds]


def interval(count: int, total: int) -> str:
    """The two-sided 95 % interval of a share (Clopper and Pearson, 1934)."""
    low = agreement_lower_bound(count, total, 0.975) or 0.0
    high = 1 - (agreement_lower_bound(total - count, total, 0.975) or 0.0)
    return f"{low:.1%} to {high:.1%}"


def row(case: Case, keep: float, draws: list[Kept]) -> str:
    cells = []
    for way in WAYS:
        shares = [draw[f"{keep}"][way] for draw in draws]
        broken = sum(share is not None and share < keep for share in shares)
        made = sum(share is not None for share in shares)
        cells.append(f"{made} | {broken / len(draws):.0%} ({interval(broken, len(draws))})")
    promise = f"≥ {keep:.0%}, {case.samples} + {case.samples}"
    return f"| {case.net} | {promise} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--net", default="", help="only this one")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--log", type=Path, help="keeps every draw, and spares it the next time")
    given = parser.parse_args()
    ways = " | ".join(f"{words}: made | broken" for words in WAYS.values())
    print(f"onnxshare {onnxshare.__version__}, {given.draws} draws per net; broken of all draws")
    print(f"\n| Net | Promise, samples | {ways} |\n|---|---|{'---:|' * 2 * len(WAYS)}")
    for case in (case for case in CASES if given.net in case.net):
        if case.net.startswith("zkml") and not os.environ.get("ONNXSHARE_ZOO"):
            continue
        draws = drawn(case, list(range(given.draws)), given.jobs, given.log)
        for keep in case.keeps:
            print(row(case, keep, draws), flush=True)


if __name__ == "__main__":
    main()
