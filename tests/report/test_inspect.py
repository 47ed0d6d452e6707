"""The report of `inspect` as text: figures as people read them, rows, and names that attack."""

from __future__ import annotations

import csv
import io
import re
import shlex
from fnmatch import fnmatchcase
from typing import Any

import onnx
import pytest
from rich.console import Console

import onnxshare
from onnxshare.analysis.results import Inspection, NodeFacts, TensorInfo
from onnxshare.report import text_tools
from onnxshare.report.inspect import as_csv, as_markdown, print_table
from onnxshare.report.inspect_views import make_view
from tests.builders import conv, info, model, node, tensor


def printed(report: Inspection, *, width: int = 100, colour: bool = False) -> str:
    text = io.StringIO()
    console = Console(
        file=text,
        width=width,
        highlight=False,
        force_terminal=colour,
        color_system="standard" if colour else None,
    )
    print_table(report, make_view(report), console)
    return text.getvalue()


@pytest.fixture(scope="module")
def report(lenet: onnx.ModelProto) -> Inspection:
    return onnxshare.inspect(lenet)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (None, "–"),
        (0, "0"),
        (999, "999"),
        (1_000, "1 k"),
        (23_449, "23.4 k"),
        (999_600, "1 M"),
        (143_667_240, "144 M"),
        (19_632_062_464, "19.6 G"),
        (1_500_000_000_000, "1.5 T"),
        (10**16, "10,000 T"),
    ],
)
def test_rounded(number: int | None, text: str) -> None:
    assert text_tools.rounded(number) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (0, 10, "0 %"),
        (10, 10, "100 %"),
        (1, 3, "33.3 %"),
        (1, 10_000, "<0.1 %"),
        (9_999, 10_000, ">99.9 %"),
        (5, 0, "–"),
    ],
)
def test_share(part: int, whole: int, text: str) -> None:
    assert text_tools.share(part, whole) == text


@pytest.mark.parametrize(
    ("ratio", "text"),
    [(None, "–"), (1.0, "1×"), (6.857, "6.86×"), (784.0, "784×"), (12_544.0, "12,544×")],
)
def test_times(ratio: float | None, text: str) -> None:
    assert text_tools.times(ratio) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "–"), (12, "12 B"), (1_500, "1.5 kB"), (26_454, "26.5 kB"), (574_668_960, "575 MB")],
)
def test_size(count: int | None, text: str) -> None:
    assert text_tools.size(count) == text


def test_exact() -> None:
    assert text_tools.exact(143_667_240) == "143,667,240"
    assert text_tools.exact(None) == "–"


def test_shape() -> None:
    image = TensorInfo("x", "float32", ("n", 3, None, 224))
    assert text_tools.shape(image) == "n×3×?×224"
    assert text_tools.shape(image, batch=False) == "3×?×224"
    assert text_tools.shape(TensorInfo("x", None, None)) == "?"
    assert text_tools.shape(TensorInfo("x", None, ())) == "1"


def rows(report: Inspection, **how: Any) -> tuple[NodeFacts, ...]:
    return make_view(report, **how).rows


def names(chosen: tuple[NodeFacts, ...]) -> list[str]:
    return [facts.name for facts in chosen]


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        pytest.param("graph", ["C1", "C3", "F5", "F6", "OUT"], id="graph"),
        # 48,120 · 10,164 · 2,416 · 850 · 156
        pytest.param("params", ["F5", "F6", "C3", "OUT", "C1"], id="params"),
        # 240,000 · 117,600 · 48,000 · 10,080 · 840
        pytest.param("macs", ["C3", "C1", "F5", "F6", "OUT"], id="MACs"),
        # 784 · 100 · 1 · 1 · 1: equal ones stay as in the graph
        pytest.param("sharing", ["C1", "C3", "F5", "F6", "OUT"], id="sharing"),
    ],
)
def test_order_of_rows(report: Inspection, sort: str, order: list[str]) -> None:
    assert names(rows(report, sort=sort)) == order
    assert names(rows(report, sort=sort, top=2)) == order[:2]


def test_every_node(report: Inspection, lenet: onnx.ModelProto) -> None:
    assert [facts.op_type for facts in rows(report, every=True)] == [
        item.op_type for item in lenet.graph.node
    ]


