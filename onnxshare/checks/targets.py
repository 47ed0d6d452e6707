"""What a target runtime can read: ranges of opsets and IR versions.

A target is `onnxruntime 1.20`, or bounds such as `opset <= 17`, `ir_version <= 8`,
`ai.onnx.ml <= 3`, or several of these with commas between them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

#: ONNX Runtime release → the highest opset of ai.onnx and ai.onnx.ml and the highest IR version
#: with which it loads a model. Measured: each release was given models of one operator that no
#: opset has changed since 13, with ever higher versions.
ONNXRUNTIME: dict[str, tuple[int, int, int]] = {
    "1.15": (19, 3, 9),
    "1.16": (19, 3, 9),
    "1.17": (20, 4, 9),
    "1.18": (21, 5, 10),
    "1.19": (21, 5, 10),
    "1.20": (21, 5, 10),
    "1.21": (22, 5, 10),
    "1.22": (22, 5, 10),
    "1.23": (23, 5, 11),
    "1.24": (25, 5, 13),
    "1.25": (26, 5, 13),
    "1.26": (26, 5, 13),
    "1.27": (26, 5, 13),
    "1.28": (26, 5, 13),
    "1.29": (26, 5, 13),
    "1.30": (26, 5, 13),
    "1.31": (26, 5, 13),
}

_BOUND = re.compile(r"([A-Za-z_][\w.]*)\s*(<=|>=|==)\s*(\d{1,6})")
_RUNTIME = re.compile(r"onnxruntime\s*(?:==)?\s*(\d+)\.(\d+)(?:\.\d+)?")

#: The name of the IR version in a bound; `opset` is the opset of ai.onnx.
IR_VERSION = "ir_version"

#: What people write for the two names of a bound that are not domains, without `_`.
_SLIPS = {"opset": "opset", "opsetversion": "opset", "ir": IR_VERSION, "irversion": IR_VERSION}


@dataclass(frozen=True)
class Bound:
    """The versions of one thing that a target reads; None is not a bound.

    Attributes:
        name: `ir_version`, or the domain of an opset (`ai.onnx` for the standard one).
        lowest, highest: the first and the last version.
        words: the target that asks for it, as the user wrote it.
    """

    name: str
    lowest: int | None
    highest: int | None
    words: str

    def allows(self, version: int) -> bool:
        """Whether a version lies within."""
        low = self.lowest is None or version >= self.lowest
        return low and (self.highest is None or version <= self.highest)


def parse_target(text: str) -> tuple[Bound, ...]:
    """Parse a target.

    Raises:
        ValueError: it is none; the message says what is expected.
    """
    bounds: list[Bound] = []
    for part in (piece.strip() for piece in text.split(",")):
        runtime, bound = _RUNTIME.fullmatch(part), _BOUND.fullmatch(part)
        if runtime:
            bounds.extend(_of_runtime(f"{runtime[1]}.{runtime[2]}"))
        elif bound:
            bounds.append(_of_bound(bound[1], bound[2], int(bound[3]), part))
        else:
            raise ValueError(
                f"expected a target such as 'onnxruntime 1.20' or 'opset <= 17', not {part!r}"
            )
    return tuple(bounds)


def _of_runtime(version: str) -> list[Bound]:
    if version not in ONNXRUNTIME:
        first, *_, last = ONNXRUNTIME
        raise ValueError(
            f"what ONNX Runtime {version} reads is not known here (known are {first} to {last}): "
            "give bounds such as 'opset <= 17, ir_version <= 8'"
        )
    opset, learning, ir_version = ONNXRUNTIME[version]
    words = f"ONNX Runtime {version}"
    return [
        Bound("ai.onnx", 7, opset, words),
        Bound("ai.onnx.ml", None, learning, words),
        Bound(IR_VERSION, None, ir_version, words),
    ]


def _of_bound(name: str, sign: str, version: int, words: str) -> Bound:
    import difflib  # the list of rules does not need it

    # A domain that no model has bounds nothing, so that a slip would pass everything.
    meant = difflib.get_close_matches(name.lower().replace("_", ""), _SLIPS, 1, 0.85)
    if meant and name not in _SLIPS.values():
        raise ValueError(f"'{name}' is not a domain of operators, did you mean {_SLIPS[meant[0]]}?")
    low = version if sign in (">=", "==") else None
    high = version if sign in ("<=", "==") else None
    return Bound("ai.onnx" if name == "opset" else name, low, high, words)


def outside(
    bounds: tuple[Bound, ...], ir_version: int, opsets: Mapping[str, int]
) -> list[tuple[Bound, int]]:
    """The bounds that a model does not keep, each with the model's version."""
    versions = {domain or "ai.onnx": version for domain, version in opsets.items()}
    versions[IR_VERSION] = ir_version
    return [
        (bound, versions[bound.name])
        for bound in bounds
        if bound.name in versions and not bound.allows(versions[bound.name])
    ]
