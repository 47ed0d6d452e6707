from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxshare.comparison.compare import compare
from onnxshare.errors import SamplesError
from onnxshare.samples.lazy_arrays import Bounds, LazyArrays
from onnxshare.samples.samples import read_samples
from onnxshare.support import memory
from tests.builders import run

Array = np.ndarray[Any, np.dtype[Any]]


def model(**inputs: list[int | str]) -> onnx.ModelProto:
    info = helper.make_tensor_value_info
    first = next(iter(inputs))
    graph = helper.make_graph(
        [helper.make_node("Identity", [first], ["y"])],
        "test",
        [info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [info("y", TensorProto.FLOAT, None)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def values(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def save_pb(folder: Path, index: int, array: Array, name: str = "") -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / f"input_{index}.pb"
    path.write_bytes(numpy_helper.from_array(array, name).SerializeToString())
    return path


def test_samples_take_no_more_than_the_memory_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(tmp_path / "x.npz", x=np.zeros((1000, 3), np.float32))
    proto = model(x=["n", 3])
    for free, limit, half in (
        (10**10, 5_000, 5_000),
        (10**10, None, 5 * 10**9),
        (2**27, None, 2**26),
    ):
        monkeypatch.setattr(memory, "available", lambda free=free: free)
        bounds = Bounds(limit)
        assert bounds.at_once == half
        assert bounds.unpacked(1) == min(half, 2**30)
        assert bounds.unpacked(2**26) == min(half, 50 * 2**26)
    with pytest.raises(SamplesError, match=r"unpacks to .*RunLimits\(memory"):
        read_samples(tmp_path / "x.npz", proto, memory=5_000)
    assert read_samples(tmp_path / "x.npz", proto, memory=13_000).count == 1000


def test_sets_of_test_data_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    arrays = [values(1, 3, seed=index) for index in range(11)]
    for index, array in enumerate(arrays):
        save_pb(tmp_path / f"test_data_set_{index}", 0, array)
    found = read_samples(tmp_path, model(x=["n", 3])).arrays["x"]
    np.testing.assert_array_equal(found, np.concatenate(arrays))


def test_inputs_by_name_or_by_position(tmp_path: Path) -> None:
    a, b = values(2, 3), values(2, 3, seed=1)
    for folder, names in (("named", "yx"), ("nameless", ("", ""))):
        save_pb(tmp_path / folder, 0, a, names[0])
        save_pb(tmp_path / folder, 1, b, names[1])
    proto = model(x=["n", 3], y2=["n", 3])
    by_place = read_samples(tmp_path / "nameless", proto).arrays
    np.testing.assert_array_equal(by_place["x"], a)
    np.testing.assert_array_equal(by_place["y2"], b)
    proto = model(x=["n", 3], y=["n", 3])
    proto.graph.node[0].output[0] = proto.graph.output[0].name = "z"
    by_name = read_samples(tmp_path / "named", proto).arrays
    np.testing.assert_array_equal(by_name["y"], a)
    np.testing.assert_array_equal(by_name["x"], b)


def test_one_tensor_alone(tmp_path: Path) -> None:
    path = save_pb(tmp_path, 0, values(2, 3))
    assert read_samples(path, model(x=["n", 3])).count == 2
    with pytest.raises(SamplesError, match="the model has 2 inputs"):
        read_samples(path, model(x=["n", 3], z=["n", 3]))
    with pytest.raises(SamplesError, match=r"holds no input_1\.pb"):
        read_samples(tmp_path, model(x=["n", 3], z=["n", 3]))


def test_what_is_no_tensor(tmp_path: Path) -> None:
    sequence = onnx.SequenceProto(elem_type=onnx.SequenceProto.TENSOR, name="s")
    files = {
        "junk.pb": b"\xff" * 9,
        "empty.pb": b"",
        "sequence.pb": sequence.SerializeToString(),
        "short.pb": onnx.TensorProto(
            data_type=1, dims=[2, 3], raw_data=b"1234"
        ).SerializeToString(),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SamplesError) as caught:
            read_samples(tmp_path / name, model(x=["n", 3]))
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["test_Conv2d", "test_MaxPool2d", "test_Softmax"])
def test_data_of_the_onnx_package(name: str) -> None:
    """Models with test data as their maintainers ship them: the outputs are theirs."""
    data = Path(onnx.__file__).parent / "backend" / "test" / "data"
    folder = data / "pytorch-converted" / name
    if not folder.is_dir():
        pytest.skip("this onnx package brings no test data")
    proto = onnx.load(folder / "model.onnx")
    found = read_samples(folder, proto).arrays
    stored = onnx.TensorProto.FromString((folder / "test_data_set_0" / "output_0.pb").read_bytes())
    np.testing.assert_allclose(run(proto, **found)[0], numpy_helper.to_array(stored), rtol=1e-3)


def test_a_folder_of_npz_for_several_inputs(tmp_path: Path) -> None:
    x, z = values(5, 3), values(5, 2)
    np.savez(tmp_path / "a.npz", x=x[:3], z=z[:3])
    np.savez(tmp_path / "b.npz", x=x[3:], z=z[3:])
    found = read_samples(tmp_path, model(x=["n", 3], z=["n", 2])).arrays
    np.testing.assert_array_equal(found["x"], x)
    np.testing.assert_array_equal(found["z"], z)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4\n5\n6\n", [4, 5, 6]),
        ("b.npy 2\na.npy 1\n", [1, 1, 2]),
        ("name,label\n\nb.npy, 2\na.npy, 1", [1, 1, 2]),
    ],
    ids=["by-order", "by-name", "csv"],
)
def test_labels_of_a_folder(tmp_path: Path, text: str, expected: list[int]) -> None:
    np.save(tmp_path / "a.npy", values(2, 3))
    np.save(tmp_path / "b.npy", values(3))
    (tmp_path / "labels.txt").write_text(text)
    labels = read_samples(tmp_path, model(x=["n", 3])).labels
    assert labels is not None
    assert labels.tolist() == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1\n2\n", "3 samples but 2 labels"),
        ("a.npy,1\n", "has no line for b.npy"),
        ("a.npy,1\nb.npy,cat\n", "is not a label"),
        ("1\ntwo\n3", "is not a label"),
    ],
)
def test_labels_that_do_not_fit(tmp_path: Path, text: str, words: str) -> None:
    np.save(tmp_path / "a.npy", values(2, 3))
    np.save(tmp_path / "b.npy", values(3))
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(SamplesError, match=words):
        read_samples(tmp_path, model(x=["n", 3]))


