"""`onnxshare rewrite` as a user calls it: what it writes, prints and leaves alone."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def model(lenet_path: Path) -> Path:
    """LeNet-5 with random weights, alone in a folder."""
    return lenet_path


@pytest.fixture
def contents(model: Path) -> Callable[[], dict[str, bytes]]:
    """What the model's folder holds."""

    def read() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(model.parent.iterdir())}

    return read


def rewrite(cli: Cli, *words: object) -> subprocess.CompletedProcess[str]:
    return cli("rewrite", *words, "--provider", "cpu")


def kinds(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


def assert_one_line(result: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert result.returncode == code, result.stderr
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) <= 2
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["--fc-to-conv"], "lenet.fc-to-conv.onnx"),
        (["--rewrite", "fc-to-conv"], "lenet.fc-to-conv.onnx"),
        (["--fc-to-conv", "--fully-convolutional"], "lenet.fc-to-conv.onnx"),
        (["--fc-to-gap", "--fc-to-conv"], "lenet.fc-to-gap+fc-to-conv.onnx"),
    ],
)
def test_default_name(
    cli: Cli, model: Path, contents: Callable[[], dict[str, bytes]], words: list[str], name: str
) -> None:
    before = model.read_bytes()
    result = rewrite(cli, model, *words)
    assert result.returncode == 0
    assert result.stderr == ""
    assert sorted(contents()) == sorted(["lenet.onnx", name])
    assert model.read_bytes() == before
    written = model.with_name(name)
    assert "Gemm" not in kinds(written)
    assert name in result.stdout
    assert "equivalent" in result.stdout


