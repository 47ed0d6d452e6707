from __future__ import annotations

import io

import pytest
from rich.console import Console

from onnxshare.comparison.results import (
    Comparison,
    Divergence,
    OutputComparison,
    Verdict,
    WeightProof,
)
from onnxshare.report.compare import print_comparison

ROW = OutputComparison(
    "scores",
    max_abs=3.2e-6,
    max_rel=4.1e-7,
    rmse=5e-7,
    sqnr_db=131.4,
    cosine=1.0,
    tolerance=2e-5,
    worst=0.16,
    live=1.0,
    argmax_agreement=1.0,
    confidence_low=0.9106,
    worst_channel=7,
    sqnr_centred_db=128.6,
    top5_agreement=0.96875,
    top5_confidence_low=0.8601,
)


def shown(comparison: Comparison, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_comparison(comparison, console)
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_a_row_per_output_and_one_sentence() -> None:
    inner = OutputComparison("fc", internal=True, max_abs=1.5, worst=80.0, live=0.5)
    comparison = Comparison(
        Verdict.DIFFERENT,
        "the reason",
        "CPU: no NVIDIA driver",
        (ROW, inner),
        32,
        "random, seed 0",
        random=True,
    )
    lines = shown(comparison).splitlines()
    assert lines[0].split() == (
        "output max error of tolerance channel relative RMSE SQNR less mean cosine moving".split()
    )
    assert lines[1].split() == ("scores 3.2e-06 16% 7 4.1e-07 5e-07 131 dB 129 dB 1 100%".split())
    assert lines[2].split() == "fc (internal) 1.5 80× – – – – – – 50%".split()
    assert lines[3] == (
        "scores: same class on 100.00% (at least 91.06%), same top 5 on 96.88% (at least 86.01%)"
    )
    assert lines[4] == ("different: the reason (CPU: no NVIDIA driver; 32 random samples, seed 0)")


def test_an_approximation_is_not_shown_against_rounding() -> None:
    row = OutputComparison("y", max_abs=3.0, worst=3.5e4, worst_channel=2, rmse=0.4)
    lines = shown(Comparison(Verdict.APPROXIMATE, "why", "CPU", (row,), 4, "s.npz")).splitlines()
    assert [line.split() for line in lines[:2]] == [
        ["output", "max", "error", "RMSE"],
        ["y", "3", "0.4"],
    ]


def test_columns_that_nothing_fills_are_left_out() -> None:
    text = shown(Comparison(Verdict.DIFFERENT, "why", "CPU", (OutputComparison("y"),), 4, "s.npz"))
    assert "SQNR" not in text
    assert "(CPU; 4 samples from s.npz)" in text


def test_without_a_run_there_is_only_the_sentence() -> None:
    assert (
        shown(Comparison(Verdict.IDENTICAL, "same bytes", "CPU")) == "identical: same bytes (CPU)\n"
    )
    assert "1 sample from x.npy" in shown(
        Comparison(Verdict.INCONCLUSIVE, "why", "CPU", (), 1, "x.npy")
    )


def test_accuracy_of_both() -> None:
    comparison = Comparison(
        Verdict.APPROXIMATE, "why", "CPU", (ROW,), 9, "t.npz", accuracy={"a": 0.9, "b": 0.885}
    )
    assert "accuracy: A 90.00%, B 88.50% (-1.50 points)" in shown(comparison)


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (
            Divergence("t", "conv1", "conv1", 0.25, 1e-5),
            "they part at tensor 't' (node 'conv1' of A): error 0.25, tolerance 1e-05",
        ),
        (
            Divergence("y", "fc", "conv", None, None, "has shape 1×2 in A and 1×3 in B", True),
            "they part at the output 'y' (node 'fc' of A, 'conv' of B): has shape 1×2 in A and "
            "1×3 in B",
        ),
    ],
)
def test_where_they_part(found: Divergence, line: str) -> None:
    comparison = Comparison(Verdict.DIFFERENT, "why", "CPU", (ROW,), first_divergence=found)
    assert line in shown(comparison, 200).splitlines()


@pytest.mark.parametrize(
    ("proof", "line"),
    [
        (WeightProof(1), "weights: moved, bit-equal (1 tensor)"),
        (WeightProof(3, ("w",)), "weights: moved, bit-equal (3 tensors); recomputed: 'w'"),
        (WeightProof(0, tuple("abcde")), "weights: recomputed: 'a', 'b', 'c' and 2 more"),
        (WeightProof(0), "weights: as they were"),
    ],
)
def test_what_became_of_the_weights(proof: WeightProof, line: str) -> None:
    assert line in shown(Comparison(Verdict.EQUIVALENT, "why", "CPU", weights=proof)).splitlines()


def test_names_from_a_file_can_neither_colour_nor_move_anything() -> None:
    evil = OutputComparison("[red]x[/red]\x1b[2J", max_abs=1.0)
    text = shown(Comparison(Verdict.DIFFERENT, "output '[bold]\x1b[31m'", "CPU", (evil,)))
    assert "\x1b" not in text
    assert "[red]x[/red]\\x1b[2J" in text
    assert "[bold]" in text


def test_long_names_are_folded_and_figures_kept() -> None:
    name = "a/very/long/path/" * 6
    text = shown(
        Comparison(Verdict.EQUIVALENT, "why", "CPU", (OutputComparison(name, max_abs=1.0),)), 60
    )
    assert max(map(len, text.splitlines())) <= 60
    assert text.count("/") == name.count("/")


def test_printing_in_a_pipe(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    print_comparison(Comparison(Verdict.EQUIVALENT, "words " * 40 + "end", "CPU", (ROW,)))
    out, err = capsys.readouterr()
    assert err == ""
    assert "\x1b" not in out
    # The table's two lines, that of the classes, and the sentence in one.
    assert len(out.splitlines()) == 4


def test_colours_follow_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    comparison = Comparison(Verdict.DIFFERENT, "why", "CPU", (ROW,))
    monkeypatch.delenv("NO_COLOR", raising=False)
    file = io.StringIO()
    print_comparison(comparison, Console(file=file, force_terminal=True, color_system="standard"))
    assert "\x1b[1;31mdifferent" in file.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    file = io.StringIO()
    print_comparison(comparison, Console(file=file, force_terminal=True))
    assert "\x1b[31m" not in file.getvalue()
    assert "31m" not in file.getvalue()
