"""The script that measures a GPU, tried on the CPU, so that it works when there is one."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import onnx
import pytest

import onnxshare
from onnxshare.runtime.providers import choose

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, bundled: Path, tmp_path: Path) -> Any:
    """The script, with one rewrite and one batch size instead of all."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    found = importlib.import_module("gpu")
    before, after = bundled / "lenet5.onnx", tmp_path / "after.onnx"
    result = onnxshare.rewrite(before, ["fc-to-conv"], provider="cpu", validate=False)
    onnx.save(result.model, after)
    pairs = [("lenet5", "fc-to-conv", before, after)]
    monkeypatch.setattr(found, "rewritten", lambda provider, folder: iter(pairs))
    monkeypatch.setattr(found, "BATCHES", (1,))
    return found


def test_every_table_is_filled_in(script: Any) -> None:
    lines = list(script.section("cpu", choose("cpu")))
    assert lines[0] == "## On a GPU"
    tables = [line.split(" | ") for line in lines if line.startswith("| ")]
    rows = [[cell.strip("| ") for cell in row] for row in tables]
    assert rows[1][:3] == ["lenet5", "fc-to-conv", "equivalent"]
    assert 0 < float(rows[1][3]) < 1
    assert [row[0] for row in rows[3:5]] == ["lenet5", "after"]
    assert all(float(cell) < 1e-5 for row in rows[3:5] for cell in row[1:])
    assert rows[6][:3] == ["lenet5", "fc-to-conv", "1"]
    assert rows[6][-1] in ("faster", "slower", "no difference shown")


def test_figures_of_a_cpu_are_never_written(
    script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["gpu.py", "--provider", "cpu", "--write"])
    with pytest.raises(SystemExit):
        script.main()
    assert "only figures of a GPU are written" in capsys.readouterr().err


def test_the_section_is_put_into_the_page_once(
    script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Benchmarks\n\n## On a GPU\n\nold\n\n## Other\n\nkept\n")
    monkeypatch.setattr(script, "PAGE", page)
    monkeypatch.setattr(script, "choose", lambda request: choose("cpu"))
    monkeypatch.setattr(script, "section", lambda *_: iter(["## On a GPU", "", "new", ""]))
    monkeypatch.setattr("sys.argv", ["gpu.py", "--write"])
    script.main()
    script.main()
    assert page.read_text() == "# Benchmarks\n\n## Other\n\nkept\n\n## On a GPU\n\nnew\n"
