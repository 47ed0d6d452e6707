"""Sessions of a family: one copy of the weights, and the outputs of separate sessions."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import onnxshare
from onnxshare.errors import ModelFileError, RuntimeFailure, UsageError
from tests.builders import model, node, random_array, tensor


def classifier(head: int, width: int, layers: int) -> onnx.ModelProto:
    """Layers of one trunk, and a head of its own."""
    weights = [tensor(f"w{i}", width, width, seed=i) for i in range(layers)]
    nodes = [node("MatMul", f"x{i} w{i}", f"x{i + 1}") for i in range(layers)]
    nodes.append(node("MatMul", f"x{layers} head", "y"))
    weights.append(tensor("head", width, 10, seed=100 + head))
    return model(nodes, {"x0": ["n", width]}, ["y"], weights)


@pytest.fixture
def family(tmp_path: Path) -> Path:
    for name in "ab":
        onnx.save(classifier(ord(name), 64, 2), tmp_path / f"{name}.onnx")
    paths = sorted(tmp_path.glob("*.onnx"))
    onnxshare.write_family(paths, tmp_path / "family", validate=False)
    return tmp_path / "family"


@pytest.mark.parametrize("prepack", [False, True])
def test_the_outputs_of_separate_sessions(family: Path, prepack: bool) -> None:
    """Of the originals, with the same options."""
    given = random_array(5, 64)
    seen: list[onnxruntime.SessionOptions] = []
    found = onnxshare.family_sessions(family, prepack=prepack, configure=seen.append)
    assert list(found) == ["a", "b"]
    for options, (name, session) in zip(seen, found.items(), strict=True):
        original = family.parent / f"{name}.onnx"
        separate = onnxruntime.InferenceSession(
            original, options, providers=["CPUExecutionProvider"]
        )
        assert np.array_equal(session.run(None, {"x0": given}), separate.run(None, {"x0": given}))


def pss() -> int:
    with open("/proc/self/smaps_rollup") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts memory so")
def test_a_further_session_takes_little_memory(tmp_path: Path) -> None:
    """16 MB in tensors of 256 KB, which are no whole pages of the file apart."""
    for name in "abc":
        onnx.save(classifier(ord(name), 256, 64), tmp_path / f"{name}.onnx")
    paths = sorted(tmp_path.glob("*.onnx"))
    onnxshare.write_family(paths, tmp_path / "family", validate=False)
    given = {"x0": random_array(1, 256)}
    sessions, taken = [], []
    for path in paths:
        before = pss()
        opened = onnxshare.family_sessions(tmp_path / "family", path.stem)
        sessions.append(opened[path.stem])
        sessions[-1].run(None, given)
        taken.append(pss() - before)
    assert max(taken[1:]) <= 0.15 * 64 * 256 * 256 * 4


def test_what_is_refused(family: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        onnxshare.family_sessions(tmp_path / "none")
    with pytest.raises(UsageError, match="holds no model 'c'"):
        onnxshare.family_sessions(family, ["a", "c.onnx"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no model"):
        onnxshare.family_sessions(tmp_path / "empty")
    alien = model([node("Alien", "x", "y", domain="none")], {"x": [1]}, ["y"], domains=["none"])
    onnx.save(alien, family / "c.onnx")
    with pytest.raises(RuntimeFailure, match=r"c\.onnx: ONNX Runtime cannot load it"):
        onnxshare.family_sessions(family, ["c"])
    os.replace(family / "family.data", tmp_path / "elsewhere")
    (family / "family.data").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelFileError, match="symbolic link"):
        onnxshare.family_sessions(family, ["a"])
