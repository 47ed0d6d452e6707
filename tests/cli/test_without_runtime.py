"""Every command where ONNX Runtime is not installed, or broken: tried in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs symbolic links")

INSTALL = "pip install 'onnxshare[gpu]', or pip install 'onnxshare[cpu]' without an NVIDIA GPU"
STATES = {
    "none": INSTALL,
    "a folder that was left": INSTALL,
    "one that cannot be imported": "pip install --force-reinstall --no-deps onnxruntime-fork",
}


@pytest.fixture(scope="module", params=list(STATES))
def installed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """What is installed here but for ONNX Runtime; and the line that says what to do."""
    folder = tmp_path_factory.mktemp("site")
    packages = sysconfig.get_path("purelib")
    for path in Path(packages).iterdir():
        if not path.name.startswith("onnxruntime") and path.suffix != ".pth":
            (folder / path.name).symlink_to(path)
    if request.param != "none":
        (folder / "onnxruntime").mkdir()
    if request.param == "one that cannot be imported":
        (folder / "onnxruntime" / "__init__.py").write_text("from onnxruntime.capi import gone\n")
        info = folder / "onnxruntime_fork-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Name: onnxruntime-fork\nVersion: 1.0\n")
        (info / "top_level.txt").write_text("onnxruntime\n")
    return STATES[request.param], folder


def run(folder: Path, root: Path, tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    script = (
        f"import sys; sys.path = [{str(root)!r}, {str(folder)!r}, "
        "*(path for path in sys.path if 'site-packages' not in path)]\n"
        "from onnxshare.cli.main import main; main()"
    )
    return subprocess.run(
        [sys.executable, "-S", "-P", "-c", script, *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("--help", 0),
        ("inspect MODEL", 0),
        ("diff MODEL MODEL", 0),
        ("family MODEL MODEL", 0),
        ("scan MODEL --strict --html page.html", 0),
        ("check MODEL --max-params 1M", 0),
        ("rewrite MODEL --fc-to-conv --no-validate -o out.onnx", 0),
        ("compare MODEL OTHER", 2),
        ("compare MODEL OTHER --in-process", 2),
        ("rewrite MODEL --fc-to-conv -o out.onnx", 2),
        ("check MODEL --select does-not-load", 2),
        ("check MODEL --equivalent-to OTHER", 2),
    ],
)
def test_commands(
    words: str,
    code: int,
    installed: tuple[str, Path],
    root: Path,
    bundled: Path,
    tmp_path: Path,
) -> None:
    remedy, folder = installed
    words = words.replace("OTHER", str(bundled / "lenet5-torchscript.onnx"))
    given = words.replace("MODEL", str(bundled / "lenet5.onnx")).split()
    ran = run(folder, root, tmp_path, *given)
    assert ran.returncode == code, ran.stdout + ran.stderr
    if code:
        (line,) = ran.stderr.splitlines()
        assert line.endswith(remedy)
    assert (tmp_path / "out.onnx").exists() == ("--no-validate" in words)


def test_doctor(installed: tuple[str, Path], root: Path, tmp_path: Path) -> None:
    remedy, folder = installed
    ran = run(folder, root, tmp_path, "doctor")
    assert ran.returncode == (remedy != INSTALL), ran.stdout + ran.stderr
    (line,) = [line for line in ran.stdout.splitlines() if remedy in line]
    assert line.startswith("ONNX Runtime" if remedy == INSTALL else "broken")
