"""Where a model may come from: standard input, text forms, and other packages' objects."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from types import ModuleType, SimpleNamespace
from typing import Any

import onnx
import pytest

import onnxshare
from onnxshare.errors import ModelError, ModelFileError, UsageError
from onnxshare.io.load import load

Cli = Callable[..., CompletedProcess[str]]

TEXT = """<
   ir_version: 8,
   opset_import: ["" : 17]
>
net (float[N, 3] x) => (float[N, 4] y)
<float[3, 4] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}>
{
   h = MatMul (x, w)
   y = Relu (h)
}
"""

FORMS = {
    ".onnxtxt": "onnxtxt",
    ".onnxtext": "onnxtxt",
    ".onnx.txt": "onnxtxt",
    ".json": "json",
    ".onnxjson": "json",
    ".textproto": "textproto",
    ".pbtxt": "textproto",
}


def written(form: str) -> bytes:
    serialized = onnx.serialization.registry.get(form).serialize_proto(
        onnx.parser.parse_model(TEXT)
    )
    return serialized.encode() if isinstance(serialized, str) else bytes(serialized)


@pytest.mark.filterwarnings("ignore:The onnxtxt format is experimental")
@pytest.mark.parametrize("suffix", FORMS)
def test_text_forms(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"net{suffix}"
    path.write_bytes(written(FORMS[suffix]))
    model = load(path)
    assert model.proto == onnx.parser.parse_model(TEXT)
    assert (model.path, model.size) == (path, path.stat().st_size)
    assert onnxshare.inspect(path).totals.params == 12


@pytest.mark.filterwarnings("ignore:The onnxtxt format is experimental")
@pytest.mark.parametrize("form", ["onnxtxt", "json"])
def test_text_forms_are_known_without_a_name(form: str) -> None:
    for source in (written(form), b"\xef\xbb\xbf" + written(form), io.BytesIO(written(form))):
        assert load(source).proto == onnx.parser.parse_model(TEXT)


@pytest.mark.filterwarnings("error")
def test_a_text_form_is_read_without_a_word(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "net.onnxtxt"
    path.write_text(TEXT)
    ran = cli("inspect", path, "--format", "json")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert json.loads(ran.stdout)["totals"]["params"] == 12


NOT_TEXT = {
    "a word": (".onnxtxt", b"hello", "line 1"),
    "half a model": (
        ".onnxtxt",
        TEXT[: len(TEXT) // 2].encode(),
        "is not a model in ONNX text form",
    ),
    "a bad node": (".onnxtxt", TEXT.replace("Relu (", "Re lu (").encode(), "line 9, column"),
    "not UTF-8": (".onnxtxt", b"\xff\xfe<", "is not valid UTF-8"),
    "empty": (".onnxtxt", b"", "an empty file"),
    "nested": (".onnxtxt", b"<" * 100_000, "is not a model in ONNX text form"),
    "JSON of something else": (".json", b'{"a": 1}', "is not a model in JSON form"),
    "JSON cut short": (".json", b'{"graph": {', "is not a model in JSON form"),
    "JSON without a graph": (".json", b'{"irVersion": "8"}', "holds no graph"),
    "nested JSON": (".json", b"[" * 100_000, "nested too deep"),
    "a list": (".json", b"[]", "holds no graph"),
    "text proto": (".textproto", b"ir_version: x", "is not a model in protobuf text form"),
}


@pytest.mark.parametrize("kind", NOT_TEXT)
def test_what_is_no_text_form(cli: Cli, kind: str, tmp_path: Path) -> None:
    suffix, content, part = NOT_TEXT[kind]
    path = tmp_path / f"net{suffix}"
    path.write_bytes(content)
    ran = cli("inspect", path)
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (2, "", 1)
    assert ran.stderr.startswith(f"onnxshare: error: {path}: ")
    assert part in ran.stderr
    assert "internal error" not in ran.stderr


def test_a_text_file_too_large_is_not_parsed(tmp_path: Path) -> None:
    path = tmp_path / "net.json"
    with path.open("wb") as file:
        file.write(b"{")
        file.truncate(2**27)
    with pytest.raises(ModelFileError, match="larger than 64 MiB"):
        load(path)


def piped(data: bytes, *arguments: str) -> CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "onnxshare", *arguments],
        input=data,
        capture_output=True,
        check=False,
        timeout=120,
    )


def test_standard_input(lenet_path: Path) -> None:
    done = piped(lenet_path.read_bytes(), "inspect", "-", "--format", "json")
    assert (done.returncode, done.stderr) == (0, b"")
    report = json.loads(done.stdout)
    assert report["totals"]["params"] == 61_706
    assert report["model"]["path"] is None
    assert report["model"]["bytes"] == lenet_path.stat().st_size


def test_text_from_standard_input() -> None:
    done = piped(TEXT.encode(), "inspect", "-", "--format", "json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["totals"]["params"] == 12


def test_a_rewrite_of_standard_input_needs_a_name(lenet_path: Path, tmp_path: Path) -> None:
    data, out = lenet_path.read_bytes(), tmp_path / "out.onnx"
    done = piped(data, "rewrite", "-", "--fc-to-conv", "--provider", "cpu")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"name the output with -o" in done.stderr
    done = piped(data, "rewrite", "-", "--fc-to-conv", "--provider", "cpu", "-o", str(out))
    assert done.returncode == 0, done.stderr
    assert onnxshare.inspect(out).totals.params == 61_706


@pytest.mark.parametrize(
    ("data", "part"),
    [(b"", b"<stdin>: is an empty file"), (b"PK\x03\x04" + bytes(40), b"<stdin>: is a ZIP")],
)
def test_no_model_from_standard_input(data: bytes, part: bytes) -> None:
    done = piped(data, "inspect", "-")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.count(b"\n") == 1
    assert part in done.stderr


def test_a_terminal_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = SimpleNamespace(buffer=SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr(sys, "stdin", terminal)
    with pytest.raises(UsageError, match="standard input is a terminal"):
        load("-")
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UsageError):
        load("-")


def test_an_onnx_ir_model(monkeypatch: pytest.MonkeyPatch, lenet: onnx.ModelProto) -> None:
    """onnx_ir is asked to make a ModelProto of its own object; it is not needed otherwise."""
    package: Any = ModuleType("onnx_ir")

    class Model:
        proto = lenet

    Model.__module__ = "onnx_ir._core"
    package.to_proto = lambda given: given.proto
    monkeypatch.setitem(sys.modules, "onnx_ir", package)
    assert load(Model()).proto == lenet
    assert onnxshare.inspect(Model()).totals.params == 61_706


def test_an_object_with_a_model_proto(lenet: onnx.ModelProto) -> None:
    program = SimpleNamespace(model_proto=lenet, model=None)
    assert onnxshare.inspect(program).totals.params == 61_706


def test_what_is_given_in_memory_is_checked_too(lenet: onnx.ModelProto) -> None:
    damaged = onnx.ModelProto()
    damaged.CopyFrom(lenet)
    damaged.graph.initializer[0].raw_data = b"x"
    for source in (damaged, SimpleNamespace(model_proto=damaged), damaged.SerializeToString()):
        with pytest.raises(ModelError, match=r"'c1\.w' is damaged"):
            load(source)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("s3://bucket/a.onnx", "download it first: `aws s3 cp s3://bucket/a.onnx .`"),
        ("gs://bucket/a b.onnx", "`gcloud storage cp 'gs://bucket/a b.onnx' .`"),
        ("hf://owner/name/a b.onnx", "`hf download owner/name 'a b.onnx'"),
        ("https://huggingface.co/owner/name/resolve/main/a.onnx", "`hf download OWNER/NAME FILE"),
        ("https://example.org/a.onnx", "`curl -LO https://example.org/a.onnx`"),
        ("ftp://example.org/a.onnx", "download it first"),
        ("models/*.onnx", "one model is read at a time; use `onnxshare scan`"),
        (".", "name the .onnx file in it, or use `onnxshare scan` for all"),
        ("c:/none.onnx", "c:/none.onnx: no such file; check the path"),
    ],
)
def test_what_is_no_file_says_what_to_do(name: str, words: str) -> None:
    with pytest.raises(ModelFileError) as caught:
        load(name)
    assert words in str(caught.value)
    assert str(caught.value).startswith(name.partition("://")[0])