@pytest.mark.skipif(os.name != "posix", reason="pipes and devices of POSIX")
@pytest.mark.parametrize("name", ["labels.csv", "labels.txt", "x.npy"])
@pytest.mark.parametrize("kind", ["pipe", "device", "link to nothing", "folder"])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, name: str, kind: str) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 3), np.float32))
    path = tmp_path / name
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else "nothing")
    with pytest.raises(SamplesError, match=name):
        read_samples(tmp_path, model(x=["n", 3]))


def test_folders_that_cannot_be_told(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", values(2, 3))
    np.savez(tmp_path / "b.npz", x=values(2, 3))
    with pytest.raises(SamplesError, match=r"holds \.npy files and \.npz files"):
        read_samples(tmp_path, model(x=["n", 3]))
    (tmp_path / "b.npz").unlink()
    np.save(tmp_path / "b.npy", values(2, 4))
    with pytest.raises(SamplesError, match=r"b\.npy: its samples for 'x' are 4, and those of a"):
        read_samples(tmp_path, model(x=["n", "any"]))


def test_a_large_file_is_compared_batch_by_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxshare.samples.lazy_arrays.EAGER_BYTES", 0)
    np.save(tmp_path / "x.npy", values(70, 3))
    samples = read_samples(tmp_path / "x.npy", model(x=["n", 3]))
    assert isinstance(samples.arrays, LazyArrays)
    other = model(x=["n", 3])
    other.graph.node[0].name = "renamed"
    result = compare(model(x=["n", 3]), other, samples=samples, provider="cpu")
    assert (result.verdict, result.samples) == ("identical", 70)
    assert samples.arrays._read is None  # never all at once


def test_bad_values_of_a_large_file_are_found_when_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxshare.samples.lazy_arrays.EAGER_BYTES", 0)
    array = values(4, 3)
    array[2, 1] = np.nan
    np.save(tmp_path / "x.npy", array)
    samples = read_samples(tmp_path / "x.npy", model(x=["n", 3]))
    assert samples.take([0, 1, 3]).arrays["x"].shape == (3, 3)
    with pytest.raises(SamplesError, match="NaN or infinite"):
        samples.take([2]).arrays["x"]
