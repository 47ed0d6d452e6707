"""What docs/reference/ says of the fields of JSON."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs" / "reference"


def documented(command: str) -> dict[str, set[str]]:
    """The fields that the reference lists for `--format json` of a command, by part; those of the
    report itself, but for the parts with a line of their own, as ""."""
    after = (
        (DOCS / f"{command}.md")
        .read_text()
        .partition(f"`{command} --format json` (`schema_version` 1):")[2]
    )
    text = after.split("```")[1].removeprefix("text\n")
    while (flat := re.sub(r"\([^()]*\)|\[[^\[\]]*\]|\{[^{}]*\}", "", text)) != text:
        text = flat
    found: dict[str, set[str]] = {}
    part = ""
    for line in text.splitlines():
        start = re.match(r"(\w+):", line)
        if not line.startswith(" "):
            part = start[1] if start else ""  # fields that are no part of another stand alone
        names = {
            name.strip() for name in re.split(r"[,;:|]", line[start.end() :] if start else line)
        }
        found.setdefault(part, set()).update(name for name in names if re.fullmatch(r"\w+", name))
    return found
