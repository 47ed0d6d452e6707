"""What a check finds: frozen, plain, and the shape of `check --format json`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

#: Version of the JSON layout; it changes when a field changes its meaning or goes away.
SCHEMA_VERSION = 1

#: A limit as a rule reads it: a number, or the path of a reference model.
Limit = int | float | str


@dataclass(frozen=True)
class Finding:
    """One rule that one model does not keep.

    Attributes:
        code: the rule's stable code, such as `WS101`.
        rule: the rule's name in words, such as `fc-dominates`.
        model: the model's path, or `<model>` for one from memory.
        message: what was measured, in words.
        measured: the value itself; None where it could not be judged.
        limit: the limit that it is held against.
        fix: the command that would help.
    """

    code: str
    rule: str
    model: str
    message: str
    measured: int | float | str | None
    limit: Limit
    fix: str


@dataclass(frozen=True)
class Metrics:
    """What the rules measure, whether or not a rule was selected; unknown is None."""

    params: int
    fc_share: float
    sharing_ratio: float | None
    macs: int | None


@dataclass(frozen=True)
class ModelReport:
    """One model's part of the report.

    Attributes:
        path: the model's path, or `<model>` for one from memory.
        findings: the rules that it does not keep, in the order of their codes.
        metrics: what was measured; None where the model could not be read.
        error: why the model, or what it is compared with, could not be read; else None.
    """

    path: str
    findings: tuple[Finding, ...] = ()
    metrics: Metrics | None = None
    error: str | None = None


@dataclass(frozen=True)
class CheckReport:
    """Everything that `check` reports.

    Attributes:
        limits: the selected rules: option name to limit.
        models: one part per model, in the order they were given.
    """

    limits: dict[str, Limit]
    models: tuple[ModelReport, ...]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The findings of all models."""
        return tuple(finding for model in self.models for finding in model.findings)

    @property
    def unreadable(self) -> tuple[ModelReport, ...]:
        """The models that could not be read or judged because of an error."""
        return tuple(model for model in self.models if model.error is not None)

    @property
    def passed(self) -> bool:
        """Whether every model was read and keeps every rule."""
        return not self.findings and not self.unreadable

    @property
    def exit_code(self) -> int:
        """0: passed; 1: there are findings; 2: a model could not be read."""
        if self.unreadable:
            return 2
        return 1 if self.findings else 0

    def to_dict(self) -> dict[str, Any]:
        """The report as plain types."""
        return {
            "schema_version": SCHEMA_VERSION,
            "passed": self.passed,
            "summary": {
                "models": len(self.models),
                "findings": len(self.findings),
                "unreadable": len(self.unreadable),
            },
            "limits": dict(self.limits),
            "models": [asdict(model) for model in self.models],
        }
