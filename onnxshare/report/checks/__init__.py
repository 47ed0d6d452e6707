"""The report of `check` in every format that a person or a CI system reads.

A format joins by joining `FORMATS`; each is a function from the report to text.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import cast

from onnxshare.checks.results import CheckReport

#: What `--format` and `--report` take, and the module and function that write it; a module is
#: imported only when it is needed.
FORMATS: dict[str, tuple[str, str]] = {
    "full": ("text", "full"),
    "concise": ("text", "concise"),
    "json": ("json", "render"),
    "github": ("ci_annotations", "github"),
    "sarif": ("sarif", "render"),
    "junit": ("junit", "render"),
    "gitlab": ("ci_annotations", "gitlab"),
    "markdown": ("markdown", "render"),
    "comment": ("markdown", "comment"),
    "csv": ("metric_rows", "as_csv"),
    "jsonl": ("metric_rows", "as_jsonl"),
    "html": ("html", "render"),
}


def render(report: CheckReport, name: str) -> str:
    """The report in one of `FORMATS`, ending with a line break."""
    module, function = FORMATS[name]
    found = getattr(importlib.import_module(f"{__name__}.{module}"), function)
    text = cast("Callable[[CheckReport], str]", found)(report)
    # A path may hold bytes that are not text: they come as escapes.
    return text.encode(errors="backslashreplace").decode()
