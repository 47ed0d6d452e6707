from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxshare.errors import OutputError
from onnxshare.io import save as saving
from onnxshare.io.load import load, with_data
from onnxshare.io.save import check_output
from tests.builders import save


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_writes_what_onnx_reads(lenet: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    assert save(lenet, path) == path.stat().st_size
    assert onnx.load(path) == lenet
    assert names(tmp_path) == ["net.onnx"]


def test_an_existing_output_is_refused_and_untouched(
    lenet: onnx.ModelProto, tmp_path: Path
) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"precious")
    with pytest.raises(OutputError, match="already exists") as caught:
        save(lenet, path)
    assert "force=True" in caught.value.remedy
    assert path.read_bytes() == b"precious"
    assert names(tmp_path) == ["net.onnx"]
    save(lenet, path, force=True)
    assert onnx.load(path) == lenet


def test_an_existing_data_file_is_refused_and_untouched(
    lenet: onnx.ModelProto, tmp_path: Path
) -> None:
    data = tmp_path / "net.onnx.data"
    data.write_bytes(b"precious")
    with pytest.raises(OutputError, match=r"net\.onnx\.data: already exists"):
        save(lenet, tmp_path / "net.onnx", external=True)
    assert data.read_bytes() == b"precious"
    assert names(tmp_path) == ["net.onnx.data"]


def test_a_file_made_meanwhile_is_not_overwritten(
    lenet: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net.onnx"

    def late(file: int) -> None:
        path.write_bytes(b"somebody else's")

    monkeypatch.setattr(os, "fsync", late)
    with pytest.raises(OutputError, match="already exists"):
        save(lenet, path)
    assert path.read_bytes() == b"somebody else's"
    assert names(tmp_path) == ["net.onnx"]


def test_no_data_file_is_left_when_the_model_cannot_take_its_place(
    lenet: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net.onnx"

    def late(file: int) -> None:
        path.write_bytes(b"somebody else's")

    monkeypatch.setattr(os, "fsync", late)
    with pytest.raises(OutputError, match="already exists"):
        save(lenet, path, external=True)
    assert path.read_bytes() == b"somebody else's"
    assert names(tmp_path) == ["net.onnx"]


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("before", [None, b"precious"])
def test_a_full_disk_leaves_nothing_behind(
    lenet: onnx.ModelProto,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    external: bool,
    before: bytes | None,
) -> None:
    path = tmp_path / "net.onnx"
    if before is not None:
        path.write_bytes(before)

    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"net\.onnx.*cannot be written: No space left"):
        save(lenet, path, external=external, force=True)
    assert names(tmp_path) == ([] if before is None else ["net.onnx"])
    if before is not None:
        assert path.read_bytes() == before


@pytest.mark.parametrize("external", [False, True])
def test_a_file_system_without_hard_links(
    lenet: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, external: bool
) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "not permitted")

    monkeypatch.setattr(os, "link", no_links)
    path = tmp_path / "net.onnx"
    save(lenet, path, external=external)
    assert with_data(load(path)).graph.node == lenet.graph.node
    assert not [name for name in names(tmp_path) if name.endswith(".tmp")]


def test_folders_that_cannot_be_written_to(lenet: onnx.ModelProto, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is a directory"):
        save(lenet, tmp_path, force=True)
    with pytest.raises(OutputError, match="no such folder"):
        save(lenet, tmp_path / "none" / "net.onnx")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="no such folder"):
        save(lenet, tmp_path / "file" / "net.onnx")


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
def test_a_read_only_folder(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    with pytest.raises(OutputError, match="is not writable"):
        check_output(folder / "net.onnx", force=False)


def test_a_folder_without_write_permission_for_anybody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As above, and for root too, who is refused by nothing but a read-only file system.
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    with pytest.raises(OutputError, match="is not writable") as caught:
        check_output(tmp_path / "net.onnx", force=False)
    assert "-o" in caught.value.remedy


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_permissions_are_kept_or_follow_the_umask(lenet: onnx.ModelProto, tmp_path: Path) -> None:
    old, new = tmp_path / "old.onnx", tmp_path / "new.onnx"
    old.touch()
    old.chmod(0o640)
    umask = os.umask(0o022)
    try:
        save(lenet, old, force=True)
        save(lenet, new)
    finally:
        os.umask(umask)
    assert old.stat().st_mode & 0o777 == 0o640
    assert new.stat().st_mode & 0o777 == 0o644


@pytest.mark.skipif(os.name != "posix", reason="symbolic links")
def test_overwriting_a_link_leaves_alone_what_it_points_to(
    lenet: onnx.ModelProto, tmp_path: Path
) -> None:
    target, link = tmp_path / "target.onnx", tmp_path / "link.onnx"
    target.write_bytes(b"old")
    link.symlink_to(target)
    save(lenet, link, force=True)
    assert onnx.load(link) == lenet
    assert target.read_bytes() == b"old"


def test_external_data_makes_a_round_trip(lenet: onnx.ModelProto, tmp_path: Path) -> None:
    before = lenet.SerializeToString(deterministic=True)
    path = tmp_path / "net.onnx"
    written = save(lenet, path, external=True)
    assert names(tmp_path) == ["net.onnx", "net.onnx.data"]
    assert written == sum(file.stat().st_size for file in tmp_path.iterdir())
    assert path.stat().st_size < 10_000
    again = onnx.load(path)  # onnx's own reader, which finds the data by itself
    for mine, original in zip(again.graph.initializer, lenet.graph.initializer, strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(mine), numpy_helper.to_array(original))
    assert again.graph.node == lenet.graph.node
    assert lenet.SerializeToString(deterministic=True) == before


def test_external_data_of_subgraphs_and_constants(tmp_path: Path) -> None:
    value = np.arange(1000, dtype=np.float32)
    inner = helper.make_graph(
        [helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(value, "k"))],
        "inner",
        [],
        [helper.make_tensor_value_info("k", TensorProto.FLOAT, [1000])],
    )
    graph = helper.make_graph(
        [helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)],
        "outer",
        [helper.make_tensor_value_info("c", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1000])],
    )
    path = tmp_path / "net.onnx"
    save(helper.make_model(graph), path, external=True)
    assert (tmp_path / "net.onnx.data").stat().st_size == 4032 + 4000  # the second aligned to 64
    full = with_data(load(path))
    for branch in full.graph.node[0].attribute:
        np.testing.assert_array_equal(numpy_helper.to_array(branch.g.node[0].attribute[0].t), value)


def test_a_model_above_the_protobuf_limit_goes_external_by_itself(
    lenet: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "PROTOBUF_LIMIT", 100_000)
    save(lenet, tmp_path / "net.onnx")
    assert names(tmp_path) == ["net.onnx", "net.onnx.data"]
