from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def scaled(lenet: onnx.ModelProto, tmp_path: Path) -> Path:
    """The same net with one of its outputs 1 % larger."""
    model = onnx.ModelProto()
    model.CopyFrom(lenet)
    for tensor in model.graph.initializer:
        if tensor.name in ("out.w", "out.b"):
            values = numpy_helper.to_array(tensor).copy()
            values[3] *= np.float32(1.01)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    path = tmp_path / "scaled.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture
def renamed(lenet: onnx.ModelProto, tmp_path: Path) -> Path:
    model = onnx.ModelProto()
    model.CopyFrom(lenet)
    model.graph.node[0].name = "first"
    path = tmp_path / "renamed.onnx"
    onnx.save(model, path)
    return path


def test_equal_models_pass(cli: Cli, lenet_path: Path, renamed: Path) -> None:
    done = cli("compare", lenet_path, renamed, "--provider", "cpu")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].startswith("identical: ")
    assert done.stdout.endswith("(CPU; 32 random samples, seed 0)\n")


def test_different_models_do_not(cli: Cli, lenet_path: Path, scaled: Path) -> None:
    done = cli("compare", lenet_path, scaled, "--provider", "cpu")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines()[-1].startswith("different: output 'y' differs by ")


def test_json_on_stdout(cli: Cli, lenet_path: Path, scaled: Path) -> None:
    arguments = ("--format", "json", "--seed", 3, "--count", 5, "--provider", "cpu")
    done = cli("compare", lenet_path, scaled, *arguments)
    data = json.loads(done.stdout)
    assert done.returncode == 1
    assert (data["verdict"], data["samples"], data["seed"]) == ("different", 5, 3)
    assert data["latency"] is None
    assert data["first_divergence"]["is_output"] is True
    assert [row["name"] for row in data["outputs"]] == ["y"]


@pytest.mark.isolated
def test_latency_of_a_model_and_itself(cli: Cli, lenet_path: Path) -> None:
    arguments = ("--latency", "--batch", "1,4", "--provider", "cpu")
    done = cli("compare", lenet_path, lenet_path, *arguments, "--format", "json")
    data = json.loads(done.stdout)
    assert (done.returncode, data["verdict"]) == (0, "identical")
    assert [item["batch"] for item in data["latency"]] == [1, 4]
    for item in data["latency"]:
        assert item["result"] == "no difference shown"
        assert item["pairs"] >= 100
        assert item["ci95"][0] <= item["ratio"] <= item["ci95"][1]


def test_latency_in_words(cli: Cli, lenet_path: Path, renamed: Path) -> None:
    done = cli("compare", lenet_path, renamed, "--latency", "--provider", "cpu")
    assert done.returncode == 0
    found = [line for line in done.stdout.splitlines() if line.startswith("latency ")]
    assert len(found) == 1
    assert re.fullmatch(
        r"latency at batch 1: A [\d.]+ (µs|ms), B [\d.]+ (µs|ms), B/A [\d.]+ "
        r"\([\d.]+ to [\d.]+, \d+ pairs\): no difference shown",
        found[0],
    )


def test_samples_with_labels(cli: Cli, lenet_path: Path, scaled: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((20, 1, 32, 32), dtype=np.float32)
    np.savez(tmp_path / "test.npz", x=images, labels=np.arange(20) % 10)
    done = cli("compare", lenet_path, scaled, "--samples", tmp_path / "test.npz")
    assert done.returncode == 1
    assert "20 samples from test.npz" in done.stdout
    assert "accuracy: A " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("missing.onnx", "missing.onnx"), "missing.onnx: no such file"),
        (("{a}", "{b}", "--samples", "missing.npz"), "missing.npz: no such file"),
        (("{a}", "{b}", "--provider", "nonsense"), "--provider nonsense"),
        (("{a}", "{b}", "--count", "0"), "--count"),
        (("{a}",), "Missing argument"),
        (("{a}", "{b}", "--batch", "8"), "--batch needs --latency"),
        (("{a}", "{b}", "--latency", "--batch", "8,x"), "--batch '8,x' is not a list of numbers"),
        (("{a}", "{b}", "--latency", "--batch", "0"), "--batch '0' is not a list of numbers"),
        (("{a}", "{b}", "--timeout", "0"), "a time-out of 0 s is none"),
        (("{a}", "{b}", "--memory-limit", "2x"), "--memory-limit '2x' is not a size"),
        (("{a}", "{b}", "--in-process", "--timeout", "9"), "leave --in-process out"),
    ],
)
def test_usage_errors_are_one_line(
    cli: Cli, lenet_path: Path, scaled: Path, arguments: tuple[str, ...], words: str
) -> None:
    filled = [word.format(a=lenet_path, b=scaled) for word in arguments]
    done = cli("compare", *filled)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_help_names_the_verdicts_and_the_exit_codes(cli: Cli) -> None:
    done = cli("compare", "--help")
    assert done.returncode == 0
    for word in ("inconclusive", "Exit code", "--samples", "--provider", "Example"):
        assert word in done.stdout
