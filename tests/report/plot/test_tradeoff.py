"""The trade-off of a search, as a table and as a picture."""

from __future__ import annotations

import io
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import replace
from math import log10
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from onnxshare.errors import UsageError
from onnxshare.report.plot import picture, table
from onnxshare.report.plot import tradeoff as tradeoff_picture
from onnxshare.report.plot.picture import Dot, Line, Picture, Words
from onnxshare.runtime.latency import Latency
from rewrites.small_heads.certificate import Estimate, Target
from rewrites.small_heads.search_result import Candidate, Search

Cli = Callable[..., subprocess.CompletedProcess[str]]

_SVG = "{http://www.w3.org/2000/svg}"


def tried(name: str, params: int, share: float, low: float, **more: Any) -> Candidate:
    return Candidate(name, params, params, 4 * params, Estimate(200, share, low), **more)


CLASSES = Search(
    Target(keep=0.9),
    "classes",
    400,
    100_000,
    (
        tried("gap", 1_000, 0.5, 0.45),
        tried("mask:2", 2_000, 0.95, 0.92, reaches=True, chosen=True),
        tried("mask:4", 4_000, 1.0, 0.99, reaches=True),
        Candidate("collapse", refused="no <Jacobian> is known"),
        Candidate("collapse+gap", refused="no <Jacobian> is known"),
    ),
    "mask:2",
    Estimate(400, 0.96, 0.94),
    True,
)

VALUES = replace(
    CLASSES,
    target=Target(max_error=0.05),
    candidates=(
        replace(CLASSES.candidates[0], estimate=Estimate(400, error=0.2, error_high=float("inf"))),
        replace(CLASSES.candidates[1], estimate=Estimate(400, error=0.0, error_high=0.0)),
    ),
)

#: Nothing kept the target, and the one that seemed to did not when it was certified.
FAILED = replace(
    CLASSES,
    candidates=(
        CLASSES.candidates[0],
        replace(
            CLASSES.candidates[1],
            chosen=False,
            certified=False,
            certificate=Estimate(300, 0.9, 0.871),
        ),
        *CLASSES.candidates[2:],
    ),
    chosen="exact",
    certified=False,
)

#: The cheapest seemed to keep it, and failed on new samples; the next ones are certified.
SETTLED = replace(
    CLASSES,
    candidates=tuple(
        tried(
            name,
            params,
            0.95,
            0.92,
            reaches=True,
            chosen=name == "mask:2",
            certified=low >= 0.9,
            certificate=Estimate(300, 0.95, low),
        )
        for name, params, low in (
            ("gap", 1_000, 0.871),
            ("mask:2", 2_000, 0.91),
            ("mask:4", 4_000, 0.93),
        )
    ),
)

#: Timed, but for one that could not be.
TIMED = replace(
    CLASSES,
    candidates=(
        CLASSES.candidates[0],
        replace(
            CLASSES.candidates[1],
            latency=Latency(1, 2e-3, 1.25e-3, 0.625, (0.61, 0.642), 500, 2, "faster"),
        ),
        replace(CLASSES.candidates[2], latency=Latency(1, reason="it hangs")),
    ),
    timed_on="CPU: no NVIDIA driver",
)
NOTHING = replace(
    CLASSES,
    candidates=(tried("gap", 1_000, 0.5, 0.45),),
    chosen="exact",
    certificate=None,
    certified=None,
)


def printed(search: Search) -> str:
    text = io.StringIO()
    console = Console(file=text, width=100, color_system=None)
    console.print(table.table(search).text())
    for line in table.lines(search):
        console.print(line, soft_wrap=True)
    return text.getvalue()


def row(text: str, name: str) -> list[str]:
    return next(line.split() for line in text.splitlines() if line.startswith(name))


def test_a_row_per_candidate_and_what_was_refused_in_a_line() -> None:
    text = printed(CLASSES)
    assert row(text, "gap") == "gap 1,000 100 50.0 % 45.0 % 200".split()
    assert row(text, "mask:2") == "mask:2 2,000 50 95.0 % 92.0 % 200 ← chosen".split()
    assert row(text, "mask:4") == "mask:4 4,000 25 100.0 % 99.0 % 200 keeps it".split()
    assert row(text, "exact") == "exact 100,000 1 100.0 % 100.0 % keeps all".split()
    assert "not tried: collapse, collapse+gap (no <Jacobian> is known)" in text
    assert "agreement ≥ 90.0 %" in text


