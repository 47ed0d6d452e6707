from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxshare.errors import ModelError, SamplesError
from onnxshare.samples.input_specs import Batching, batching, input_specs, structural_difference
from onnxshare.samples.samples import Samples, random_samples, read_samples

Array = np.ndarray[Any, np.dtype[Any]]
Sizes = Sequence[int | str | None]


def model(
    inputs: dict[str, tuple[int, Sizes | None]],
    weights: dict[str, Array] | None = None,
    nodes: Sequence[onnx.NodeProto] = (),
) -> onnx.ModelProto:
    first = next(iter(inputs))
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [*nodes, helper.make_node("Identity", [first], ["y"])],
        "test",
        [info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [info("y", inputs[first][0], None)],
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def image(kind: int = TensorProto.FLOAT, batch: int | str = "n") -> onnx.ModelProto:
    return model({"x": (kind, [batch, 3, 8, 8])})


def test_specs_say_what_must_be_fed() -> None:
    proto = model(
        {"x": (TensorProto.FLOAT, ["n", 3, None]), "w": (TensorProto.FLOAT, [2, 2])},
        {"w": np.eye(2, dtype=np.float32)},
    )
    (spec,) = input_specs(proto)
    assert (spec.name, spec.dtype.name) == ("x", "float32")
    assert spec.shape == (None, 3, None)
    assert spec.symbols == ("n", None, None)
    assert spec.words == "[n, 3, ?]"


def test_an_input_that_is_no_tensor() -> None:
    proto = image()
    sequence = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)
    proto.graph.input.append(sequence)
    with pytest.raises(ModelError, match="input 's' is a sequence_type"):
        input_specs(proto)


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ([["n", 3]], Batching()),
        ([["n", 3], ["m", 4]], Batching()),
        ([[1, 3]], Batching(size=1)),
        ([[8, 3], [8, 4]], Batching(size=8)),
        ([["n", 3], [1, 4]], Batching(size=1)),
        ([["n", 3], [2, 4]], Batching(size=1, whole=True)),
        ([["n", 3], []], Batching(size=1, whole=True)),
        ([["n", "k"], ["k", "m"]], Batching(size=1, whole=True)),
        ([["n", "k"], ["n", "k"]], Batching()),
        ([["n", "n"], ["n", 4]], Batching()),
    ],
)
def test_the_batch_is_axis_0_where_the_inputs_agree(
    shapes: list[Sizes], expected: Batching
) -> None:
    names = [f"x{index}" for index in range(len(shapes))]
    proto = model(
        {name: (TensorProto.FLOAT, shape) for name, shape in zip(names, shapes, strict=True)}
    )
    assert batching(input_specs(proto)) == expected


