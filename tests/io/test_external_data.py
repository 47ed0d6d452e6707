from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxshare
from onnxshare.errors import ModelFileError
from onnxshare.io import external_data
from onnxshare.io.load import load, with_data
from onnxshare.io.save import save_model
from onnxshare.io.tensors import BITS

VALUES = np.arange(24, dtype=np.float32).reshape(4, 6)

posix = pytest.mark.skipif(os.name != "posix", reason="POSIX files")


def tensor(location: str, offset: object = 0, length: object = None, **more: str) -> TensorProto:
    made = TensorProto(
        name="w", data_type=TensorProto.FLOAT, dims=[4, 6], data_location=TensorProto.EXTERNAL
    )
    entries = {"location": location, "offset": offset, "length": length, **more}
    for key, value in entries.items():
        if value is not None:
            made.external_data.add(key=key, value=str(value))
    return made


def model(made: TensorProto) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 6])],
        [made],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def written(folder: Path, made: TensorProto) -> Path:
    path = folder / "model" / "net.onnx"
    path.write_bytes(model(made).SerializeToString())
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a model's folder in it, a good data file there, and one outside of it."""
    home = tmp_path / "model"
    (home / "sub").mkdir(parents=True)
    for file in (home / "w.bin", home / "sub" / "w.bin", tmp_path / "outside.bin"):
        file.write_bytes(VALUES.tobytes())
    return tmp_path


def refusal(path: Path) -> str:
    """What is said, the same in every way to get at the data: one line that names the model."""
    said = set()
    loaded = load(path)
    target = path.with_name("new.onnx")
    ways: list[Callable[[], Any]] = [
        lambda: loaded.read(loaded.skeleton.graph.initializer[0]),
        lambda: with_data(loaded),
        lambda: save_model(loaded, target),
    ]
    for way in ways:
        with pytest.raises(ModelFileError) as caught:
            way()
        said.add(str(caught.value))
    assert len(said) == 1, said
    line = said.pop()
    assert line.isprintable()
    assert line.startswith(f"{path}: external data cannot be read for tensor 'w': ")
    assert sorted(file.name for file in path.parent.glob("new*")) == []
    assert not list(path.parent.glob(".*"))
    return line


@pytest.mark.parametrize("location", ["w.bin", "./w.bin", "sub/w.bin", "sub//./w.bin"])
def test_files_below_the_folder_are_read(folder: Path, location: str) -> None:
    loaded = load(written(folder, tensor(location, length=VALUES.nbytes)))
    values = loaded.read(loaded.skeleton.graph.initializer[0])
    np.testing.assert_array_equal(values, VALUES)
    assert not values.flags.writeable
    assert with_data(loaded).graph.initializer[0].raw_data == VALUES.tobytes()


