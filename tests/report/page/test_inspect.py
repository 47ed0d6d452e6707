"""The page of `inspect`: its figures, its rows, its size."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import onnx
import pytest

import onnxshare
from onnxshare.report.page.inspect import as_html, change, figures, page_data
from tests.builders import model, node, tensor
from tests.report.page.test_document import HOSTILE, Parsed
from tests.report.test_inspect_summary import steps

Cli = Callable[..., CompletedProcess[str]]


def decoded(pairs: list[Any]) -> list[str]:
    """Texts that leave out what they share with the one before."""
    found: list[str] = []
    for same, rest, *_ in pairs:
        found.append((found[-1][:same] if found else "") + rest)
    return found


def blocks(count: int) -> onnx.ModelProto:
    """A stack of blocks of three nodes, named as exporters name them."""
    nodes, stored = [], []
    for at in range(count):
        nodes += [
            node("MatMul", f"x{at} w{at}", f"a{at}", name=f"/model/layers.{at}/up/MatMul"),
            node("Relu", f"a{at}", f"b{at}", name=f"/model/layers.{at}/act/Relu"),
            node("MatMul", f"b{at} v{at}", f"x{at + 1}", name=f"/model/layers.{at}/down/MatMul"),
        ]
        stored += [tensor(f"w{at}", 4, 8), tensor(f"v{at}", 8, 4)]
    return model(nodes, {"x0": ["n", 6, 4]}, [f"x{count}"], stored)


@pytest.fixture(scope="module")
def stack() -> onnxshare.Inspection:
    return onnxshare.inspect(blocks(40))


def test_rows_are_those_of_the_report(stack: onnxshare.Inspection) -> None:
    data = page_data(stack)
    assert decoded(data["rows"]) == [row.name for row in stack.nodes]
    modules = decoded(data["modules"])
    assert modules[data["rows"][0][2]] == "model/layers.0/up"
    assert len(data["kinds"]) < 12  # 120 nodes, alike but for their names
    operator, shape, color, params, uses, macs, held, *_ = data["kinds"][data["rows"][0][3]]
    assert (operator, shape, color) == ("MatMul", "6×8", "u1")
    assert (params, uses, macs, held) == (32, 6, 6 * 32, 4 * 32)


def test_every_parameter_has_its_area(stack: onnxshare.Inspection) -> None:
    leaves, frames = page_data(stack)["maps"]["params_new"]
    areas = {leaves[at]: leaves[at + 4] * leaves[at + 5] for at in range(0, len(leaves), 6)}
    assert sorted(areas) == [at for at, row in enumerate(stack.nodes) if row.params]
    for area in areas.values():  # in tenths, so rounded
        assert area == pytest.approx(9600 * 4800 / 80, rel=0.03)
    assert len(frames) == 6 * 40


def test_the_six_figures_of_lenet(lenet: onnx.ModelProto) -> None:
    """61,706 parameters, 59,134 of them in FCs; 416,520 MACs (SEEDS)."""
    found = {item.name: item.value for item in figures(onnxshare.inspect(lenet).totals)}
    assert len(found) == 6
    assert found["parameters"] == "61,706"
    assert found["MACs per sample"] == "417 k"
    assert found["weight bytes"] == "247 kB"
    assert found["share of parameters in FCs"] == "95.8 %"


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [(413, 100, "÷4.13"), (100, 150, "×1.5"), (7, 7, ""), (None, 7, ""), (0, 7, ""), (7, None, "")],
)
def test_change(before: float | None, after: float | None, text: str) -> None:
    assert change(before, after) == text


def test_3000_nodes_take_less_than_400_kb() -> None:
    assert len(as_html(onnxshare.inspect(blocks(1000))).encode()) < 400_000


def test_a_model_without_weights_or_sizes() -> None:
    built = model([node("Relu", "x", "y")], {"x": ["n", "w"]}, ["y"])
    text = as_html(onnxshare.inspect(built))
    assert '<section data-view="treemap"' not in text
    assert '<section data-view="memory"' not in text
    assert "This model stores no parameters." in text


def test_a_head_shows_its_layers_and_commands(bundled: Path) -> None:
    text = as_html(onnxshare.inspect(bundled / "vgg_small.onnx"))
    page = Parsed(text)
    commands = [words for words in page.texts["code"] if "rewrite" in words]
    assert len(commands) == 2
    assert any("--fc-to-conv" in words for words in commands)
    assert "64×6×6" in text
    assert "295,040 parameters, 78.0 % of the model" in text


def test_a_notebook_shows_names_as_text(bundled: Path) -> None:
    report = onnxshare.inspect(bundled / "vgg_small.onnx")
    html = replace(report, model=replace(report.model, path=HOSTILE))._repr_html_() or ""
    page = Parsed(html)
    assert page.inside == []
    assert not {"script", "style", "html", "link"} & set(page.tags)
    assert "378,442" in html
    source = next(value for tag, name, value in page.attributes if name == "src")
    kind, _, data = source.partition(",")
    assert kind == "data:image/svg+xml;base64"
    assert b"</svg>" in base64.b64decode(data)


def test_pages_go_to_files(cli: Cli, lenet_path: Path) -> None:
    page = lenet_path.with_name("page.html")
    for _ in range(2):  # an older page is replaced
        ran = cli("inspect", lenet_path, "--html", page, "--summary")
        assert (ran.returncode, ran.stderr) == (0, f"wrote {page}\n")
    assert cli("inspect", lenet_path, "--format", "html").stdout == page.read_text("utf-8")


@pytest.mark.parametrize("option", ["--html", "--plot", "--netron"])
def test_a_model_is_never_replaced(cli: Cli, lenet_path: Path, option: str) -> None:
    before = lenet_path.read_bytes()
    target = lenet_path if option != "--plot" else lenet_path.with_suffix(".svg")
    if option == "--plot":
        target.write_bytes(before)
    ran = cli("inspect", lenet_path, option, target)
    assert ran.returncode == 2
    assert len(ran.stderr.splitlines()) == 1
    assert lenet_path.read_bytes() == before
    assert target.read_bytes() == before


def test_heads_that_are_alike_are_one() -> None:
    """Seven columns of one map, each through an FC of the same sizes."""
    page = as_html(onnxshare.inspect(steps()))
    assert page.count('data-view="head"') == 1
    assert "Head after column0 and 6 alike" in page
    assert "more head" not in page
