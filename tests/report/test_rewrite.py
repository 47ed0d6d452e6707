"""What `rewrite` prints for people."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import onnx
import pytest
from rich.console import Console

import onnxshare
from onnxshare import RewriteResult
from onnxshare.report.rewrite import print_result
from tests.rewrites.forms import FORMS, REFERENCE_FORMS, Form, H, K, Net, W


def printed(
    result: RewriteResult, written: tuple[Path, int] | None = None, width: int = 100
) -> str:
    text = io.StringIO()
    print_result(result, written, Console(file=text, width=width, color_system=None))
    return text.getvalue()


def result_of(model: onnx.ModelProto, *names: str, **options: Any) -> RewriteResult:
    return onnxshare.rewrite(model, names or ("fc-to-conv",), provider="cpu", **options)


def test_a_rewrite_that_worked() -> None:
    result = result_of(FORMS["flatten"].model())
    text = printed(result, (Path("out.onnx"), 2_000_000))
    # By hand: 3·2·3·3 + 3 weights of the trunk, 36·5 + 5 of the head.
    assert "exact" in text
    assert "242, as before" in text
    assert "equivalent" in text
    assert text.rstrip().splitlines()[-1].startswith("wrote out.onnx (2 MB)")


def test_parameters_before_and_after() -> None:
    net = Net()
    net.rows(net.node("Gemm", net.flat(), net.stored([[1.0] * 5] * K, "float32")), 5)
    text = printed(result_of(net.model(), "fc-to-gap"))
    assert "57 → " not in text
    # By hand: 57 + 180 before, 57 + 15 after; 180 / 15 = 12 positions.
    assert "180 → 15 parameters here, ÷12" in text
    assert "237 → 72 (÷3.29)" in text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("time as batch", "axis 0 is not a batch"),
        ("quantized weight, transposed", "is quantized"),
    ],
)
def test_a_refusal_says_why(name: str, expected: str) -> None:
    text = printed(result_of(FORMS[name].model()))
    assert "refused" in text
    assert expected in text
    assert text.rstrip().endswith("nothing was rewritten, and nothing written")
    assert "parameters:" not in text


@pytest.mark.parametrize("rewrite", ["fc-to-conv", "fc-to-gap"])
@pytest.mark.parametrize(
    ("name", "expected"),
    [("one position", "one position"), ("an FC per position", "12 rows of each sample")],
)
def test_nothing_to_do_is_not_a_refusal(name: str, expected: str, rewrite: str) -> None:
    text = printed(result_of(FORMS[name].model(), rewrite))
    assert "nothing to do, " in text
    assert expected in text
    assert "refused" not in text
    assert text.rstrip().endswith("nothing was rewritten, and nothing written")


def test_nothing_to_do() -> None:
    text = printed(result_of(FORMS["no convolution"].model()))
    assert "nothing to do" in text


def test_a_failed_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    from rewrites.head_as_maps import fc_weights

    right = fc_weights.moved_weight
    monkeypatch.setattr(
        "rewrites.head_as_maps.kernels.moved_weight", lambda *a: right(*a)[::-1].copy()
    )
    text = printed(result_of(FORMS["flatten"].model()))
    assert "different" in text
    assert "nothing was written" in text
    assert "wrote" not in text


def test_unproven_is_said() -> None:
    form: Form = REFERENCE_FORMS["double"]
    result = result_of(form.model(), validate=False)
    assert result.validation is None
    assert "equivalent" not in printed(result)


def test_notes_are_shown() -> None:
    text = printed(result_of(FORMS["BatchNormalization before"].model()))
    assert "note: BatchNormalization" in text


def test_names_of_a_hostile_model_are_harmless() -> None:
    """Escape sequences, line breaks and markup in a node's name are shown, not obeyed."""
    model = FORMS["flatten"].model()
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    gemm.name = "\x1b[31mred\n[bold]x[/bold]\r"
    text = printed(result_of(model))
    assert "\x1b" not in text
    assert "\r" not in text
    assert "[bold]x[/bold]" in text
    assert "red" in text.splitlines()[0]
    assert "[bold]" in text.splitlines()[0]


@pytest.mark.parametrize("width", [40, 80, 200])
def test_width_does_not_hide_anything(width: int) -> None:
    text = printed(result_of(FORMS["time as batch"].model()), width=width)
    assert "22 samples along axis 0 and the FC 1 rows" in " ".join(text.split())


def test_sizes_in_the_description() -> None:
    """The map of the trunk is 3×4; a chain has 1×1 convolutions after it."""
    assert f"{H}×{W} convolution" in printed(result_of(FORMS["flatten"].model()))
    assert "1×1" in printed(result_of(FORMS["channels last"].model()))
