"""A part of `benchmarks/proof_rates.py`: what `rewrite` itself says of spoilt rewrites."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from onnxshare.comparison.results import Verdict

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("proof_rates")


@pytest.mark.parametrize(
    ("model", "rewrite", "least"),
    [
        ("lenet5", "fc-to-conv", 18),
        ("gap_net", "global-pool", 1),
    ],
)
def test_right_ones_pass_and_spoilt_ones_do_not(
    script: Any, bundled: Path, model: str, rewrite: str, least: int
) -> None:
    """With the claims about weights, and by the runs alone. In LeNet-5 one spoils a unit that is
    dead on made-up inputs: no output shows it, and the tensor inside does."""
    result = script.apply(bundled / f"{model}.onnx", rewrite)
    cases = list(script.of(model, result))
    assert len(cases) > least
    for case in cases:
        found = script.judge(case)
        for evidence in ("whole", "runs"):
            passed = Verdict(found[evidence]).passes
            assert passed == (not case.how), f"{case.how}: {evidence}: {found}"


def test_what_no_run_on_integers_shows_the_claims_about_weights_do(script: Any, zoo: Path) -> None:
    """A bias that rounds to the same steps: the outputs are bit for bit the same."""
    result = script.apply(zoo / "models" / "derived_mnist8_qdq.onnx", "fc-to-conv")
    case = next(c for c in script.of("qdq", result) if c.how.endswith("bias: a row larger by 1 %"))
    found = script.judge(case)
    assert found["effect"] == "false"
    assert found["whole"] == "different"