def test_named_output(cli: Cli, model: Path, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere.onnx"
    assert rewrite(cli, model, "--fc-to-conv", "-o", target).returncode == 0
    assert "Gemm" not in kinds(target)
    assert not model.with_name("lenet.fc-to-conv.onnx").exists()


def test_the_only_model_of_the_folder(
    cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model.parent)
    assert rewrite(cli, "--fc-to-conv").returncode == 0
    assert Path("lenet.fc-to-conv.onnx").is_file()
    # Now there are two, and none is named.
    assert_one_line(rewrite(cli, "--fc-to-conv"), 2, "several")


def test_overwrites_only_with_force(
    cli: Cli, model: Path, contents: Callable[[], dict[str, bytes]]
) -> None:
    target = model.with_name("lenet.fc-to-conv.onnx")
    target.write_text("precious")
    before = contents()
    assert_one_line(rewrite(cli, model, "--fc-to-conv"), 2, "already exists", "--force")
    assert contents() == before
    assert rewrite(cli, model, "--fc-to-conv", "--force").returncode == 0
    assert "Gemm" not in kinds(target)
    assert sorted(contents()) == sorted(before)


@pytest.mark.parametrize("force", [[], ["--force"]])
@pytest.mark.parametrize("how", ["itself", "symbolic link", "hard link", "another spelling"])
def test_never_over_the_model_itself(
    cli: Cli,
    model: Path,
    contents: Callable[[], dict[str, bytes]],
    how: str,
    force: list[str],
) -> None:
    target = {
        "itself": model,
        "symbolic link": model.with_name("symbolic.onnx"),
        "hard link": model.with_name("hard.onnx"),
        "another spelling": model.parent / ".." / model.parent.name / model.name,
    }[how]
    if how == "symbolic link":
        target.symlink_to(model)
    elif how == "hard link":
        os.link(model, target)
    before = contents()
    result = rewrite(cli, model, "--fc-to-conv", "-o", target, *force)
    assert_one_line(result, 2, "is the model itself")
    assert contents() == before


def test_external_data_of_the_model_is_not_overwritten(
    cli: Cli, tmp_path: Path, lenet: Any
) -> None:
    """The output's data file would be the input's."""
    source, target = tmp_path / "model.onnx", tmp_path / "out.onnx"
    copy = onnx.ModelProto()
    copy.CopyFrom(lenet)
    onnx.save(copy, source, save_as_external_data=True, location="out.onnx.data", size_threshold=0)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    result = rewrite(cli, source, "--fc-to-conv", "-o", target, "--force")
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert after["model.onnx"] == before["model.onnx"]
    assert after["out.onnx.data"] == before["out.onnx.data"]
    assert_one_line(result, 2, "is read as weights")


def test_a_picture_or_model_is_not_written_over_samples_or_the_other(
    cli: Cli, model: Path, contents: Callable[[], dict[str, bytes]]
) -> None:
    samples = model.with_name("x.svg")
    samples.write_bytes(b"samples")
    search = ["--fc-to-gap", "--approximate", "--method", "auto", "--keep", "99%", "--force"]
    before = contents()
    for words, reason in (
        (["--plot", samples, "--samples", samples], "is read as samples"),
        (["-o", samples, "--samples", samples], "is read as samples"),
        (["-o", model.with_name("y.svg"), "--plot", model.with_name("y.svg")], "written twice"),
        (["--plot", model.parent], "no picture is written"),
    ):
        assert_one_line(rewrite(cli, model, *search, *words), 2, reason)
        assert contents() == before


def test_missing_folder(cli: Cli, model: Path, contents: Callable[[], dict[str, bytes]]) -> None:
    before = contents()
    target = model.parent / "missing" / "out.onnx"
    assert_one_line(rewrite(cli, model, "--fc-to-conv", "-o", target), 2, "no such folder")
    assert contents() == before


def test_output_is_a_folder(cli: Cli, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder.onnx"
    folder.mkdir()
    assert_one_line(rewrite(cli, model, "--fc-to-conv", "-o", folder), 2, "is a directory")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes anywhere")
def test_folder_that_cannot_be_written(cli: Cli, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    result = rewrite(cli, model, "--fc-to-conv", "-o", folder / "out.onnx")
    assert_one_line(result, 2, "not writable")


def test_disk_that_fills_up_leaves_nothing(
    cli: Cli,
    model: Path,
    contents: Callable[[], dict[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    before = contents()
    monkeypatch.setattr("os.fsync", full)
    assert_one_line(rewrite(cli, model, "--fc-to-conv"), 2, "No space left")
    assert contents() == before


def test_dry_run_writes_nothing(
    cli: Cli, model: Path, contents: Callable[[], dict[str, bytes]]
) -> None:
    model.with_name("lenet.fc-to-conv.onnx").write_text("precious")
    before = contents()
    result = rewrite(cli, model, "--fc-to-conv", "--dry-run")
    assert result.returncode == 0
    assert "equivalent" in result.stdout
    assert contents() == before


def test_no_site_is_the_answer_no(
    cli: Cli, model: Path, contents: Callable[[], dict[str, bytes]]
) -> None:
    before = contents()
    result = rewrite(cli, model, "--conv-to-fc")
    assert result.returncode == 1
    assert "nothing was rewritten" in result.stdout
    assert contents() == before


def test_refused_site_is_the_answer_no_and_says_the_way_out(
    cli: Cli, model: Path, contents: Callable[[], dict[str, bytes]]
) -> None:
    before = contents()
    result = rewrite(cli, model, "--fc-to-gap")
    assert result.returncode == 1
    assert "refused" in result.stdout
    assert "--approximate --samples" in result.stdout
    assert contents() == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "--approximate --samples"),
        (("--samples", "some.npz"), "--approximate --samples"),
        (("--samples", "some.npz", "--no-validate"), "--approximate --samples"),
        (("--samples", "some.npz", "--fc-to-gap", "--share"), "--approximate --samples"),
        (("--keep", "50%"), "give inputs to fit to with --samples"),
        (("--max-error", "50%"), "give inputs to fit to with --samples"),
        (("--method", "gap"), "give inputs to fit to with --samples"),
        (("--method", "auto", "--keep", "50%"), "give inputs to fit to with --samples"),
        (("--samples", "some.npz", "--keep", "99%"), "that is not agreement ≥ 99.0 %"),
    ],
    ids=" ".join,
)
def test_nothing_approximate_is_written_unasked_or_unkept(
    cli: Cli, bundled: Path, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    images = np.load(bundled / "calibration.npz")["image"][: 400 if "99%" in words else 40]
    np.savez(tmp_path / "some.npz", image=images)
    given = [tmp_path / word if word == "some.npz" else word for word in words]
    target = tmp_path / "small.onnx"
    result = rewrite(cli, bundled / "lenet5.onnx", "--fc-to-gap", *given, "-o", target)
    assert result.returncode == 1
    assert said in result.stdout
    assert not target.exists()


def test_failed_validation_writes_nothing(
    cli: Cli,
    model: Path,
    contents: Callable[[], dict[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from rewrites.head_as_maps import fc_weights

    right = fc_weights.moved_weight
    monkeypatch.setattr(
        "rewrites.head_as_maps.kernels.moved_weight", lambda *a: right(*a) * np.float32(1.01)
    )
    before = contents()
    result = rewrite(cli, model, "--fc-to-conv")
    assert result.returncode == 1
    assert "different" in result.stdout
    assert "nothing was written" in result.stdout
    assert contents() == before


def test_json(cli: Cli, model: Path) -> None:
    result = rewrite(cli, model, "--fc-to-conv", "--format", "json")
    assert result.returncode == 0
    assert result.stderr == ""
    data = json.loads(result.stdout)
    assert data["schema_version"] == 1
    assert data["model"] == str(model)
    assert data["written"] == str(model.with_name("lenet.fc-to-conv.onnx"))
    [site] = data["sites"]
    # By hand: 16·5·5·120 + 120, 120·84 + 84 and 84·10 + 10.
    head = 48_120 + 10_164 + 850
    assert {key: site[key] for key in ("rewrite", "node", "exact", "refused")} == {
        "rewrite": "fc-to-conv",
        "node": "F5",
        "exact": True,
        "refused": None,
    }
    assert site["params_before"] == site["params_after"] == head
    [change] = data["changes"]
    assert set(change["removed"]) >= {"F5", "F6", "OUT"}
    assert change["fit"] is None
    written = {node.name for node in onnx.load(data["written"]).graph.node}
    assert set(change["added"]) <= written
    assert set(change["removed"]).isdisjoint(written)
    assert data["before"]["params"] == data["after"]["params"] == 61_706
    assert data["before"]["fc_params"] == head
    assert data["after"]["fc_params"] == 0
    assert data["validation"]["verdict"] == "equivalent"
    assert data["validation"]["outputs"][0]["name"] == "y"


def test_json_of_a_refusal(cli: Cli, model: Path) -> None:
    result = rewrite(cli, model, "--fc-to-gap", "--format", "json")
    assert result.returncode == 1
    data = json.loads(result.stdout)
    assert data["written"] is None
    assert data["changes"] == []
    assert data["validation"] is None
    assert data["sites"][0]["exact"] is None
    assert data["sites"][0]["params_after"] is None
    assert "way" not in data["sites"][0]
    assert "--samples" in data["sites"][0]["refused"]


def test_approximation_from_the_command_line(cli: Cli, bundled: Path, tmp_path: Path) -> None:
    target = tmp_path / "small.onnx"
    samples = tmp_path / "some.npz"
    np.savez(samples, image=np.load(bundled / "calibration.npz")["image"][:200])
    words = ["--fc-to-gap", "--approximate", "--samples", samples, "-o", target]
    result = rewrite(cli, bundled / "lenet5.onnx", *words, "--format", "json")
    assert result.returncode == 0
    data = json.loads(result.stdout)
    assert data["validation"]["verdict"] == "approximate"
    assert data["validation"]["samples"] == 50
    assert data["changes"][0]["fit"]["fitted_on"] == 150
    # 16·(5·5 − 1)·120 fewer weights.
    assert data["before"]["params"] - data["after"]["params"] == 46_080
    keys = [entry.key for entry in onnx.load(target).metadata_props]
    assert "onnxshare.approximate" in keys


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param([], "no rewrite was requested", id="no rewrite"),
        pytest.param(["--rewrite", "nonsense"], "no rewrite 'nonsense'", id="unknown rewrite"),
        pytest.param(["--fc-to-gap", "--approximate"], "--samples", id="no samples"),
        pytest.param(
            ["--fc-to-gap", "--approximate", "--samples", "missing.npz"],
            "missing.npz",
            id="missing samples",
        ),
        pytest.param(["--fc-to-gap", "--fully-convolutional"], "--fc-to-conv", id="not together"),
        pytest.param(["--fc-to-conv", "--input-shape", "x"], "NAME:SIZES", id="bad shape"),
        pytest.param(["--fc-to-conv", "--input-shape", "z:1,2"], "not an input", id="other input"),
        pytest.param(["--fc-to-conv", "--input-shape", "x:1,1,64,64"], "fixes it", id="fixed size"),
    ],
)
def test_usage_errors(
    cli: Cli,
    model: Path,
    contents: Callable[[], dict[str, bytes]],
    words: list[str],
    expected: str,
) -> None:
    before = contents()
    assert_one_line(rewrite(cli, model, *words), 2, expected)
    assert contents() == before


@pytest.mark.parametrize(
    ("name", "data"),
    [
        pytest.param("missing.onnx", None, id="missing"),
        pytest.param("empty.onnx", b"", id="empty"),
        pytest.param("text.onnx", b"hello, this is text\n", id="text"),
        pytest.param(
            "pointer.onnx",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            id="pointer",
        ),
    ],
)
def test_bad_models(cli: Cli, tmp_path: Path, name: str, data: bytes | None) -> None:
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    assert_one_line(rewrite(cli, path, "--fc-to-conv"), 2, name)
    assert [p.name for p in tmp_path.iterdir()] == ([] if data is None else [name])


def test_truncated_model(cli: Cli, model: Path) -> None:
    model.write_bytes(model.read_bytes()[:-1000])
    assert_one_line(rewrite(cli, model, "--fc-to-conv"), 2, "lenet.onnx")


def test_directory_as_model(cli: Cli, tmp_path: Path) -> None:
    assert_one_line(rewrite(cli, tmp_path, "--fc-to-conv"), 2, "directory")


def test_unknown_provider(cli: Cli, model: Path) -> None:
    result = cli("rewrite", model, "--fc-to-conv", "--provider", "nonsense")
    assert_one_line(result, 2, "nonsense")
    assert not model.with_name("lenet.fc-to-conv.onnx").exists()
