"""The script that measures a GPU, tried on the CPU, so that it works when there is one."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import onnx
import pytest

import onnxshare
from onnxshare.runtime.providers import Provider, choose
from onnxshare.runtime.session import run_model

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script, with one network and one batch size instead of all."""
    monkeypatch.delenv("ONNXSHARE_ZOO", raising=False)
    monkeypatch.syspath_prepend(str(SCRIPTS))
    found = importlib.import_module("gpu")
    monkeypatch.setattr(found, "CASES", {"models": (("lenet5", "fc-to-conv"),)})
    return found


def test_every_table_is_filled_in(script: Any) -> None:
    lines = list(script.section(choose("cpu")))
    assert lines[0] == "## On a GPU"
    tables = [line.split(" | ") for line in lines if line.startswith("| ")]
    rows = [[cell.strip("| ") for cell in row] for row in tables]
    assert rows[1][:3] == ["lenet5", "fc-to-conv", "equivalent"]
    assert 0 < float(rows[1][3]) < 1
    assert rows[1][5] == "none"
    assert rows[1][-1] == "different"
    assert not any("latency" in line for line in lines)


def test_what_only_hardware_shows(
    script: Any, monkeypatch: pytest.MonkeyPatch, bundled: Path, tmp_path: Path
) -> None:
    """Latency and TensorFloat-32, on the CPU in the place of CUDA."""
    before, after = bundled / "lenet5.onnx", tmp_path / "after.onnx"
    onnx.save(onnxshare.rewrite(before, ["fc-to-conv"], validate=False).model, after)
    pairs = [("lenet5", "fc-to-conv", before, after)]
    monkeypatch.setattr(script, "rewritten", lambda provider, folder: iter(pairs))
    monkeypatch.setattr(script, "BATCHES", (1,))
    (*_, row) = script.latencies("cpu")
    assert row.startswith("| lenet5 | fc-to-conv | 1 |")
    assert row.split(" | ")[-1].strip(" |") in ("faster", "slower", "no difference shown")
    monkeypatch.setattr(script, "CUDA_OPTIONS", {})
    monkeypatch.setattr(script, "run_model", lambda model, images, **_: run_on_cpu(model, images))
    rows = list(script.tensor_float(choose("cpu")))
    assert [row.split(" | ")[1:] for row in rows[2:]] == [["0.0e+00", "0.0e+00 |"]] * 2


def run_on_cpu(model: Any, images: Any) -> Any:
    return run_model(model, {"image": images["image"][:2]}, provider="cpu")


def test_figures_of_a_cpu_are_never_written(
    script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["gpu.py", "--provider", "cpu", "--write"])
    with pytest.raises(SystemExit):
        script.main()
    assert "only figures of a GPU provider are written" in capsys.readouterr().err


def test_the_section_is_put_into_the_page_once(
    script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Benchmarks\n\n## On a GPU\n\nold\n\n## Other\n\nkept\n")
    monkeypatch.setattr(script, "PAGE", page)
    monkeypatch.setattr(script, "choose", lambda request: Provider("A", "A (GPU)"))
    monkeypatch.setattr(script, "section", lambda *_: iter(["## On a GPU", "", "new", ""]))
    monkeypatch.setattr("sys.argv", ["gpu.py", "--write"])
    script.main()
    script.main()
    assert page.read_text() == "# Benchmarks\n\n## Other\n\nkept\n\n## On a GPU\n\nnew\n"
