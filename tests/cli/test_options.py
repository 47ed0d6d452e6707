"""Commands that run models, as users run them: in processes, which Ctrl-C and crashes end."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
import typer

from onnxshare.cli import commands
from tests.runtime import hostile

pytestmark = pytest.mark.isolated

TRAPS = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="only x86 traps on this division"
)
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")

COMMAND = [sys.executable, "-m", "onnxshare"]
CRASH = "model A: ONNX Runtime crashes on it (SIGFPE)"


@pytest.fixture
def folder(tmp_path: Path, lenet: onnx.ModelProto) -> Path:
    """Models to run, and an empty folder for temporary files."""
    (tmp_path / "tmp").mkdir()
    models = {
        "good": hostile.harmless(),
        "hang": hostile.hang(),
        "crash": hostile.crash(),
        "lenet": hostile.poisoned(lenet),
    }
    for name, model in models.items():
        onnx.save(model, tmp_path / f"{name}.onnx")
    return tmp_path


def start(folder: Path, *arguments: object, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        [*COMMAND, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "TERM": "xterm", "TMPDIR": str(folder / "tmp")},
        text=True,
        stdout=subprocess.PIPE,
        **{"stderr": subprocess.PIPE, **options},
    )


def finish(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    process = start(folder, *arguments)
    out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@TRAPS
def test_compare_with_a_model_that_crashes(folder: Path) -> None:
    done = finish(folder, "compare", "crash.onnx", "good.onnx", "--provider", "cpu")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout == f"not run: {CRASH} (CPU; 32 random samples, seed 0)\n"


@TRAPS
def test_rewrite_of_a_model_that_crashes_writes_nothing(folder: Path) -> None:
    done = finish(folder, "rewrite", "lenet.onnx", "--fc-to-conv", "-o", "out.onnx")
    assert (done.returncode, done.stderr) == (1, "")
    assert CRASH in done.stdout
    assert "not run: " in done.stdout
    assert not (folder / "out.onnx").exists()


@TRAPS
def test_a_fit_to_a_model_that_crashes_is_refused(folder: Path) -> None:
    images = np.random.default_rng(0).random((80, 1, 32, 32), dtype=np.float32)
    np.savez(folder / "images.npz", x=images)
    arguments = ("--fc-to-gap", "--approximate", "--samples", "images.npz", "-o", "out.onnx")
    done = finish(folder, "rewrite", "lenet.onnx", *arguments)
    assert done.returncode == 1
    # Noise for images: that is warned of, and nothing else is said.
    assert all(line.startswith("warning: ") for line in done.stderr.splitlines())
    assert "nothing can be fitted: ONNX Runtime crashes on it (SIGFPE)" in done.stdout
    assert not (folder / "out.onnx").exists()


@TRAPS
def test_check_of_a_model_that_crashes(folder: Path) -> None:
    done = finish(folder, "check", "crash.onnx", "--equivalent-to", "good.onnx")
    assert (done.returncode, done.stderr) == (1, "")
    assert "the verdict is not run: model B: ONNX Runtime crashes on it (SIGFPE)" in done.stdout


def test_a_model_that_hangs(folder: Path) -> None:
    done = finish(folder, "compare", "good.onnx", "hang.onnx", "--timeout", 1, "--format", "json")
    assert (done.returncode, done.stderr) == (1, "")
    data = json.loads(done.stdout)
    assert data["verdict"] == "not run"
    assert data["reason"].startswith("model B: ONNX Runtime takes longer than 1 s to run it; ")
    assert "--timeout" in data["reason"]


def test_what_models_took_is_told(folder: Path) -> None:
    model = hostile.harmless()
    model.graph.node[0].name = "another"
    onnx.save(model, folder / "other.onnx")
    done = finish(folder, "compare", "good.onnx", "other.onnx", "--format", "json")
    memory = json.loads(done.stdout)["memory"]
    for letter in "ab":  # Python, NumPy and ONNX Runtime alone need as much
        assert 20e6 < memory[letter] < 400e6
    done = finish(folder, "compare", "good.onnx", "other.onnx", "--in-process", "--format", "json")
    assert json.loads(done.stdout)["memory"] is None


@contextlib.contextmanager
def hanging(folder: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A command that hangs in a model, and the processes that it has started."""
    process = start(folder, "compare", "hang.onnx", "good.onnx")
    try:
        end = time.monotonic() + 90
        while len(started := children(process.pid)) < 2 or not busy(started):
            assert time.monotonic() < end, "the model never ran"
            assert process.poll() is None
            time.sleep(0.05)
        yield process, started
    finally:
        process.kill()
        process.communicate()


