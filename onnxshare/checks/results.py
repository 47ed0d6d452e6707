"""What a check finds: frozen, plain, and the shape of `check --format json`."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from typing import ClassVar, Literal

from onnxshare.checks.metrics import Difference, Measured, Metrics, differences
from onnxshare.checks.model_names import in_repository
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
        return fingerprint(self.code, self.key or self.model, self.node)


def fingerprint(code: str, model: str, node: str | None) -> str:
    """What a finding of a rule, in a model and at a node, is known by."""
    key = "\0".join((code, model, node or ""))
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
class ModelReport(Result):
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
        before: what was measured of it before; None where nothing is known of that.
        former: the name that it had before, if it has another one now.
        tensors: by hash of a parameter tensor, its bytes and its place in a data file, which
            other models may name too (empty within the model file); where a rule needs them.
    """

    SHOWN = (
        *("path", "findings", "silenced", "limits", "metrics", "error", "line", "key", "before"),
        "former",
    )

    path: str
    findings: tuple[Finding, ...] = ()
    silenced: tuple[Silenced, ...] = ()
    limits: dict[str, Limit] = field(default_factory=dict)
    metrics: Metrics | None = None
    error: str | None = None
    line: int | None = None
    key: str = ""
    before: Measured | None = None
    former: str | None = None
    tensors: dict[str, tuple[int, str]] = field(default_factory=dict)

    @property
    def measured(self) -> Measured:
        """What was measured, by metric."""
        return {} if self.metrics is None else asdict(self.metrics)

    @property
    def differences(self) -> list[Difference]:
        """What is not what it was."""
        return [] if self.metrics is None else differences(self.before or {}, self.measured)

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
        notes: what else there is to know of the models as a whole, as text.
        fail_on: whether findings that only warn fail the check too.
        max_findings: how many findings that fail may be there before the check fails.
        lines: by the code of each rule that the policy file limits for all models, the line there.
    """

    SHOWN = (
        *("schema_version", "passed", "summary", "limits", "policy", "stale", "notes"),
        "models",
    )
    schema_version: ClassVar[int] = SCHEMA_VERSION

    limits: dict[str, Limit]
    models: tuple[ModelReport, ...]
    policy: str | None = None
    stale: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    fail_on: Severity = "error"
    max_findings: int = 0
    lines: dict[str, int] = field(default_factory=dict)

    def anchor(self, model: ModelReport, code: str = "") -> tuple[str, int]:
        """Where a person can change something about a finding of a rule in a model, for tools that
        want a file and a line: the policy file where it names the model, or else limits the rule,
        else the model file, which has no lines. The path is relative to the repository's root."""
        line = model.line or self.lines.get(code)
        if self.policy is not None and line is not None:
            return in_repository(self.policy), line
        return in_repository(model.path), 1

    @property
    def headline(self) -> str:
        """One line: whether the check passed, what was checked and found, and what changed."""
        changed = [model for model in self.models if model.differences]
        words = [f"{'passed' if self.passed else 'failed'}: {self.verdict}"]
        if len(changed) == 1:
            words.append(f"{changed[0].path}: {changed[0].differences[0]}")
        elif changed:
            worse = sum(any(one.worse for one in model.differences) for model in changed)
            words.append(f"{len(changed)} models changed, {worse or 'none'} for the worse")
        return "; ".join(words)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The findings of all models."""
        return tuple(finding for model in self.models for finding in model.findings)

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that fail the check."""
        every = self.fail_on == "warning"
        return tuple(found for found in self.findings if every or found.severity == "error")

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
        """Whether every model was read, and no more findings fail than may."""
        return len(self.errors) <= self.max_findings and not self.unreadable

    @property
    def exit_code(self) -> int:
        """0: passed; 1: there are findings that fail; 2: a model could not be read."""
        if self.unreadable:
            return 2
        return 0 if self.passed else 1

    @property
    def verdict(self) -> str:
        """One line: what was checked and found."""
        judged = len(self.models) - len(self.unreadable)
        words = [f"{counted(judged, 'model')} checked, {counted(len(self.findings), 'finding')}"]
        warnings = len(self.findings) - len(self.errors)
        if warnings:
            words[0] += f" ({warnings} only {'warns' if warnings == 1 else 'warn'})"
        if self.errors and self.max_findings:
            words.append(f"{self.max_findings} may be there")
        if self.silenced:
            words.append(f"{len(self.silenced)} silenced")
        if self.unreadable:
            words.append(f"{counted(len(self.unreadable), 'model')} could not be read")
        return ", ".join(words)

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


def counted(number: int, word: str) -> str:
    """A number of things: `no findings`, `1 model`, `2 models`."""
    return f"{number or 'no'} {word}{'' if number == 1 else 's'}"