def test_errors_of_values() -> None:
    text = printed(VALUES)
    assert row(text, "gap") == "gap 1,000 100 20.0 % ∞ 400".split()
    assert row(text, "exact") == "exact 100,000 1 0.0 % 0.0 % keeps all".split()
    assert "same class" not in text


def test_what_failed_its_certification_is_not_called_chosen() -> None:
    text = printed(FAILED)
    assert " ".join(row(text, "mask:2")).endswith(" failed")
    assert " ".join(row(text, "exact")).endswith("← chosen")
    assert "on 300 samples that the search never saw: mask:2 at least 87.1 % (failed)" in text


def test_each_candidate_that_was_certified_or_failed_has_its_row_and_its_figure() -> None:
    text = printed(SETTLED)
    assert " ".join(row(text, "gap")).endswith(" failed")
    assert " ".join(row(text, "mask:2")).endswith("← chosen")
    assert " ".join(row(text, "mask:4")).endswith("keeps it")
    assert (
        "never saw: mask:4 at least 93.0 % (keeps it); mask:2 at least 91.0 % (chosen); "
        "gap at least 87.1 % (failed)" in text
    )
    found = dots(SETTLED)
    assert found["gap"].role == "bad"
    assert "failed when certified" in found["gap"].title
    assert [item["certified"] for item in SETTLED.to_dict()["candidates"]] == [False, True, True]


def test_times_stand_beside_what_is_kept() -> None:
    text = printed(TIMED)
    assert row(text, "gap")[-3:] == ["–", "–", "200"]
    assert "1.25 ms 0.61-0.64" in " ".join(row(text, "mask:2"))
    assert "1 sample per run, CPU: no NVIDIA driver" in text
    assert row(text, "exact")[-4:] == ["ms", "1", "keeps", "all"]
    assert "500 and more pairs" in text
    assert "not timed: it hangs" in text
    assert "timed" not in printed(CLASSES)


def dots(search: Search, name: str = "fc") -> dict[str, Dot]:
    shapes = tradeoff_picture.draw([(name, search)]).shapes
    return {shape.title.split(":")[0]: shape for shape in shapes if isinstance(shape, Dot)}


@pytest.mark.parametrize(
    ("objective", "before", "costs", "axis", "chosen"),
    [
        ("params", 100_000, {"gap": 1_000, "mask": 4_000}, "parameters of the head", "50 times"),
        ("macs", 200_000, {"gap": 1_000, "mask": 4_000}, "multiply-accumulates", "100 times"),
        ("bytes", 400_000, {"gap": 4_000, "mask": 16_000}, "bytes of the head", "50 times"),
        ("latency", 1, {"mask": 0.625}, "time of the whole model", "0.62 of the time"),
    ],
)
def test_the_axis_is_what_was_to_be_small(
    objective: str, before: int, costs: dict[str, float], axis: str, chosen: str
) -> None:
    search = replace(TIMED, objective=objective, before=before)
    found = dots(search)
    assert set(found) == {*costs, "exact", ""}  # the legend's dots have no title
    frame = tradeoff_picture.draw([("fc", search)])
    words = [shape.text for shape in frame.shapes if isinstance(shape, Words)]
    assert any(axis in word for word in words)
    assert any(chosen in word for word in words)
    ends = min(found["exact"].at[0], 736.0), log10(before)
    marks = {shape.text: shape.at[0] for shape in frame.shapes if isinstance(shape, Words)}
    first = "10 k" if before > 1 else "0.7"
    start = marks[first], log10(float(first.replace(" k", "e3")))
    scale = (ends[0] - start[0]) / (ends[1] - start[1])
    for name, cost in costs.items():
        assert found[name].at[0] == pytest.approx(start[0] + scale * (log10(cost) - start[1]))


def test_better_is_higher_and_larger_is_to_the_right() -> None:
    for search in (CLASSES, VALUES, FAILED, NOTHING, SETTLED, TIMED):
        found = dots(search)
        assert found["gap"].at[0] < found["exact"].at[0]
        assert found["gap"].at[1] > found["exact"].at[1]
    found = dots(CLASSES)
    # 1,000 → 2,000 → 4,000 → 100,000: steps of 1, 1 and log2(25) doublings. Both masks are
    # "mask" here, the last of them wins.
    xs = [found[name].at[0] for name in ("gap", "mask", "exact")]
    assert (xs[1] - xs[0]) / (xs[2] - xs[0]) == pytest.approx(2 / 6.6439, rel=1e-3)


