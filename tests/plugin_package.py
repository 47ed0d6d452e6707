"""A package with entry points, installed into a folder that is put on the path."""

from __future__ import annotations

from pathlib import Path

import pytest


def install(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    entries: str,
    name: str = "a_plugin",
    source: str = "",
) -> None:
    """Install the module `name` with this source, and these entry points in INI form."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entries)
    (folder / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))  # for commands, and processes of their own