def children(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = entry.read_text().rpartition(")")[2].split()
            if int(fields[1]) == parent and fields[0] != "Z":
                found.append(int(entry.parent.name))
    return found


def busy(processes: list[int]) -> bool:
    """Whether one has computed for half a second longer than it takes to start."""
    for process in processes:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            if int(fields[11]) / os.sysconf("SC_CLK_TCK") > 0.6:
                return True
    return False


def gone(processes: list[int]) -> bool:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        alive = []
        for process in processes:
            with contextlib.suppress(OSError):
                if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                    alive.append(process)
        if not alive:
            return True
        time.sleep(0.05)
    return False


@LINUX
def test_ctrl_c_leaves_nothing_behind(folder: Path) -> None:
    with hanging(folder) as (process, started):
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
        assert (process.returncode, out) == (130, "")
        assert err == "onnxshare: error: interrupted\n"
        assert gone(started)
        assert list((folder / "tmp").iterdir()) == []


@LINUX
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_command_that_is_killed_takes_its_processes_along(
    folder: Path, how: signal.Signals
) -> None:
    with hanging(folder) as (process, started):
        process.send_signal(how)
        process.wait(timeout=60)
        assert gone(started)
        assert list((folder / "tmp").iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_a_bar_on_a_terminal_and_only_there(folder: Path) -> None:
    import pty

    outer, inner = pty.openpty()
    arguments = ("compare", "hang.onnx", "good.onnx", "--timeout", 3.5)
    process = start(folder, *arguments, stderr=inner)
    os.close(inner)
    shown = b""
    with contextlib.suppress(OSError):  # how Linux says that the other end is closed
        while piece := os.read(outer, 4096):
            shown += piece
    os.close(outer)
    out, _ = process.communicate(timeout=90)
    assert process.returncode == 1
    assert b"comparing" in shown
    assert out.startswith("not run: ")
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("command", "name", "typed", "offered"),
    [
        ("inspect", "columns", "para", ["params", "params_new"]),
        ("inspect", "columns", "name,mac", ["name,macs"]),
        ("rewrite", "rewrite", "fc", ["fc-to-gap", "fc-to-conv"]),
        (
            "rewrite",
            "method",
            "collapse+g",
            ["collapse+gap", "collapse+gap+int8", "collapse+gap+w8a8"],
        ),
        ("rewrite", "method", "au", ["auto"]),
        ("check", "select", "WS101,fc-d", ["WS101,fc-dominates"]),
        ("check", "ignore", "WS104", ["WS104"]),
        ("explain", "rule", "fc-d", ["fc-dominates"]),
    ],
)
def test_a_shell_offers_the_values(command: str, name: str, typed: str, offered: list[str]) -> None:
    found = cast("Any", typer.main.get_command(commands.make_app([command]))).commands[command]
    (parameter,) = (item for item in found.params if item.name == name)
    context = found.make_context(command, ["x"], resilient_parsing=True)
    items = [item.value for item in parameter.shell_complete(context, typed)]
    assert items[: len(offered)] == offered


@pytest.mark.parametrize("name", commands.SUMMARIES)
def test_a_summary_is_the_first_sentence_of_the_docstring(name: str) -> None:
    text = commands.function_of(name).__doc__ or ""
    assert " ".join(text.partition("\n\n")[0].split()) == commands.SUMMARIES[name]