def test_an_npz_with_labels(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((6, 3, 8, 8), dtype=np.float32)
    path = tmp_path / "calibration.npz"
    np.savez_compressed(path, x=values, labels=np.arange(6, dtype=np.uint8))
    samples = read_samples(path, image(), limit=4)
    np.testing.assert_array_equal(samples.arrays["x"], values[:4])
    assert samples.labels is not None
    assert samples.labels.tolist() == [0, 1, 2, 3]
    assert (samples.count, samples.origin, samples.random) == (4, "calibration.npz", False)
    picked = samples.take([3, 1])
    np.testing.assert_array_equal(picked.arrays["x"], values[[3, 1]])
    assert picked.labels is not None
    assert picked.labels.tolist() == [3, 1]


def test_the_only_array_is_taken_whatever_its_key(tmp_path: Path) -> None:
    path = tmp_path / "s.npz"
    np.savez(path, images=np.ones((2, 3, 8, 8), np.float32), labels=np.eye(2))
    samples = read_samples(path, image())
    assert samples.arrays["x"].shape == (2, 3, 8, 8)
    assert samples.labels is not None
    assert samples.labels.tolist() == [0, 1]  # one-hot


def test_a_single_sample_gets_its_axis(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.ones((3, 8, 8), np.float32))
    assert read_samples(tmp_path / "one.npy", image(batch=1)).arrays["x"].shape == (1, 3, 8, 8)


def test_a_folder_holds_samples_and_batches(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, 8, 8), np.float32))
    np.save(tmp_path / "b.npy", np.ones((2, 3, 8, 8), np.float32))
    samples = read_samples(tmp_path, image())
    assert samples.arrays["x"].max(axis=(1, 2, 3)).tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (np.uint8, TensorProto.FLOAT),
        (np.float64, TensorProto.FLOAT),
        (np.float32, TensorProto.FLOAT16),
        (np.int64, TensorProto.INT32),
        (np.float32, TensorProto.INT64),
    ],
)
def test_types_change_where_the_values_survive(tmp_path: Path, given: type, kind: int) -> None:
    values: Array = np.arange(192).reshape(1, 3, 8, 8).astype(given)
    np.save(tmp_path / "s.npy", values)
    array = read_samples(tmp_path / "s.npy", image(kind)).arrays["x"]
    assert array.dtype == helper.tensor_dtype_to_np_dtype(kind)
    np.testing.assert_array_equal(array.astype(np.float64), values)


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        (np.zeros((2, 3, 8, 9), np.float32), TensorProto.FLOAT, "'x' has shape 2×3×8×9"),
        (np.zeros((8, 8), np.float32), TensorProto.FLOAT, "the model wants [n, 3, 8, 8]"),
        (np.zeros((0, 3, 8, 8), np.float32), TensorProto.FLOAT, "holds no samples"),
        (np.full((1, 3, 8, 8), np.nan, np.float32), TensorProto.FLOAT, "NaN or infinite"),
        (np.full((1, 3, 8, 8), np.inf, np.float32), TensorProto.FLOAT, "NaN or infinite"),
        (np.full((1, 3, 8, 8), 1e6, np.float32), TensorProto.FLOAT16, "NaN or infinite"),
        (np.full((1, 3, 8, 8), 0.5), TensorProto.INT64, "do not survive"),
        (np.full((1, 3, 8, 8), 300), TensorProto.UINT8, "do not survive"),
        (np.full((1, 3, 8, 8), 2**24 + 1), TensorProto.FLOAT, "do not survive"),
        (np.full((1, 3, 8, 8), 1j), TensorProto.FLOAT, "is complex128, the model wants float32"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, values: Array, kind: int, message: str
) -> None:
    np.savez(tmp_path / "s.npz", x=values)
    with pytest.raises(SamplesError) as caught:
        read_samples(tmp_path / "s.npz", image(kind))
    assert message in str(caught.value)
    assert "s.npz" in str(caught.value)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    proto = model({"ids": (TensorProto.INT64, ["n", 4]), "mask": (TensorProto.INT64, ["n", 4])})
    np.savez(tmp_path / "s.npz", ids=np.zeros((2, 4), np.int64))
    with pytest.raises(SamplesError, match="no array for input 'mask'; it holds 'ids'"):
        read_samples(tmp_path / "s.npz", proto)
    np.savez(tmp_path / "s.npz", ids=np.zeros((2, 4), int), mask=np.zeros((3, 4), int))
    with pytest.raises(SamplesError, match="differ in their number of samples"):
        read_samples(tmp_path / "s.npz", proto)
    np.save(tmp_path / "s.npy", np.zeros((2, 4), np.int64))
    with pytest.raises(SamplesError, match="models with one input"):
        read_samples(tmp_path / "s.npy", proto)


def test_broken_and_hostile_files(tmp_path: Path) -> None:
    np.savez(tmp_path / "whole.npz", x=np.zeros((1, 3, 8, 8), np.float32))
    whole = (tmp_path / "whole.npz").read_bytes()
    np.savez(tmp_path / "pickle.npz", x=np.array([{"a": 1}], dtype=object))
    with zipfile.ZipFile(tmp_path / "lies.npz", "w") as archive:
        header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999, 99999), }"
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + bytes([len(header) + 1, 0]) + header)
    with zipfile.ZipFile(tmp_path / "code.npz", "w") as archive:
        header = b"__import__('os').abort()"
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + bytes([len(header) + 1, 0]) + header)
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.npz").write_text("not an archive")
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "photo.png").write_bytes(b"\x89PNG")
    (tmp_path / "folder").mkdir()
    names = ["pickle.npz", "lies.npz", "code.npz", "cut.npz", "text.npz", "empty.npy"]
    for name in [*names, "photo.png", "folder", "missing.npz", "missing.npy"]:
        with pytest.raises(SamplesError) as caught:
            read_samples(tmp_path / name, image())
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_labels_must_fit(tmp_path: Path) -> None:
    x = np.zeros((2, 3, 8, 8), np.float32)
    np.savez(tmp_path / "s.npz", x=x, labels=np.arange(3))
    with pytest.raises(SamplesError, match="2 samples but 3 labels"):
        read_samples(tmp_path / "s.npz", image())
    np.savez(tmp_path / "s.npz", x=x, labels=np.array([0.5, 1]))
    with pytest.raises(SamplesError, match="must be class numbers"):
        read_samples(tmp_path / "s.npz", image())


def test_random_samples_follow_the_seed_and_cover_the_usual_scales() -> None:
    samples = random_samples(image(), 32, seed=1)
    x = samples.arrays["x"]
    assert (x.shape, x.dtype.name) == ((32, 3, 8, 8), "float32")
    assert (samples.origin, samples.random) == ("random, seed 1", True)
    np.testing.assert_array_equal(x, random_samples(image(), 32, seed=1).arrays["x"])
    assert not np.array_equal(x, random_samples(image(), 32, seed=2).arrays["x"])
    lows, highs = x.min(axis=(1, 2, 3)), x.max(axis=(1, 2, 3))
    assert (lows[0::4] < 0).all()  # normal
    assert ((lows[1::4] >= 0) & (highs[1::4] <= 1)).all()
    assert (highs[2::4] > 200).all()
    assert ((lows[3::4] >= 0) & (highs[3::4] <= 255)).all()
    # Smooth: neighbours differ little, measured against the whole range.
    steps = np.abs(np.diff(x, axis=3)).mean(axis=(1, 2, 3)) / (highs - lows)
    assert steps[3::4].max() < steps[1::4].min()


