"""Fresh environments with no ONNX Runtime, with each kind of it, and with two at once.

One environment has onnxshare and what it requires, from the wheel; the others see its packages and
bring their ONNX Runtime. They are made by pip, which needs a package index.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_without_runtime import INSTALL

pytestmark = [
    pytest.mark.environments,
    pytest.mark.skipif(os.name == "nt", reason="needs a shell and file locks of POSIX"),
]

OPENVINO = "onnxruntime-openvino==1.24.1"
LENET, TWIN = "models/lenet5.onnx", "models/lenet5-torchscript.onnx"


class Environment:
    """A virtual environment that sees the packages of another."""

    def __init__(self, folder: Path, base: Environment | None = None, *, pip: bool = False) -> None:
        venv.create(folder, with_pip=pip)
        self.programs = folder / "bin"
        (self.packages,) = folder.glob("lib/python*/site-packages")
        if base is not None:
            (self.packages / "base.pth").write_text(f"{base.packages}\n")

    def run(self, *words: object, shell: str = "") -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        kept["PIP_CONSTRAINT"] = "constraints.txt"
        command = (
            ["sh", "-c", shell] if shell else [str(self.programs / "python"), *map(str, words)]
        )
        return subprocess.run(
            command,
            env={**kept, "PATH": f"{self.programs}{os.pathsep}{kept['PATH']}"},
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def onnxshare(self, *words: object) -> subprocess.CompletedProcess[str]:
        return self.run("-P", "-m", "onnxshare", *words)

    def install(self, *words: object) -> None:
        pip = "-m pip --disable-pip-version-check --quiet --no-input --python".split()
        options = "--no-compile -c constraints.txt".split()
        where = self.programs / "python"
        ran = subprocess.run(
            [sys.executable, *pip, where, "install", *options, *map(str, words)],
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr

    def files(self, pattern: str) -> list[Path]:
        """What packages hold, but for what Python compiles."""
        found = self.packages.glob(pattern)
        return [path for path in found if path.is_file() and "__pycache__" not in path.parts]

    def doctor(self) -> dict[str, Any]:
        ran = self.onnxshare("doctor", "--format", "json")
        found: dict[str, Any] = json.loads(ran.stdout)
        assert ran.returncode == (not found["healthy"])
        return found


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time: tests may run in several."""
    import fcntl

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Environment, Path]:
    """onnxshare as a wheel, installed with what it requires; made once for all processes."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    with locked(folder / "base.lock"):
        wheels = folder / "wheels"
        if not wheels.is_dir():
            build = "-m pip --disable-pip-version-check --quiet wheel --no-deps -w".split()
            subprocess.run([sys.executable, *build, wheels, "."], check=True, timeout=300)
        (wheel,) = wheels.glob("*.whl")
        done = folder / "base"
        made = done.is_dir()
        found = Environment(done)
        if not made:
            found.install(wheel)
    return found, wheel


@pytest.fixture
def environment(base: tuple[Environment, Path], tmp_path: Path) -> Environment:
    return Environment(tmp_path / "env", base[0])


def works(environment: Environment, provider: str) -> None:
    """Models run, and doctor finds one ONNX Runtime and nothing wrong."""
    found = environment.doctor()
    assert [*found["runtimes"]] == [provider]
    assert found["problems"] == []
    assert found["healthy"] is True
    compared = environment.onnxshare("compare", LENET, TWIN)
    assert compared.returncode == 0, compared.stderr


def test_none(environment: Environment) -> None:
    found = environment.doctor()
    assert (found["runtimes"], found["healthy"]) == ({}, True)
    for words, code in [
        (("inspect", LENET), 0),
        (("check", LENET, "--max-params", "1M"), 0),
        (("compare", LENET, TWIN), 2),
    ]:
        ran = environment.onnxshare(*words)
        assert ran.returncode == code, ran.stderr
        assert ran.stderr.endswith(f"not installed; {INSTALL}\n" if code else ran.stderr)
    assert not list(environment.packages.glob("onnxruntime*"))


X86_LINUX = sys.platform == "linux" and os.uname().machine == "x86_64"
#: There are wheels of onnxruntime-gpu and -openvino for it.
x86_linux = pytest.mark.skipif(not X86_LINUX, reason="there are no other wheels")


@pytest.mark.parametrize(
    ("extra", "provider"), [("cpu", "onnxruntime"), ("gpu", "onnxruntime-gpu")]
)
def test_an_extra(
    extra: str, provider: str, base: tuple[Environment, Path], environment: Environment
) -> None:
    provider = provider if X86_LINUX else "onnxruntime"
    environment.install(f"{base[1]}[{extra}]")
    works(environment, provider)


@x86_linux
def test_openvino_stays(base: tuple[Environment, Path], environment: Environment) -> None:
    """The runtime that the user's own program brought is neither replaced nor joined by another."""
    environment.install("--no-deps", OPENVINO)
    before = {path: path.stat().st_mtime_ns for path in environment.files("onnxruntime*/**/*")}
    environment.install(base[1])
    works(environment, "onnxruntime-openvino")
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert before.keys() == set(environment.files("onnxruntime*/**/*"))
    assert len(before) > 50
    assert "OpenVINO" in {state["name"] for state in environment.doctor()["providers"]}


@x86_linux
def test_two_at_once_and_what_doctor_says_to_do(
    base: tuple[Environment, Path], tmp_path: Path
) -> None:
    environment = Environment(tmp_path / "env", base[0], pip=True)
    environment.install(f"{base[1]}[cpu]")
    environment.install("--no-deps", OPENVINO)
    found = environment.doctor()
    assert {*found["runtimes"]} == {"onnxruntime", "onnxruntime-openvino"}
    (problem,) = found["problems"]
    assert problem.startswith("onnxruntime and onnxruntime-openvino are installed over each other")
    remedy = problem.partition("to keep onnxruntime: ")[2]
    assert remedy.startswith("pip uninstall -y onnxruntime-openvino && pip install ")
    fixed = environment.run(shell=remedy)
    assert fixed.returncode == 0, fixed.stderr
    works(environment, "onnxruntime")
