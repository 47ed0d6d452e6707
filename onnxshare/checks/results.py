"""What a check finds: frozen, plain, and the shape of `check --format json`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from onnxshare.support.dataclass_tools import Result

#: Version of the JSON layout; it changes when a field changes its meaning or goes away.
SCHEMA_VERSION = 1

#: A limit as a rule reads it: a number, the path of a reference model, a version, yes, or names.
Limit = bool | int | float | str | tuple[str, ...]

#: An error fails the check; a warning is only reported.
Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """One rule that one model does not keep, once per place.

    Attributes:
        code: the rule's stable code, such as `WS101`.
        rule: the rule's name as text, such as `fc-dominates`.
        model: the model's path, or `<model>` for one from memory.
        message: what was measured, as text.
        measured: the value itself; None where it could not be judged.
        limit: the limit that it is checked against.
        bound: the limit as text, such as `at most 5,000,000`; empty for a rule without one.
        fix: the command that would help.
        node: the node it is about; None: the whole model.
        severity: whether it fails the check.
        key: the model's name in baselines, relative to the policy file's folder or else the
            current one (`onnxshare.checks.model_names.portable`); empty: `model` is it.
    """

    code: str
    rule: str
    model: str
    message: str
    measured: Limit | None
    limit: Limit
    bound: str
    fix: str
    node: str | None = None
    severity: Severity = "error"
    key: str = ""

    @property
    def where(self) -> str:
        """What messages begin with: the node and a colon, or nothing."""
        return f"{self.node}: " if self.node else ""

    @property
    def text(self) -> str:
        """The message with the limit that it is checked against."""
        return f"{self.message}; the limit is {self.bound}" if self.bound else self.message

    @property
    def fingerprint(self) -> str:
        """What stays the same from run to run, whatever is measured: rule, model and node."""
        key = "\0".join((self.code, self.key or self.model, self.node or ""))
        return hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()[:32]


@dataclass(frozen=True)
class Silenced:
    """A finding that does not count.

    Attributes:
        finding: the finding.
        by: what silenced it: an `allow` entry of the policy, or the baseline.
        reason: the reason that the entry gives; empty for the baseline.
    """

    finding: Finding
    by: Literal["allow", "baseline"]
    reason: str = ""


@dataclass(frozen=True)
class Metrics:
    """What the rules measure, whether or not a rule was selected; unknown is None.

    Attributes:
        params, macs, peak_activation_bytes, sharing_ratio: as of `inspect`'s totals.
        fc_share: parameters used by fully connected layers / all parameters.
        file_bytes: the model file and its external data.
    """

    params: int
    fc_share: float
    sharing_ratio: float | None
    macs: int | None
    file_bytes: int | None = None
    peak_activation_bytes: int | None = None


@dataclass(frozen=True)
class ModelReport:
    """One model's part of the report.

    Attributes:
        path: the model's path, or `<model>` for one from memory.
        findings: the rules that it does not keep, in the order of their codes.
        silenced: findings that an `allow` entry or the baseline silences.
        limits: the rules it was checked against: option name to limit.
        metrics: what was measured; None where the model could not be read.
        error: why the model, or what it is compared with, could not be read; else None.
        line: the line of the policy file that names the model, from 1, or None.
        key: its name in baselines, as of `Finding`; empty: `path` is it.
    """

    path: str
    findings: tuple[Finding, ...] = ()
    silenced: tuple[Silenced, ...] = ()
    limits: dict[str, Limit] = field(default_factory=dict)
    metrics: Metrics | None = None
    error: str | None = None
    line: int | None = None
    key: str = ""

    @property
    def name(self) -> str:
        """What baselines and `allow` entries call it."""
        return self.key or self.path


@dataclass(frozen=True)
class CheckReport(Result):
    """Everything that `check` reports.

    Attributes:
        limits: the selected rules: option name to limit; a model may have its own.
        models: one part per model, in the order they were given.
        policy: the policy file, or None.
        stale: what the baseline, or an `allow` entry, names and no model does any more, as text.
        before: per model what the baseline says was measured.
    """

    SHOWN = ("schema_version", "passed", "summary", "limits", "policy", "stale", "models")
    schema_version: ClassVar[int] = SCHEMA_VERSION

    limits: dict[str, Limit]
    models: tuple[ModelReport, ...]
    policy: str | None = None
    stale: tuple[str, ...] = ()
    before: dict[str, dict[str, int | float | None]] = field(default_factory=dict)

    def anchor(self, model: ModelReport) -> tuple[str, int]:
        """Where a person can change something about a model, for tools that want a file and a
        line: the policy file where it names the model, else the model file, which has no lines."""
        if self.policy is not None and model.line is not None:
            return self.policy, model.line
        return model.path, 1

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The findings of all models."""
        return tuple(finding for model in self.models for finding in model.findings)

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that fail the check."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    @property
    def silenced(self) -> tuple[Silenced, ...]:
        """The findings of all models that do not count."""
        return tuple(item for model in self.models for item in model.silenced)

    @property
    def unreadable(self) -> tuple[ModelReport, ...]:
        """The models that could not be read or judged because of an error."""
        return tuple(model for model in self.models if model.error is not None)

    @property
    def passed(self) -> bool:
        """Whether every model was read and keeps every rule, those that only warn apart."""
        return not self.errors and not self.unreadable

    @property
    def exit_code(self) -> int:
        """0: passed; 1: there are findings that fail; 2: a model could not be read."""
        if self.unreadable:
            return 2
        return 1 if self.errors else 0

    @property
    def summary(self) -> dict[str, int]:
        """How many there are of everything."""
        return {
            "models": len(self.models),
            "findings": len(self.findings),
            "warnings": len(self.findings) - len(self.errors),
            "silenced": len(self.silenced),
            "unreadable": len(self.unreadable),
        }
