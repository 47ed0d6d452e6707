"""Sizes by name: `dims={"batch": 1}` and `--dim batch=1`."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import onnx
import pytest

import onnxshare
from onnxshare.errors import UsageError
from tests.builders import Dims, conv, info, model, node, random_array, tensor
from tests.rewrites.forms import FORMS

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
        pytest.param({"height": -1}, None, "whole number", id="negative"),
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
        (["batch=-1"], "NAME=SIZE"),
        (["batch=²"], "NAME=SIZE"),
        (["batch=1", "batch=2"], "two sizes, 1 and 2"),
    ],
    ids=str,
)
def test_wrong_options(cli: Cli, path: Path, command: str, options: list[str], part: str) -> None:
    words = [word for option in options for word in ("--dim", option)]
    ran = cli(command, path, *words, *(["--share"] if command == "rewrite" else []))
    assert (ran.returncode, ran.stdout) == (2, "")
    assert len(ran.stderr.splitlines()) == 1
    assert part in ran.stderr


def sentences() -> onnx.ModelProto:
    """A product over a symbolic number of words, each of 5 features, in 3."""
    return model(
        [node("MatMul", "words w", "y")],
        {"words": ["batch", "sequence", 5]},
        ["y"],
        [tensor("w", 5, 3)],
    )


def test_totals_that_need_a_size_are_unknown_and_a_warning_names_it() -> None:
    report = onnxshare.inspect(sentences())
    totals = report.totals
    assert (totals.params, totals.macs, totals.connections, totals.flops) == (15, None, None, None)
    assert totals.dims == {"batch": 1}
    assert report.nodes[0].outputs[0].shape == (1, "sequence", 3)
    (warning,) = report.warnings
    assert "sequence" in warning
    assert "dims={'sequence': 128}" in warning
    assert "batch" not in warning


def test_sizes_without_a_name() -> None:
    built = conv(["batch", 2, None, None], (3, 2, 3, 3))
    (warning,) = onnxshare.inspect(built).warnings
    assert "x[2], x[3]" in warning
    assert "input_shapes={'x': (1, 2, 128, 128)}" in warning
    report = onnxshare.inspect(built, input_shapes={"x": (None, 2, 6, 7)})
    assert (report.totals.macs, report.warnings) == (4 * 5 * 54, ())
    assert report.totals.dims == {"batch": 1, "x[2]": 6, "x[3]": 7}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        pytest.param([], None, id="one sample"),
        pytest.param(["--dim", "sequence=128"], "sequence = 128, batch = 1", id="by name"),
        pytest.param(["--input-shape", "words:?,7,5"], "sequence = 7, batch = 1", id="by input"),
    ],
)
@pytest.mark.parametrize("command", ["inspect", "diff"])
def test_the_table_says_for_which_sizes(
    cli: Cli, tmp_path: Path, command: str, options: list[str], line: str | None
) -> None:
    paths = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for path in paths:
        onnx.save(sentences(), path)
    ran = cli(command, *paths[: 1 if command == "inspect" else 2], *options)
    assert ran.returncode == 0, ran.stderr
    said = [text for text in ran.stdout.splitlines() if text.startswith("per sample")]
    assert said == ([] if line is None else [f"per sample, for {line}"])


def test_diff_gives_each_model_the_sizes_it_knows() -> None:
    """B has the sequence fixed at 8, and A is given it: 15 multiply-adds a word, no change."""
    fixed = model(
        [node("MatMul", "words w", "y")], {"words": ["batch", 8, 5]}, ["y"], [tensor("w", 5, 3)]
    )
    found = onnxshare.diff(sentences(), fixed, dims={"sequence": 8})
    (macs,) = (total for total in found.totals if total.name == "macs")
    assert (macs.before, macs.after, macs.delta) == (120, 120, 0)
    assert found.dims == {"sequence": 8, "batch": 1}


@pytest.mark.parametrize(
    ("sizes", "part"),
    [
        pytest.param({"dims": {"sequenec": 8}}, "did you mean sequence?", id="symbol"),
        pytest.param({"input_shapes": {"wrods": (1, 8, 5)}}, "did you mean words?", id="input"),
        pytest.param({"input_shapes": {"words": (1, 8, 6)}}, "fixes it at 5", id="contradiction"),
    ],
)
def test_diff_refuses_what_no_model_has(sizes: dict[str, Any], part: str) -> None:
    with pytest.raises(UsageError, match=re.escape(part)):
        onnxshare.diff(sentences(), sentences(), **sizes)


def test_names_that_inference_makes_up_are_not_shown() -> None:
    """What is kept by a mask is known only at run time; `unk__7` of the model itself stays."""
    built = model(
        [node("Compress", "x keep", "some", axis=1), node("Relu", "some", "y")],
        [info("x", ["n", 4, "unk__7"]), info("keep", [4], onnx.TensorProto.BOOL)],
        ["y"],
    )
    for facts in onnxshare.inspect(built).nodes:
        assert facts.outputs[0].shape == (1, None, "unk__7")


@pytest.mark.parametrize("rate", [[], [1]], ids=["scalar", "one element"])
def test_a_fixed_batch_beside_an_input_of_one_number(rate: list[int]) -> None:
    """4 rows of 5 features in 3: 15 multiply-adds per sample, not 60."""
    built = model(
        [node("MatMul", "x w", "a"), node("Mul", "a rate", "y")],
        {"x": [4, 5], "rate": rate},
        ["y"],
        [tensor("w", 5, 3)],
    )
    totals = onnxshare.inspect(built).totals
    assert (totals.macs, totals.sharing_ratio) == (15, 1)


def cached(sizes: Dims, past: Dims) -> onnx.ModelProto:
    """One step of attention over keys from before and new ones."""
    return model(
        [
            node("MatMul", "x w", "k"),
            node("Concat", "past k", "keys", axis=1),
            node("Transpose", "keys", "turned", perm=[0, 2, 1]),
            node("MatMul", "x turned", "y"),
        ],
        {"x": sizes, "past": past},
        ["y", "keys"],
        [tensor("w", 16, 16)],
    )


@pytest.mark.parametrize("past", [0, 1, 24])
def test_zero_is_a_size(cli: Cli, tmp_path: Path, past: int) -> None:
    built = cached(["batch", "seq", 16], ["batch", "past", 16])
    macs = 8 * 256 + 8 * (8 + past) * 16
    assert onnxshare.inspect(built, dims={"seq": 8, "past": past}).totals.macs == macs
    onnx.save(built, tmp_path / "m.onnx")
    for words in (
        ["--dim", "seq=8", "--dim", f"past={past}"],
        ["--input-shape", "x:1,8,16", "--input-shape", f"past:1,{past},16"],
        ["--input-shape", "x:1x8x16", "--input-shape", f"past:?×{past}×16"],
    ):
        ran = cli("inspect", tmp_path / "m.onnx", "--format", "json", *words)
        assert json.loads(ran.stdout)["totals"]["macs"] == macs, ran.stderr


@pytest.mark.parametrize(
    "text",
    ["1,2,6,6", "1x2x6x6", "1×2×6×6", "?x2x6x6", "x:1x2x6x6", "x:1, 2, 6, 6", "1 x 2 x 6 x 6"],
)
def test_ways_to_write_the_sizes_of_an_only_input(cli: Cli, tmp_path: Path, text: str) -> None:
    built = conv(["b", 2, "h", "w"], (4, 2, 3, 3))
    onnx.save(built, tmp_path / "m.onnx")
    ran = cli("inspect", tmp_path / "m.onnx", "--format", "json", "--input-shape", text)
    assert json.loads(ran.stdout)["totals"]["macs"] == 16 * 4 * 18, ran.stderr


def test_sizes_without_a_name_need_an_only_input(cli: Cli, tmp_path: Path) -> None:
    onnx.save(cached([1, "seq", 16], [1, "past", 16]), tmp_path / "m.onnx")
    ran = cli("inspect", tmp_path / "m.onnx", "--input-shape", "1,8,16")
    assert ran.returncode == 2
    assert "'x', 'past'" in ran.stderr


def test_each_size_called_by_a_question_mark_is_its_own(cli: Cli, tmp_path: Path) -> None:
    built = conv(["b", 2, "?", "?"], (4, 2, 3, 3))
    report = onnxshare.inspect(built, input_shapes={"x": (1, 2, 6, 10)})
    assert report.totals.macs == 4 * 8 * 4 * 18
    assert report.totals.dims == {"b": 1, "x[2]": 6, "x[3]": 10}
    unknown = onnxshare.inspect(built)
    assert unknown.totals.macs is None
    assert not any("--dim" in line for line in unknown.warnings)
    with pytest.raises(UsageError, match="not a symbolic size"):
        onnxshare.inspect(built, dims={"?": 6})


def image_model(sizes: Dims, **metadata: str) -> onnx.ModelProto:
    """A 3×3 convolution of 3 to 4 channels over the whole image, padded."""
    built = model(
        [node("Conv", "x w", "y", kernel_shape=[3, 3], pads=[1] * 4)],
        {"x": sizes},
        ["y"],
        [tensor("w", 4, 3, 3, 3)],
    )
    for key, value in metadata.items():
        built.metadata_props.add(key=key, value=value)
    return built


OPEN = ["n", 3, "height", "width"]


@pytest.mark.parametrize(
    ("sizes", "key", "value", "positions"),
    [
        (OPEN, "imgsz", "[640, 480]", 640 * 480),
        (OPEN, "imgsz", "640", 640 * 640),
        (OPEN, "imgsz", "(320, 256)", 320 * 256),
        ([None, 3, None, None], "imgsz", "[64, 32]", 64 * 32),
        (OPEN, "input_size", "(3, 288, 256)", 288 * 256),
        (OPEN, "input_size", "[1, 3, 224, 192]", 224 * 192),
        (OPEN, "input_size", "96, 64, 3", 96 * 64),
        (OPEN, "image_size", "224x160", 224 * 160),
        (OPEN, "pretrained_cfg", '{"input_size": [3, 224, 200], "mean": [0.5]}', 224 * 200),
        (OPEN, "args", "{'batch': 1, 'imgsz': 320}", 320 * 320),
        (["n", 3, "height", 100], "imgsz", "[640, 480]", 640 * 100),
        (["n", 3, "side", "side"], "imgsz", "64", 64 * 64),
        (OPEN, "imgsz", "[]", None),
        (OPEN, "imgsz", "auto", None),
        (OPEN, "imgsz", "0", None),
        (OPEN, "imgsz", "70000", None),
        (OPEN, "title", "640", None),
        (["n", 7, "height", "width"], "imgsz", "640", None),
    ],
)
def test_image_sizes_that_the_metadata_says(
    sizes: Dims, key: str, value: str, positions: int | None
) -> None:
    built = image_model(sizes, **{key: value})
    if sizes[1] == 7:
        built.graph.initializer[0].CopyFrom(tensor("w", 4, 7, 3, 3))
    report = onnxshare.inspect(built)
    said = [text for text in report.warnings if "metadata" in text]
    assert report.totals.macs == (None if positions is None else positions * 4 * 27)
    assert len(said) == (positions is not None)
    side = 100 if sizes[3] == 100 else 10
    given = onnxshare.inspect(built, input_shapes={"x": (1, None, side, side)})
    assert given.totals.macs == side * side * 36 * int(sizes[1] or 0)
    assert not any("metadata" in text for text in given.warnings)


def test_image_sizes_for_channels_that_come_last() -> None:
    built = model(
        [node("Transpose", "x", "t", perm=[0, 3, 1, 2]), node("Conv", "t w", "y")],
        {"x": ["n", "h", "w", 3]},
        ["y"],
        [tensor("w", 4, 3, 1, 1)],
    )
    built.metadata_props.add(key="imgsz", value="[20, 30]")
    assert onnxshare.inspect(built).totals.macs == 20 * 30 * 12


@pytest.mark.parametrize(
    "sizes",
    [
        OPEN,
        [None, 3, None, None],
        ["n", 3, None, "w w"],
        [None, 3, "it's", 20],
        ["n", 3, "h", None],
    ],
)
def test_the_hint_sets_all_open_sizes_at_once(sizes: Dims, cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(image_model(sizes), path)
    report = onnxshare.inspect(path)
    assert report.totals.macs is None
    (line,) = [text for text in report.warnings if "set them all, as in " in text]
    given = eval(f"dict({line.partition('set them all, as in ')[2]})")
    assert onnxshare.inspect(path, **given).totals.macs is not None
    shown = json.loads(cli("inspect", path, "--format", "json").stdout)
    (line,) = [text for text in shown["warnings"] if "set them all, as in " in text]
    options = shlex.split(line.partition("set them all, as in ")[2])
    ran = cli("inspect", path, "--format", "json", *options)
    assert json.loads(ran.stdout)["totals"]["macs"] is not None, line
    assert "set them" not in ran.stderr


def cached_attention() -> onnx.ModelProto:
    """Attention of two heads of 4 features over a cache and what a product makes."""
    past: Dims = ["batch", 2, "past", 4]
    return model(
        [
            node("MatMul", "x w", "q"),
            node(
                "MultiHeadAttention",
                "q q q _ _ _ past_key past_value",
                "y key value",
                domain="com.microsoft",
                num_heads=2,
            ),
        ],
        {"x": ["batch", "tokens", 8], "past_key": past, "past_value": past},
        ["y", "key", "value"],
        [tensor("w", 8, 8)],
        domains=["com.microsoft"],
    )


# The product, then scores and sums over past and new tokens: two products of 8 features each.
PREFILL, DECODE = 5 * 64 + 2 * 5 * 5 * 8, 64 + 2 * (4 + 1) * 8


def test_several_sizes_have_a_report_each() -> None:
    report = onnxshare.inspect(cached_attention(), dims={"tokens": (5, 1), "past": [0, 4]})
    assert [case.totals.macs for case in report.sizes] == [PREFILL, DECODE]
    assert report.totals == report.sizes[0].totals
    assert [case.nodes[1].outputs[1].shape for case in report.sizes] == [(1, 2, 5, 4)] * 2
    said = report.to_dict()
    assert [case["totals"]["dims"]["past"] for case in said["sizes"]] == [0, 4]
    assert [case["nodes"][0]["macs"] for case in said["sizes"]] == [5 * 64, 64]


def test_one_size_is_for_all_of_several() -> None:
    report = onnxshare.inspect(cached_attention(), dims={"tokens": 1, "past": (0, 4, 9)})
    past = (0, 4, 9)
    assert [c.totals.macs for c in report.sizes] == [64 + 2 * (size + 1) * 8 for size in past]
    assert onnxshare.inspect(cached_attention(), dims={"tokens": 1, "past": 4}).sizes == ()


SEVERAL = ["--dim", "tokens=5,1", "--dim", "past=0,4"]


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ([], ["sharing 5/0", "MACs 1/4", "720", "144", "batch = 1 (columns 1/4)"]),
        (["--summary"], ["5/0", "720", "144"]),
        (["--by", "op"], ["MACs 5/0", "MACs 1/4"]),
        (["--columns", "name,output,macs"], ["output 5/0", "output 1/4", "MACs 1/4"]),
        (["--format", "markdown"], ["| MACs 5/0 | MACs 1/4 |", "| 720 | 144 |"]),
        (["--format", "csv"], ["macs tokens=5 past=0,macs tokens=1 past=4", "400,80"]),
        (
            ["--format", "csv", "--summary"],
            ["total,tokens=5 past=0,tokens=1 past=4", "macs,720,144"],
        ),
        (["--format", "html"], [">MACs 5/0</th>", ">MACs 1/4</th>", ">144</td>"]),
        (["--format", "json"], ['"sizes": [']),
    ],
)
def test_several_sizes_have_columns_each(
    cli: Cli, tmp_path: Path, options: list[str], parts: list[str]
) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(cached_attention(), path)
    ran = cli("inspect", path, *options, *SEVERAL)
    assert ran.returncode == 0, ran.stderr
    for part in parts:
        assert part in ran.stdout


@pytest.mark.parametrize(
    ("command", "options", "part"),
    [
        (
            "inspect",
            ["--dim", "tokens=5,1", "--dim", "past=0,4,9"],
            "'past' 3 sizes, and 'tokens' 2",
        ),
        ("inspect", ["--dim", "tokens=5,", "--dim", "past=0"], "is not NAME=SIZE"),
        ("inspect", ["--dim", "tokens=5,-1"], "is not NAME=SIZE"),
        ("inspect", ["--dim", "token=5,1"], "did you mean tokens?"),
        ("check", SEVERAL, "only inspect takes several at once"),
        ("rewrite", ["--share", *SEVERAL], "only inspect takes several at once"),
    ],
)
def test_several_sizes_that_are_wrong(
    cli: Cli, tmp_path: Path, command: str, options: list[str], part: str
) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(cached_attention(), path)
    ran = cli(command, path, *options)
    assert ran.returncode == 2
    assert part in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


@pytest.mark.parametrize("dims", [None, {"n": 1}, {"n": 3}])
def test_the_batch_of_frames_that_come_first(dims: dict[str, int] | None) -> None:
    """Five frames of `[5, n, 2, 5, 6]`: a 3×3 convolution with 12 positions, and an FC for each."""
    model = FORMS["frames first"].model()
    report = onnxshare.inspect(model, dims=dims)
    convolution, fc = 3 * 12 * (2 * 9 + 1), 4 * (36 + 1)
    assert report.totals.connections == 5 * (convolution + fc)


@pytest.mark.parametrize("first", [1, "n"])
def test_a_volume_with_open_channels_is_not_frames(first: int | str) -> None:
    """Its batch is axis 0, so its channels stay open: in and out are 4 · 5 · 6 floats of each."""
    built = model([node("Relu", "x", "y")], {"x": [first, "c", 4, 5, 6]}, ["y"])
    assert onnxshare.inspect(built).totals.peak_activation_bytes is None
    known = onnxshare.inspect(built, dims={"c": 3}).totals
    assert known.peak_activation_bytes == 2 * 3 * 120 * 4
