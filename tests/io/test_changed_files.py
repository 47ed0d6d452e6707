"""Files that change after they were read: what was proven or hashed is never half another file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxshare
from onnxshare.io import memory_map
from onnxshare.io.load import Model, with_data
from onnxshare.io.save import save_model
from onnxshare.weights.content import same_bits
from tests.builders import model, node, save, tensor

#: 64 KiB and more each, so that they are mapped, and not read with the structure.
WEIGHTS = (("a", (80, 16, 4, 4)), ("w", (2000, 20)))


def export(path: Path, seed: int, *, outside: bool) -> None:
    weights = [tensor(name, *shape, seed=seed) for name, shape in WEIGHTS]
    nodes = [node("Conv", "x a", "m"), node("Flatten", "m", "f"), node("MatMul", "f w", "y")]
    save(model(nodes, {"x": ["n", 16, 8, 8]}, ["y"], weights), path, external=outside)


def rewritten_in_place(file: Path, other: Path) -> None:
    data = other.read_bytes()
    with file.open("r+b") as opened:
        opened.write(data)
        opened.truncate(len(data))


def cut_off(file: Path, other: Path) -> None:
    os.truncate(file, 100)


def emptied(file: Path, other: Path) -> None:
    os.truncate(file, 0)


def appended_to(file: Path, other: Path) -> None:
    with file.open("ab") as opened:
        opened.write(b"more")


def one_byte_changed(file: Path, other: Path) -> None:
    with file.open("r+b") as opened:
        opened.seek(-9, os.SEEK_END)
        opened.write(b"\x7f")


def hashed(read: Model, folder: Path) -> object:
    return [weight.hash for weight in onnxshare.inspect(read, hashes=True).weights]


def saved(read: Model, folder: Path) -> object:
    return save_model(read, folder / "saved.onnx")


def made_whole(read: Model, folder: Path) -> object:
    return with_data(read)


def compared(read: Model, folder: Path) -> object:
    return onnxshare.compare(read, folder / "other.onnx", run_limits=onnxshare.RunLimits())


CHANGES = [rewritten_in_place, cut_off, emptied, appended_to, one_byte_changed]
USES = [hashed, saved, made_whole, compared]

Change = Callable[[Path, Path], None]
Use = Callable[[Model, Path], object]


@pytest.fixture(params=["model file", "data file"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The file with the weights of `m.onnx`, beside which `other.onnx` is as large."""
    outside = request.param == "data file"
    export(tmp_path / "m.onnx", 1, outside=outside)
    export(tmp_path / "other.onnx", 2, outside=outside)
    return tmp_path / ("m.onnx.data" if outside else "m.onnx")


def other_of(file: Path) -> Path:
    return file.with_name(file.name.replace("m.", "other.", 1))


@pytest.mark.parametrize(
    ("change", "use"),
    [(change, hashed) for change in CHANGES] + [(cut_off, use) for use in USES[1:]],
)
def test_a_file_that_changed_is_refused_by_its_name(file: Path, change: Change, use: Use) -> None:
    read = onnxshare.load(file.parent / "m.onnx")
    change(file, other_of(file))
    with pytest.raises(onnxshare.OnnxShareError, match=rf"{file.name}.* changed .*run it again"):
        use(read, file.parent)
    assert not (file.parent / "saved.onnx").exists()


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_is_written_of_a_file_that_changed_after_the_proof(
    file: Path, change: Change
) -> None:
    before = sorted(file.parent.iterdir())
    result = onnxshare.rewrite(file.parent / "m.onnx", "fc-to-conv", validate=False)
    assert result.passed
    change(file, other_of(file))
    with pytest.raises(onnxshare.OnnxShareError, match="changed on disk"):
        result.save(file.parent / "saved.onnx")
    assert sorted(file.parent.iterdir()) == before


def test_a_file_that_another_took_the_place_of_is_still_read(tmp_path: Path) -> None:
    export(tmp_path / "m.onnx", 1, outside=False)
    export(tmp_path / "other.onnx", 2, outside=False)
    expected = onnx.load(tmp_path / "m.onnx")
    read = onnxshare.load(tmp_path / "m.onnx")
    os.replace(tmp_path / "other.onnx", tmp_path / "m.onnx")
    save_model(read, tmp_path / "saved.onnx")
    assert onnx.load(tmp_path / "saved.onnx") == expected


def test_a_data_file_that_another_took_the_place_of_is_refused(tmp_path: Path) -> None:
    export(tmp_path / "m.onnx", 1, outside=True)
    export(tmp_path / "other.onnx", 2, outside=True)
    read = onnxshare.load(tmp_path / "m.onnx")
    os.replace(tmp_path / "other.onnx.data", tmp_path / "m.onnx.data")
    with pytest.raises(onnxshare.ModelFileError, match=r"'m\.onnx\.data' changed on disk"):
        hashed(read, tmp_path)


def test_many_open_files_are_asked_by_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_map, "_MOST_DESCRIPTORS", 0)
    export(tmp_path / "m.onnx", 1, outside=False)
    read = onnxshare.load(tmp_path / "m.onnx")
    hashed(read, tmp_path)
    cut_off(tmp_path / "m.onnx", tmp_path)
    with pytest.raises(onnxshare.ModelFileError, match="changed on disk"):
        hashed(read, tmp_path)


def test_arrays_that_are_compared_later_are_asked_again(tmp_path: Path) -> None:
    export(tmp_path / "m.onnx", 1, outside=False)
    read = onnxshare.load(tmp_path / "m.onnx")
    arrays = [read.read(one) for one in read.skeleton.graph.initializer]
    assert not same_bits(arrays[0], np.zeros_like(arrays[0]))
    cut_off(tmp_path / "m.onnx", tmp_path)
    with pytest.raises(onnxshare.ModelFileError, match="changed on disk"):
        same_bits(arrays[0], np.zeros_like(arrays[0]))
