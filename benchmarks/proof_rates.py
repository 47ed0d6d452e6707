"""How often a rewrite's own proof is wrong: right rewrites and corrupted ones.

    python benchmarks/proof_rates.py [--zoo FOLDER] [--only MODEL …] [--log FILE] [--seconds N]

Every rewrite on every bundled model and every model of a folder, and the way back of those with a
head, corrupted in several ways (`spoilt_rewrites.py`). Each is judged twice as `rewrite` would:
with all that it asks for, and as if the rewrite claimed that the corrupted weights were the right
ones, so that the runs alone have to find out. A corrupted model whose outputs on the samples are
those of the right rewrite bit for bit has no effect there, and is counted apart; it must not pass
either. With
--log, what was judged is kept in a file, and a later run goes on from there.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnx
from spoilt_rewrites import HERE, spoilt

import onnxshare
from onnxshare.comparison.results import Comparison, Verdict
from onnxshare.errors import OnnxShareError
from onnxshare.io.load import Model, with_data
from onnxshare.runtime.session import run_model
from onnxshare.samples.samples import random_samples
from rewrites import ALL
from rewrites.apply import again
from rewrites.base import Change, Options
from rewrites.proof.prove import Prover
from rewrites.run import RewriteResult


@dataclass(frozen=True)
class Case:
    """A rewritten model, and how it was corrupted; empty if it is right."""

    label: str
    how: str
    result: RewriteResult
    model: onnx.ModelProto


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--zoo", type=Path, default=os.environ.get("ONNXSHARE_ZOO"))
    parser.add_argument("--only", nargs="*", default=[], help="names of models")
    parser.add_argument("--log", type=Path, help="what was judged, a line each")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    options = parser.parse_args()
    folders = [Path(__file__).resolve().parents[1] / "models"]
    folders += [Path(options.zoo)] if options.zoo is not None else []
    known: dict[str, dict[str, str]] = {}
    if options.log is not None and options.log.exists():
        rows = map(json.loads, options.log.read_text().splitlines())
        known = {f"{row['label']}: {row['how']}": row for row in rows}
    end = time.monotonic() + options.seconds
    for case in cases(folders, options.only):
        if time.monotonic() > end:
            print("stopped; run again to go on", file=sys.stderr)
            break
        key = f"{case.label}: {case.how}"
        if key not in known:
            known[key] = judge(case)
            print(json.dumps(known[key]), file=sys.stderr, flush=True)
            if options.log is not None:
                with options.log.open("a") as log:
                    print(json.dumps(known[key]), file=log)
    print_table(list(known.values()))


def cases(folders: list[Path], only: list[str]) -> Iterator[Case]:
    for path in sorted(path for folder in folders for path in folder.rglob("*.onnx")):
        if only and path.stem not in only:
            continue
        there = None
        for rewrite in ALL:
            result = apply(path, rewrite.name)
            if result is not None:
                yield from of(f"{path.stem}, {rewrite.name}", result)
                there = result if rewrite.name == "fc-to-conv" else there
        back = None if there is None else apply(there.model, "conv-to-fc")
        if back is not None:
            yield from of(f"{path.stem}, conv-to-fc", back)


def apply(source: Path | onnx.ModelProto, rewrite: str) -> RewriteResult | None:
    try:
        result = onnxshare.rewrite(source, [rewrite], provider="cpu", validate=False)
    except OnnxShareError:
        return None
    return result if result.changes else None


def of(label: str, result: RewriteResult) -> Iterator[Case]:
    yield Case(label, "", result, result.model)
    for how, mutant in spoilt(with_data(result.original), result.model):
        yield Case(label, how, result, mutant)


def judge(case: Case) -> dict[str, str]:
    """The verdicts: with all evidence, by the runs alone; and whether the samples show anything."""
    changes = case.result.changes
    model = replace(case.result.rewritten, skeleton=case.model) if case.how else None
    whole = proved(case.result, changes, model)
    runs = proved(case.result, tuple(replace(item, moved=()) for item in changes), model)
    return {
        "label": case.label,
        "how": case.how,
        "effect": "" if not case.how else str(has_effect(case)).lower(),
        "whole": whole.verdict,
        "runs": runs.verdict,
        "reason": runs.reason,
    }


def proved(result: RewriteResult, changes: tuple[Change, ...], model: Model | None) -> Comparison:
    """What `rewrite` says of these changes if its last step had made `model`."""
    made = result.rewritten
    if model is not None:
        last = changes[-1].model
        made = model
        changes = tuple(
            replace(item, model=model.skeleton) if item.model is last else item for item in changes
        )
    names = list(dict.fromkeys(item.site.rewrite for item in changes))
    chosen = [rewrite for rewrite in ALL if rewrite.name in names]
    same = partial(again, chosen=chosen, options=Options(), input_shapes=None)
    prover = Prover(Options(), same, "cpu", run_limits=HERE)
    return prover.prove(result.original, made, changes, None)[1]


def has_effect(case: Case) -> bool:
    """Whether some output on the random samples differs from the right rewrite's in any bit."""
    samples = random_samples(case.result.model)
    try:
        right, wrong = (
            run_model(model, samples.arrays, provider="cpu", run_limits=HERE)
            for model in (case.result.model, case.model)
        )
    except OnnxShareError:
        return True
    return any(
        right[name].shape != wrong[name].shape or right[name].tobytes() != wrong[name].tobytes()
        for name in right
    )


def print_table(rows: list[dict[str, str]]) -> None:
    print("\n| rewrite | right | passed | corrupted | of these without effect on outputs |", end="")
    print(" passed | passed by the runs alone |\n|---|---:|---:|---:|---:|---:|---:|")
    total: Counter[str] = Counter()
    groups: dict[str, Counter[str]] = {}
    for row in rows:
        group = groups.setdefault(row["label"].split(", ")[-1], Counter())
        for count in (group, total):
            if row["how"]:
                count["corrupted"] += 1
                count["still"] += row["effect"] == "false"
                count["whole"] += Verdict(row["whole"]).passes
                count["runs"] += Verdict(row["runs"]).passes
            else:
                count["right"] += 1
                count["passed"] += Verdict(row["whole"]).passes
    for name, count in [*sorted(groups.items()), ("all", total)]:
        cells = [count[k] for k in ("right", "passed", "corrupted", "still", "whole", "runs")]
        print(f"| {name} | {' | '.join(map(str, cells))} |")
    for row in rows:
        whole, runs = (Verdict(row[key]).passes for key in ("whole", "runs"))
        if whole == bool(row["how"]) or (row["how"] and runs):
            print(f"{row['label']}: {row['how'] or 'right'}: {row['whole']}, {row['runs']}")


if __name__ == "__main__":
    main()
