"""`scan`: one row per model, wherever it is, whatever is wrong with another."""

from __future__ import annotations

import contextlib
import csv
import http.server
import io
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxshare
from onnxshare.io.load import load, parse
from onnxshare.model_scan.remote_file import RemoteBytes
from onnxshare.model_scan.results import ScanRow
from onnxshare.model_scan.scan import Task as ScanTask
from onnxshare.model_scan.scan import read_all, sort_rows, weight_groups
from tests.builders import fc, model, node, tensor

Cli = Callable[..., CompletedProcess[str]]


@pytest.fixture
def folder(lenet: onnx.ModelProto, tmp_path: Path) -> Path:
    """LeNet-5 twice, the second with other names, and a file that is no model."""
    (tmp_path / "deep").mkdir()
    onnx.save(lenet, tmp_path / "a.onnx")
    other = onnx.ModelProto()
    other.CopyFrom(lenet)
    other.graph.name, other.producer_name = "renamed", "elsewhere 2"
    onnx.save(other, tmp_path / "deep" / "b.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"\x08\x01no model")
    return tmp_path


def by_name(rows: Iterator[ScanRow]) -> dict[str, ScanRow]:
    return {Path(row.path).name: row for row in rows}


def test_a_row_holds_what_inspect_says(folder: Path) -> None:
    """The published figures of LeNet-5 (SEEDS)."""
    rows = by_name(onnxshare.scan(folder))
    assert sorted(rows) == ["a.onnx", "b.onnx", "broken.onnx"]
    row = rows["a.onnx"]
    assert (row.params, row.macs, row.weight_bytes, row.heads) == (61_706, 416_520, 246_824, 1)
    assert row.fc_share == row.fc_after_conv_share == pytest.approx(59_134 / 61_706)
    assert row.bytes == (folder / "a.onnx").stat().st_size
    assert row.weight_bytes_by_dtype == {"float32": 246_824}
    assert (row.weights_hash, row.error) == (None, None)
    assert rows["b.onnx"].producer == "elsewhere 2"
    assert rows["b.onnx"].structure_hash == row.structure_hash
    broken = rows["broken.onnx"]
    assert "broken.onnx" in (broken.error or "")
    assert (broken.params, broken.heads, broken.fc_share) == (None, None, None)


def test_an_fc_behind_no_convolution(tmp_path: Path) -> None:
    onnx.save(fc(["n", 8], 8, 4), tmp_path / "fc.onnx")
    (row,) = onnxshare.scan(tmp_path)
    assert (row.fc_share, row.fc_after_conv_share, row.heads) == (1.0, 0.0, 0)


@pytest.mark.isolated
def test_processes_give_the_same_rows(folder: Path) -> None:
    assert by_name(onnxshare.scan(folder, jobs=2)) == by_name(onnxshare.scan(folder, jobs=1))


def test_other_structure_or_weights(folder: Path, lenet: onnx.ModelProto) -> None:
    changed = onnx.ModelProto()
    changed.CopyFrom(lenet)
    values = numpy_helper.to_array(changed.graph.initializer[0]) + 1
    changed.graph.initializer[0].raw_data = values.astype(np.float32).tobytes()
    onnx.save(changed, folder / "c.onnx")
    next(item for item in changed.graph.node if item.op_type == "AveragePool").op_type = "MaxPool"
    onnx.save(changed, folder / "d.onnx")
    rows = by_name(onnxshare.scan(folder, hashes=True))
    first, weights, both = rows["a.onnx"], rows["c.onnx"], rows["d.onnx"]
    assert first.weights_hash == rows["b.onnx"].weights_hash != weights.weights_hash
    assert first.structure_hash == weights.structure_hash != both.structure_hash


def test_families(folder: Path) -> None:
    (group,) = weight_groups(onnxshare.scan(folder, hashes=True))
    assert [Path(path).name for path in group.models] == ["a.onnx", "b.onnx"]
    assert (group.unique_bytes, group.stored_bytes, group.times) == (246_824, 2 * 246_824, 2.0)


def test_unchanged_files_are_not_read_again(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path_factory.mktemp("cache")
    assert weight_groups(onnxshare.scan(folder, cache=cache, hashes=True))
    again = list(onnxshare.scan(folder, cache=cache, hashes=True))
    assert len(weight_groups(again)) == 1
    assert by_name(iter(again)) == by_name(onnxshare.scan(folder, hashes=True))
    first = by_name(onnxshare.scan(folder, cache=cache))
    assert first["a.onnx"].weights_hash is None  # rows of other options are other rows
    read: list[str] = []

    def note(tasks: list[ScanTask], *rest: Any) -> Iterator[ScanRow]:
        read.extend(Path(task.path).name for task in tasks)
        return read_all(tasks, *rest)

    monkeypatch.setattr("onnxshare.model_scan.scan.read_all", note)
    assert by_name(onnxshare.scan(folder, cache=cache)) == first
    assert read == []
    (folder / "broken.onnx").write_bytes((folder / "a.onnx").read_bytes())
    assert by_name(onnxshare.scan(folder, cache=cache))["broken.onnx"].params == 61_706
    assert read == ["broken.onnx"]


def test_external_data_that_changed_is_read_again(
    lenet: onnx.ModelProto, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    copy = onnx.ModelProto()
    copy.CopyFrom(lenet)
    path, cache = tmp_path / "a.onnx", tmp_path_factory.mktemp("cache")
    onnx.save(copy, path, save_as_external_data=True, location="a.data", size_threshold=0)
    (first,) = onnxshare.scan(path, cache=cache, hashes=True)
    data = bytearray((tmp_path / "a.data").read_bytes())
    data[100] ^= 1
    (tmp_path / "a.data").write_bytes(data)
    (second,) = onnxshare.scan(path, cache=cache, hashes=True)
    assert first.weights_hash != second.weights_hash
    (tmp_path / "a.data").unlink()
    (third,) = onnxshare.scan(path, cache=cache, hashes=True)
    assert "a.data" in (third.error or "")


def test_a_scan_that_was_stopped_goes_on(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cache = tmp_path_factory.mktemp("cache")
    rows = onnxshare.scan(folder, cache=cache)
    next(rows)
    next(rows)  # the first is kept by now
    rows.close()  # type: ignore[attr-defined]
    assert len(list(cache.iterdir())) >= 1
    assert len(list(onnxshare.scan(folder, cache=cache))) == 3


class Server(http.server.SimpleHTTPRequestHandler):
    """Serves files by ranges, and counts the bytes."""

    files: dict[str, bytes]
    sent = 0

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        data = self.files[self.path]
        asked = (self.headers.get("Range") or f"bytes=0-{len(data) - 1}").split("=")[1]
        first, last = (int(text) if text else len(data) - 1 for text in asked.split("-"))
        part = data[first : last + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)
        type(self).sent += len(part)

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(self.files[self.path])))
        self.end_headers()


def wide() -> onnx.ModelProto:
    """Five matrices of 4 MB."""
    weights = [
        numpy_helper.from_array(np.ones((1024, 1024), np.float32), f"w{i}") for i in range(5)
    ]
    nodes = [node("MatMul", f"x{i} w{i}", f"x{i + 1}") for i in range(5)]
    return model(nodes, {"x0": ["n", 1024]}, ["x5"], weights)


def test_at_an_address_only_the_structure_is_fetched() -> None:
    pytest.importorskip("aiohttp", reason="fsspec[http] is not installed")
    Server.files = {"/m.onnx": wide().SerializeToString()}
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        (row,) = onnxshare.scan(f"http://127.0.0.1:{server.server_address[1]}/m.onnx")
        server.shutdown()
    assert row.error is None
    assert (row.params, row.bytes) == (5 * 1024 * 1024, len(Server.files["/m.onnx"]))
    assert Server.sent < 2**14  # two blocks for each matrix


def test_weights_at_an_address_are_read_where_they_are_hashed(tmp_path: Path) -> None:
    """Once each, and to the same hashes; many small ones cost little where they are not."""
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")
    weights = [tensor(f"w{i}", 100, 100, seed=i) for i in range(60)]
    weights.append(tensor("wide", 100, 11_000))  # more than is fetched at once otherwise
    nodes = [node("MatMul", f"x{i} w{i}", f"x{i + 1}") for i in range(60)]
    nodes.append(node("MatMul", "x60 wide", "y"))
    data = model(nodes, {"x0": ["n", 100]}, ["y"], weights).SerializeToString()
    (tmp_path / "m.onnx").write_bytes(data)
    fsspec.filesystem("memory").pipe("/many.onnx", data)
    (here,) = onnxshare.scan(tmp_path, hashes=True)
    (there,) = onnxshare.scan("memory://many.onnx", hashes=True)
    assert (there.weights_hash, there.error) == (here.weights_hash, None)
    found = RemoteBytes("memory://many.onnx")
    load(parse(found, "m", None))
    assert found.fetched < 60 * 2 * 1024 + 2**14


class WholeFiles(Server):
    """Knows no ranges."""

    def do_GET(self) -> None:
        del self.headers["Range"]
        data = self.files[self.path]
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(data)


def test_a_server_without_ranges(lenet: onnx.ModelProto) -> None:
    """A small model is read whole; a large one has an error that says why."""
    pytest.importorskip("aiohttp", reason="fsspec[http] is not installed")
    WholeFiles.files = {"/a.onnx": lenet.SerializeToString(), "/b.onnx": wide().SerializeToString()}
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), WholeFiles) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_address[1]}"
        small, large = onnxshare.scan([f"{base}/a.onnx", f"{base}/b.onnx"])
        server.shutdown()
    assert (small.params, small.error) == (61_706, None)
    assert "gives whole files only" in (large.error or "")


