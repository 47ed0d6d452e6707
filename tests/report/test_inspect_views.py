"""What `inspect` shows: rows by node, weight, operator, module and layer, and their columns."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, get_args

import numpy as np
import onnx
import pytest
from rich.console import Console

import onnxshare
from onnxshare.analysis.results import Inspection, NodeFacts, Totals, WeightFacts
from onnxshare.cli.inspect_run import FORMATS, By, Sort
from onnxshare.errors import UsageError
from onnxshare.report.inspect import as_csv, as_markdown, print_table
from onnxshare.report.inspect_columns import columns_of
from onnxshare.report.inspect_views import KINDS, SORTS, make_view
from tests.builders import info, model, node, random_array, tensor

Cli = Callable[..., CompletedProcess[str]]


@pytest.fixture(scope="module")
def report(lenet: onnx.ModelProto) -> Inspection:
    return onnxshare.inspect(lenet)


def printed(report: Inspection, width: int = 100, **how: Any) -> str:
    text = io.StringIO()
    console = Console(file=text, width=width, highlight=False, force_terminal=False)
    print_table(report, make_view(report, **how), console)
    return text.getvalue()


def records(report: Inspection, **how: Any) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(as_csv(report, make_view(report, **how)))))


def test_options_and_views_agree() -> None:
    assert get_args(By) == KINDS
    assert get_args(Sort) == SORTS


# LeNet-5 by hand: C1 156, C3 2,416, F5 48,120, F6 10,164, OUT 850 parameters;
# 117,600 and 240,000 multiply-adds in the convolutions.


def test_by_weight(report: Inspection) -> None:
    rows = records(report, by="weight")
    assert [row["name"] for row in rows][:3] == ["c1.w", "c1.b", "c3.w"]
    assert sum(int(row["params"]) for row in rows) == 61_706
    assert rows[0]["used_by"] == "C1"
    assert (rows[0]["shape"], rows[0]["bytes"]) == ("6 1 5 5", "600")


def test_by_operator(report: Inspection) -> None:
    rows = {row["op_type"]: row for row in records(report, by="op")}
    assert list(rows) == ["Conv", "Relu", "AveragePool", "Flatten", "Gemm"]
    assert {name: int(row["nodes"]) for name, row in rows.items()} == {
        "Conv": 2,
        "Relu": 4,
        "AveragePool": 2,
        "Flatten": 1,
        "Gemm": 3,
    }
    assert int(rows["Conv"]["params"]) == 156 + 2_416
    assert int(rows["Conv"]["macs"]) == 117_600 + 240_000
    assert int(rows["Gemm"]["params"]) == int(rows["Gemm"]["connections"]) == 59_134
    assert float(rows["Gemm"]["sharing_ratio"]) == 1
    assert "85.9 %" in printed(report, by="op")  # 357,600 of 416,520 multiply-adds


def test_an_operator_of_unknown_work_is_unknown() -> None:
    built = model(
        [node("MatMul", "x w", "h"), node("MatMul", "h v", "y")],
        {"x": [1, "a", 5]},
        ["y"],
        [tensor("w", 5, 3), tensor("v", 3, 3)],
    )
    (row,) = records(onnxshare.inspect(built), by="op")
    assert (row["params"], row["macs"], row["sharing_ratio"]) == ("24", "", "")


def test_by_layer_counts_as_the_literature_does(onnx_light: Path) -> None:
    report = onnxshare.inspect(onnx_light / "light_vgg19.onnx")
    rows = records(report, by="layer")
    assert [row["number"] for row in rows] == [str(number) for number in range(1, 20)]
    assert sum(int(row["params"]) for row in rows) == 143_667_240
    assert [row["op_type"] for row in rows] == ["Conv"] * 16 + ["Gemm"] * 3
    assert "19 weight layers" in printed(report, by="layer", width=200)


def test_normalization_belongs_to_its_convolution(onnx_light: Path) -> None:
    """ResNet-50: 53 convolutions and one FC; 53,120 elements each of scale and shift."""
    report = onnxshare.inspect(onnx_light / "light_resnet50.onnx")
    rows = records(report, by="layer")
    assert [row["number"] for row in rows] == [str(number) for number in range(1, 55)]
    assert sum(int(row["params"]) for row in rows) == 25_557_032
    assert int(rows[0]["params"]) == 7 * 7 * 3 * 64 + 2 * 64
    assert rows[0]["output"] == "1×64×112×112"


def test_a_tied_weight_is_counted_once() -> None:
    built = model(
        [node("MatMul", "x w", "h"), node("MatMul", "h w", "y")],
        {"x": ["n", 5]},
        ["y"],
        [tensor("w", 5, 5)],
    )
    report = onnxshare.inspect(built)
    (row,) = records(report, by="op")
    assert (row["nodes"], row["params"], row["connections"], row["sharing_ratio"]) == (
        ("2", "25", "50", "2.0")
    )
    assert [row["params"] for row in records(report, by="layer")] == ["25", "0"]


def branches() -> onnx.ModelProto:
    """x · w + b, twice, added; then a norm of the sum, which belongs to neither."""
    return model(
        [
            node("MatMul", "x w", "m"),
            node("Add", "m b", "s"),
            node("Relu", "s", "r"),
            node("MatMul", "x v", "n"),
            node("Add", "r n", "sum"),
            node("LayerNormalization", "sum g", "y"),
        ],
        {"x": ["n", 5]},
        ["y"],
        [tensor("w", 5, 4), tensor("b", 4), tensor("v", 5, 4), tensor("g", 4)],
    )


def test_a_layer_ends_where_branches_meet() -> None:
    rows = records(onnxshare.inspect(branches()), by="layer")
    assert [(row["number"], row["name"], row["params"], row["nodes"]) for row in rows] == [
        ("1", "MatMul:m", "24", "3"),
        ("2", "MatMul:n", "20", "1"),
        ("", "LayerNormalization:y", "4", "1"),
    ]


# Modules.


def named(name: str, scopes: str = "") -> onnx.NodeProto:
    made = node("Relu", "x", f"y{name}", name=name)
    if scopes:
        made.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=scopes)
    return made


@pytest.mark.parametrize(
    ("given", "module"),
    [
        pytest.param(named("/layer1/layer1.0/conv1/Conv"), "layer1/0/conv1", id="TorchScript"),
        pytest.param(
            named("node_Conv_5", "['', 'layer1', 'layer1.0', 'layer1.0.conv1', 'conv2d_3']"),
            "layer1/0/conv1",
            id="torch.export",
        ),
        pytest.param(named("model/block1/Conv2D"), "model/block1", id="TensorFlow"),
        pytest.param(named("Conv_12"), "", id="none"),
        pytest.param(named(""), "", id="no name"),
        pytest.param(named("a", "no list"), "", id="other metadata"),
        pytest.param(named("a", "['', 'it\\'s', 'x']"), "it\\'s", id="a quote"),
        pytest.param(named("//a//b"), "a", id="empty parts"),
    ],
)
def test_module_of_a_node(given: onnx.NodeProto, module: str) -> None:
    built = model([given], {"x": ["n", 5]}, [given.output[0]])
    assert onnxshare.inspect(built).nodes[0].module == module


def tree() -> onnx.ModelProto:
    names = ["/a/b/c/MatMul", "/a/d/MatMul", "/e/MatMul", "MatMul", "/a/b/f/MatMul"]
    nodes = [
        node("MatMul", f"t{place} w{place}", f"t{place + 1}", name=name)
        for place, name in enumerate(names)
    ]
    sizes = [5, 2, 3, 4, 5, 6]
    weights = [tensor(f"w{i}", a, b) for i, (a, b) in enumerate(itertools.pairwise(sizes))]
    return model(nodes, {"t0": ["n", 5]}, ["t5"], weights)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        pytest.param({"depth": 1}, {"a": 46, "e": 12, "(outside all modules)": 20}, id="one level"),
        pytest.param(
            {},
            {"a": 46, "a/b": 40, "a/d": 6, "e": 12, "(outside all modules)": 20},
            id="two levels",
        ),
        pytest.param(
            {"depth": 9, "sort": "params"},
            {
                "a": 46,
                "a/b": 40,
                "a/b/f": 30,
                "a/b/c": 10,
                "a/d": 6,
                "(outside all modules)": 20,
                "e": 12,
            },
            id="all, the largest first",
        ),
    ],
)
def test_by_module(how: dict[str, Any], expected: dict[str, int]) -> None:
    rows = records(onnxshare.inspect(tree()), by="scope", **how)
    assert {row["name"]: int(row["params"]) for row in rows} == expected
    assert [row["name"] for row in rows] == list(expected)


def test_modules_are_indented() -> None:
    lines = printed(onnxshare.inspect(tree()), by="scope").splitlines()
    assert [line.rstrip()[:5].rstrip() for line in lines[4:7]] == ["a", "  b", "  d"]


# Columns.


@pytest.mark.parametrize(("kind", "facts"), [("node", NodeFacts), ("weight", WeightFacts)])
def test_every_field_is_a_column(kind: str, facts: type) -> None:
    """Fields that somebody adds can be shown without a change here."""
    names = {{"outputs": "output", "sharing": "factors"}.get(f.name, f.name) for f in fields(facts)}
    assert names <= set(columns_of(kind))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [40, 100, 300])
def test_every_column_can_be_written(report: Inspection, kind: str, width: int) -> None:
    names = list(columns_of(kind))
    for name in names:
        assert printed(report, width, by=kind, columns=[name])
    view = make_view(report, kind, columns=names)
    assert next(csv.reader(io.StringIO(as_csv(report, view)))) == names
    assert len({line.count("|") for line in as_markdown(report, view).splitlines()}) == 1


def test_columns_in_the_order_given(report: Inspection) -> None:
    rows = records(report, columns=["macs", "name", "Sharing", "operator"])
    assert list(rows[0]) == ["macs", "name", "sharing_ratio", "op_type"]
    assert list(rows[0].values()) == ["117600", "C1", "784.0", "Conv"]


def test_numbers_of_chosen_columns_are_never_cut(report: Inspection) -> None:
    text = printed(report, 50, columns=["name", "inputs", "params", "connections", "output"])
    for figure in ("156", "2,416", "48,120", "10,164", "850", "61,706"):
        assert figure in text.split()


@pytest.mark.parametrize(
    ("kind", "name", "part"),
    [
        ("node", "parms", "did you mean params?"),
        ("node", "xyzzy", "the columns are name, op_type"),
        ("op", "name", "no column 'name' in the view by op"),
        ("weight", "macs", "no column 'macs'"),
        ("node", "", "no column ''"),
    ],
)
def test_unknown_columns(report: Inspection, kind: str, name: str, part: str) -> None:
    with pytest.raises(UsageError, match=re.escape(part)):
        make_view(report, kind, columns=[name])


def test_weights_have_no_macs(report: Inspection) -> None:
    with pytest.raises(UsageError, match="no MACs"):
        make_view(report, "weight", sort="macs")
    assert make_view(report, "weight", sort="params").rows[0].name == "f5.w"


# Every form.


@pytest.mark.parametrize("form", FORMATS)
def test_summary(cli: Cli, lenet_path: Path, form: str) -> None:
    ran = cli("inspect", lenet_path, "--summary", "--format", form)
    assert ran.returncode == 0, ran.stderr
    assert ("61706" if form in ("csv", "json") else "61,706") in ran.stdout
    if form == "csv":
        table = dict(csv.reader(io.StringIO(ran.stdout)))
        assert set(table) == {"total", *(item.name for item in fields(Totals))}
        assert table["weight_layers"] == "5"


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", KINDS)
def test_command_line(cli: Cli, lenet_path: Path, kind: str, form: str) -> None:
    whole = cli("inspect", lenet_path, "--by", kind, "--format", form)
    assert (whole.returncode, whole.stderr) == (0, "")
    less = cli("inspect", lenet_path, "--by", kind, "--format", form, "--top", 1)
    if form in ("json", "html"):
        assert less.stdout == whole.stdout
    elif kind != "scope":  # LeNet-5 has one: outside all modules
        assert len(less.stdout) < len(whole.stdout)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--by", "layers"], "--by"),
        (["--columns", "nmae"], "did you mean name?"),
        (["--columns", ""], "no column ''"),
        (["--summary", "--by", "op"], "--summary shows no rows"),
        (["--summary", "--top", "3"], "--summary shows no rows"),
        (["--depth", "2"], "--by scope"),
        (["--by", "scope", "--depth", "0"], "--depth"),
        (["--by", "weight", "--sort", "macs"], "no MACs"),
    ],
    ids=str,
)
def test_wrong_options(cli: Cli, lenet_path: Path, options: list[str], part: str) -> None:
    ran = cli("inspect", lenet_path, *options)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert len(ran.stderr.splitlines()) == 1
    assert part in ran.stderr


# Hashes in words.


def chain(*weights: Any) -> onnx.ModelProto:
    nodes = [node("MatMul", f"t{i} w{i}", f"t{i + 1}") for i in range(len(weights))]
    given = [onnx.numpy_helper.from_array(array, f"w{i}") for i, array in enumerate(weights)]
    return model(nodes, {"t0": ["n", 8]}, [f"t{len(weights)}"], given)


def words(*weights: Any, hashes: bool = True) -> str:
    return printed(onnxshare.inspect(chain(*weights), hashes=hashes), width=200)


def test_words_about_equal_weights() -> None:
    one, other = random_array(8, 8), random_array(8, 8, seed=3)
    text = words(one, one, one.T.copy(), other)
    assert "'w1' (8×8 float32, 256 B) equals 'w0' bit for bit" in text
    assert "'w2' (8×8 float32, 256 B) is 'w0' transposed (1, 0)" in text
    assert "saves up to 512 B of 1.02 kB, 128 parameters" in text
    assert "onnxshare rewrite MODEL --share" in text
    assert "Equal" not in words(one, one, hashes=False)
    assert "no two hold the same" in words(one, other)


def test_many_equal_weights_are_not_all_named() -> None:
    text = words(*[random_array(8, 8)] * 9)
    assert text.count("bit for bit") == 5
    assert "and 3 more" in text


def test_trivial_ones_are_not_shouted_about() -> None:
    zeros = np.zeros((8, 8), np.float32)
    text = words(zeros, zeros, zeros)
    assert "no two hold the same" in text
    assert "2 tensors equal another only because all elements are alike" in text
    assert "--share" not in text


def test_what_share_does_not_merge_is_not_promised() -> None:
    kernel = random_array(4, 4, 3, 5)
    built = model(
        [
            node("Conv", "x k0", "a", auto_pad="SAME_UPPER"),
            node("Conv", "a k1", "y", auto_pad="SAME_UPPER"),
        ],
        {"x": ["n", 4, 8, 8]},
        ["y"],
        [
            onnx.numpy_helper.from_array(kernel, "k0"),
            onnx.numpy_helper.from_array(kernel.transpose(1, 0, 2, 3).copy(), "k1"),
        ],
    )
    text = printed(onnxshare.inspect(built, hashes=True), width=200)
    assert "'k0' transposed (1, 0, 2, 3)" in text
    assert "--share" not in text
    assert onnxshare.rewrite(built, ["share"], validate=False).changes == ()


def test_what_share_saves_is_what_was_said() -> None:
    one = random_array(8, 8)
    built = chain(one, one.T.copy(), one)
    said = words(one, one.T.copy(), one)
    result = onnxshare.rewrite(built, ["share"], provider="cpu")
    saved = result.before.params - result.after.params
    assert f"{saved:,} parameters" in said


def test_command_line_with_hashes(cli: Cli, tmp_path: Path) -> None:
    one = random_array(8, 8)
    onnx.save(chain(one, one.T.copy()), tmp_path / "m.onnx")
    ran = cli("inspect", tmp_path / "m.onnx", "--hash", "--by", "weight", "--format", "csv")
    assert ran.returncode == 0, ran.stderr
    first, second = csv.DictReader(io.StringIO(ran.stdout))
    assert len(first["hash"]) == 32
    assert (first["transposed_of"], second["transposed_of"]) == ("", "w0")
    assert second["permutation"] == "1 0"
    assert ran.stderr == ""  # no bar where nobody looks


def test_a_receptive_field_in_a_few_characters() -> None:
    """One number where the axes agree, one per axis where they do not; why there is none."""
    built = model(
        [
            node("Conv", "x w", "a", pads=[1, 1, 1, 1]),
            node("MaxPool", "a", "b", kernel_shape=[2, 1], strides=[2, 1]),
            node("GlobalAveragePool", "b", "y"),
        ],
        {"x": ["n", 2, 8, 8]},
        ["y"],
        [tensor("w", 2, 2, 3, 3)],
    )
    columns = columns_of("node")
    found = onnxshare.inspect(built)
    cells = [columns["receptive_field"].text(row, found.totals) for row in found.nodes]
    assert cells == ["3×3, stride 1, start -1", "4×3, stride 2×1, start -1", "–"]
    notes = [columns["receptive_field_note"].text(row, found.totals) for row in found.nodes]
    assert notes == ["", "", "whole input"]


def test_only_one_branch_of_an_if_is_summed_up() -> None:
    """A branch of 5·8 multiply-accumulates and one of 5·8 + 8·5: rows say both, sums the larger."""
    small = onnx.helper.make_graph(
        [node("MatMul", "x v", "a"), node("Relu", "a", "p")], "small", [], [info("p", None)]
    )
    large = onnx.helper.make_graph(
        [node("MatMul", "x v", "b"), node("MatMul", "b w", "c"), node("MatMul", "c v", "q")],
        "large", [], [info("q", None)],
    )  # fmt: skip
    built = model(
        [node("If", "go", "y", then_branch=small, else_branch=large)],
        [info("x", [1, 5]), info("go", [], onnx.TensorProto.BOOL)],
        ["y"],
        [tensor("v", 5, 8), tensor("w", 8, 5)],
    )
    report = onnxshare.inspect(built)
    counted = {facts.name: facts.counted for facts in report.nodes if facts.op_type == "MatMul"}
    assert list(counted.values()).count(False) == 1
    assert report.totals.macs == 3 * 40
    products = make_view(report, "op", columns=["op_type", "macs"]).rows
    assert {row.op_type: row.macs for row in products}["MatMul"] == 120
    text = printed(report)
    assert "(40)" in text
    assert "in brackets: a branch of an If that totals leave out" in text
