"""Sharing across models: the children of an architecture search, against sums by hand."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxshare
from onnxshare.cli.main import run as command_line
from tests.builders import fc, node, run

Cli = Callable[..., subprocess.CompletedProcess[str]]

#: Weights of one node of the super network: 8 filters of 8 channels, and 8 biases.
CONV3, CONV5 = 8 * 8 * 9 + 8, 8 * 8 * 25 + 8
STEM, CLASSIFIER = 8 * 9 + 8, 8 * 10 + 10

#: What the five children choose, node by node.
CHOICES = [
    {(1, CONV3), (2, CONV3), (3, CONV5)},
    {(1, CONV3), (3, CONV5), (4, CONV3)},
    {(1, CONV5), (2, CONV3), (3, CONV3), (4, CONV3)},
    {(1, CONV3), (2, CONV5), (3, CONV5), (4, CONV5)},
    {(2, CONV3), (4, CONV3)},
]
FIXED = STEM + CLASSIFIER


@pytest.fixture(scope="module")
def children(bundled: Path) -> list[Path]:
    return sorted((bundled / "enas").glob("child-*.onnx"))


def total(parts: set[tuple[int, int]]) -> int:
    return sum(params for _, params in parts)


def test_what_a_search_holds_once_and_how_many_times_over(children: list[Path]) -> None:
    """Stem and classifier in all five; each other layer in the children that chose it."""
    found = onnxshare.family(children)
    assert [member.params for member in found.members] == [
        FIXED + total(choice) for choice in CHOICES
    ]
    chosen = Counter(part for choice in CHOICES for part in choice)
    assert found.params_once == FIXED + total(set(chosen)) == 8_938
    assert found.params_together == 5 * FIXED + sum(
        params * times for (_, params), times in chosen.items()
    )
    assert found.shared_by_all == FIXED
    assert found.sharing_ratio == pytest.approx(found.params_together / found.params_once)
    for member, choice in zip(found.members, CHOICES, strict=True):
        own = total({part for part in choice if chosen[part] == 1})
        assert (member.own, member.shared) == (own, FIXED + total(choice) - own)


def test_each_tensor_against_the_files(children: list[Path]) -> None:
    """The same from the files' initializers by name, without our analyser."""
    held: dict[str, list[str]] = {}
    values: dict[str, Any] = {}
    for path in children:
        for tensor in onnx.load(path).graph.initializer:
            array = numpy_helper.to_array(tensor)
            held.setdefault(tensor.name, []).append(str(path))
            assert np.array_equal(values.setdefault(tensor.name, array), array)  # truly shared
    found = onnxshare.family(children)
    assert {weight.name: weight.models for weight in found.weights} == {
        name: tuple(models) for name, models in held.items()
    }
    assert {weight.name: weight.times for weight in found.weights} == {
        name: len(models) for name, models in held.items()
    }
    uses = {weight.name: weight.connections for weight in found.weights}
    assert uses["stem.weight"] == 5 * 16 * 16 * 72  # 16×16 positions in each child
    assert uses["classifier.weight"] == 5 * 80


def script(bundled: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("enas", bundled / "enas.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["enas"] = module  # its dataclasses look it up there
    spec.loader.exec_module(module)
    return module


def test_the_files_are_what_the_script_makes(bundled: Path, children: list[Path]) -> None:
    enas = script(bundled)
    made = [enas.child(choices) for choices in enas.CHILDREN]
    assert [onnx.load(path) for path in children] == made
    images = np.random.default_rng(0).random((3, 1, 16, 16), np.float32)
    results = [run(model, image=images)[0] for model in made]
    assert {result.shape for result in results} == {(3, 10)}
    assert not any(np.allclose(results[0], other) for other in results[1:])  # five different nets


def test_names_do_not_matter_and_bytes_do() -> None:
    first, second, third = (fc([1, 4], 4, 3) for _ in range(3))
    second.graph.initializer[0].name = "other"
    second.graph.node[1].input[1] = "other"
    changed = numpy_helper.to_array(third.graph.initializer[0]).copy()
    changed[0, 0] += 1
    third.graph.initializer[0].CopyFrom(numpy_helper.from_array(changed, "w"))
    found = onnxshare.family([first, second, third])
    assert [member.name for member in found.members] == ["<model>"] + [
        f"<model>#{number}" for number in (2, 3)
    ]
    assert [member.own for member in found.members] == [0, 0, 12]
    assert (found.params_once, found.params_together, found.shared_by_all) == (27, 45, 3)


def test_two_copies_in_one_model_are_its_own() -> None:
    """Held twice, in one model only."""
    twice = fc([1, 4], 4, 4, bias=False)
    copy = onnx.TensorProto()
    copy.CopyFrom(twice.graph.initializer[0])
    copy.name = "again"
    twice.graph.initializer.append(copy)
    twice.graph.node[1].output[0] = "h"
    twice.graph.node.append(node("Gemm", "h again", "y"))
    other = fc([1, 5], 5, 2, bias=False)
    found = onnxshare.family([twice, other])
    assert (found.params_once, found.params_together) == (16 + 10, 32 + 10)
    assert [(m.shared, m.own) for m in found.members] == [(0, 32), (0, 10)]
    assert found.weights[0].times == 2


def test_one_model_is_no_family() -> None:
    with pytest.raises(onnxshare.OnnxShareError, match="two models or more"):
        onnxshare.family([fc([1, 4], 4, 3)])


def test_on_the_command_line(children: list[Path], cli: Cli) -> None:
    names = [str(path) for path in children]
    table = cli("family", *names)
    assert table.returncode == 0
    assert "16,338 parameters, of which 8,938 are different" in table.stdout
    report = json.loads(cli("family", *names, "--format", "json").stdout)
    assert report == json.loads(json.dumps(onnxshare.family(children).to_dict()))
    assert cli("family", names[0]).returncode == 2


def test_a_file_that_is_no_model(children: list[Path], cli: Cli, tmp_path: Path) -> None:
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"")
    ran = cli("family", str(children[0]), str(bad))
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "bad.onnx" in ran.stderr


def test_words_about_models_that_share_nothing(bundled: Path, cli: Cli) -> None:
    """LeNet-5 and the VGG: 61,706 and 378,442 parameters."""
    ran = cli("family", str(bundled / "lenet5.onnx"), str(bundled / "vgg_small.onnx"))
    assert "The files hold 440,148 parameters; none is in two of them." in ran.stdout


def test_a_folder_stands_for_the_models_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(__file__).parents[2] / "models" / "enas"
    assert command_line(["family", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert command_line(["family", *map(str, sorted(folder.glob("*.onnx")))]) == 0
    assert capsys.readouterr().out == shown
    assert command_line(["family", str(folder.parents[1] / "docs")]) == 2
    assert "holds no .onnx file" in capsys.readouterr().err
