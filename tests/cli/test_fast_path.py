"""The command line that does without typer says what typer would say."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import get_args

import pytest

from onnxshare.cli.commands import call
from onnxshare.cli.fast_path import plain_inspect
from onnxshare.cli.inspect_run import FORMATS, Format

Cli = Callable[..., CompletedProcess[str]]


def test_formats_are_all_there() -> None:
    assert get_args(Format) == FORMATS


@pytest.mark.parametrize("words", [[], *(["--format", name] for name in FORMATS)])
def test_both_ways_print_the_same(
    words: list[str], cli: Cli, lenet_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["inspect", str(lenet_path), *words]
    assert plain_inspect(arguments) is not None
    ran = cli(*arguments)
    assert call(arguments) == ran.returncode == 0
    assert capfd.readouterr().out == ran.stdout != ""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["inspect", "a.onnx"], (Path("a.onnx"), "table")),
        (["inspect", "-"], (Path("-"), "table")),
        (["inspect", "--format", "csv", "a.onnx"], (Path("a.onnx"), "csv")),
        (["inspect", "a.onnx", "--format=json"], (Path("a.onnx"), "json")),
        (["inspect"], None),
        (["inspect", ""], None),
        (["inspect", "a.onnx", "b.onnx"], None),
        (["inspect", "a.onnx", "--format"], None),
        (["inspect", "a.onnx", "--format", "yaml"], None),
        (["inspect", "a.onnx", "--format", "json", "--format", "csv"], None),
        (["inspect", "a.onnx", "--all"], None),
        (["inspect", "--", "a.onnx"], None),
        (["inspect", "--help"], None),
        (["check", "a.onnx"], None),
        ([], None),
    ],
)
def test_only_the_plainest_is_taken(
    arguments: list[str], expected: tuple[Path, str] | None
) -> None:
    assert plain_inspect(arguments) == expected


def test_it_imports_neither_typer_nor_pydantic(lenet_path: Path) -> None:
    script = (
        "import sys\n"
        "from onnxshare.cli.main import run\n"
        f"code = run(['inspect', {str(lenet_path)!r}, '--format', 'json'])\n"
        "heavy = {'typer', 'pydantic', 'rich', 'onnxruntime'} & set(sys.modules)\n"
        "sys.exit(code or (str(heavy) if heavy else 0))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