def test_random_integers_stay_in_the_table_they_index() -> None:
    proto = model(
        {"ids": (TensorProto.INT64, ["n", 50]), "flag": (TensorProto.INT32, ["n", 50])},
        {"table": np.zeros((7, 4), np.float32)},
        [helper.make_node("Gather", ["table", "ids"], ["rows"])],
    )
    arrays = random_samples(proto, 8).arrays
    assert set(arrays["ids"].ravel()) == set(range(7))
    assert set(arrays["flag"].ravel()) == {0, 1}


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (["n", 3, "h", "w"], (2, 3, 64, 64)),
        (["n", "h", "w", 3], (2, 64, 64, 3)),
        (["n", "c", "h", "w"], (2, 3, 64, 64)),
        ([1, 1, None, 10], (2, 1, 64, 10)),
        (["n", "time", 5], (2, 8, 5)),
        (["n"], (2,)),
    ],
)
def test_dynamic_sizes(shape: Sizes, expected: tuple[int, ...]) -> None:
    proto = model({"x": (TensorProto.FLOAT, shape)})
    assert random_samples(proto, 2).arrays["x"].shape == expected


def test_dynamic_sizes_can_be_given_and_channels_are_seen() -> None:
    conv = helper.make_node("Conv", ["x", "w"], ["c"], group=2)
    proto = model(
        {"x": (TensorProto.FLOAT, ["n", "c", "h", "h"])},
        {"w": np.zeros((4, 5, 1, 1), np.float32)},
        [conv],
    )
    assert random_samples(proto, 2, sizes={"h": 20}).arrays["x"].shape == (2, 10, 20, 20)


def test_whole_inputs_share_the_batch_by_its_name() -> None:
    proto = model({"x": (TensorProto.FLOAT, ["b", 16]), "state": (TensorProto.FLOAT, [2, "b", 4])})
    arrays = random_samples(proto, 3).arrays
    assert arrays["x"].shape == (3, 1, 16)
    assert arrays["state"].shape == (3, 2, 1, 4)


def test_a_symbol_has_one_size_whatever_the_rank() -> None:
    shapes: dict[str, Sizes] = {"x": ["n", "t"], "z": ["n", "t", 4], "w": ["n", 3, "t"]}
    proto = model({name: (TensorProto.FLOAT, shape) for name, shape in shapes.items()})
    made = random_samples(proto, 2).arrays
    assert [array.shape for array in made.values()] == [(2, 1024), (2, 1024, 4), (2, 3, 1024)]
    product: dict[str, Sizes] = {"x": ["n", "k"], "z": ["k", 7]}
    proto = model({name: (TensorProto.FLOAT, shape) for name, shape in product.items()})
    made = random_samples(proto, 2).arrays
    assert [array.shape for array in made.values()] == [(2, 1, 1024), (2, 1024, 7)]


def test_random_samples_that_cannot_be_made() -> None:
    for side, remedy in ((2**8, "lower count"), (2**9, "pass samples")):
        huge = model({"x": (TensorProto.FLOAT, ["n", 2**20, side])})
        with pytest.raises(SamplesError, match=f"32 random samples would take .* GiB; {remedy}"):
            random_samples(huge)
    with pytest.raises(SamplesError, match="has no shape"):
        random_samples(model({"x": (TensorProto.FLOAT, None)}))
    with pytest.raises(SamplesError, match="pass samples"):
        random_samples(model({"x": (TensorProto.STRING, ["n"])}))
    with pytest.raises(SamplesError, match="at least one"):
        random_samples(image(), 0)


def test_samples_without_inputs() -> None:
    assert Samples({}).count == 1


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (image(batch=4), ""),
        (model({"x": (TensorProto.FLOAT, ["n", 3, "h", "w"])}), ""),
        (image(TensorProto.FLOAT16), "input 'x' is float in A and float16 in B"),
        (model({"z": (TensorProto.FLOAT, ["n", 3, 8, 8])}), "A's inputs are 'x', B's are 'z'"),
        (model({"x": (TensorProto.FLOAT, ["n", 3, 9, 8])}), "[n, 3, 8, 8] in A and [n, 3, 9, 8]"),
        (model({"x": (TensorProto.FLOAT, ["n", 192])}), "[n, 3, 8, 8] in A and [n, 192] in B"),
    ],
)
def test_structural_difference(other: onnx.ModelProto, words: str) -> None:
    found = structural_difference(image(), other)
    assert (words in found) if words else not found
