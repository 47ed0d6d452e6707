"""`onnxshare.inspect` and `onnxshare.check`, with what the rewrites could do with each head.

What either needs alone is imported where it is used, so that neither pays for the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from onnxshare.analysis.inspection import inspect as _inspect
from onnxshare.analysis.results import Inspection
from onnxshare.io.load import load
from onnxshare.shapes.input_sizes import each_dims, with_dims
from onnxshare.support.garbage_collection import paused

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from onnxshare.analysis.heads.head import Subject
    from onnxshare.analysis.results import HeadOffer
    from onnxshare.checks.known_findings import Baseline
    from onnxshare.checks.policy import Policy
    from onnxshare.checks.results import CheckReport, ModelReport
    from onnxshare.io.load import ModelSource
    from onnxshare.runtime.limits import RunLimits
    from onnxshare.samples.samples import Samples
    from onnxshare.shapes.inference import InputShapes
    from onnxshare.shapes.input_sizes import Dims, ManyDims
    from onnxshare.weights.index import Progress

__all__ = ["check", "inspect"]


def _in_notebooks(report: Inspection) -> str:
    from onnxshare.report.page.inspect import as_fragment

    return as_fragment(report)


Inspection.in_notebooks = _in_notebooks


@paused()
def inspect(
    source: ModelSource,
    *,
    input_shapes: InputShapes | None = None,
    dims: ManyDims | None = None,
    hashes: bool = False,
    progress: Progress | None = None,
) -> Inspection:
    """Report where the weights of a model sit and how often each is used, per sample.

    Args:
        source: the model: a path, bytes, a binary file, a ModelProto, an `onnx_ir.Model` …; it
            is not changed.
        input_shapes: sizes for inputs whose sizes are symbolic: `{"image": (1, 3, 224, 224)}`.
        dims: sizes by symbol, in all inputs that have it: `{"batch": 1}`. Of several, such as
            `{"sequence": (128, 1), "past": (0, 127)}`, the report is for the first of each, and
            has one for each as `sizes`.
        hashes: read all weights too, hash them, and find those that hold the same.
        progress: told now and then how many bytes of how many have been read for that.

    Raises:
        ModelFileError: the source is not a readable model.
        ModelError: its graph contradicts itself.
        UsageError: `input_shapes` or `dims` do not fit the model.

    Example:
        >>> report = onnxshare.inspect("models/lenet5.onnx")
        >>> report.totals.params
        61706
        >>> [node.name for node in report.nodes if node.kind == "fc"][:1]
        ['node_linear']
    """
    model = load(source)
    cases = [
        _inspect(
            model,
            input_shapes=with_dims(model, input_shapes, each),
            judge=_judge,
            hashes=hashes and not number,
            progress=progress,
        )
        for number, each in enumerate(each_dims(dims))
    ]
    return cases[0] if len(cases) == 1 else Inspection.for_several_sizes(cases)


def _judge(subject: Subject) -> list[dict[str, HeadOffer]]:
    from rewrites.head_offers import judge_heads  # most models have no head to judge

    return judge_heads(subject)


def check(
    sources: ModelSource | Sequence[ModelSource],
    *,
    max_fc_share: float | str | None = None,
    min_sharing_ratio: float | str | None = None,
    max_single_use_share: float | str | None = None,
    convolution_form: bool | None = None,
    gap_is_exact: bool | None = None,
    max_duplicate_bytes: int | str | None = None,
    max_transposed_bytes: int | str | None = None,
    size_locked: bool | None = None,
    max_dequantized_bytes: int | str | None = None,
    max_repeated_bytes: int | str | None = None,
    max_file_size: int | str | None = None,
    max_params: int | str | None = None,
    max_macs: int | str | None = None,
    max_activation_memory: int | str | None = None,
    max_protobuf_share: float | str | None = None,
    equivalent_to: str | os.PathLike[str] | Literal[False] | None = None,
    min_agreement: float | str | None = None,
    max_error: float | str | None = None,
    target: str | Literal[False] | None = None,
    operators: Sequence[str] | str | Literal[False] | None = None,
    loads: bool | None = None,
    named_dims: bool | None = None,
    external_data: bool | None = None,
    licenses: Sequence[str] | str | Literal[False] | None = None,
    max_regression: float | str | None = None,
    policy: Policy | str | os.PathLike[str] | None = None,
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    warn: Sequence[str] = (),
    baseline: Baseline | str | os.PathLike[str] | None = None,
    baseline_ref: str | None = None,
    changed_since: str | None = None,
    fail_on: Literal["error", "warning"] | None = None,
    max_findings: int | None = None,
    samples: Samples | str | Path | None = None,
    provider: str = "auto",
    input_shapes: InputShapes | None = None,
    dims: Dims | None = None,
    follow_symlinks: str | os.PathLike[str] | None = None,
    jobs: int | None = 1,
    progress: Callable[[Iterable[ModelReport], int], Iterable[ModelReport]] | None = None,
    run_limits: RunLimits | None = None,
    **limits: object,
) -> CheckReport:
    """Check models against limits; without any, against the few that need no choice.

    Each keyword up to `max_regression` is the limit of one rule (`onnxshare rules` lists them); a
    number may be text such as `"5M"`, `"20MiB"` or `"50%"`; False switches the rule off.

    Args:
        sources: one model or several; paths may be folders and globs, and anything that
            `onnxshare.load` takes will do.
        policy: a policy file, or what `onnxshare.checks.policy_file.read_policy` read from one;
            the limits given here come first. Its models are checked only if `sources` is empty.
        select: codes or names of rules to add, with their default limits.
        ignore: codes or names of rules to leave out.
        warn: codes or names of rules that only warn.
        baseline: findings that were there before, and what was measured then: a file, or what
            `known_findings.read_baseline` read from one. None is the policy's, which need not
            exist yet.
        baseline_ref: a commit, branch or tag of git: the models as they were there are the
            baseline; what a baseline file knows is known too.
        changed_since: a commit, branch or tag of git: check only the models that are not what they
            were where this side parted from it, or that are judged by what is not.
        fail_on: "warning" lets findings that only warn fail too; None is what the policy says.
        max_findings: how many findings that fail may be there before the check fails; None is what
            the policy says.
        samples: inputs for the rules that run models; as of `onnxshare.compare`.
        provider: where these run; as of `onnxshare.compare`.
        input_shapes: sizes for symbolic inputs; as of `onnxshare.inspect`.
        dims: sizes by symbol; as of `onnxshare.inspect`.
        follow_symlinks: a folder that links to external data may lead into; as of
            `onnxshare.load`.
        jobs: how many models are checked at once, in processes of their own; None is one per
            processor.
        progress: shows how far it has come: gets the reports as they are ready and their number.
        run_limits: what a model may take when it runs; as of `onnxshare.compare`.
        limits: the limits of rules that other packages add, by the names of their options.

    Raises:
        UsageError: no model is given, there is no such rule, a limit is not one, or a file is not a
            policy or baseline.

    Example:
        >>> report = onnxshare.check("models/lenet5.onnx", max_params="50k")
        >>> report.passed
        False
        >>> print(report.models[0].findings[0].message)
        61,706 parameters
    """
    given = dict(locals())
    from onnxshare.checks.model_check import How
    from onnxshare.checks.rules import RULES
    from onnxshare.checks.run import Past, run
    from rewrites.head_offers import judge_heads

    ours = {rule.option: given[rule.option.replace("-", "_")] for rule in RULES}
    others = {name.replace("_", "-"): limit for name, limit in limits.items()}
    return run(
        sources,
        {**ours, **others},
        How(input_shapes, judge_heads, samples, provider, follow_symlinks, dims, run_limits),
        policy=policy,
        choice=(select, ignore, warn),
        past=Past(baseline, baseline_ref, changed_since),
        failing=(fail_on, max_findings),
        jobs=jobs,
        progress=progress,
    )
