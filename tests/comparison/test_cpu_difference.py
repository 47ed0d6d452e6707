"""What the CPU says about a verdict on another provider; the CPU stands for both here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx.parser
import pytest

from onnxshare.comparison import cpu_difference
from onnxshare.comparison.results import Comparison, Verdict
from onnxshare.errors import RuntimeFailure
from onnxshare.io.load import Model
from onnxshare.report.compare import lines_of
from onnxshare.runtime.providers import choose
from onnxshare.runtime.session import run_model
from onnxshare.runtime.session_pair import Sessions
from onnxshare.samples.samples import Samples

DOUBLE = """<ir_version: 8, opset_import: ["": 13]>
double (float[n,2] x) => (float[n,2] y) { y = Add(x, x) }"""
WHICH = """<ir_version: 8, opset_import: ["": 13]>
which (float[n,2] x) => (int64[n,1] y) { y = ArgMax<axis=1>(x) }"""

X = np.array([[1.0, -2.0], [0.5, 0.25]], np.float32)


def judged(
    monkeypatch: pytest.MonkeyPatch,
    verdict: Verdict,
    on_cpu: Callable[[dict[str, Any]], dict[str, Any]],
    text: str = DOUBLE,
    cpu_verdict: Verdict = Verdict.DIFFERENT,
) -> Comparison:
    """A comparison of a model with itself, where the CPU's outputs are changed."""
    monkeypatch.setattr(
        cpu_difference, "run_model", lambda *given, **how: on_cpu(run_model(*given, **how))
    )
    model = Model(onnx.parser.parse_model(text))
    samples = Samples({"x": X}, None, "made", True)
    both = {"A": model, "B": model}
    found = Comparison(verdict, "as found", "Some GPU")
    cpu = Comparison(cpu_verdict, "", "CPU")
    with Sessions(both, choose("cpu")) as sessions:
        return cpu_difference.next_to_cpu(found, both, sessions, samples, lambda: cpu)


def as_it_is(outputs: dict[str, Any]) -> dict[str, Any]:
    return outputs


def off(share: float) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Outputs whose largest value, -4, is 4 × share larger."""
    wrong = np.array([[0.0, 4 * share], [0.0, 0.0]], np.float32)
    return lambda outputs: {name: value + wrong for name, value in outputs.items()}


def fails(outputs: dict[str, Any]) -> dict[str, Any]:
    raise RuntimeFailure("it takes too long")


@pytest.mark.parametrize("verdict", [Verdict.EQUIVALENT, Verdict.DIFFERENT, Verdict.INCONCLUSIVE])
def test_a_provider_that_agrees_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, verdict: Verdict
) -> None:
    found = judged(monkeypatch, verdict, as_it_is)
    assert (found.verdict, found.reason) == (verdict, "as found")
    assert found.cpu is not None
    assert (found.cpu.a, found.cpu.b, found.cpu.problem) == (0.0, 0.0, "")
    assert "difference from the CPU, of the largest value: A 0, B 0" in lines_of(found)


@pytest.mark.parametrize(
    ("verdict", "after"),
    [
        (Verdict.IDENTICAL, Verdict.INCONCLUSIVE),
        (Verdict.EQUIVALENT, Verdict.INCONCLUSIVE),
        (Verdict.APPROXIMATE, Verdict.INCONCLUSIVE),
        (Verdict.DIFFERENT, Verdict.DIFFERENT),
    ],
)
def test_a_provider_that_is_wrong_proves_nothing(
    monkeypatch: pytest.MonkeyPatch, verdict: Verdict, after: Verdict
) -> None:
    found = judged(monkeypatch, verdict, off(-0.5))  # 4 instead of 6 of the CPU's
    assert found.verdict is after
    assert "this provider computes model A wrong" in found.reason
    assert "33% of their largest value" in found.reason
    assert "use provider='cpu'" in found.reason


@pytest.mark.parametrize(("share", "passes"), [(0.005, True), (0.02, False)])
def test_how_far_off_is_wrong(monkeypatch: pytest.MonkeyPatch, share: float, passes: bool) -> None:
    assert judged(monkeypatch, Verdict.EQUIVALENT, off(-share)).passed == passes


@pytest.mark.parametrize(
    ("cpu", "said"), [(Verdict.EQUIVALENT, True), (Verdict.DIFFERENT, False)], ids=str
)
def test_a_difference_that_only_the_provider_makes(
    monkeypatch: pytest.MonkeyPatch, cpu: Verdict, said: bool
) -> None:
    found = judged(monkeypatch, Verdict.DIFFERENT, as_it_is, cpu_verdict=cpu)
    assert found.verdict is Verdict.DIFFERENT
    assert ("this provider makes the difference" in found.reason) == said


def test_what_cannot_be_run_again_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    found = judged(monkeypatch, Verdict.EQUIVALENT, fails)
    assert found.passed
    assert found.cpu is not None
    assert (found.cpu.a, found.cpu.b) == (None, None)
    assert any("not known of model A: it takes too long" in line for line in lines_of(found))


def test_labels_have_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    found = judged(monkeypatch, Verdict.EQUIVALENT, as_it_is, WHICH)
    assert found.cpu is not None
    assert (found.cpu.a, found.cpu.problem) == (None, "")


def test_what_was_not_run_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert judged(monkeypatch, Verdict.NOT_RUN, fails).cpu is None
