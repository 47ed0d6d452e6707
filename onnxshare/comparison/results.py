"""What a comparison found: frozen, plain, and the shape of `compare --format json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from onnxshare.runtime.latency import Latency
from onnxshare.support.dataclass_tools import Result

if TYPE_CHECKING:
    from onnxshare.comparison.target import Measure
    from onnxshare.samples.samples import Samples


class Verdict(StrEnum):
    """What follows from a comparison.

    Attributes:
        IDENTICAL: every output is equal bit for bit.
        EQUIVALENT: no error is larger than rounding explains.
        APPROXIMATE: one model approximates the other, and keeps what it promises.
        DIFFERENT: an error is larger than rounding, or than what was promised.
        INCONCLUSIVE: nothing shows that the models agree; never a pass.
        NOT_RUN: a model could not be run, or there is nothing to compare.
    """

    IDENTICAL = "identical"
    EQUIVALENT = "equivalent"
    APPROXIMATE = "approximate"
    DIFFERENT = "different"
    INCONCLUSIVE = "inconclusive"
    NOT_RUN = "not run"

    @property
    def passes(self) -> bool:
        """Whether a check accepts it."""
        return self in (Verdict.IDENTICAL, Verdict.EQUIVALENT, Verdict.APPROXIMATE)

    @property
    def open(self) -> bool:
        """Whether it says neither yes nor no."""
        return self in (Verdict.INCONCLUSIVE, Verdict.NOT_RUN)


@dataclass(frozen=True)
class OutputComparison:
    """How one tensor differs between model A and model B. None where a figure does not apply.

    Attributes:
        name: the tensor.
        internal: whether it is an internal tensor, compared as evidence, not an output.
        max_abs: largest |a - b|.
        max_rel: largest |a - b| over the largest |a| of the whole tensor.
        rmse: root of the mean squared error.
        sqnr_db: signal to error in dB, 10·log10(Σa² / Σ(a - b)²); None without error.
        sqnr_centred_db: the same with each channel's mean taken off a.
        cosine: cosine of the angle between all values of A and all of B.
        tolerance: what rounding explains, in the channel that comes closest to (or goes
            furthest over) it.
        worst: error over tolerance in that channel; above 1 is more than rounding.
        worst_channel: the index of that channel: along axis 1 of maps, else of the element.
        live: share of the channels that answer to the inputs clearly enough to judge them by.
        argmax_agreement: share of samples with the same largest class.
        confidence_low: its one-sided 95 % Clopper-Pearson lower bound.
        top5_agreement: share of samples with the same five largest classes, in any order.
        top5_confidence_low: its one-sided 95 % Clopper-Pearson lower bound.
        kept: what was counted of classes, where that was requested: the mean outcome of each
            criterion and its lower bound.
        channel_errors: error over tolerance of each channel; of more than 256 the largest of each
            of 256 groups of neighbors.
    """

    name: str
    internal: bool = False
    max_abs: float | None = None
    max_rel: float | None = None
    rmse: float | None = None
    sqnr_db: float | None = None
    sqnr_centred_db: float | None = None
    cosine: float | None = None
    tolerance: float | None = None
    worst: float | None = None
    live: float | None = None
    argmax_agreement: float | None = None
    confidence_low: float | None = None
    worst_channel: int | None = None
    top5_agreement: float | None = None
    top5_confidence_low: float | None = None
    channel_errors: tuple[float, ...] = ()
    kept: tuple[Measure, ...] = ()


@dataclass(frozen=True)
class Divergence:
    """The first tensor of both models, in topological order, that differs by more than rounding.

    Attributes:
        tensor: its name.
        node_a, node_b: the nodes that make it.
        error: largest |a - b|; None where they cannot be subtracted.
        tolerance: what rounding explains, in the channel that is furthest over it.
        problem: a difference that no tolerance excuses, as text, or an empty string.
        is_output: whether it is an output, so that no tensor inside that both have differs.
    """

    tensor: str
    node_a: str
    node_b: str
    error: float | None
    tolerance: float | None
    problem: str = ""
    is_output: bool = False


@dataclass(frozen=True)
class WeightProof:
    """What became of the weights that a rewrite touched.

    Attributes:
        moved: tensors that are bit for bit an old one, in the order that the rewrite states.
        recomputed: new floating-point tensors that were computed from old ones.
    """

    moved: int
    recomputed: tuple[str, ...] = ()


@dataclass(frozen=True)
class LocalProof:
    """Rewritten tensors run alone, on random features (`rewrites/proof/local_bound.py`).

    Attributes:
        tensors: how many.
        worst: the largest error over √K · u · (|W||x| + |b|).
        limit: what is allowed.
    """

    tensors: int
    worst: float
    limit: float

    @property
    def holds(self) -> bool:
        """Whether rounding explains every error."""
        return self.worst <= self.limit


@dataclass(frozen=True)
class CpuDifference:
    """How far a provider's outputs are from the CPU's, on the first samples.

    Attributes:
        a, b: per model the largest difference over the largest value of that output on the CPU;
            None where it cannot be run there, or has no floating-point output.
        problem: why a model could not be run once more, here or on the CPU; else empty.
    """

    a: float | None
    b: float | None
    problem: str = ""


@dataclass(frozen=True)
class Comparison(Result):
    """Two models run on the same inputs, and what follows from it.

    Attributes:
        verdict: what follows.
        reason: why, in one sentence.
        provider: where the models ran, as text.
        outputs: one row per output, then one per internal tensor that was requested.
        samples: the number of samples.
        origin: where the samples come from, as text.
        seed: the seed of the random samples and of the noise measurement.
        accuracy: share of samples that `a` and `b` classify as labelled; None without labels.
        weights: what became of the weights; None where no rewrite states it.
        local: the rewritten tensors alone; None unless the outputs showed too little.
        latency: how long they take, one entry per batch size; None if that was not requested.
        memory: per model (`a`, `b`) the peak of the process that had run it once and no other;
            None where that cannot be told. In bytes, ONNX Runtime itself included.
        cpu: how far the provider's outputs are from the CPU's; None on the CPU.
        left_to_cpu: per model the nodes that another provider left to the CPU; None on the CPU.
        first_divergence: where they part, if the verdict is `different`; None if not, or if no
            tensor that both have by name could be compared.
        random: whether the samples were generated.
        failed_model: the model that cannot be run, "A" or "B", if the verdict is `not run`.
        missing_kernel: the operator that it needs and that the provider has in other types only.
    """

    # What is left out, `origin` and `reason` say as text.
    SHOWN = (
        *("verdict", "reason", "provider", "outputs", "samples", "origin", "seed", "accuracy"),
        *("weights", "local", "latency", "memory", "cpu", "left_to_cpu", "first_divergence"),
    )

    verdict: Verdict
    reason: str
    provider: str
    outputs: tuple[OutputComparison, ...] = ()
    samples: int = 0
    origin: str = ""
    seed: int = 0
    accuracy: Mapping[str, float] | None = None
    weights: WeightProof | None = None
    local: LocalProof | None = None
    latency: tuple[Latency, ...] | None = None
    memory: Mapping[str, int | None] | None = None
    cpu: CpuDifference | None = None
    left_to_cpu: Mapping[str, tuple[str, ...]] | None = None
    first_divergence: Divergence | None = None
    random: bool = False
    failed_model: str = ""
    missing_kernel: str = ""

    @classmethod
    def on(cls, samples: Samples, verdict: Verdict, reason: str) -> Comparison:
        """A comparison on these samples; the provider is left to be filled in."""
        given = (samples.count, samples.origin)
        return cls(verdict, reason, "", (), *given, random=samples.random)

    @property
    def passed(self) -> bool:
        """Whether the verdict is one that a check accepts."""
        return self.verdict.passes
