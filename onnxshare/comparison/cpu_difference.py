"""What another provider computes otherwise than the CPU, to tell a wrong provider from a wrong
rewrite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from onnxshare.comparison.results import Comparison, CpuDifference, Verdict
from onnxshare.comparison.tensor_statistics import is_float
from onnxshare.errors import OnnxShareError
from onnxshare.io.load import Model
from onnxshare.io.tensors import Array
from onnxshare.runtime.session import run_model
from onnxshare.runtime.session_pair import Sessions
from onnxshare.samples.samples import Samples
from onnxshare.support.option_text import option

#: Samples on which the CPU is run next to the provider.
_SAMPLES = 8

#: A share of the largest value that no rounding in float32 explains, nor in half precision.
_WRONG = 0.01


def next_to_cpu(
    found: Comparison,
    models: dict[str, Model],
    sessions: Sessions,
    samples: Samples,
    on_cpu: Callable[[], Comparison],
) -> Comparison:
    """The comparison with what the CPU computes for both models, and, where that matters, with what
    it says about the verdict.

    Args:
        found: what was found on another provider.
        models: by the names that the sessions know them by.
        sessions: where they ran on that provider.
        samples: what they ran on.
        on_cpu: compares them on the CPU.
    """
    if found.verdict is Verdict.NOT_RUN:
        return found
    some = samples.take(range(min(_SAMPLES, samples.count)))
    shares: dict[str, float | None] = {}
    problem = ""
    for name, model in models.items():
        try:
            shares[name] = _share(sessions, name, model, some)
        except OnnxShareError as error:
            problem = problem or f"model {name}: {error}"
    difference = CpuDifference(shares.get("A"), shares.get("B"), problem)
    verdict, reason = found.verdict, found.reason
    if difference.a is not None and difference.a > _WRONG:
        # What a provider computes wrong for both may hide what is wrong with B.
        verdict = Verdict.INCONCLUSIVE if verdict.passes else verdict
        reason = (
            f"this provider computes model A wrong: its outputs differ from the CPU's by up to "
            f"{difference.a:.0%} of their largest value; use {option('--provider cpu')} "
            f"(here, {reason})"
        )
    elif found.verdict is Verdict.DIFFERENT and (cpu := on_cpu()).passed:
        reason += (
            f"; on the CPU the same models are {cpu.verdict}: this provider makes the difference"
        )
    return replace(found, verdict=verdict, reason=reason, cpu=difference)


def _share(sessions: Sessions, name: str, model: Model, samples: Samples) -> float | None:
    """The largest difference of an output of a model from the CPU's, over the largest value there;
    None where no output is a floating-point one. Raises what running it raises."""
    here = sessions.open(name).run(samples.arrays)
    cpu = run_model(model, samples.arrays, provider="cpu", run_limits=sessions.limits)
    shares = [_over_largest(here[output], value) for output, value in cpu.items()]
    return max((share for share in shares if share is not None), default=None)


def _over_largest(found: Array, expected: Array) -> float | None:
    if not is_float(expected) or found.shape != expected.shape or not expected.size:
        return None
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    with np.errstate(invalid="ignore"):
        error, largest = np.abs(found - expected), np.abs(expected)
    error, largest = (np.nan_to_num(values, nan=0.0, posinf=0.0) for values in (error, largest))
    return float(error.max() / (largest.max() or 1.0))