@pytest.mark.parametrize("walks", [True, False])
@pytest.mark.parametrize(
    ("location", "part"),
    [
        ("", "empty name"),
        ("../outside.bin", "leads out of the model's folder"),
        ("sub/../../outside.bin", "leads out of the model's folder"),
        ("sub/../w.bin", "leads out of the model's folder"),
        ("..\\outside.bin", "leads out of the model's folder"),
        ("sub\\..\\..\\outside.bin", "leads out of the model's folder"),
        ("/etc/hostname", "absolute path"),
        ("//server/share/w.bin", "absolute path"),
        ("\\\\server\\share\\w.bin", "absolute path"),
        ("\\w.bin", "absolute path"),
        ("C:\\w.bin", "absolute path"),
        ("C:w.bin", "absolute path"),
        ("w.bin\0.png", "holds a NUL"),
        (".", "is a directory"),
        ("sub", "directory|not a regular file"),
        ("sub/", "is a directory"),
        ("w.bin/", "is a directory"),
        ("w.bin/x", "cannot be opened|is missing"),
        ("none.bin", "'none.bin' is missing"),
        ("none/w.bin", "'none/w.bin' is missing"),
        ("n" * 5000, "cannot be opened"),
        ("e\x1b[31mvil", r"'e\\x1b\[31mvil' is missing"),
    ],
)
def test_hostile_names(
    folder: Path, location: str, part: str, walks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(external_data, "_WALKS", walks and external_data._WALKS)
    line = refusal(written(folder, tensor(location)))
    with pytest.raises(AssertionError, match=part):
        raise AssertionError(line)


@posix
@pytest.mark.parametrize("walks", [True, False])
@pytest.mark.parametrize(
    ("kind", "part"),
    [
        ("link", "symbolic link"),
        ("link inside", "symbolic link"),
        ("link to nothing", "symbolic link"),
        ("link to a device", "symbolic link"),
        ("linked folder", "symbolic link"),
        ("hard link", "hard link"),
        ("pipe", "not a regular file"),
        ("socket", "not a regular file"),
    ],
)
def test_hostile_files(
    folder: Path, kind: str, part: str, walks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(external_data, "_WALKS", walks)
    home, location = folder / "model", "evil.bin"
    evil = home / location
    if kind == "link":
        evil.symlink_to(folder / "outside.bin")
    elif kind == "link inside":
        evil.symlink_to("w.bin")
    elif kind == "link to nothing":
        evil.symlink_to("nothing")
    elif kind == "link to a device":
        evil.symlink_to("/dev/zero")
    elif kind == "linked folder":
        (home / "there").symlink_to(folder, target_is_directory=True)
        location = "there/outside.bin"
    elif kind == "hard link":
        os.link(folder / "outside.bin", evil)
    elif kind == "pipe":
        os.mkfifo(evil)  # opening it must not wait for a writer
    else:
        monkeypatch.chdir(home)  # the address of a socket must be short
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(location)
    assert part in refusal(written(folder, tensor(location)))


@posix
def test_what_was_opened_is_checked_not_the_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if the file had been exchanged between a look at the name and the opening.
    os.link(folder / "outside.bin", folder / "other.bin")
    monkeypatch.setattr(
        external_data, "_walk", lambda *_: os.open(folder / "outside.bin", os.O_RDONLY)
    )
    assert "hard link" in refusal(written(folder, tensor("w.bin")))
    monkeypatch.setattr(external_data, "_walk", lambda *_: os.open("/dev/null", os.O_RDONLY))
    assert "not a regular file" in refusal(written(folder, tensor("w.bin")))


@pytest.mark.parametrize(
    ("made", "part"),
    [
        (tensor("w.bin", offset=-1), "offset '-1' is not a size"),
        (tensor("w.bin", offset="0x10"), "offset '0x10' is not a size"),
        (tensor("w.bin", offset="1e1"), "offset '1e1' is not a size"),
        (tensor("w.bin", offset=" 1"), "offset ' 1' is not a size"),
        (tensor("w.bin", offset="٣"), "is not a size"),
        (tensor("w.bin", offset=""), "offset '' is not a size"),
        (tensor("w.bin", offset=1), "too short: it has 96 bytes, and 97 are needed"),
        (tensor("w.bin", offset=2**63), "too short"),
        (tensor("w.bin", offset="9" * 30), "is not a size"),
        (tensor("w.bin", length=-96), "length '-96' is not a size"),
        (tensor("w.bin", length=95), "its length is 95, its dims need 96 bytes"),
        (tensor("w.bin", length=97), "its length is 97, its dims need 96 bytes"),
        (tensor("w.bin", length=0), "its length is 0, its dims need 96 bytes"),
    ],
)
def test_hostile_ranges(folder: Path, made: TensorProto, part: str) -> None:
    assert part in refusal(written(folder, made))


def test_entries_that_readers_may_take_differently(folder: Path) -> None:
    made = tensor("w.bin")
    made.external_data.add(key="location", value="../outside.bin")
    assert "its location is given twice" in refusal(written(folder, made))
    made = tensor("w.bin")
    del made.external_data[0]
    assert "no file is named" in refusal(written(folder, made))


def test_a_model_from_memory_has_no_folder(folder: Path) -> None:
    loaded = load(model(tensor("w.bin")))
    with pytest.raises(ModelFileError, match="was not read from a file"):
        with_data(loaded)


def test_onnx_runtime_is_not_asked_to_open_what_was_refused(folder: Path) -> None:
    path = written(folder, tensor("../outside.bin"))
    good = folder / "model" / "good.onnx"
    good.write_bytes(model(tensor("w.bin")).SerializeToString())
    with pytest.raises(ModelFileError, match="leads out of the model's folder"):
        onnxshare.compare(good, path, provider="cpu")


def test_inspect_needs_no_data(folder: Path) -> None:
    for location in ("none.bin", "../outside.bin", "/etc/hostname", "w.bin\0"):
        report = onnxshare.inspect(written(folder, tensor(location)))
        assert report.totals.params == 24
        own = (folder / "model" / "net.onnx").stat().st_size
        assert report.model.bytes == own  # not even the size of another file is told


class TestPlaces:
    """Tensors wherever they may stand; each with an allowed and a refused file."""

    def proto(self, place: str, location: str) -> onnx.ModelProto:
        made = tensor(location)
        constant = helper.make_node("Constant", [], ["k"], value=made)
        value = helper.make_tensor_value_info("k", TensorProto.FLOAT, [4, 6])
        proto = model(numpy_helper.from_array(VALUES, "w"))
        if place == "Constant":
            proto.graph.node.append(constant)
        elif place == "subgraph":
            inner = helper.make_graph([constant], "inner", [], [value])
            node = helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=inner)
            proto.graph.node.append(node)
        elif place == "initializer of a subgraph":
            inner = helper.make_graph([], "inner", [], [value], [made])
            node = helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=inner)
            proto.graph.node.append(node)
        elif place == "function":
            proto.functions.append(
                helper.make_function("d", "f", [], ["k"], [constant], proto.opset_import)
            )
        elif place == "training":
            proto.training_info.add().algorithm.initializer.append(made)
        else:
            sparse = onnx.SparseTensorProto(dims=[100])
            sparse.values.CopyFrom(tensor(location))
            sparse.values.dims[:], sparse.values.name = [24], "s"
            sparse.indices.CopyFrom(numpy_helper.from_array(np.arange(24), "i"))
            if place == "sparse initializer":
                proto.graph.sparse_initializer.append(sparse)
            else:
                node = helper.make_node("Constant", [], ["k"], sparse_value=sparse)
                proto.graph.node.append(node)
        return proto

    @pytest.mark.parametrize(
        "place",
        "Constant,subgraph,initializer of a subgraph,function,training,sparse initializer,"
        "sparse Constant".split(","),
    )
    def test_place(self, folder: Path, place: str) -> None:
        path = folder / "model" / "net.onnx"
        path.write_bytes(self.proto(place, "w.bin").SerializeToString())
        whole = with_data(load(path)).SerializeToString()
        assert whole.count(VALUES.tobytes()) == (3 if "subgraph" in place else 2)
        save_model(load(path), path.with_name("copy.onnx"))
        again = with_data(load(path.with_name("copy.onnx"))).SerializeToString()
        assert again == whole
        path.write_bytes(self.proto(place, "../outside.bin").SerializeToString())
        with pytest.raises(ModelFileError, match="leads out of the model's folder"):
            with_data(load(path))
        with pytest.raises(ModelFileError, match="leads out of the model's folder"):
            save_model(load(path), path.with_name("other.onnx"))


