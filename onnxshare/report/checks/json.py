"""The report of `check` as JSON, laid out as `docs/reference/check.md` describes."""

from __future__ import annotations

from onnxshare.checks.results import CheckReport
from onnxshare.support.json_text import json_text


def render(report: CheckReport) -> str:
    """The report as one JSON document."""
    return json_text(report.to_dict(), indented=True) + "\n"
