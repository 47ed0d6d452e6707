"""`onnxshare inspect`: its formats, options, streams and exit codes."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

import onnxshare
from tests.builders import conv, model, node, tensor

Ran = subprocess.CompletedProcess[str]
Cli = Callable[..., Ran]

# The layout that DESIGN.md promises, written out: no key more, no key less.
TOP = {"schema_version", "model", "totals", "nodes", "weights", "heads", "warnings"}
KEYS = {
    "model": set("path bytes ir_version opsets producer inputs outputs".split()),
    "totals": set(
        "params statistics constants quantization unused other param_bytes param_bytes_by_dtype "
        "weight_bound_layers weight_bound_bytes connections sharing_ratio macs flops weight_layers "
        "fc_params fc_after_conv_params peak_activation_bytes peak_activation_node dims".split()
    ),
    "nodes": set(
        "name op_type domain scope kind inputs outputs weights params params_new connections "
        "sharing_ratio sharing macs flops unshared_params dense_params receptive_field "
        "receptive_field_note receptive_fields param_bytes activation_bytes arithmetic_intensity "
        "bound_by module memory_bytes counted".split()
    ),
    "weights": set(
        "name dtype shape params bytes used_by connections sharing_ratio same_as transposed_of "
        "hash uniform same_after permutation".split()
    ),
    "heads": set("nodes feature_map channels spatial fcs layout uniformity rewrites".split()),
}
TENSOR = {"name", "dtype", "shape"}
KINDS = {"conv", "fc", "recurrent", "embedding", "norm", "elementwise", "pool", "layout", "other"}

# LeNet-5: multiply-adds of C1, C3 and the three FCs.
MACS = 784 * 150 + 100 * 2_400 + 400 * 120 + 120 * 84 + 84 * 10


def save(built: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "built.onnx"
    onnx.save(built, path)
    return path


def as_json(cli: Cli, *arguments: object) -> dict[str, Any]:
    ran = cli("inspect", *arguments, "--format", "json")
    assert ran.returncode == 0, ran.stderr
    report: dict[str, Any] = json.loads(ran.stdout)
    return report


def process(*arguments: object, **environment: str) -> Ran:
    """The real thing, its streams pipes."""
    kept = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR", "FORCE_COLOR")}
    return subprocess.run(
        [sys.executable, "-m", "onnxshare", "inspect", *map(str, arguments)],
        capture_output=True,
        check=False,
        encoding="utf-8",
        timeout=120,
        env={**kept, "PYTHONUTF8": "1", **environment},
    )


def test_json_has_exactly_the_keys_of_the_contract(cli: Cli, lenet_path: Path) -> None:
    report = as_json(cli, lenet_path)
    assert set(report) == TOP
    assert report["schema_version"] == 1
    for part in ("model", "totals"):
        assert set(report[part]) == KEYS[part]
    for part in ("nodes", "weights", "heads"):
        assert report[part]
        assert {frozenset(item) for item in report[part]} == {frozenset(KEYS[part])}
    for node_facts in report["nodes"]:
        assert {frozenset(out) for out in node_facts["outputs"]} == {frozenset(TENSOR)}
        assert set(node_facts["sharing"]) == {"spatial", "temporal", "token", "tied"}
        assert node_facts["kind"] in KINDS
    (head,) = report["heads"]
    assert {frozenset(fc) for fc in head["fcs"]} == {frozenset(("node", "in", "out", "params"))}
    assert set(head["rewrites"]) == {"fc-to-conv", "fc-to-gap"}


def test_json_of_lenet(cli: Cli, lenet_path: Path) -> None:
    report = as_json(cli, lenet_path)
    totals = report["totals"]
    assert (totals["params"], totals["macs"], totals["weight_layers"]) == (61_706, MACS, 5)
    assert totals["fc_params"] == totals["fc_after_conv_params"] == 48_120 + 10_164 + 850
    assert totals["param_bytes"] == 4 * 61_706
    assert report["model"]["bytes"] == lenet_path.stat().st_size
    assert report["model"]["inputs"] == [
        {"name": "x", "dtype": "float32", "shape": ["n", 1, 32, 32]}
    ]
    (head,) = report["heads"]
    assert (head["channels"], head["spatial"], head["layout"]) == (16, [5, 5], "NCHW")
    assert [(fc["in"], fc["out"]) for fc in head["fcs"]] == [(400, 120), (120, 84), (84, 10)]
    assert head["rewrites"]["fc-to-conv"]["exact"] is True
    assert head["rewrites"]["fc-to-gap"]["exact"] is False


def test_columns_add_up(cli: Cli, lenet_path: Path) -> None:
    report = as_json(cli, lenet_path)
    totals = report["totals"]
    for column, total in (
        ("params_new", "params"),
        ("connections", "connections"),
        ("macs", "macs"),
        ("flops", "flops"),
    ):
        assert sum(item[column] for item in report["nodes"]) == totals[total]
    assert sum(weight["params"] for weight in report["weights"]) == totals["params"]
    assert sum(weight["connections"] for weight in report["weights"]) == totals["connections"]
    assert sum(weight["bytes"] for weight in report["weights"]) == totals["param_bytes"]


def test_unknown_is_null(cli: Cli, tmp_path: Path) -> None:
    report = as_json(cli, save(conv(["n", 2, "h", "w"], (3, 2, 3, 3)), tmp_path))
    totals = report["totals"]
    assert totals["params"] == 57
    for column in ("macs", "flops", "connections", "sharing_ratio", "peak_activation_bytes"):
        assert totals[column] is None
    assert report["nodes"][0]["macs"] is None


def test_rows_and_totals_do_not_depend_on_what_is_shown(cli: Cli, lenet_path: Path) -> None:
    """--top, --sort and --all choose rows of the table; JSON holds everything."""
    whole = cli("inspect", lenet_path, "--format", "json").stdout
    chosen = cli("inspect", lenet_path, "--format", "json", "--top", 1, "--sort", "macs", "--all")
    assert chosen.stdout == whole


def names(ran: Ran) -> list[str]:
    assert ran.returncode == 0, ran.stderr
    return [row["name"] for row in csv.DictReader(io.StringIO(ran.stdout))]


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        pytest.param([], ["C1", "C3", "F5", "F6", "OUT"], id="plain"),
        pytest.param(["--top", "2"], ["C1", "C3"], id="top"),
        pytest.param(["--sort", "params", "--top", "2"], ["F5", "F6"], id="params"),
        pytest.param(["--sort", "macs", "--top", "3"], ["C3", "C1", "F5"], id="MACs"),
        pytest.param(["--sort", "sharing", "--top", "1"], ["C1"], id="sharing"),
    ],
)
def test_rows(cli: Cli, lenet_path: Path, options: list[str], shown: list[str]) -> None:
    assert names(cli("inspect", lenet_path, "--format", "csv", *options)) == shown


def test_all_shows_every_node(cli: Cli, lenet: onnx.ModelProto, lenet_path: Path) -> None:
    shown = names(cli("inspect", lenet_path, "--format", "csv", "--all"))
    assert len(shown) == len(lenet.graph.node)


@pytest.mark.parametrize("form", ["table", "markdown"])
def test_totals_of_the_readable_forms(cli: Cli, lenet_path: Path, form: str) -> None:
    ran = cli("inspect", lenet_path, "--format", form)
    assert ran.returncode == 0
    starts = ("total ", "| **total**")
    (total,) = [line for line in ran.stdout.splitlines() if line.startswith(starts)]
    assert "61,706" in total
    assert "417 k" in total


def test_input_shape(cli: Cli, tmp_path: Path) -> None:
    path = save(conv(["n", 2, "h", "w"], (3, 2, 3, 3)), tmp_path)
    for sizes in ("x:1,2,6,6", "x:,2,6,6", "x:?,?,6,6"):
        assert as_json(cli, path, "--input-shape", sizes)["totals"]["macs"] == 16 * 54


def test_input_shape_of_a_name_with_a_colon(cli: Cli, tmp_path: Path) -> None:
    built = model(
        [node("MatMul", "in:0 w", "y")], {"in:0": ["n", "t", 5]}, ["y"], [tensor("w", 5, 3)]
    )
    report = as_json(cli, save(built, tmp_path), "--input-shape", "in:0:1,7,5")
    assert report["totals"]["macs"] == 7 * 15


@pytest.mark.parametrize(
    ("option", "part"),
    [
        pytest.param("x", "NAME:SIZES", id="no sizes"),
        pytest.param("x:", "1 sizes", id="empty"),
        pytest.param(":1,2", "NAME:SIZES", id="no name"),
        pytest.param("x:1,two,3", "NAME:SIZES", id="no number"),
        pytest.param("x:1,-2,6,6", "NAME:SIZES", id="negative"),
        pytest.param("z:1,2,6,6", "not an input", id="no such input"),
        pytest.param("x:1,2,6", "3 sizes", id="another rank"),
        pytest.param("x:1,9,6,6", "fixes it at 2", id="a fixed size"),
    ],
)
def test_wrong_input_shapes_are_one_line(cli: Cli, tmp_path: Path, option: str, part: str) -> None:
    path = save(conv(["n", 2, "h", "w"], (3, 2, 3, 3)), tmp_path)
    ran = cli("inspect", path, "--input-shape", option)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert len(ran.stderr.splitlines()) == 1
    assert part in ran.stderr


@pytest.mark.parametrize(
    "options",
    [["--top", "0"], ["--sort", "size"], ["--format", "xml"], ["--top", "many"]],
    ids=" ".join,
)
def test_wrong_options(cli: Cli, lenet_path: Path, options: list[str]) -> None:
    ran = cli("inspect", lenet_path, *options)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert options[0] in ran.stderr


def test_a_damaged_graph_is_one_line(cli: Cli, tmp_path: Path) -> None:
    built = model([node("Add", "x gone", "y")], {"x": [1, 4]}, ["y"])
    ran = cli("inspect", save(built, tmp_path))
    assert (ran.returncode, ran.stdout) == (2, "")
    assert len(ran.stderr.splitlines()) == 1
    assert "'gone'" in ran.stderr


def test_warnings_go_to_stderr(cli: Cli, tmp_path: Path) -> None:
    ran = cli("inspect", save(conv(["n", 2, "h", "w"], (3, 2, 3, 3)), tmp_path), "--format", "json")
    assert "warning: " in ran.stderr
    assert len(json.loads(ran.stdout)["warnings"]) == len(ran.stderr.splitlines())


def test_the_only_model_of_the_folder(
    cli: Cli, lenet_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(lenet_path.parent)
    assert "61,706" in cli("inspect").stdout


# Streams, as a shell sees them.


@pytest.mark.parametrize("form", ["table", "json", "csv", "markdown"])
def test_two_runs_print_the_same_bytes(bundled: Path, form: str) -> None:
    """Hashing of strings differs between processes; the output must not."""
    first, second = (
        process(bundled / "lenet5.onnx", "--format", form, "--all", PYTHONHASHSEED=seed)
        for seed in ("1", "2")
    )
    assert first.returncode == 0, first.stderr
    assert first.stdout
    assert (first.stdout, first.stderr) == (second.stdout, second.stderr)


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param({}, id="a pipe"),
        pytest.param({"NO_COLOR": "1"}, id="NO_COLOR"),
        pytest.param({"TERM": "dumb"}, id="a dumb terminal"),
    ],
)
def test_no_colours_in_a_pipe(bundled: Path, environment: dict[str, str]) -> None:
    ran = process(bundled / "lenet5.onnx", **environment)
    assert "61,706" in ran.stdout
    assert "\x1b" not in ran.stdout + ran.stderr


def on_a_terminal(path: Path, columns: int, **environment: str) -> str:
    """What a terminal of so many columns is sent."""
    pty = pytest.importorskip("pty", reason="this system has no pseudo-terminals")
    master, slave = pty.openpty()
    kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "CI")}
    child = subprocess.Popen(
        [sys.executable, "-m", "onnxshare", "inspect", str(path)],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**kept, "TERM": "xterm-256color", "COLUMNS": str(columns), **environment},
    )
    os.close(slave)
    sent = b""
    while True:
        try:
            part = os.read(master, 65_536)
        except OSError:  # Linux says so when the other end is closed
            break
        if not part:
            break
        sent += part
    os.close(master)
    assert child.wait(timeout=120) == 0
    return sent.decode().replace("\r\n", "\n")


def test_colours_on_a_terminal_unless_no_color(bundled: Path) -> None:
    path = bundled / "lenet5.onnx"
    assert "\x1b[33m" in on_a_terminal(path, 100)  # unshared layers stand out
    plain = on_a_terminal(path, 100, NO_COLOR="1")
    assert "61,706" in plain
    assert "\x1b[33m" not in plain
    assert "\x1b[3" not in plain


@pytest.mark.parametrize("columns", [40, 70, 160])
def test_the_table_keeps_to_the_width_it_is_given(bundled: Path, columns: int) -> None:
    ran = process(bundled / "lenet5.onnx", COLUMNS=str(columns))
    table = ran.stdout.split("\n\n")[1].splitlines()
    assert any("61,706" in line for line in table)
    assert all(len(line) <= columns for line in table[:-1])  # the legend below may be longer


@pytest.mark.parametrize("form", ["table", "json"])
def test_a_reader_that_leaves_early_is_no_crash(bundled: Path, form: str) -> None:
    """`onnxshare inspect … | head -1`: neither a traceback nor the answer no."""
    child = subprocess.Popen(
        [sys.executable, "-m", "onnxshare", "inspect", bundled / "lenet5.onnx", "--format", form],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.close()
    words = child.stderr.read()
    child.stderr.close()
    assert child.wait(timeout=120) == 0
    assert b"Traceback" not in words


@pytest.mark.parametrize("form", ["table", "json"])
def test_inspect_never_imports_onnxruntime(bundled: Path, form: str) -> None:
    """A head is what asks the rewrites; they must do without it as well."""
    script = (
        "import sys\nfrom onnxshare.cli.main import run\n"
        f"code = run(['inspect', {str(bundled / 'lenet5.onnx')!r}, '--format', {form!r}])\n"
        "print('|'.join(sys.modules), file=sys.stderr)\nsys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    modules = {name.partition(".")[0] for name in done.stderr.splitlines()[-1].split("|")}
    assert "onnx" in modules  # or the list is not what it seems
    assert not modules & {"onnxruntime", "torch", "sympy", "onnx_ir"}


def test_the_file_is_left_alone(cli: Cli, lenet_path: Path) -> None:
    before, stamp = lenet_path.read_bytes(), lenet_path.stat().st_mtime_ns
    assert cli("inspect", lenet_path).returncode == 0
    assert lenet_path.read_bytes() == before
    assert lenet_path.stat().st_mtime_ns == stamp
    assert [path.name for path in lenet_path.parent.iterdir()] == [lenet_path.name]


def test_python_and_the_command_line_agree(cli: Cli, lenet_path: Path) -> None:
    report = json.loads(json.dumps(onnxshare.inspect(lenet_path).to_dict()))
    assert as_json(cli, lenet_path) == report


def test_a_net_whose_sizes_are_computed(cli: Cli, zoo: Path) -> None:
    """Silero's voice detector; the figure is derived in tests/analysis/test_zoo.py."""
    path = zoo / "models" / "silero_vad_half.onnx"
    totals = as_json(cli, path, "--input-shape", "input:1,576")["totals"]
    assert (totals["params"], totals["macs"]) == (309_633, 679_552)
