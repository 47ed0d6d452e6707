"""Sets of limits to start from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnxshare.checks.results import Limit


@dataclass(frozen=True)
class Preset:
    """A set of limits for one kind of deployment.

    Attributes:
        name: what `onnxshare init --preset` calls it.
        about: whom it is for, in one sentence.
        limits: option name to limit, as a policy file would have them.
        warn: codes of the rules that only warn.
    """

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