@posix
class TestFollowingLinks:
    """As in a Hugging Face cache: snapshots of links into a folder of blobs."""

    @pytest.fixture
    def path(self, folder: Path) -> Path:
        blobs, snapshot = folder / "hub" / "blobs", folder / "hub" / "snapshots" / "1"
        blobs.mkdir(parents=True)
        snapshot.mkdir(parents=True)
        (blobs / "aa").write_bytes(model(tensor("net.onnx_data")).SerializeToString())
        (blobs / "bb").write_bytes(VALUES.tobytes())
        (snapshot / "net.onnx").symlink_to("../../blobs/aa")
        (snapshot / "net.onnx_data").symlink_to("../../blobs/bb")
        return snapshot / "net.onnx"

    def values(self, path: Path, allowed: Path | None) -> np.ndarray[Any, Any]:
        loaded = load(path, follow_symlinks=allowed)
        return loaded.read(loaded.skeleton.graph.initializer[0])

    def test_only_into_the_folder_that_is_named(self, path: Path, folder: Path) -> None:
        with pytest.raises(ModelFileError, match=r"symbolic link.*follow_symlinks=FOLDER"):
            self.values(path, None)
        np.testing.assert_array_equal(self.values(path, folder / "hub"), VALUES)
        np.testing.assert_array_equal(self.values(path, folder / "hub" / "blobs"), VALUES)
        with pytest.raises(ModelFileError, match="is a link out of"):
            self.values(path, folder / "hub" / "snapshots")
        with pytest.raises(ModelFileError, match="is a link out of"):
            self.values(path, folder / "none")

    def test_the_named_folder_may_be_a_link_itself(self, path: Path, folder: Path) -> None:
        (folder / "cache").symlink_to("hub", target_is_directory=True)
        np.testing.assert_array_equal(self.values(path, folder / "cache"), VALUES)

    def test_hard_links_are_allowed_there_and_only_there(self, path: Path, folder: Path) -> None:
        os.link(folder / "hub" / "blobs" / "bb", folder / "hub" / "blobs" / "cc")
        np.testing.assert_array_equal(self.values(path, folder / "hub"), VALUES)
        home = written(folder, tensor("hard.bin"))
        os.link(folder / "outside.bin", folder / "model" / "hard.bin")
        with pytest.raises(ModelFileError, match="is a link out of"):
            self.values(home, folder / "hub")

    def test_other_rules_still_hold(self, path: Path, folder: Path) -> None:
        for location, part in (
            ("../../blobs/bb", "leads out"),
            (str(folder / "hub" / "blobs" / "bb"), "absolute path"),
            ("none", "missing"),
        ):
            home = written(folder, tensor(location))
            with pytest.raises(ModelFileError, match=part):
                self.values(home, folder)
        os.mkfifo(folder / "hub" / "blobs" / "pipe")
        path.with_name("net.onnx_data").unlink()
        path.with_name("net.onnx_data").symlink_to("../../blobs/pipe")
        with pytest.raises(ModelFileError, match="not a regular file"):
            self.values(path, folder / "hub")

    def test_files_without_links_need_no_permission(self, folder: Path) -> None:
        home = written(folder, tensor("w.bin"))
        np.testing.assert_array_equal(self.values(home, folder / "hub"), VALUES)

    @pytest.mark.parametrize("command", ["inspect", "compare", "check", "rewrite"])
    def test_option(self, path: Path, folder: Path, cli: Callable[..., Any], command: str) -> None:
        other = written(folder, tensor("w.bin"))
        words: dict[str, list[object]] = {
            "inspect": [path, "--format", "json"],
            "compare": [other, path, "--provider", "cpu"],
            "check": [path, "--equivalent-to", other, "--provider", "cpu"],
            "rewrite": [path, "--fc-to-conv", "--dry-run"],
        }
        allowed = cli(command, *words[command], "--follow-symlinks", folder / "hub")
        refused = cli(command, *words[command])
        # There is no head to rewrite, which is the answer no; inspect needs no data.
        fine = 1 if command == "rewrite" else 0
        assert allowed.returncode == fine, allowed.stderr
        if command in ("compare", "check"):
            assert refused.returncode == 2
            assert "symbolic link" in refused.stderr + refused.stdout


