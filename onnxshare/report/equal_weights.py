"""In words: which parameter tensors hold the same, and what merging them would save."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from rich.text import Text

from onnxshare.analysis.results import Inspection, WeightFacts
from onnxshare.errors import printable
from onnxshare.report import numbers

#: So many equal tensors are named one by one.
_NAMED = 5

#: Fewer elements are equal for no deep reason.
_LEAST = 2


def describe_equal(report: Inspection) -> list[Text]:
    """What the hashes say; nothing where none were asked for."""
    hashed = [item for item in report.weights if item.hash]
    if not hashed:
        return []
    equal = [item for item in hashed if item.same_as or item.transposed_of]
    trivial = [item for item in equal if item.uniform or item.params < _LEAST]
    telling = [item for item in equal if item not in trivial]
    lines = [_sentence(item) for item in telling[:_NAMED]]
    if len(telling) > _NAMED:
        lines.append(Text(f"  and {len(telling) - _NAMED} more: --by weight shows all", "dim"))
    if not telling:
        lines.append(Text(f"Of the {len(hashed)} parameter tensors no two hold the same."))
    if trivial:
        what = "1 tensor equals" if len(trivial) == 1 else f"{len(trivial)} tensors equal"
        lines.append(
            Text(
                f"Not counted: {what} another only because all elements are alike, such as zeros.",
                "dim",
            )
        )
    return lines + _savings(report, telling)


def _sentence(item: WeightFacts) -> Text:
    size = "×".join(map(str, item.shape)) or "1"
    what = f"'{item.name}' ({size} {item.dtype}, {numbers.size(item.bytes)})"
    if item.same_as:
        how = f"equals '{item.same_as}'"
    else:
        order = ", ".join(map(str, item.permutation or ()))
        how = f"is '{item.transposed_of}' transposed ({order})"
    if item.same_after:
        how += " once what is quantised is dequantised"
    elif item.same_as:
        how += " bit for bit"
    return Text.assemble(("Equal ", "bold"), printable(f"{what} {how}"))


def _savings(report: Inspection, telling: Sequence[WeightFacts]) -> list[Text]:
    """What `--share` merges: what is equal bit for bit, and transposed matrices."""
    merged = [
        item
        for item in telling
        if item.same_after is None
        and (item.same_as or (item.transposed_of and len(item.shape) == 2))
    ]
    if not merged:
        return []
    saved = sum(item.bytes for item in merged)
    path = shlex.quote(report.model.path or "MODEL")
    return [
        Text.assemble("  ", (printable(f"onnxshare rewrite {path} --share"), "cyan")),
        Text(
            f"      exact: saves up to {numbers.size(saved)} of "
            f"{numbers.size(report.totals.param_bytes)}, "
            f"{numbers.exact(sum(item.params for item in merged))} parameters",
            "dim",
        ),
    ]