def test_unknown_rows_are_shown_and_sorted_last() -> None:
    built = model(
        [node("Magic", "x", "h", domain="acme"), node("MatMul", "x w", "y")],
        {"x": ["n", 5]},
        ["h", "y"],
        [tensor("w", 5, 3)],
        domains=["acme"],
    )
    unknown = onnxshare.inspect(built)
    assert names(rows(unknown)) == ["Magic:h", "MatMul:y"]
    assert names(rows(unknown, sort="macs")) == ["MatMul:y", "Magic:h"]
    assert "–" in next(line for line in printed(unknown).splitlines() if "Magic" in line)


PARAMS = {"C1": "156", "C3": "2,416", "F5": "48,120", "F6": "10,164", "OUT": "850"}


@pytest.mark.parametrize("width", [30, 40, 60, 80, 100, 200])
def test_numbers_are_never_cut(report: Inspection, width: int) -> None:
    text = printed(report, width=width)
    table = text.split("\n\n")[1].splitlines()
    assert "…" not in text
    for name, figure in PARAMS.items():
        line = next(line for line in table if line.startswith(name))
        assert figure in line.split()
        assert len(line) <= width
    assert "61,706" in next(line for line in table if line.startswith("total")).split()


def test_names_take_two_lines_at_most_and_lose_their_middle() -> None:
    name = "features/" + "block/" * 20 + "end"
    built = model(
        [node("MatMul", "x w", "y", name=name)], {"x": [1, 5]}, ["y"], [tensor("w", 5, 3)]
    )
    for width in (60, 80):
        table = printed(onnxshare.inspect(built), width=width).split("\n\n")[1].splitlines()
        assert all(len(line) <= width for line in table)
        shown = "".join(re.split(r"\s", line)[0] for line in table[1:-2])
        first, _, last = shown.partition("…")
        assert name.startswith(first)
        assert name.endswith(last)
        assert len(table) == 5  # titles, a name of two lines, totals, words


def test_what_names_begin_with_is_said_once() -> None:
    names = [f"very/long/name/of/a/module/part_{number}" for number in range(3)]
    sizes = zip(names, (3, 5, 7), (5, 7, 2), strict=True)
    built = model(
        [node("MatMul", f"{n or 'x'} w{n}", f"{n + 1}", name=name) for n, name in enumerate(names)],
        {"x": [1, 3]},
        ["3"],
        [tensor(f"w{n}", rows, columns) for n, (_, rows, columns) in enumerate(sizes)],
    )
    text = printed(onnxshare.inspect(built), width=80).split("\n\n")[1]
    assert text.count("very/long/name/of/a/module/") == 1
    assert "\npart_2 " in text
    wide = printed(onnxshare.inspect(built), width=200)
    assert all(f"\n{name} " in wide for name in names)  # where there is room, nothing is left out


def chain(blocks: int, *, last: bool = False) -> onnx.ModelProto:
    """Blocks of a product, its bias and a ReLU, and one more product."""
    nodes, weights, data = [], [tensor("w", 4, 4), tensor("b", 4)], "x"
    for block in range(blocks):
        for op_type, others in (("MatMul", " w"), ("Add", " b"), ("Relu", "")):
            made = f"{op_type}{block}"
            nodes.append(node(op_type, data + others, made, name=f"/layers.{block}/{op_type}"))
            data = made
    if last:
        nodes.append(node("MatMul", f"{data} v", "end", name="/head/MatMul"))
        weights.append(tensor("v", 4, 9))
        data = "end"
    return model(nodes, {"x": [1, 4]}, [data], weights)


def test_repeated_blocks_are_one_row_with_a_factor() -> None:
    found = onnxshare.inspect(chain(28, last=True))
    text = printed(found, width=100)
    # The first block is the one that has the weights: the others use them again.
    assert "×27 /layers.1…27/" in text
    assert len(text.splitlines()) < 20
    csv_rows = as_csv(found, make_view(found)).splitlines()
    assert len(csv_rows) == 1 + 2 * 28 + 1
    assert "×27" not in printed_view(found, every=True)


@pytest.mark.parametrize(
    ("blocks", "factor"), [(1, ""), (3, ""), (4, ""), (5, "×4 "), (12, "×11 ")]
)
def test_few_rows_are_not_folded(blocks: int, factor: str) -> None:
    text = printed(onnxshare.inspect(chain(blocks)))
    assert ("×" in text.split("total")[0].split("layer ")[1].replace("1×", "")) == bool(factor)
    assert factor in text


