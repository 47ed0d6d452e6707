from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxshare.errors import SamplesError, UsageError
from onnxshare.samples.samples import ImageOptions, read_samples

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

Array = np.ndarray[Any, np.dtype[Any]]
Sizes = Sequence[int | str | None]


def model(shape: Sizes, kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "test",
        [info("x", kind, shape)],
        [info("y", kind, None)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def pixels(height: int, width: int, channels: int = 3, seed: int = 0) -> Array:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def save(path: Path, values: Array, **options: Any) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.fromarray(values).save(path, **options)
    return path


def read(path: Path, shape: Sizes, **options: str) -> Array:
    return read_samples(path, model(shape), images=ImageOptions(**options)).arrays["x"]


@pytest.mark.parametrize(
    ("options", "mean", "std"),
    [
        ({}, 0, 1),
        ({"normalize": "0-1"}, 0, 255),
        ({"normalize": "-1..1"}, 127.5, 127.5),
        ({"normalize": "imagenet"}, [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]),
        ({"normalize": "10/2"}, 10, 2),
        ({"normalize": "1,2,3/4,5,6"}, [1, 2, 3], [4, 5, 6]),
    ],
    ids="plain zero-one symmetric imagenet one-number per-channel".split(),
)
def test_normalization(tmp_path: Path, options: dict[str, str], mean: Any, std: Any) -> None:
    values = pixels(8, 6)
    found = read(save(tmp_path / "a.png", values), ["n", 3, 8, 6], **options)
    expected = (values.astype(np.float64) - mean) / std
    np.testing.assert_allclose(found[0], expected.transpose(2, 0, 1), rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "layout", "expected"),
    [
        (["n", 3, 8, 6], "auto", (1, 3, 8, 6)),
        (["n", 8, 6, 3], "auto", (1, 8, 6, 3)),
        (["n", None, 8, 6], "auto", (1, 3, 8, 6)),
        (["n", 8, 6, None], "auto", (1, 8, 6, 3)),
        (["n", 1, "h", "w"], "auto", (1, 1, 8, 6)),
        (["n", "a", "b", "c"], "nhwc", (1, 8, 6, 3)),
        (["n", "a", "b", "c"], "nchw", (1, 3, 8, 6)),
        (["n", 8, 6], "auto", (1, 8, 6)),
    ],
)
def test_layouts(tmp_path: Path, shape: Sizes, layout: str, expected: tuple[int, ...]) -> None:
    assert read(save(tmp_path / "a.png", pixels(8, 6)), shape, layout=layout).shape == expected


@pytest.mark.parametrize("shape", [["n", "a", "b", "c"], ["n", 3, 8, 3], ["n", 8, 8, 8]])
def test_a_layout_that_is_not_to_be_seen_is_asked_for(tmp_path: Path, shape: Sizes) -> None:
    path = save(tmp_path / "a.png", pixels(8, 6))
    with pytest.raises(UsageError, match=r"layout='nchw'\) or .*layout='nhwc'"):
        read(path, shape)


def test_the_centre_is_cropped(tmp_path: Path) -> None:
    values = pixels(8, 20)
    path = save(tmp_path / "a.png", values)
    found = read(path, ["n", 8, 8, 3])
    np.testing.assert_array_equal(found[0], values[:, 6:14])


def test_resizing(tmp_path: Path) -> None:
    flat = np.full((20, 40, 3), 7, np.uint8)
    path = save(tmp_path / "a.png", flat)
    assert read(path, ["n", 3, "h", "w"], resize="10").shape == (1, 3, 10, 20)
    assert read(path, ["n", 3, "h", "w"], resize="12x9").shape == (1, 3, 12, 9)
    cropped = read(path, ["n", 3, 8, 8], resize="10")
    assert cropped.shape == (1, 3, 8, 8)
    assert (cropped == 7).all()  # scaling what is flat leaves it so
    # Halving a checkerboard of 2×2 blocks over its blocks gives the blocks' colours.
    board = np.kron(np.indices((4, 4)).sum(0) % 2 * 200, np.ones((8, 8))).astype(np.uint8)
    small = read(save(tmp_path / "b.png", board), ["n", 1, "h", "w"], resize="16x16")[0, 0]
    np.testing.assert_array_equal(small[1::4, 1::4] > 100, board[3::8, 3::8] > 100)
    with pytest.raises(SamplesError, match="less than the model's 8×8"):
        read(path, ["n", 3, 8, 8], resize="4")


@pytest.mark.parametrize(
    "options",
    [
        {"normalize": "nonsense"},
        {"normalize": "1/0"},
        {"normalize": "1,2/3,4"},
        {"normalize": "nan/1"},
        {"resize": "0"},
        {"resize": "1x2x3"},
        {"resize": "big"},
    ],
)
def test_options_that_mean_nothing(tmp_path: Path, options: dict[str, str]) -> None:
    path = save(tmp_path / "a.png", pixels(8, 8))
    with pytest.raises(UsageError):
        read(path, ["n", 3, 8, 8], **options)


def test_greys_palettes_and_16_bits(tmp_path: Path) -> None:
    grey = pixels(8, 8, 1)
    found = read(save(tmp_path / "a.png", grey), ["n", 3, 8, 8])
    np.testing.assert_array_equal(found[0], np.stack([grey] * 3))
    deep = grey.astype(np.uint16) * 256 + 99
    np.testing.assert_array_equal(read(save(tmp_path / "b.png", deep), ["n", 1, 8, 8])[0, 0], grey)
    colour = np.zeros((8, 8, 3), np.uint8)
    colour[..., 1] = 255
    Image.fromarray(colour).convert("P").save(tmp_path / "c.gif")
    assert read(tmp_path / "c.gif", ["n", 3, 8, 8]).max(axis=(0, 2, 3)).tolist() == [0, 255, 0]


def test_photographs_are_turned_upright(tmp_path: Path) -> None:
    values = np.zeros((8, 16, 3), np.uint8)
    values[:, 8:] = 255
    turn = Image.Exif()
    turn[0x0112] = 6  # to be turned by 90° clockwise
    path = save(tmp_path / "a.png", values, exif=turn)
    found = read(path, ["n", 3, "h", "w"])
    assert found.shape == (1, 3, 16, 8)
    assert found[0, 0, 0, 0] == 0
    assert found[0, 0, -1, 0] == 255


def test_integer_inputs_get_the_pixels(tmp_path: Path) -> None:
    values = pixels(8, 8)
    path = save(tmp_path / "a.png", values)
    found = read_samples(path, model(["n", 8, 8, 3], TensorProto.UINT8)).arrays["x"]
    np.testing.assert_array_equal(found[0], values)
    assert found.dtype == np.uint8


def test_folders_and_their_labels(tmp_path: Path) -> None:
    for name in ("0/b.png", "0/a.png", "7/c.png"):
        save(tmp_path / "numbers" / name, pixels(8, 8))
        save(tmp_path / "names" / name.replace("7", "cat"), pixels(8, 8))
    samples = read_samples(tmp_path / "numbers", model(["n", 3, 8, 8]))
    assert samples.labels is not None
    assert (samples.count, samples.labels.tolist()) == (3, [0, 0, 7])
    assert samples.origin == "numbers"
    assert read_samples(tmp_path / "names", model(["n", 3, 8, 8])).labels is None
    (tmp_path / "names" / "labels.csv").write_text("file,class\n0/a.png,3\nb.png,1\ncat/c.png,2\n")
    named = read_samples(tmp_path / "names", model(["n", 3, 8, 8])).labels
    assert named is not None
    assert named.tolist() == [3, 1, 2]


def test_images_are_read_batch_by_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxshare.samples.lazy_arrays.EAGER_BYTES", 0)
    values = [pixels(8, 8, seed=seed) for seed in range(5)]
    for index, item in enumerate(values):
        save(tmp_path / f"{index}.png", item)
    samples = read_samples(tmp_path, model(["n", 8, 8, 3]))
    opened: list[str] = []
    right = Image.open

    def spy(path: Path, *rest: Any) -> Any:
        opened.append(Path(path).name)
        return right(path, *rest)

    monkeypatch.setattr(Image, "open", spy)
    assert (samples.count, samples.nbytes) == (5, 5 * 8 * 8 * 3 * 4)
    part = samples.take([3, 1]).arrays["x"]
    assert sorted(opened) == ["1.png", "3.png"]
    np.testing.assert_array_equal(part, np.stack([values[3], values[1]]))
    opened.clear()
    sizes = [len(batch.arrays["x"]) for batch in samples.batches(2)]
    assert (sizes, len(opened)) == ([2, 2, 1], 5)
    np.testing.assert_array_equal(samples.arrays["x"], np.stack(values))


def test_what_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"junk" * 9)
    whole = save(tmp_path / "b.jpg", pixels(64, 64)).read_bytes()
    (tmp_path / "b.jpg").write_bytes(whole[: len(whole) // 2])
    for name in ("a.png", "b.jpg"):
        with pytest.raises(SamplesError) as caught:
            read(tmp_path / name, ["n", 3, 64, 64])
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
    path = save(tmp_path / "c.png", pixels(8, 8))
    shapes: list[Sizes] = [["n", 8], ["n", 3, 4, 8, 8]]
    for shape in shapes:
        with pytest.raises(SamplesError, match="do not suit input"):
            read(path, shape)
    save(tmp_path / "mixed" / "a.png", pixels(8, 8))
    save(tmp_path / "mixed" / "b.png", pixels(9, 8))
    with pytest.raises(SamplesError, match=r"give one size for all with .*resize="):
        read(tmp_path / "mixed", ["n", 3, "h", "w"])


def test_too_many_pixels_are_refused(tmp_path: Path) -> None:
    """Twelve bytes for a pixel that is read, and for a number that one becomes."""
    path, taker = save(tmp_path / "a.png", pixels(8, 8)), model(["n", 3, 8, 8])
    for memory, words in ((12 * 64 - 1, "has 64 pixels"), (12 * 192 - 1, "becomes 192 numbers")):
        with pytest.raises(SamplesError, match=words) as caught:
            read_samples(path, taker, memory=memory)
        assert "RunLimits(memory" in caught.value.remedy
    assert read_samples(path, taker, memory=12 * 192).count == 1
    Image.new("1", (12_000, 9_000)).save(tmp_path / "large.png")  # 13 kB
    with pytest.raises(SamplesError, match="has 108,000,000 pixels"):
        read_samples(tmp_path / "large.png", taker)


def test_without_pillow_the_way_out_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "a.png", pixels(8, 8))
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(SamplesError, match=r"a\.png: .* pip install 'onnxshare\[images\]'"):
        read(path, ["n", 3, 8, 8])
