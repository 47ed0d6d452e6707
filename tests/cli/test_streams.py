"""Consoles that cannot show everything, and names that a CI system would obey."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from tests.conftest import ROOT

LENET = ROOT / "models" / "lenet5.onnx"


def run(*words: object, **variables: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "onnxshare", *map(str, words)],
        capture_output=True,
        cwd=ROOT,
        env={**os.environ, **variables},
        check=False,
    )


def named(name: str, path: Path) -> Path:
    """A model with one node, its weight and its input called by a name."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", [f"{name}-x", f"{name}-w"], ["y"], name)],
        "g",
        [helper.make_tensor_value_info(f"{name}-x", TensorProto.FLOAT, [1, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5])],
        [helper.make_tensor(f"{name}-w", TensorProto.FLOAT, [2, 5], range(10))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
@pytest.mark.parametrize("form", ["table", "json", "csv", "markdown", "html"])
def test_no_encoding_is_an_error(encoding: str, form: str, tmp_path: Path) -> None:
    model = named("层一", tmp_path / "m.onnx")
    done = run("inspect", model, "--format", form, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode(encoding if form == "table" else "utf-8")
    assert "MatMul" in text
    if form != "table":  # data formats are UTF-8 whatever the console is
        assert "层一" in text
    if form == "json":
        assert json.loads(text)["nodes"][0]["name"] == "层一"


def test_what_stands_for_signs_that_are_missing() -> None:
    done = run("inspect", LENET, PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert b"image batchx1x32x32 -> logits batchx10" in done.stdout


@pytest.mark.parametrize(
    "name",
    [
        "::error file=x::y",
        " ::warning::y",
        "##[error]y",
        "##vso[task.complete]",
        "a##vso[x]",
        "x" * 60 + " ::stop-commands::z",
    ],
)
@pytest.mark.parametrize("words", [[], ["--format", "json"]])
def test_no_line_is_a_command_to_a_ci_system(name: str, words: list[str], tmp_path: Path) -> None:
    model = named(name, tmp_path / "m.onnx")
    done = run("inspect", model, *words, COLUMNS="80")
    assert done.returncode == 0
    for line in (done.stdout + done.stderr).decode().splitlines():
        assert not line.lstrip().startswith("::")
        assert "##[" not in line
        assert "##vso[" not in line


def test_commands_of_our_own_stay_commands() -> None:
    done = run("check", ROOT / "models" / "vgg_small.onnx", "--max-params", "1", "--format=github")
    assert done.returncode == 1
    assert done.stdout.startswith(b"::notice title=onnxshare::failed: ")
    assert b"\n::error file=" in done.stdout


def test_commands_of_our_own_hold_no_mark_of_another_system(tmp_path: Path) -> None:
    path = tmp_path / "a##[b]##vso[c].onnx"
    path.write_bytes(named("x", tmp_path / "m.onnx").read_bytes())
    done = run("check", path, "--max-params", "0", "--format", "github")
    assert done.stdout.startswith(b"::notice title=onnxshare::failed: ")
    assert b"\n::error file=" in done.stdout
    assert b"##[" not in done.stdout
    assert b"##vso[" not in done.stdout


@pytest.mark.parametrize("char", ["\x9b", "\u202e", "\u200b", "\ufeff", "\U000e0041"])
def test_json_escapes_what_a_terminal_obeys(char: str, tmp_path: Path) -> None:
    model = named(f"a{char}层", tmp_path / "m.onnx")
    done = run("inspect", model, "--format", "json")
    text = done.stdout.decode()
    assert char not in text
    assert "层" in text
    assert json.loads(text)["nodes"][0]["name"] == f"a{char}层"


@pytest.mark.skipif(os.name != "posix", reason="needs a limit on the size of files")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_is_cut_off_is_an_error(unbuffered: str, tmp_path: Path) -> None:
    start = (
        "import resource, os, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));"
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    with open(tmp_path / "out", "wb") as out:
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                start,
                "-m",
                "onnxshare",
                "inspect",
                str(LENET),
                "--format=json",
            ],
            stdout=out,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            check=False,
        )
    assert done.returncode == 2
    assert b"the output cannot be written" in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_sigterm_unwinds(tmp_path: Path) -> None:
    """A job that is cancelled ends with one line, not with a traceback."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    keep = os.open(pipe, os.O_RDWR)
    with open(pipe, "rb") as stdin:
        process = subprocess.Popen(
            [sys.executable, "-m", "onnxshare", "inspect", "-"],
            stdin=stdin,
            stderr=subprocess.PIPE,
            cwd=ROOT,
        )
        time.sleep(2)
        process.send_signal(signal.SIGTERM)
        _, words = process.communicate(timeout=60)
    os.close(keep)
    assert (process.returncode, words) == (143, b"onnxshare: error: terminated\n")