def test_a_folded_row_adds_up() -> None:
    found = onnxshare.inspect(chain(28, last=True))
    view = make_view(found)
    shown = [rows[0] for rows in view.shown()]
    assert sum(row.macs for row in shown) == found.totals.macs == 28 * 16 + 36
    assert sum(row.params_new for row in shown) == found.totals.params == 16 + 4 + 36


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("kind", ["node", "weight", "op", "scope", "layer"])
def test_a_table_has_120_lines_at_most(width: int, kind: str) -> None:
    nodes, weights, data = [], [], "x"
    for n in range(300):  # no two are alike
        weights.append(tensor(f"module.{n}/weight", n + 1, n + 2))
        nodes.append(node("MatMul", f"{data} module.{n}/weight", f"y{n}", name=f"module{n}/MatMul"))
        data = f"y{n}"
    found = onnxshare.inspect(model(nodes, {"x": [1, 1]}, [data], weights))
    text = printed_view(found, width=width, by=kind)
    assert len(text.splitlines()) <= 120
    if kind == "op":
        return
    assert re.search(r"… 2\d\d more: --all", text) or "more:" in text
    view = make_view(found, kind)
    shown = [rows[0] for rows in view.shown(50)]
    assert len(shown) == 50
    if kind != "scope":
        assert sum(row.params for row in shown) == found.totals.params
    assert len(make_view(found, kind, every=True).shown(50)) == 300
    assert len(make_view(found, kind, top=70).shown(50)) == 70


def printed_view(report: Inspection, width: int = 100, **how: Any) -> str:
    text = io.StringIO()
    print_table(report, make_view(report, **how), Console(file=text, width=width))
    return text.getvalue()


def test_colours_only_on_a_terminal(report: Inspection) -> None:
    assert "\x1b[" in printed(report, colour=True)
    assert "\x1b" not in printed(report)


def test_csv_parses_back_and_adds_up(report: Inspection) -> None:
    table = list(csv.DictReader(io.StringIO(as_csv(report, make_view(report, every=True)))))
    assert len(table) == len(report.nodes)
    assert sum(int(row["params_new"]) for row in table) == 61_706
    assert sum(int(row["macs"]) for row in table) == 117_600 + 240_000 + 48_000 + 10_080 + 840
    first = table[0]
    assert (first["name"], first["output"]) == ("C1", "1×6×28×28")
    assert (float(first["sharing_ratio"]), int(first["connections"])) == (784, 122_304)


def cells(line: str) -> list[str]:
    """A Markdown table row, escapes undone."""
    parts = re.split(r"(?<!\\)\|", line.strip())[1:-1]
    return [re.sub(r"\\(.)", r"\1", part).strip() for part in parts]


def test_markdown_parses_back(report: Inspection) -> None:
    header, rule, *body = as_markdown(report, make_view(report)).splitlines()
    assert cells(header) == ["layer", "operator", "output", "params", "of all", "sharing", "MACs"]
    assert {len(cells(line)) for line in (rule, *body)} == {7}
    assert {row[0]: row[3] for row in map(cells, body[:-1])} == PARAMS
    assert cells(body[-1])[3] == "61,706"


HOSTILE = {
    "escape codes": "\x1b[2J\x1b[31mred",
    "line breaks": "one\ntwo\r\nthree\u2028four",
    "right to left": "safe\u202egnp.exe",
    "rich markup": "[red]not red[/red][link=https://example.org]x[/link]",
    "Markdown": "a|b`c`<b>*d*_e_\\",
    "a comma and a quote": 'a,"b",c',
}


def hostile(name: str) -> Inspection:
    """A model with such names wherever a file can put one."""
    built = model(
        [node("MatMul", "x w", "y", name=name), node(name, "y", "z", name=name, domain="acme")],
        [info("x", [name, 5])],
        ["z"],
        [tensor("w", 5, 3)],
        domains=["acme"],
    )
    built.producer_name = name
    return onnxshare.inspect(built)


