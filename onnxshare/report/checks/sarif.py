"""The report of `check` as SARIF 2.1.0.

Form: https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from onnxshare.checks.explain import help_address, page
from onnxshare.checks.results import CheckReport, Finding, ModelReport, Silenced
from onnxshare.checks.rule import Rule
from onnxshare.checks.rules import BY_OPTION, RULES
from onnxshare.support.json_text import json_text
from onnxshare.version import __version__

_SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)


def render(report: CheckReport) -> str:
    """One run; a model is a binary without lines, so results point to the line of the policy file
    that names it, and the node stands in `logicalLocations` and in the message."""
    results = [
        _result(report, model, finding) for model in report.models for finding in model.findings
    ]
    for model in report.models:
        results += [_suppressed(report, model, item) for item in model.silenced]
    rules = [_rule(rule) for rule in _rules(report)]
    driver = {"name": "onnxshare", "version": __version__, "rules": rules}
    run = {
        "tool": {"driver": driver},
        "invocations": [_invocation(report)],
        "results": results,
        "columnKind": "unicodeCodePoints",
    }
    document = {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}
    return json_text(document, indented=True) + "\n"


def _rules(report: CheckReport) -> list[Rule]:
    """This project's rules, and those of other packages that were selected."""
    selected = (BY_OPTION[option] for model in report.models for option in model.limits)
    return list(dict.fromkeys((*RULES, *selected)))


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.code,
        "name": "".join(word.capitalize() for word in rule.name.split("-")),
        "shortDescription": {"text": f"{rule.short or rule.name.replace('-', ' ').capitalize()}."},
        "fullDescription": {"text": f"Measures {rule.measures}."},
        "help": {"text": f"{rule.why} {rule.fix}", "markdown": page(rule)},
        **({"helpUri": help_address(rule)} if rule in RULES else {}),
        "defaultConfiguration": {"level": "error"},
    }


def _result(report: CheckReport, model: ModelReport, finding: Finding) -> dict[str, Any]:
    return {
        "ruleId": finding.code,
        "ruleIndex": [rule.code for rule in _rules(report)].index(finding.code),
        "level": finding.severity,
        "message": {"text": f"{finding.model}: {finding.where}{finding.text}. Fix: {finding.fix}"},
        "locations": [_location(report, model, finding)],
        "partialFingerprints": {
            "onnxshare/v1": finding.fingerprint,
            # GitHub tells alerts apart by this alone, and would else hash the line, which several
            # models may share.
            "primaryLocationLineHash": finding.fingerprint,
        },
        "properties": {
            "measured": finding.measured,
            "limit": finding.limit,
            "fix": finding.fix,
        },
    }


def _suppressed(report: CheckReport, model: ModelReport, item: Silenced) -> dict[str, Any]:
    reason = item.reason or "known from the baseline"
    return {
        **_result(report, model, item.finding),
        "suppressions": [{"kind": "external", "justification": reason}],
    }


def _location(report: CheckReport, model: ModelReport, finding: Finding) -> dict[str, Any]:
    file, line = report.anchor(model, finding.code)
    location: dict[str, Any] = {
        "physicalLocation": {
            "artifactLocation": {"uri": _uri(file)},
            "region": {"startLine": line},
        },
        "logicalLocations": [{"fullyQualifiedName": model.path, "kind": "module"}],
    }
    if finding.node:
        name = f"{model.path}/{finding.node}"
        location["logicalLocations"] = [
            {"name": finding.node, "fullyQualifiedName": name, "kind": "object"}
        ]
    return location


def _invocation(report: CheckReport) -> dict[str, Any]:
    invocation: dict[str, Any] = {"executionSuccessful": not report.unreadable}
    if report.unreadable:
        invocation["toolExecutionNotifications"] = [
            {"level": "error", "message": {"text": model.error}} for model in report.unreadable
        ]
    return invocation


def _uri(name: str) -> str:
    path = PurePath(name)
    return path.as_uri() if path.is_absolute() else quote(path.as_posix(), errors="replace")
