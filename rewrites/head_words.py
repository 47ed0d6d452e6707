"""How well a small head does, in words."""

from __future__ import annotations

from onnxshare.runtime.latency import Latency
from rewrites.certify import Estimate, Target
from rewrites.search_result import Search


def measured(found: Estimate, target: Target) -> str:
    """What was measured and its bound, in words."""
    parts = []
    if target.keep is not None and found.agreement is not None:
        low = found.agreement_low or 0.0
        parts.append(f"keeps the class of {found.agreement:.2%} (at least {low:.2%})")
    if target.max_error is not None and found.error is not None:
        high = found.error_high or 0.0
        parts.append(f"has a relative error of {found.error:.2%} (at most {high:.2%})")
    return " and ".join(parts)


def latency_words(found: Latency) -> str:
    """What was timed, in words."""
    if found.a is None or found.b is None or found.ratio is None or found.ci95 is None:
        return f"its latency is not known: {found.reason}"
    low, high = found.ci95
    samples = "one sample takes" if found.batch == 1 else f"{found.batch} samples take"
    return (
        f"{samples} {found.b * 1e3:.3g} ms instead of {found.a * 1e3:.3g} ms, {found.ratio:.2f} of "
        f"the time ({low:.2f} to {high:.2f}): {found.result}"
    )


def best_words(found: Search) -> str:
    """How close the search came."""
    tried = [item for item in found.candidates if item.estimate is not None]
    if not tried:
        return "no method makes it smaller"
    best = max(tried, key=lambda item: _quality(item.estimate))
    assert best.estimate is not None
    return (
        f"of {len(tried)} tried on up to {found.samples:,} samples the best, {best.method}, "
        f"{measured(best.estimate, found.target)} on {best.estimate.samples:,}"
    )


def _quality(found: Estimate | None) -> tuple[float, float]:
    """The estimates, not the bounds: candidates were tried on different numbers of samples."""
    assert found is not None
    return (found.agreement or 0.0, -(found.error or 0.0))
