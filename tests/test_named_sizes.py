"""Sizes by name: `dims={"batch": 1}` and `--dim batch=1`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import onnx
import pytest

import onnxshare
from onnxshare.errors import UsageError
from tests.builders import conv, model, node, random_array, tensor

Cli = Callable[..., CompletedProcess[str]]

# 2 channels, 3 filters of 3×3 on h×w: (h - 2) · (w - 2) · 54 multiply-adds.
IMAGE = conv(["batch", 2, "height", "width"], (3, 2, 3, 3))


def two_inputs() -> onnx.ModelProto:
    """Two matrix products over the same symbolic number of rows per sample."""
    return model(
        [node("MatMul", "x w", "a"), node("MatMul", "z w", "b"), node("Add", "a b", "y")],
        {"x": ["batch", "steps", 5], "z": ["batch", "steps", 5]},
        ["y"],
        [tensor("w", 5, 3)],
    )


@pytest.mark.parametrize(
    ("built", "dims", "shapes", "macs"),
    [
        pytest.param(IMAGE, {"height": 6, "width": 6}, None, 16 * 54, id="two of three"),
        pytest.param(IMAGE, {"batch": 4, "height": 6, "width": 6}, None, 16 * 54, id="per sample"),
        pytest.param(
            IMAGE, {"width": 7}, {"x": (None, 2, 6, None)}, 4 * 5 * 54, id="with input_shapes"
        ),
        pytest.param(IMAGE, {"width": 7}, {"x": (1, 2, 6, 7)}, 4 * 5 * 54, id="said twice"),
        pytest.param(two_inputs(), {"steps": 7}, None, 2 * 7 * 15, id="in both inputs"),
        pytest.param(IMAGE, {}, {"x": (1, 2, 6, 6)}, 16 * 54, id="none"),
    ],
)
def test_sizes(
    built: onnx.ModelProto, dims: dict[str, int], shapes: dict[str, Any] | None, macs: int
) -> None:
    assert onnxshare.inspect(built, dims=dims, input_shapes=shapes).totals.macs == macs


@pytest.mark.parametrize(
    ("dims", "shapes", "part"),
    [
        pytest.param({"hieght": 6}, None, "did you mean height?", id="misspelt"),
        pytest.param({"qqq": 6}, None, "are batch, height, width", id="no such name"),
        pytest.param({"height": 0}, None, "above 0", id="nothing"),
        pytest.param({"height": 6.5}, None, "whole number", id="no whole number"),
        pytest.param(
            {"height": 6}, {"x": (1, 2, 7, 7)}, "'height' of input 'x' 7", id="contradiction"
        ),
        pytest.param({"height": 6}, {"x": (1, 2, 7)}, "3 sizes", id="another rank"),
    ],
)
def test_wrong_sizes(dims: dict[str, Any], shapes: dict[str, Any] | None, part: str) -> None:
    with pytest.raises(UsageError, match=part):
        onnxshare.inspect(IMAGE, dims=dims, input_shapes=shapes)


def test_a_model_without_symbolic_sizes() -> None:
    with pytest.raises(UsageError, match="no symbolic sizes"):
        onnxshare.inspect(conv([1, 2, 6, 6], (3, 2, 3, 3)), dims={"batch": 1})


def test_two_inputs_that_contradict_each_other() -> None:
    with pytest.raises(UsageError, match="both 7 and 8"):
        onnxshare.inspect(two_inputs(), input_shapes={"x": (1, 7, 5), "z": (1, 8, 5)})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    onnx.save(IMAGE, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


SIZES = ("--dim", "height=6", "--dim", "width=6")


def test_inspect(cli: Cli, path: Path) -> None:
    ran = cli("inspect", path, *SIZES, "--format", "csv")
    assert ran.returncode == 0, ran.stderr
    assert ",864," in ran.stdout


def test_check(cli: Cli, path: Path) -> None:
    assert cli("check", path, "--max-macs", "864").returncode == 1  # unknown is no pass
    assert cli("check", path, "--max-macs", "864", *SIZES).returncode == 0
    assert cli("check", path, "--max-macs", "863", *SIZES).returncode == 1
    assert cli("check", path, "--max-macs", "863", "--dim", "n=1").returncode == 2


def test_rewrite(cli: Cli, tmp_path: Path) -> None:
    """An FC over a map of symbolic size fits only if the size is given."""
    built = model(
        [
            node("Conv", "x k", "c"),
            node("Flatten", "c", "flat"),
            node("MatMul", "flat w", "y"),
        ],
        {"x": ["batch", 1, "side", "side"]},
        ["y"],
        [tensor("k", 2, 1, 3, 3), tensor("w", 32, 3)],
    )
    path = tmp_path / "m.onnx"
    onnx.save(built, path)
    np.save(tmp_path / "x.npy", random_array(8, 1, 6, 6))
    words: tuple[object, ...] = ("rewrite", path, "--fc-to-conv", "--dry-run", "--provider", "cpu")
    words += ("--samples", tmp_path / "x.npy")
    assert cli(*words).returncode == 1
    ran = cli(*words, "--dim", "side=6")
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("command", ["inspect", "check", "rewrite"])
@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["batch"], "NAME=SIZE"),
        (["batch="], "NAME=SIZE"),
        (["=1"], "NAME=SIZE"),
        (["batch=0"], "NAME=SIZE"),
        (["batch=-1"], "NAME=SIZE"),
        (["batch=²"], "NAME=SIZE"),
        (["batch=1", "batch=2"], "two sizes, 1 and 2"),
    ],
    ids=str,
)
def test_wrong_options(cli: Cli, path: Path, command: str, options: list[str], part: str) -> None:
    words = [word for option in options for word in ("--dim", option)]
    ran = cli(command, path, *words)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert len(ran.stderr.splitlines()) == 1
    assert part in ran.stderr