def test_folders_at_addresses(lenet: onnx.ModelProto) -> None:
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")
    system = fsspec.filesystem("memory")
    system.pipe("/models/a.onnx", lenet.SerializeToString())
    system.pipe("/models/deep/b.onnx", b"nothing")
    rows = by_name(onnxshare.scan("memory://models"))
    assert rows["a.onnx"].params == 61_706
    assert rows["b.onnx"].error is not None
    assert rows["a.onnx"].path.startswith("memory://")


def test_weights_at_an_address_are_refused_by_name() -> None:
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")
    fsspec.filesystem("memory").pipe("/m.onnx", bytes(2**23))
    data = RemoteBytes("memory://m.onnx")
    assert (len(data), data[5], data[2**23 - 3 :]) == (2**23, 0, b"\0\0\0")
    assert (data[5:5], data[1000:1030]) == (b"", bytes(30))
    with pytest.raises(onnxshare.ModelFileError, match=r"weights at an address"):
        data[:]
    with pytest.raises(onnxshare.ModelFileError, match=r"cannot be opened"):
        RemoteBytes("memory://none.onnx")


@pytest.mark.parametrize("form", ["table", "csv", "jsonl"])
def test_formats(cli: Cli, folder: Path, form: str) -> None:
    ran = cli("scan", folder, "--format", form, "--sort", "params")
    assert ran.returncode == 0
    assert "broken.onnx" in ran.stderr
    if form == "csv":
        first, *_, last = csv.DictReader(io.StringIO(ran.stdout))
        assert list(first) == list(ScanRow.SHOWN)
        assert (first["params"], last["params"]) == ("61706", "")
        assert first["weight_bytes_by_dtype"] == "float32=246824"
    elif form == "jsonl":
        rows = [json.loads(line) for line in ran.stdout.splitlines()]
        assert [row["params"] for row in rows] == [61_706, 61_706, None]
    else:
        assert "2 models, 494 kB of weights; 1 could not be read" in ran.stdout
        assert "\na.onnx " in ran.stdout  # the folder stands in the head, once


