"""How often rules for "the same function" are wrong, both ways: ours beside those of other tools.

    python benchmarks/validation_rates.py [--zoo FOLDER] [--quick] [--models-only]

Two sets of pairs (`spoilt_rewrites.py`): nets with an FC turned into the convolution that equals
it, on five kinds of inputs; and every rewrite on every bundled model and every model of a folder,
and the way back of those with a head. Each right rewrite is also corrupted in several ways. A rule
that refuses a right one raises a false alarm; one that accepts a corrupted one is wrong. All rules
see the same inputs; the other tools' rules see all of them at once, which is more than those tools
run by default. Spoilt models whose outputs are bit for bit those of the original or of the right
rewrite (a unit was corrupted that is dead on these inputs, say) have no effect there: no rule that
sees outputs alone can tell, so they are counted apart, with how many were accepted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnx
from spoilt_rewrites import HERE, INPUTS, MUTANTS, NETS, inputs, liveliest, net, spoilt

import onnxshare
from onnxshare.comparison.compare import compare
from onnxshare.comparison.results import Verdict
from onnxshare.errors import OnnxShareError
from onnxshare.runtime.session import run_model
from onnxshare.samples.samples import Samples, random_samples
from rewrites import ALL

Array = np.ndarray[Any, np.dtype[Any]]

#: Name → relative and absolute tolerance: |a - b| <= atol + rtol · |a| for every element. From:
#: numpy.allclose; onnx/backend/test/loader/__init__.py; onnxruntime/test/onnx/main.cc;
#: polygraphy/comparator/compare.py (`simple`); onnxsim/model_checking.py; onnxscript/rewriter/
#: testing.py (assert_numerically_equal).
RULES = {
    "numpy.allclose": (1e-5, 1e-8),
    "ONNX backend tests": (1e-3, 1e-7),
    "ONNX Runtime's onnx_test_runner": (1e-3, 1e-3),
    "Polygraphy": (1e-5, 1e-5),
    "onnxsim": (1e-4, 1e-5),
    "onnxscript": (1.0, 1e-3),
}

OURS = "onnxshare"


@dataclass
class Score:
    """What a rule did."""

    alarms: int = 0
    wrong: int = 0
    axes: int = 0
    undecided: int = 0
    still: int = 0
    missed: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Pair:
    """A model and one to be judged by it; `reference` is the right one of a corrupted one."""

    label: str
    a: onnx.ModelProto
    b: onnx.ModelProto
    right: bool
    axes: bool
    samples: Samples | None
    reference: onnx.ModelProto | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--zoo", type=Path, default=os.environ.get("ONNXSHARE_ZOO"))
    parser.add_argument("--quick", action="store_true", help="leave out the largest net")
    parser.add_argument("--models-only", action="store_true", help="leave out the nets")
    options = parser.parse_args()
    folders = [Path(__file__).resolve().parents[1] / "models"]
    folders += [Path(options.zoo)] if options.zoo is not None else []
    sets: dict[str, Iterator[Pair]] = {"models": rewritten(folders)}
    if not options.models_only:
        sets = {"nets": settings(options.quick), **sets}
    for title, pairs in sets.items():
        print_table(title, *measure(pairs))


def settings(quick: bool) -> Iterator[Pair]:
    for name, (_, side, *_rest) in NETS.items():
        if quick and name.startswith("K"):
            continue
        for kind in INPUTS:
            original, samples = net(name, "fc"), inputs(kind, side)
            label = f"{name}, {kind}"
            right = net(name, "conv")
            yield Pair(label, original, right, True, False, samples)
            channel = liveliest(original, samples)
            for mutant in MUTANTS:
                model = net(name, "conv", mutant, channel)
                spoiled = f"{label}: {mutant}"
                yield Pair(spoiled, original, model, False, mutant == "axes", samples, right)


def rewritten(folders: Sequence[Path]) -> Iterator[Pair]:
    for path in sorted(path for folder in folders for path in folder.rglob("*.onnx")):
        original = onnx.load(path)
        there = None
        for rewrite in ALL:
            model = apply(original, rewrite.name)
            if model is not None:
                yield from of(f"{path.stem}, {rewrite.name}", original, model)
                there = model if rewrite.name == "fc-to-conv" else there
        back = None if there is None else apply(there, "conv-to-fc")
        if there is not None and back is not None:
            yield from of(f"{path.stem}, conv-to-fc", there, back)


def apply(model: onnx.ModelProto, rewrite: str) -> onnx.ModelProto | None:
    try:
        result = onnxshare.rewrite(model, [rewrite], provider="cpu", validate=False)
    except OnnxShareError:
        return None
    return result.model if result.changes else None


def of(label: str, original: onnx.ModelProto, model: onnx.ModelProto) -> Iterator[Pair]:
    yield Pair(label, original, model, True, False, None)
    for how, mutant in spoilt(original, model):
        yield Pair(f"{label}: {how}", original, mutant, False, "columns" in how, None, model)


def measure(pairs: Iterator[Pair]) -> tuple[dict[str, Score], Mapping[str, int]]:
    scores = {name: Score() for name in (*RULES, OURS)}
    counts = {"right": 0, "corrupted": 0, "axes": 0, "still": 0}
    for pair in pairs:
        samples = pair.samples or random_samples(pair.a)
        outputs = [run(model, samples) for model in (pair.a, pair.b)]
        models = [] if pair.reference is None else [run(pair.reference, samples), outputs[0]]
        still = any(all(map(same, right, outputs[1])) for right in models)
        counts["right" if pair.right else "still" if still else "corrupted"] += 1
        counts["axes"] += pair.axes and not still
        for name, rule in RULES.items():
            note(scores[name], pair, close(outputs, *rule), still)
        found = compare(
            pair.a, pair.b, samples=pair.samples, provider="cpu", run_limits=HERE, budget=2
        )
        scores[OURS].undecided += pair.right and found.verdict is Verdict.INCONCLUSIVE
        note(scores[OURS], pair, found.passed, still)
        words = f"{found.verdict}{' (no effect on these inputs)' if still else ''}"
        print(f"{pair.label}: {words}", file=sys.stderr, flush=True)
    return scores, counts


def note(score: Score, pair: Pair, passed: bool, still: bool) -> None:
    if still:
        score.still += passed
        return
    if pair.right:
        score.alarms += not passed
    elif passed:
        score.wrong += 1
        score.axes += pair.axes
    if passed != pair.right:
        score.missed.append(pair.label)


def run(model: onnx.ModelProto, samples: Samples) -> list[Array]:
    return list(run_model(model, samples.arrays, provider="cpu", run_limits=HERE).values())


def same(a: Array, b: Array) -> bool:
    return a.shape == b.shape and a.tobytes() == b.tobytes()


def close(outputs: Sequence[Sequence[Array]], rtol: float, atol: float) -> bool:
    return all(
        a.shape == b.shape and np.allclose(b, a, rtol=rtol, atol=atol)
        for a, b in zip(*outputs, strict=True)
    )


def print_table(title: str, scores: dict[str, Score], counts: Mapping[str, int]) -> None:
    right, wrong, axes = counts["right"], counts["corrupted"], counts["axes"]
    print(f"\n{title}: {right} right rewrites, {wrong} corrupted ones, {axes} with mixed axes;")
    print(f"{counts['still']} more that have no effect on the inputs\n")
    print("| rule | rtol, atol | right refused | corrupted accepted |", end="")
    print(" mixed axes accepted | accepted without effect |\n|---|---|---:|---:|---:|---:|")
    for name, score in scores.items():
        rule = ", ".join(f"{value:g}" for value in RULES.get(name, ()))
        rule = rule or "A's own noise, and weights read"
        undecided = f" ({score.undecided} inconclusive)" if score.undecided else ""
        print(f"| {name} | {rule} | {score.alarms}{undecided} | {score.wrong} |", end="")
        print(f" {score.axes} | {score.still} |")
    print(f"\n{OURS} was wrong on: {'; '.join(scores[OURS].missed) or 'none'}", flush=True)


if __name__ == "__main__":
    main()
