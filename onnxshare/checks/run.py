"""Holds models against rules; one bad model never hides the others."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onnxshare.analysis.inspection import HeadJudge, inspect
from onnxshare.analysis.results import Inspection
from onnxshare.checks.models import find_models
from onnxshare.checks.policy import Policy
from onnxshare.checks.results import CheckReport, Finding, Limit, Metrics, ModelReport
from onnxshare.checks.rules import (
    BY_OPTION,
    RULES,
    Problem,
    Rule,
    Subject,
    Verdict,
    command,
    fc_share,
)
from onnxshare.errors import ModelError, ModelFileError, OnnxShareError, SamplesError, UsageError
from onnxshare.io.load import ModelSource, load
from onnxshare.shapes import InputShapes

if TYPE_CHECKING:
    from onnxshare.inputs import Samples


@dataclass(frozen=True)
class _How:
    """What is the same for every model."""

    limits: Mapping[str, Limit]
    input_shapes: InputShapes | None
    judge: HeadJudge | None
    samples: Samples | str | Path | None
    provider: str
    follow_symlinks: str | os.PathLike[str] | None

    def allow(self, source: ModelSource) -> ModelSource:
        """The model, with links to its external data allowed if they are."""
        if self.follow_symlinks is None:
            return source
        return load(source, follow_symlinks=self.follow_symlinks)


def check(
    sources: ModelSource | Sequence[ModelSource],
    *,
    policy: Policy | None = None,
    max_params: int | str | None = None,
    max_fc_share: float | str | None = None,
    min_sharing_ratio: float | str | None = None,
    max_macs: int | str | None = None,
    equivalent_to: str | os.PathLike[str] | None = None,
    samples: Samples | str | Path | None = None,
    provider: str = "auto",
    input_shapes: InputShapes | None = None,
    judge: HeadJudge | None = None,
    follow_symlinks: str | os.PathLike[str] | None = None,
) -> CheckReport:
    """Check models against limits.

    Args:
        sources: one model or several; paths may be folders and globs (see `find_models`),
            and anything that `onnxshare.load` takes will do.
        policy: limits from a file (`read_policy`); the limits given here come first. Its
            models are checked only if `sources` is empty.
        max_params: the most parameters, such as 5_000_000 or "5M".
        max_fc_share: the largest share of parameters in fully connected layers: 0.5 or "50%".
        min_sharing_ratio: how often a parameter must be used per sample, on average.
        max_macs: the most multiply-accumulates per sample.
        equivalent_to: the model that each must be equivalent to. Only this rule runs models.
        samples: inputs for `equivalent_to`; as of `onnxshare.compare`.
        provider: where `equivalent_to` runs; as of `onnxshare.compare`.
        input_shapes: sizes for symbolic inputs; as of `onnxshare.inspect`.
        judge: asks the rewrites what they could do with a head, so that findings can name
            the one that helps; as of `onnxshare.analysis.inspection.inspect`.
        follow_symlinks: a folder that links to external data may lead into; as of
            `onnxshare.load`.

    Raises:
        UsageError: no rule or no model is selected, or a limit is not one.
    """
    policy = (policy or Policy()).with_options(
        {
            "max-params": max_params,
            "max-fc-share": max_fc_share,
            "min-sharing-ratio": min_sharing_ratio,
            "max-macs": max_macs,
            "equivalent-to": None if equivalent_to is None else os.fspath(equivalent_to),
        }
    )
    if not policy.limits:
        options = ", ".join(f"--{rule.option}" for rule in RULES)
        raise UsageError("no rule is selected", f"give at least one of {options}")
    models = _sources(sources, policy)
    if not models:
        raise UsageError("no model is given", "name one, or list `models` in the policy file")
    how = _How(policy.limits, input_shapes, judge, samples, provider, follow_symlinks)
    return CheckReport(dict(policy.limits), tuple(_check_one(model, how) for model in models))


def _sources(sources: ModelSource | Sequence[ModelSource], policy: Policy) -> list[ModelSource]:
    given = list(sources) if isinstance(sources, (list, tuple)) else [sources]
    models: list[ModelSource] = []
    for source in given or policy.models:
        if isinstance(source, (str, os.PathLike)):
            models.extend(path for path in find_models([source]) if path not in models)
        else:
            models.append(source)
    return models


def _check_one(source: ModelSource, how: _How) -> ModelReport:
    name = str(source) if isinstance(source, Path) else "<model>"
    try:
        source = how.allow(source)
        inspection = inspect(source, input_shapes=how.input_shapes, judge=how.judge)
    except Exception as error:
        return ModelReport(name, error=_reason(error, name))
    name = inspection.model.path or name
    totals = inspection.totals
    metrics = Metrics(totals.params, fc_share(totals), totals.sharing_ratio, totals.macs)
    subject = _subject(name, source, inspection, how)
    findings: list[Finding] = []
    unread: str | None = None
    for option, limit in how.limits.items():
        rule = BY_OPTION[option]
        try:
            problem = rule.judge(subject, limit)
        except UsageError:  # such as an unknown provider: every model would say the same
            raise
        except (ModelFileError, ModelError, SamplesError) as error:
            unread = str(error)
            continue
        except OnnxShareError as error:
            problem = Problem(f"cannot be judged: {error}", None, command("inspect", name))
        if problem is not None:
            findings.append(_finding(rule, name, problem, limit))
    return ModelReport(name, tuple(findings), metrics, unread)


def _subject(name: str, source: ModelSource, inspection: Inspection, how: _How) -> Subject:
    def compare(reference: str) -> Verdict:
        # The only rule that runs models asks for this: the others never import onnxruntime.
        from onnxshare.validate import compare

        right = how.allow(reference)
        return compare(right, source, samples=how.samples, provider=how.provider)

    return Subject(name, inspection, compare)


def _finding(rule: Rule, name: str, problem: Problem, limit: Limit) -> Finding:
    return Finding(
        rule.code, rule.name, name, problem.message, problem.measured, limit, problem.fix
    )


def _reason(error: Exception, name: str) -> str:
    """A crash on one model is reported with it, so that the other models are still checked."""
    if isinstance(error, OnnxShareError):
        return str(error)
    if os.environ.get("ONNXSHARE_DEBUG"):
        raise error
    return (
        f"{name}: internal error: {type(error).__name__}: {error}; this is a bug: "
        "set ONNXSHARE_DEBUG=1 to see where, and report it"
    )
