from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from onnxshare.io import memory_map
from onnxshare.io.memory_map import aligned, map_descriptor, place


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "data").write_bytes(np.arange(1000, dtype=np.int32).tobytes())
    return tmp_path / "data"


def open_map(path: Path) -> memoryview:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return map_descriptor(descriptor, str(path))
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
    monkeypatch.setattr(memory_map, "_MOST_DESCRIPTORS", 0)
    array = np.frombuffer(open_map(file), np.int32)
    assert place(array) is None
    assert array[7] == 7


def test_arrays_at_odd_places_are_copied_once_to_even_ones(tmp_path: Path) -> None:
    values = np.arange(1000, dtype=np.float32)
    (tmp_path / "odd").write_bytes(b"123" + values.tobytes())
    view = open_map(tmp_path / "odd")
    odd = [np.frombuffer(view, np.float32, 500, 3), np.frombuffer(view, np.float32, 500, 2003)]
    made = aligned([*odd, values])
    for array, expected in zip(made, (values[:500], values[500:], values), strict=True):
        assert array.ctypes.data % 4 == 0
        np.testing.assert_array_equal(array, expected)
    assert made[2] is values
    again = aligned([odd[1].reshape(20, 25)])[0]
    assert again.ctypes.data == made[1].ctypes.data
    assert again.shape == (20, 25)
    found = place(made[0])
    assert found is not None
    assert os.pread(found.descriptor, 2000, found.offset) == values[:500].tobytes()


def test_copies_go_with_their_file(tmp_path: Path) -> None:
    (tmp_path / "odd").write_bytes(b"1" + bytes(4000))
    copies = len(memory_map._COPIES)
    made = aligned([np.frombuffer(open_map(tmp_path / "odd"), np.float32, 1000, 1)])
    assert len(made[0]) == 1000
    assert len(memory_map._COPIES) == copies


def test_odd_places_of_the_same_number_in_two_files_are_told_apart(tmp_path: Path) -> None:
    values = [np.arange(9, dtype=np.float32), np.ones(9, np.float32)]
    views = []
    for number, array in enumerate(values):
        (tmp_path / f"{number}").write_bytes(b"1" + array.tobytes())
        views.append(open_map(tmp_path / f"{number}"))
    made = aligned([np.frombuffer(view, np.float32, 9, 1) for view in views])
    np.testing.assert_array_equal(made, values)