def control_characters(text: str) -> set[str]:
    return {char for char in text if char != "\n" and not char.isprintable()}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_names_are_shown_and_do_nothing(kind: str) -> None:
    report = hostile(HOSTILE[kind])
    chosen = make_view(report, every=True)
    plain = printed(hostile("plain"), width=300)
    for text in (printed(report, width=300), as_csv(report, chosen), as_markdown(report, chosen)):
        assert not control_characters(text)
    assert len(printed(report, width=300).splitlines()) == len(plain.splitlines())
    assert len(as_markdown(report, chosen).splitlines()) == 2 + len(chosen.rows) + 1
    (first, _) = csv.DictReader(io.StringIO(as_csv(report, chosen)))
    assert first["name"] == escaped(HOSTILE[kind])
    assert printed(report, width=300).count(escaped(HOSTILE[kind])) == plain.count("plain")
    assert cells(as_markdown(report, chosen).splitlines()[2])[0] == first["name"]


def escaped(name: str) -> str:
    """What is shown of a name: characters that print as they are, others as Python writes them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def test_words_about_a_model_without_parameters() -> None:
    built = model([node("Relu", "x", "y")], {"x": [1, 5]}, ["y"])
    assert "stores no parameters" in printed(onnxshare.inspect(built))


def test_words_name_the_commands(report: Inspection) -> None:
    text = printed(report)
    assert "3 fully connected layers hold 95.8 % of the 61,706 parameters" in text
    assert f"{(48_120 + 10_164 + 850) / 61_706:.1%}" == "95.8%"
    assert "onnxshare rewrite MODEL --fc-to-conv" in text
    # GAP leaves 16 means: (16 + 1) · 120 of 48,120.
    assert "48,120 → 2,040 parameters, ÷23.6" in text


def test_with_several_heads_a_command_names_its_own() -> None:
    """A name may look like a pattern: `fc[0]` is not `fc0`."""
    built = model(
        [
            node("Conv", "x k", "m"),
            node("Conv", "x l", "n"),
            node("Flatten", "m", "flat"),
            node("Flatten", "n", "flat2"),
            node("Gemm", "flat v", "y", name="fc[0]"),
            node("Gemm", "flat2 w", "z", name="fc0"),
        ],
        {"x": [1, 2, 6, 6]},
        ["y", "z"],
        [
            tensor("k", 3, 2, 3, 3),
            tensor("l", 3, 2, 3, 3, seed=9),
            tensor("v", 48, 5),
            tensor("w", 48, 4),
        ],
    )
    found = onnxshare.inspect(built)
    text = printed(found, width=300)
    names = [head.fcs[0].node for head in found.heads]
    commands = [line for line in text.splitlines() if "rewrite MODEL --fc-to-conv" in line]
    assert names == ["fc[0]", "fc0"]
    patterns = [shlex.split(line)[-1] for line in commands]
    assert [[name for name in names if fnmatchcase(name, p)] for p in patterns] == [
        [name] for name in names
    ]


def test_words_about_a_model_without_fcs() -> None:
    """76 parameters at 36 positions: nothing is bound by reading them."""
    found = onnxshare.inspect(conv([1, 2, 8, 8], (4, 2, 3, 3)))
    text = printed(found)
    assert "1 convolution holds 100 % of the 76 parameters and uses each 36×." in text
    assert "Bound by" not in text


def test_words_about_what_is_bound_by_reading_weights(report: Inspection) -> None:
    """The FCs of LeNet-5 do half a FLOP per byte. The first three of many are named."""
    text = printed(report, width=200)
    held = [facts.name for facts in report.nodes if facts.kind == "fc"]
    assert f"Bound by reading weights at batch 1: {', '.join(held)}, with 95.8 % of" in text
    chain = [node("MatMul", f"t{i} w{i}", f"t{i + 1}", name=f"fc{i}") for i in range(5)]
    weights = [tensor(f"w{i}", 5, 5) for i in range(5)]
    deep = onnxshare.inspect(model(chain, {"t0": [1, 5]}, ["t5"], weights))
    assert "at batch 1: fc0, fc1, fc2 and 2 more, with 100 % of the weight bytes:" in printed(deep)


def test_the_title_names_the_opsets_that_nodes_use() -> None:
    built = model(
        [node("Gelu", "x", "y", domain="com.microsoft")],
        {"x": [1, 5]},
        ["y"],
        domains=["com.microsoft", "org.pytorch.aten"],
    )
    title = printed(onnxshare.inspect(built)).splitlines()[0]
    assert "opset 17, com.microsoft 1" in title
    assert "aten" not in title
