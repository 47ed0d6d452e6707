"""Charts: dots where numbers say, the peak marked, pictures that stand alone."""

from __future__ import annotations

from collections.abc import Callable
from math import log10
from pathlib import Path
from subprocess import CompletedProcess

import onnx
import pytest

import onnxshare
from onnxshare.report.page import charts
from onnxshare.report.plot.picture import Area, Box, Dot, Line, Picture, Words
from tests.builders import fc, model, node

Cli = Callable[..., CompletedProcess[str]]


def words(picture: Picture | None) -> list[str]:
    assert picture is not None
    return [shape.text for shape in picture.shapes if isinstance(shape, Words)]


def test_dots_are_where_their_numbers_say(lenet: onnx.ModelProto) -> None:
    """c1 has 156 parameters used 784 times, f5 48,120 used once: between them are log10 of both
    ratios, in decades of the axes (published LeNet-5 figures)."""
    report = onnxshare.inspect(lenet)
    picture = charts.scatter(report)
    assert picture is not None
    at = {shape.data["row"]: shape.at for shape in picture.shapes if isinstance(shape, Dot)}
    rows = {row.params: str(number) for number, row in enumerate(report.nodes) if row.params}
    (x1, y1), (x5, y5) = at[rows[156]], at[rows[48_120]]
    upright = sorted(
        {s.start[0] for s in picture.shapes if isinstance(s, Line) and s.start[0] == s.end[0]}
    )
    level = sorted(
        {s.start[1] for s in picture.shapes if isinstance(s, Line) and s.start[1] == s.end[1]}
    )
    decade_x, decade_y = upright[1] - upright[0], level[1] - level[0]
    assert (x5 - x1) / decade_x == pytest.approx(log10(48_120 / 156), abs=0.03)
    assert (y5 - y1) / decade_y == pytest.approx(log10(784), abs=0.03)


def test_the_peak_of_memory_is_marked(lenet: onnx.ModelProto) -> None:
    """2 · 4,704 numbers of 4 bytes while tanh reads the first map."""
    report = onnxshare.inspect(lenet)
    alone = charts.memory(report)
    assert "peak 37.6 kB" in words(alone)
    assert alone is not None
    assert alone.title.endswith("peak 37.6 kB at Relu_1")
    both = charts.memory(report, weights=True)
    assert both is not None
    base = next(shape for shape in both.shapes if isinstance(shape, Box))
    (area,) = (shape for shape in both.shapes if isinstance(shape, Area))
    assert 0 <= min(y for _, y in area.corners) < base.at[1]  # on top of the weights, and inside
    zero = next(shape for shape in both.shapes if isinstance(shape, Line)).start[1]
    assert base.at[1] + base.size[1] == pytest.approx(zero)


def test_nothing_is_drawn_of_what_is_unknown() -> None:
    built = model([node("Relu", "x", "y")], {"x": ["n", "w"]}, ["y"])
    report = onnxshare.inspect(built)
    assert charts.scatter(report) is None
    assert charts.memory(report) is None


def test_a_smaller_model_has_a_smaller_area() -> None:
    report = onnxshare.inspect(fc(["n", 8], 8, 4))
    whole, quarter = (charts.scaled_treemap(report, share) for share in (1.0, 0.25))

    def area(picture: Picture) -> float:
        return sum(s.size[0] * s.size[1] for s in picture.shapes if isinstance(s, Box))

    assert area(quarter) == pytest.approx(area(whole) / 4)
    assert (quarter.width, quarter.height) == (whole.width, whole.height)


@pytest.mark.parametrize("ending", [".svg", ".png"])
def test_a_picture_for_a_readme(cli: Cli, lenet_path: Path, ending: str) -> None:
    path = lenet_path.with_suffix(ending)
    ran = cli("inspect", lenet_path, "--plot", path, "--summary")
    assert (ran.returncode, ran.stderr) == (0, f"drew {path}\n")
    data = path.read_bytes()
    assert data.startswith(b"<svg" if ending == ".svg" else b"\x89PNG")
    if ending == ".svg":
        assert b"61,706 parameters" in data
