from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from onnxshare.io import mapped
from onnxshare.io.mapped import map_descriptor, place


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "data").write_bytes(np.arange(1000, dtype=np.int32).tobytes())
    return tmp_path / "data"


def open_map(path: Path) -> memoryview:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return map_descriptor(descriptor)
    finally:
        os.close(descriptor)


def test_an_array_in_a_mapped_file_can_be_read_through_its_descriptor(file: Path) -> None:
    array = np.frombuffer(open_map(file), np.int32, 20, 80).reshape(4, 5)
    file.unlink()  # what was opened counts, not the name
    found = place(array)
    assert found is not None
    assert found.offset == 80
    assert os.pread(found.descriptor, array.nbytes, found.offset) == array.tobytes()


def test_arrays_that_lie_elsewhere_or_with_gaps_have_no_place(file: Path) -> None:
    array = np.frombuffer(open_map(file), np.int32)
    assert place(array) is not None
    assert place(array[::2]) is None
    assert place(array[:0]) is None
    assert place(array.copy()) is None
    assert place(np.frombuffer(file.read_bytes(), np.int32)) is None


def test_a_descriptor_lives_as_long_as_its_map(file: Path) -> None:
    view = open_map(file)
    found = place(np.frombuffer(view, np.uint8))
    assert found is not None
    os.fstat(found.descriptor)
    del view
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(found.descriptor)


def test_many_open_files_keep_no_second_descriptor(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped, "_MOST_DESCRIPTORS", 0)
    array = np.frombuffer(open_map(file), np.int32)
    assert place(array) is None
    assert array[7] == 7