@pytest.mark.parametrize(
    ("search", "chosen"),
    [(CLASSES, "mask"), (FAILED, "exact"), (NOTHING, "exact")],
    ids=["found", "failed", "nothing"],
)
def test_the_chosen_one_is_marked_and_no_other(search: Search, chosen: str) -> None:
    shapes = tradeoff_picture.draw([("fc", search)]).shapes
    marked = [s for s in shapes if isinstance(s, Dot) and s.role == "chosen" and s.title]
    assert [shape.title.split(":")[0] for shape in marked] == [chosen]
    named = [s.text for s in shapes if isinstance(s, Words) and s.bold and s.role == "chosen"]
    assert len(named) == 1


@pytest.mark.parametrize("search", [CLASSES, VALUES, FAILED, NOTHING, TIMED])
def test_everything_is_drawn_inside(search: Search) -> None:
    drawn = tradeoff_picture.draw([("fc", search), ("a long name " * 9, search)])
    for shape in drawn.shapes:
        assert isinstance(shape, (Line, Dot, Words))
        points = (shape.start, shape.end) if isinstance(shape, Line) else (shape.at,)
        for x, y in points:
            assert 0 <= x <= drawn.width
            assert 0 <= y <= drawn.height


def test_names_of_many_points_do_not_cover_each_other() -> None:
    crowd = tuple(tried(f"stack:{k}+mask:4", 1000 + 7 * k, 0.9 + k / 1e4, 0.85) for k in range(60))
    shapes = tradeoff_picture.draw([("fc", replace(NOTHING, candidates=crowd))]).shapes
    names = [s for s in shapes if isinstance(s, Words) and s.text.startswith("stack")]
    assert 0 < len(names) < 60  # some have no room
    boxes = []
    for word in names:
        width = len(word.text) * word.size * 0.5
        left = word.at[0] - {"start": 0.0, "middle": width / 2, "end": width}[word.anchor]
        boxes.append((left, word.at[1] - 9, left + width, word.at[1]))
    for place, a in enumerate(boxes):
        for b in boxes[place + 1 :]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_svg_is_sound_xml_whatever_the_names() -> None:
    name = "a<b>&\"'\x1b[31m\x00"
    text = picture.svg(tradeoff_picture.draw([(name, CLASSES)]))
    root = ElementTree.fromstring(text)
    assert root.tag == f"{_SVG}svg"
    assert any("a<b>&\"'" in (item.text or "") for item in root.iter(f"{_SVG}text"))
    assert "\x1b" not in text
    titles = [item.text or "" for item in root.iter(f"{_SVG}title")]
    assert any(title.startswith("mask:2: 2,000 parameters, agreement 95.0%") for title in titles)
    assert "prefers-color-scheme: dark" in text


def test_png_shows_the_same(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    drawn = tradeoff_picture.draw([("fc", CLASSES)])
    picture.save(drawn, tmp_path / "a.png")
    with image.open(tmp_path / "a.png") as found:
        assert found.size == (2 * drawn.width, 2 * drawn.height)
        (at,) = (s.at for s in drawn.shapes if isinstance(s, Dot) and s.title.startswith("mask:2"))
        assert found.getpixel((2 * at[0], 2 * at[1])) == (0xC2, 0x41, 0x0C)
        assert found.getpixel((2, 2)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("text", "drawn"),
    [
        ("plain ASCII (93 %)", "plain ASCII (93 %)"),
        ("≥ 90 %, ÷102, 3×3 → 1", ">= 90 %, 1/102, 3x3 -> 1"),
        ("±0.1 of 3…", "±0.1 of 3…"),
        ("卷积 λ", "?? ?"),
    ],
)
def test_png_draws_no_boxes_for_signs_that_its_font_lacks(text: str, drawn: str) -> None:
    font = pytest.importorskip("PIL.ImageFont").load_default(20)
    assert picture._plain(text, font) == drawn


def test_png_without_pillow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(UsageError, match=r"onnxshare\[plot\]"):
        picture.save(Picture(10, 10, "", ()), tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--method", "gap", "--plot", "a.svg"), "add --method auto"),
        (("--method", "auto", "--keep", "99%", "--plot", "a.jpeg"), ".svg, .png"),
        (("--method", "auto", "--keep", "99%", "--plot", "no/a.svg"), "no such folder"),
    ],
)
def test_a_plot_that_cannot_be_drawn_is_refused_before_any_work(
    cli: Cli, lenet_path: Path, words: tuple[str, ...], said: str
) -> None:
    ran = cli("rewrite", lenet_path, "--fc-to-gap", "--samples", "none.npz", *words)
    assert ran.returncode == 2
    assert said in ran.stderr
    assert ran.stderr.count("\n") == 1
