"""Sets of limits to start from, and the policy file that `onnxshare init` writes of them."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from onnxshare.checks.model_names import find_models
from onnxshare.checks.results import Limit
from onnxshare.checks.rules import BY_OPTION
from onnxshare.errors import UsageError


@dataclass(frozen=True)
class Preset:
    """A set of limits, as a policy file would have them, for one kind of deployment; `about` says
    whom it is for, `warn` lists the codes of the rules that only warn."""

    name: str
    about: str
    limits: Mapping[str, Limit | str]
    warn: tuple[str, ...] = ()


#: What is checked where nobody says what: faults, whatever the model is for.
DEFAULT = Preset(
    "default",
    "faults, whatever the model is for",
    {
        "max-fc-share": "50%",
        "gap-is-exact": True,
        "max-protobuf-share": "90%",
        "min-agreement": "100%",
        "named-dims": True,
        "external-data": True,
    },
    ("WS101", "DP404"),
)

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            "edge",
            "small devices: little memory to read weights from and little of everything else",
            {
                "max-fc-share": "50%",
                "min-sharing-ratio": 20,
                "gap-is-exact": True,
                "max-duplicate-bytes": 0,
                "max-transposed-bytes": 0,
                "max-dequantized-bytes": 0,
                "max-file-size": "20MiB",
                "max-macs": "1G",
                "max-activation-memory": "16MiB",
                "min-agreement": "99%",
                "operators": ("ai.onnx:*",),
                "named-dims": True,
                "external-data": True,
            },
        ),
        Preset(
            "server",
            "servers and desktops: no faults, and no growth unnoticed",
            {
                "max-fc-share": "50%",
                "gap-is-exact": True,
                "max-duplicate-bytes": "1MiB",
                "max-transposed-bytes": "1MiB",
                "max-dequantized-bytes": "1MiB",
                "max-protobuf-share": "90%",
                "min-agreement": "100%",
                "loads": True,
                "named-dims": True,
                "external-data": True,
                "max-regression": "5%",
            },
            ("WS101", "DP404"),
        ),
        Preset(
            "teaching",
            "courses: every rule on weight sharing, as a warning",
            {
                "max-fc-share": "50%",
                "min-sharing-ratio": 10,
                "max-single-use-share": "90%",
                "convolution-form": True,
                "gap-is-exact": True,
                "max-duplicate-bytes": 0,
                "max-transposed-bytes": 0,
                "max-dequantized-bytes": 0,
                "size-locked": True,
            },
            ("WS",),
        ),
    )
}


_SCHEMA = "https://raw.githubusercontent.com/onnxshare/onnxshare/main/onnxshare.schema.json"

_HINTS = """
# An entry may have limits of its own, sizes for symbolic inputs, a model that its models must be
# equivalent to, and the inputs to compare them on:
# check = { max-params = "50M", max-fc-share = false }
# input-shapes = { image = [1, 3, 224, 224] }
# reference = "reference.onnx"
# samples = "samples.npz"

# Findings that are known and accepted, until a day if you like:
# [[allow]]
# rule = "WS101"
# model = "models/old.onnx"
# reason = "is replaced by the new network"
# expires = 2027-06-30
"""


def starter(preset: str, folder: Path) -> str:
    """A policy file with the limits of a preset, for the models below a folder."""
    chosen = PRESETS[preset]
    lines = [
        f"#:schema {_SCHEMA}",  # editors with Taplo complete and check the keys
        f"# What `onnxshare check` checks the models against. Preset {preset}: {chosen.about}.",
        "# `onnxshare rules` lists all rules, `onnxshare explain WS101` explains one.",
        "",
        "# Known findings and measured values, written by `onnxshare check --write-baseline FILE`:",
        '# baseline = "onnxshare-baseline.json"',
        "# Models that no folder or glob below stands for:",
        '# exclude = ["models/old/*"]',
        "",
        "[check]",
    ]
    settings = [(f"{name} = {_toml(value)}", name) for name, value in chosen.limits.items()]
    widest = max(len(setting) for setting, _ in settings)
    for setting, name in settings:
        rule = BY_OPTION[name]
        lines.append(f"{setting.ljust(widest)}  # {rule.code} {rule.name}")
    if chosen.warn:
        lines.append(f"warn = {json.dumps(chosen.warn)}  # these are reported, and fail nothing")
    for model in _models(folder):
        lines += ["", "[[models]]", f"path = {_toml(model)}"]
    return "\n".join(lines) + "\n" + _HINTS


def _models(folder: Path) -> list[str]:
    """Globs for the models of a folder, so that those added later are checked too: one for each
    folder in it that holds some, at any depth."""
    try:
        found = find_models([folder])
    except UsageError:
        return ["**/*.onnx"]
    parts = [Path(os.path.relpath(path, folder)).parts for path in found]
    folders = sorted({part[0] for part in parts if len(part) > 1})
    own = ["*.onnx"] if any(len(part) == 1 for part in parts) else []
    return own + [f"{glob.escape(name)}/**/*.onnx" for name in folders]


def _toml(value: Limit) -> str:
    # JSON's text, numbers, lists and booleans are TOML's too.
    return json.dumps(value, ensure_ascii=False)