def test_parquet(cli: Cli, folder: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    path = folder / "rows.parquet"
    assert cli("scan", folder, "--format", "parquet", "-o", path).returncode == 0
    table = parquet.read_table(path)
    assert table.column_names == list(ScanRow.SHOWN)
    assert sorted(table["params"].to_pylist(), key=str) == [61_706, 61_706, None]


def test_strict_and_page(cli: Cli, folder: Path) -> None:
    page = folder / "page.html"
    assert cli("scan", folder, "--strict", "--html", page).returncode == 1
    text = page.read_text("utf-8")
    assert text.count("<tr>") == 3  # the heads and two models
    assert "broken.onnx" in text
    assert cli("scan", folder / "a.onnx", "--strict").returncode == 0


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["none/"], "none"),
        (["*.none"], "matches no file"),
        (["bad://x.onnx"], "check the address"),
        (["memory://nothing.onnx"], "no such file"),
        (["x.onnx", "--html", "-"], "not the name of a file"),
        (["x.onnx", "--format", "parquet"], "-o"),
    ],
)
def test_bad_input_is_one_line(cli: Cli, options: list[str], part: str) -> None:
    ran = cli("scan", "--strict", *options)
    assert ran.returncode in (1, 2)
    assert len(ran.stderr.splitlines()) == 1
    assert part in ran.stderr


@pytest.mark.parametrize("form", ["table", "csv", "jsonl"])
def test_names_are_only_text(cli: Cli, lenet: onnx.ModelProto, tmp_path: Path, form: str) -> None:
    """No control sequence, no workflow command at the start of a line, no formula."""
    onnx.save(lenet, tmp_path / "a\x1b[31m\n::error::x.onnx")
    onnx.save(lenet, tmp_path / "=cmd().onnx")
    page = tmp_path.with_name(f"{tmp_path.name}.html")
    ran = cli("scan", tmp_path, "--format", form, "--html", page)
    for text in (ran.stdout, page.read_text("utf-8")):
        assert "\x1b" not in text
        acts = ("::", "=") if form == "csv" else "::"  # a formula is one in a spreadsheet alone
        assert not any(line.startswith(acts) for line in text.splitlines())


def test_a_model_that_is_read_is_never_replaced(cli: Cli, folder: Path) -> None:
    before = (folder / "a.onnx").read_bytes()
    for option in ("-o", "--html"):
        ran = cli("scan", folder, "--format", "csv", option, folder / "a.onnx", "--force")
        assert ran.returncode == 2
        assert "is a model that is read" in ran.stderr
    assert (folder / "a.onnx").read_bytes() == before


def test_orders() -> None:
    rows = [ScanRow("b", params=1), ScanRow("a"), ScanRow("c", params=5)]
    assert [row.path for row in sort_rows(rows, "path")] == ["a", "b", "c"]
    assert [row.path for row in sort_rows(rows, "params")] == ["c", "b", "a"]
