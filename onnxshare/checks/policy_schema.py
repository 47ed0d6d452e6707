"""The JSON Schema of the policy file, for editors; `onnxshare.schema.json` in the repository."""

from __future__ import annotations

from typing import Any

from onnxshare.checks.explain import example
from onnxshare.checks.limits import Unit
from onnxshare.checks.rules import BY_CODE, RULES

_NUMBER = {"type": "number", "minimum": 0}
_LIMITS: dict[Unit, dict[str, Any]] = {
    "count": {"anyOf": [_NUMBER, {"type": "string", "pattern": r"^[0-9.]+[kKmMgGtT]?$"}]},
    "bytes": {
        "anyOf": [_NUMBER, {"type": "string", "pattern": r"^[0-9.]+\s*([kKmMgGtT]i?)?[bB]?$"}]
    },
    "share": {
        "anyOf": [
            {"type": "number", "minimum": 0, "maximum": 1},
            {"type": "string", "pattern": r"^[0-9.]+%?$"},
        ]
    },
    "ratio": {"anyOf": [_NUMBER, {"type": "string", "pattern": r"^[0-9.]+[kKmMgGtT]?$"}]},
    "model": {"type": "string", "minLength": 1},
    "target": {"type": "string", "minLength": 1},
    "text": {"type": "string", "minLength": 1},
    "names": {
        "anyOf": [
            {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1},
            {"type": "string", "minLength": 1},
        ]
    },
    "flag": {"type": "boolean"},
}


_RELATIVE = {"type": "string", "pattern": r"^\s*baseline(\s*[+-]\s*[0-9.]+\s*%)?\s*$"}
_SETTINGS = {
    "fail-on": {"description": "Whether warnings fail too.", "enum": ["error", "warning"]},
    "max-findings": {"description": "How many findings may fail.", "type": "integer", "minimum": 0},
}


def policy_schema() -> dict[str, Any]:
    """The schema of `onnxshare.toml` and of `[tool.onnxshare]` (JSON Schema, draft 2020-12)."""
    limits = {
        rule.option: {
            "description": f"{rule.code} {rule.name}: {rule.measures}. Example: {example(rule)}",
            "anyOf": [_LIMITS[rule.unit], *([_RELATIVE] if rule.metric else []), {"const": False}],
        }
        for rule in RULES
    }
    words = {"type": "array", "items": {"enum": _words()}}
    lists = {"select": words, "ignore": words, "warn": words}
    check = _table({**limits, **lists, **_SETTINGS})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "onnxshare policy",
        "description": "What `onnxshare check` checks models against.",
        **_table(
            {
                "models": {
                    "description": "Paths, folders and globs, or tables with their own settings.",
                    "type": "array",
                    "items": {"anyOf": [{"type": "string", "minLength": 1}, _model(limits)]},
                },
                "exclude": {
                    "description": "Globs of models that no folder or glob stands for.",
                    "type": "array",
                    "items": {"type": "string", "minLength": 1},
                },
                "check": {"description": "The limits.", **check},
                "allow": {
                    "description": "Findings that are known and accepted.",
                    "type": "array",
                    "items": _allow(),
                },
                "baseline": {
                    "description": "The file of known findings and measured values.",
                    "type": "string",
                    "minLength": 1,
                },
            }
        ),
    }


def _table(properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    table: dict[str, Any] = {"type": "object", "properties": properties}
    table["additionalProperties"] = False
    return {**table, "required": required} if required else table


def _words() -> list[str]:
    families = list(dict.fromkeys(code[:2] for code in BY_CODE))
    return [*BY_CODE, *families, *(rule.name for rule in RULES)]


def _model(limits: dict[str, Any]) -> dict[str, Any]:
    sizes = {"type": "array", "items": {"type": "integer", "minimum": 1}}
    text = {"type": "string", "minLength": 1}
    return _table(
        {
            "path": {"description": "A path, folder or glob.", **text},
            "check": {"description": "Limits put over those of all models.", **_table(limits)},
            "input-shapes": {"type": "object", "additionalProperties": sizes},
            "samples": {"description": "Inputs for the rules that run models.", **text},
            "reference": {"description": "The model to be equivalent to.", **text},
        },
        ["path"],
    )


def _allow() -> dict[str, Any]:
    text = {"type": "string", "minLength": 1}
    return _table(
        {
            "rule": {"enum": _words()},
            "reason": {"description": "Why it is accepted.", **text},
            "model": {"description": "A glob of paths.", **text},
            "node": {"description": "A pattern of node names.", **text},
            "expires": {
                "description": "The last day on which it holds, a TOML date.",
                "type": "string",
                "format": "date",
            },
        },
        ["rule", "reason"],
    )
