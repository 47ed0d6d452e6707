"""Which variables a process gets that works on a stranger's file."""

from __future__ import annotations

import subprocess
import sys

import pytest

from onnxshare.support.child_environment import child_environment

SECRET = ("GITHUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "MY_API_KEY", "DB_PASSWORD", "SSH_AUTH_SOCK")
CHANGES_A_MODEL = ("ORT_LOAD_CONFIG_FROM_MODEL", "PYTHONPATH", "PYTHONSTARTUP", "LD_PRELOAD")
NEEDED = ("PATH", "TMPDIR", "LC_ALL", "CUDA_VISIBLE_DEVICES", "VK_ICD_FILENAMES")


@pytest.mark.parametrize("name", [*SECRET, *CHANGES_A_MODEL])
def test_what_is_kept_from_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "secret")
    assert name not in child_environment()


@pytest.mark.parametrize("name", NEEDED)
def test_what_it_needs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "wanted")
    assert child_environment(MORE="1") | {} == {**child_environment(), "MORE": "1"}
    assert child_environment()[name] == "wanted"


def test_python_starts_with_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import numpy; print(numpy.arange(3).sum())"],
        env=child_environment(),
        capture_output=True,
        check=True,
    )
    assert done.stdout.strip() == b"3"
