"""EQ301, EQ302 and EQ303, and how they share the work."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxshare
from onnxshare.comparison.promise import PROMISE_KEY
from onnxshare.comparison.results import Comparison
from tests.builders import model, node
from tests.checks.subjects import compared, judge, subject

APPROXIMATE = compared("approximate", "keeps its promise")
DIFFERENT = compared("different", "not the same class")
INCONCLUSIVE = compared("inconclusive", "pass --samples")


@pytest.mark.parametrize("verdict", ["identical", "equivalent"])
def test_equivalence_holds(verdict: str) -> None:
    assert judge("equivalent-to", "ref.onnx", subject(compared=compared(verdict))) is None


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (
            compared("different", "output 'y' is off by 0.3"),
            "not equivalent to ref.onnx: the verdict is different: output 'y' is off by 0.3",
        ),
        (
            compared("not run", "no"),
            "cannot be judged against ref.onnx: the verdict is not run: no",
        ),
        # A kept promise of approximation is a success of `compare`, but it is no equivalence.
        (
            compared("approximate"),
            "not equivalent to ref.onnx: the verdict is approximate",
        ),
    ],
)
def test_equivalence_does_not_hold(found: Comparison, message: str) -> None:
    problem = judge("equivalent-to", "ref.onnx", subject(compared=found))
    assert problem is not None
    assert problem.message == message
    assert problem.fix == "onnxshare compare ref.onnx net.onnx"


def test_equivalence_that_random_samples_do_not_decide() -> None:
    problem = judge("equivalent-to", "ref.onnx", subject(compared=INCONCLUSIVE))
    assert problem is not None
    assert problem.message == (
        "cannot be judged against ref.onnx: the verdict is inconclusive: pass --samples"
    )
    assert problem.fix == "onnxshare compare ref.onnx net.onnx --samples FILE"


@pytest.mark.parametrize(
    ("limit", "found", "start", "fix"),
    [
        (0.9, None, None, ""),
        (0.94, None, None, ""),
        (0.95, None, "promises the same class on 94% only", "explain EQ302"),
        (0.9, APPROXIMATE, None, ""),
        (0.95, APPROXIMATE, "promises the same class on 94% only", "explain EQ302"),
        (0.0, DIFFERENT, "does not keep its promise: the", "compare ref.onnx net.onnx"),
        (0.0, INCONCLUSIVE, "cannot be judged: the", "compare ref.onnx net.onnx --samples FILE"),
    ],
)
def test_a_model_rewritten_approximately(
    limit: float, found: Comparison | None, start: str | None, fix: str
) -> None:
    """EQ302 judges it; EQ301 leaves it to EQ302 where that is selected, and else refuses it."""
    of = subject(compared=found)
    promise = of.model.skeleton.metadata_props.add(key=PROMISE_KEY)
    promise.value = json.dumps({"rewrite": "fc-to-gap", "agreement_low": 0.94})
    if found is not None:
        of = dataclasses.replace(of, reference="ref.onnx")
        refused = judge("equivalent-to", "ref.onnx", of)
        assert refused is not None
    both = dataclasses.replace(of, selected=frozenset({"EQ301", "EQ302"}))
    assert judge("equivalent-to", "ref.onnx", both) is None
    problem = judge("min-agreement", limit, both)
    if start is None:
        assert problem is None
        return
    assert problem is not None
    assert problem.message.startswith(f"an approximation by fc-to-gap {start}")
    assert problem.fix == f"onnxshare {fix}"


@pytest.mark.parametrize(("limit", "found"), [(0.0, False), (0.01, True)])
@pytest.mark.parametrize(
    ("promised", "words"),
    [
        ({"sqnr_low": 20.0}, "20.0 dB of signal over error"),
        ({"keep_top": [5, 0.99]}, "class among the first 5 ≥ 99.0 %"),
        ({"within": [2, 0.95], "sqnr_low": 20.0}, "class within 2 classes ≥ 95.0 % and 20.0 dB"),
        ({"max_loss": 0.01}, "accuracy lost ≤ 1.0 points"),
    ],
)
def test_an_approximation_that_promises_no_agreement(
    promised: dict[str, object], words: str, limit: float, found: bool
) -> None:
    of = subject()
    promise = of.model.skeleton.metadata_props.add(key=PROMISE_KEY)
    promise.value = json.dumps({"rewrite": "fc-to-gap", **promised})
    problem = judge("min-agreement", limit, of)
    assert (problem is not None) is found
    assert problem is None or f"no agreement of classes, only {words}" in problem.message


@pytest.mark.parametrize(("limit", "found"), [(0.09, True), (0.11, False)])
def test_an_error_that_is_promised(limit: float, found: bool) -> None:
    """20 dB are a tenth."""
    of = subject()
    promise = of.model.skeleton.metadata_props.add(key=PROMISE_KEY)
    promise.value = json.dumps({"rewrite": "fc-to-gap", "sqnr_low": 20.0})
    problem = judge("max-error", limit, of)
    assert (problem is not None) is found
    assert problem is None or "promises a relative error of 10% only" in problem.message
    assert judge("max-error", limit, subject()) is None


def rounded(steps: float) -> onnx.ModelProto:
    """A linear classifier whose weights are rounded to so many steps."""
    weights = np.random.default_rng(0).standard_normal((10, 3))
    weights = np.round(weights * steps) / steps
    stored = [numpy_helper.from_array(weights.astype(np.float32), "w")]
    return model([node("MatMul", "x w", "y")], {"x": ["n", 10]}, ["y"], stored)


@pytest.mark.parametrize(
    ("steps", "limits", "codes"),
    [
        (200, {"min_agreement": "99%"}, []),
        (1, {"min_agreement": "99%"}, ["EQ301"]),
        (200, {"max_error": "1%"}, []),
        (1, {"max_error": "1%"}, ["EQ301"]),
        (200, {}, ["EQ301"]),
        (200, {"min_agreement": "100%"}, ["EQ301"]),
    ],
)
def test_an_error_that_is_allowed(
    tmp_path: Path, steps: float, limits: dict[str, str], codes: list[str]
) -> None:
    """The shares and errors by NumPy: 200 steps keep over 99.5 % and 0.2 %, one does not."""
    x = np.random.default_rng(1).standard_normal((2000, 10)).astype(np.float32)
    onnx.save(rounded(1e6), tmp_path / "a.onnx")
    np.savez(tmp_path / "x.npz", x=x)
    report = onnxshare.check(
        rounded(steps),
        equivalent_to=tmp_path / "a.onnx",
        samples=tmp_path / "x.npz",
        provider="cpu",
        run_limits=onnxshare.RunLimits(in_process=True),
        ignore=["WS", "BG", "DP"],
        **limits,  # type: ignore[arg-type]
    )
    assert [finding.code for item in report.models for finding in item.findings] == codes
