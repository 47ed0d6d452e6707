"""What the rules of `check` measure on real models: the table in docs/how-to/gate-a-repository.md.

    python benchmarks/check_metrics.py FOLDER...

Each folder holds .onnx files; the `light_*` models of the onnx wheel are added.
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import quantiles

import onnx

import onnxshare
from onnxshare.analysis.results import Inspection
from onnxshare.checks.limits import Unit, show
from onnxshare.checks.model_names import find_models
from onnxshare.checks.rules.sharing import (
    equal_copies,
    fc_share,
    quantized_copies,
    single_use_share,
    transposed_copies,
)


def measures(report: Inspection) -> dict[str, float | None]:
    """The value of each rule that has a limit, by the code of the rule."""
    copies, turned = equal_copies(report.weights), transposed_copies(report.weights)
    least, most = single_use_share(report.weights)
    return {
        "WS101": fc_share(report.totals),
        "WS102": report.totals.sharing_ratio,
        "WS103": least if least == most else None,
        "WS106": float(sum(weight.bytes for weight in copies)),
        "WS107": float(sum(weight.bytes for weight in turned)),
        "WS109": float(sum(weight.bytes for weight in quantized_copies(report.weights))),
        "BG201": report.model.bytes,
        "BG202": report.totals.params,
        "BG203": report.totals.macs,
        "BG204": report.totals.peak_activation_bytes,
    }


UNITS: dict[str, Unit] = {
    "WS101": "share",
    "WS102": "ratio",
    "WS103": "share",
    "WS106": "bytes",
    "WS107": "bytes",
    "WS109": "bytes",
}
UNITS |= {"BG201": "bytes", "BG202": "count", "BG203": "count", "BG204": "bytes"}


def main(folders: list[str]) -> None:
    light = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    found: dict[str, list[float]] = {code: [] for code in UNITS}
    unknown: dict[str, int] = dict.fromkeys(UNITS, 0)
    models = find_models([*folders, light])
    read = 0
    for path in models:
        try:
            report = onnxshare.inspect(path, hashes=True)
        except onnxshare.OnnxShareError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        read += 1
        for code, value in measures(report).items():
            if value is None:
                unknown[code] += 1
            else:
                found[code].append(value)
    print(f"{read} of {len(models)} models\n")
    print("| Rule | Least | Quarter | Half | Three quarters | Most | Unknown |")
    print("|" + " --- |" * 7)
    for code, values in found.items():
        low, middle, high = quantiles(values, n=4, method="inclusive")
        cells = [shown(v, code) for v in (min(values), low, middle, high, max(values))]
        print(f"| {code} | {' | '.join(cells)} | {unknown[code]} |")


def shown(value: float, code: str) -> str:
    """A value as the rule shows it."""
    unit = UNITS[code]
    return show(round(value, 4) if unit in ("share", "ratio") else int(value), unit)


if __name__ == "__main__":
    main(sys.argv[1:])
