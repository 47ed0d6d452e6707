from __future__ import annotations

import io
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from onnxshare.errors import ModelFileError, printable
from onnxshare.io import load as loading
from onnxshare.io import skeleton
from onnxshare.io.load import load, with_data
from onnxshare.io.open_model_file import describe
from onnxshare.io.protobuf_wire import tagged

LFS = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)


def test_every_kind_of_source_gives_the_same_model(lenet: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    data = lenet.SerializeToString()
    path.write_bytes(data)
    sources = [
        path,
        str(path),
        data,
        bytearray(data),
        memoryview(data),
        io.BytesIO(data),
        lenet,
        SimpleNamespace(model_proto=lenet),
        load(path),
    ]
    for source in sources:
        assert load(source).proto == lenet
    with path.open("rb") as file:
        model = load(file)
    assert (model.path, model.size) == (path, len(data))
    assert load(path).folder == tmp_path
    assert load(data).folder is None
    assert load(data).name != ""


def test_nothing_given_is_changed(lenet: onnx.ModelProto) -> None:
    before = lenet.SerializeToString(deterministic=True)
    with_data(load(lenet)).graph.initializer[0].name = "other"
    assert lenet.SerializeToString(deterministic=True) == before


def test_what_identifies_a_model(lenet: onnx.ModelProto) -> None:
    named = onnx.ModelProto()
    named.CopyFrom(lenet)
    named.producer_name, named.producer_version = "pytorch", "2.13"
    assert load(named).to_dict() == {
        "path": None,
        "bytes": None,
        "ir_version": 8,
        "opsets": {"": 17},
        "producer": "pytorch 2.13",
    }


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "empty file"),
        (LFS, "git lfs pull"),
        (b"PK\x03\x04\x14\x00\x08\x08", "ZIP"),
        (b"<!DOCTYPE html><html><body>Not found</body></html>", "HTML"),
        (b"\n\n<html lang='en'>", "HTML"),
        (b"hello, this is not a model\n", "text file"),
        ("Größe: 3\n".encode() * 100, "text file"),
        (b"\x1f\x8b\x08\x00\x00\x00\x00\x00", "gzip"),
        (b"\x89HDF\r\n\x1a\n\x00", "HDF5"),
        (b"\x80\x02}q\x00.", "pickle"),
        (b"\x1c\x00\x00\x00TFL3\x14\x00", "TensorFlow Lite"),
        (b"\x40\x00\x00\x00\x00\x00\x00\x00" + b'{"a":1}', "safetensors"),
        (b"\x93NUMPY\x01\x00", "NumPy"),
        (b"\x00" * 100, "not a readable ONNX model"),
    ],
)
def test_what_is_no_model_is_named(content: bytes, part: str, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelFileError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert part in message
    assert caught.value.remedy
    assert "\n" not in message


def test_missing_and_odd_paths(tmp_path: Path) -> None:
    for path, part in (
        (tmp_path / "none.onnx", "no such file"),
        (tmp_path, "is a directory"),
        (tmp_path / "none" / "none.onnx", "no such file"),
        (Path("a\0b.onnx"), "cannot be opened"),
        (tmp_path / ("x" * 300), "cannot be opened"),
    ):
        with pytest.raises(ModelFileError, match=part):
            load(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    fifo = tmp_path / "pipe.onnx"
    os.mkfifo(fifo)
    with pytest.raises(ModelFileError, match="not a regular file"):
        load(fifo)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads anything")
def test_an_unreadable_file(lenet_path: Path) -> None:
    lenet_path.chmod(0)
    with pytest.raises(ModelFileError, match="cannot be read"):
        load(lenet_path)


@pytest.mark.parametrize("source", [None, 3, object(), ["net.onnx"]])
def test_what_is_no_source(source: object) -> None:
    with pytest.raises(ModelFileError, match="cannot read a model from"):
        load(source)


def test_a_file_opened_as_text(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_text("x")
    with path.open() as file, pytest.raises(ModelFileError, match="opened as text"):
        load(file)


def test_a_truncated_model_is_refused_wherever_it_ends(lenet: onnx.ModelProto) -> None:
    data = lenet.SerializeToString()
    ends = {*range(1, 300, 7), *range(300, len(data), 5_003), len(data) - 1}
    for end in ends:
        with pytest.raises(ModelFileError):
            load(data[:end])


def test_a_model_cut_right_after_its_graph_still_parses_and_is_refused(
    lenet: onnx.ModelProto,
) -> None:
    cut, empty = onnx.ModelProto(), onnx.ModelProto()
    cut.CopyFrom(lenet)
    cut.ClearField("opset_import")
    with pytest.raises(ModelFileError, match="names no opset version"):
        load(cut.SerializeToString())
    empty.opset_import.add(version=17)
    empty.graph.name = "nothing"
    with pytest.raises(ModelFileError, match="holds no graph"):
        load(empty.SerializeToString())


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=400))
def test_noise_is_refused_or_read_but_never_crashes(data: bytes) -> None:
    try:
        model = load(data)
    except ModelFileError:
        return
    assert model.proto.HasField("graph")
    assert model.proto.opset_import


def test_an_onnx_tensor_file_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "input_0.pb"
    path.write_bytes(numpy_helper.from_array(np.ones((3, 4), np.float32)).SerializeToString())
    with pytest.raises(ModelFileError, match=r"input_0\.pb"):
        load(path)


def test_names_cannot_move_the_cursor(tmp_path: Path) -> None:
    path = tmp_path / "net\x1b[31m\u202e\n.onnx"
    with pytest.raises(ModelFileError) as caught:
        load(path)
    message = str(caught.value)
    assert "\\x1b[31m\\u202e\\n" in message
    assert message.isprintable()


def test_printable_keeps_what_can_be_read() -> None:
    assert printable("Größe × 3 ü 層 🙂") == "Größe × 3 ü 層 🙂"
    assert printable("a\tb\r\x07\x9b\u200b\ud800") == "a\\tb\\r\\x07\\x9b\\u200b\\ud800"


def test_a_character_cut_at_the_end_of_the_piece_is_still_text() -> None:
    text = ("x" * 511 + "ü").encode()
    assert describe(text[:512]) == ("a text file", "give the binary .onnx file")


class TestExternalData:
    @pytest.fixture
    def path(self, lenet: onnx.ModelProto, tmp_path: Path) -> Path:
        copy = onnx.ModelProto()
        copy.CopyFrom(lenet)
        path = tmp_path / "net.onnx"
        onnx.save(copy, path, save_as_external_data=True, location="net.data", size_threshold=100)
        return path

    def test_is_left_out_and_read_when_asked_for(self, path: Path, lenet: onnx.ModelProto) -> None:
        model = load(path)
        assert model.size is not None
        assert model.size < 10_000
        full = with_data(model)
        for mine, original in zip(full.graph.initializer, lenet.graph.initializer, strict=True):
            np.testing.assert_array_equal(
                numpy_helper.to_array(mine), numpy_helper.to_array(original)
            )
        assert any(onnx.external_data_helper.uses_external_data(t) for t in _tensors(model))

    def test_missing(self, path: Path) -> None:
        (path.parent / "net.data").unlink()
        with pytest.raises(ModelFileError, match="external data cannot be read"):
            with_data(load(path))

    def test_too_short(self, path: Path) -> None:
        data = path.parent / "net.data"
        data.write_bytes(data.read_bytes()[:1000])
        with pytest.raises(ModelFileError, match="external data cannot be read"):
            with_data(load(path))

    def test_escaping_its_folder(self, path: Path, tmp_path: Path) -> None:
        inner = tmp_path / "inner"
        inner.mkdir()
        proto = onnx.load(path, load_external_data=False)
        for tensor in proto.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = "../net.data"
        (inner / "net.onnx").write_bytes(proto.SerializeToString())
        with pytest.raises(ModelFileError, match="external data cannot be read"):
            with_data(load(inner / "net.onnx"))

    def test_without_a_folder(self, path: Path) -> None:
        with pytest.raises(ModelFileError, match="was not read from a file"):
            with_data(load(path.read_bytes()))


def _tensors(model: loading.Model) -> list[onnx.TensorProto]:
    return loading.all_tensors(model.proto)


@pytest.mark.parametrize(
    ("field", "part"),
    [
        (1, b""),  # nodes without anything
        (1, b"\x0a\x00\x22\x01A"),  # nodes with an operator and an input
        (11, b""),  # inputs
        (13, b""),  # inner tensors
        (5, b""),  # initializers
        (1, b"\x2a\x00" * 60),  # nodes of many attributes
    ],
)
def test_a_graph_of_too_many_parts_is_refused_before_it_is_parsed(
    field: int, part: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(skeleton, "MAX_PARTS", 10_000)
    monkeypatch.setattr(skeleton, "_COUNTED_ABOVE", 10_000)
    once = tagged(field, part)
    with pytest.raises(ModelFileError, match="more than 10,000 parts"):
        load(tagged(7, once * 10_001))
    assert len(skeleton.skim(tagged(7, once * 60))[0]) > 0