@pytest.mark.parametrize("dtype", sorted(BITS))
def test_every_type_is_read_as_onnx_reads_it(dtype: int, tmp_path: Path) -> None:
    """Odd sizes, so that a byte of packed types is shared or half empty; large ones are mapped."""
    for count in (1, 7, 200_001):
        size = (count * BITS[dtype] + 7) // 8
        raw = np.random.default_rng(dtype).integers(0, 2, size, np.uint8).tobytes()
        whole = TensorProto(name="w", data_type=dtype, dims=[count], raw_data=raw)
        (tmp_path / "w.bin").write_bytes(b"?" * 5 + raw)
        made = tensor("w.bin", 5, size)
        made.data_type, made.dims[:] = dtype, [count]
        (tmp_path / "net.onnx").write_bytes(model(made).SerializeToString())
        loaded = load(tmp_path / "net.onnx")
        values = loaded.read(loaded.skeleton.graph.initializer[0])
        expected = numpy_helper.to_array(whole)
        assert values.dtype == expected.dtype
        assert values.tobytes() == expected.tobytes()
        assert not values.flags.writeable


def test_no_elements(folder: Path) -> None:
    (folder / "model" / "empty").touch()
    made = tensor("empty", 0, 0)
    made.dims[:] = [0, 6]
    loaded = load(written(folder, made))
    assert loaded.read(loaded.skeleton.graph.initializer[0]).shape == (0, 6)


def test_strings_have_no_external_form(folder: Path) -> None:
    made = tensor("w.bin")
    made.data_type = TensorProto.STRING
    assert "cannot be stored as raw data" in refusal(written(folder, made))


def test_many_files_do_not_exhaust_the_descriptors(tmp_path: Path) -> None:
    values = np.arange(2**15, dtype=np.float32)  # large enough to be mapped
    proto = model(tensor("w.bin"))
    del proto.graph.initializer[:]
    for number in range(40):
        made = tensor(f"{number}.bin")
        made.dims[:] = values.shape
        made.name = str(number)
        proto.graph.initializer.append(made)
        (tmp_path / f"{number}.bin").write_bytes((values + number).tobytes())
    (tmp_path / "net.onnx").write_bytes(proto.SerializeToString())
    loaded = load(tmp_path / "net.onnx")
    for number, made in enumerate(loaded.skeleton.graph.initializer):
        np.testing.assert_array_equal(loaded.read(made), values + number)
    assert len(loaded.external._maps) == 32
