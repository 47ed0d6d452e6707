"""Messages name options as who called writes them: in Python keywords, on the command line options.

No text outside of the command line names an option in any other way than by `option`.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
import typer

import onnxshare
from onnxshare.cli import commands
from onnxshare.cli.main import run
from onnxshare.io.save import save_model
from onnxshare.runtime.limits import RunLimits
from onnxshare.support.option_text import FLAGS, PYTHON, called_by_the_command_line, option

ROOT = Path(__file__).resolve().parents[2]
NAMED = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]+")

#: Texts for the terminal alone; commands that are written out whole; options of other programs.
OTHERS = (
    *("onnxshare/cli/", "onnxshare/report/", "onnxshare/checks/rules/"),
    *("onnxshare/checks/policy_template.py", "onnxshare/checks/git_c"),
    *("onnxshare/support/option_text.py", "onnxshare/runtime/onnx_runtime.py"),
)

#: Texts that hold a whole command, or are handed to `option` where they are shown.
WHOLE = re.compile(r"`onnxshare |^hf download |^--(input-shape|dim) $")


def texts() -> Iterator[tuple[str, ast.Constant, bool]]:
    """Every text that names an option: its file, and whether `option` or `command` gets it."""
    for folder in ("onnxshare", "rewrites"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            path = file.relative_to(ROOT).as_posix()
            tree = ast.parse(file.read_text())
            docs = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
            given = {
                id(part)
                for call in ast.walk(tree)
                if isinstance(call, ast.Call)
                and getattr(call.func, "id", "") in ("option", "command", "advice")
                for part in ast.walk(call)
            }
            for node in ast.walk(tree):
                if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
                    continue
                if id(node) not in docs and NAMED.search(node.value):
                    yield path, node, id(node) in given


TEXTS = list(texts())


def test_options_are_named_by_one_function() -> None:
    left = [
        f"{path}:{node.lineno}: {node.value!r}"
        for path, node, given in TEXTS
        if not given and not path.startswith(OTHERS) and not WHOLE.search(str(node.value))
        # words of commands that `command` puts together
        if path != "onnxshare/checks/rule.py" or not NAMED.fullmatch(str(node.value))
    ]
    assert left == []


USED = {
    name
    for path, node, given in TEXTS
    if given and not path.startswith(OTHERS) and "checks/rule.py" not in path
    for name in NAMED.findall(str(node.value))
}


def keywords() -> set[str]:
    """What the public functions take, and the classes that they take."""
    functions: list[Callable[..., Any]] = [
        *(onnxshare.rewrite, onnxshare.compare, onnxshare.inspect, onnxshare.check, onnxshare.load),
        *(onnxshare.scan, onnxshare.RunLimits, onnxshare.ImageOptions, save_model),
    ]
    return {name for function in functions for name in inspect.signature(function).parameters}


@pytest.mark.parametrize("name", sorted(USED))
def test_options_and_their_keywords_are_there(name: str) -> None:
    """On the command line under this name, in Python under that which the message gives."""
    known: set[str] = set()
    group: Any = typer.main.get_command(commands.make_app(commands.SUMMARIES))
    for command in group.commands.values():
        for parameter in command.params:
            known.update(parameter.opts)
            known.update(parameter.secondary_opts)
    assert name in known
    written = option(name)
    if written.startswith("'"):
        assert written[1:-1] in {rewrite.name for rewrite in onnxshare.rewrites.ALL}
        return
    words = re.findall(r"(\w+)(?==)|^(\w+)$", written)
    assert words
    assert {one or other for one, other in words} <= keywords()


@pytest.mark.parametrize(
    ("text", "python"),
    [
        ("--keep 99%", "keep=0.99"),
        ("--keep", "keep"),
        ("--force", "force=True"),
        ("--no-validate", "validate=False"),
        ("--method auto --keep 99% --samples FILE", "method='auto', keep=0.99, samples=FILE"),
        ("--fc-to-conv", "'fc-to-conv'"),
        ("--input-shape x:1,,224", "input_shapes={'x': (1, None, 224)}"),
        ("--input-shape 'my x':8", "input_shapes={'my x': (8,)}"),
        ("--input-shape x:SIZES", "input_shapes={'x': SIZES}"),
        ("--dim n=1 --dim length=128", "dims={'n': 1, 'length': 128}"),
        ("--map-output", "map_output"),
        ("--timeout SECONDS", "run_limits=RunLimits(timeout=SECONDS)"),
        ("--memory-limit", "run_limits=RunLimits(memory=…)"),
        ("--in-process", "run_limits=RunLimits(in_process=True)"),
        ("--layout nchw", "images=ImageOptions(layout='nchw')"),
    ],
)
def test_both_ways_to_write_it(text: str, python: str) -> None:
    assert option(text) == python
    with called_by_the_command_line():
        assert option(text) == text
        with called_by_the_command_line():
            pass
        assert option(text) == text
    assert option(text) == python


def test_what_the_user_gave_is_quoted_whatever_it_is() -> None:
    assert option("--node", "a 'b\" c") == "node='a \\'b\" c'"
    assert option("--cache it's") == 'cache="it\'s"'
    with called_by_the_command_line():
        assert option("--node", "fc*") == "--node 'fc*'"


def test_tables_name_no_option_that_is_not_used() -> None:
    assert {*PYTHON, *FLAGS} - USED <= {"--no-validate", "--share", "--fold-batchnorm"} | {
        "--global-pool",
        "--pool-first",
    }


def _python(call: Callable[[], Any]) -> str:
    """What a call says: its error, or the reasons in its result."""
    try:
        result = call()
    except onnxshare.OnnxShareError as error:
        return str(error)
    reasons = [str(site.refused) for site in getattr(result, "sites", ())]
    return " ".join([*reasons, str(getattr(result, "reason", ""))])


HERE: dict[str, Any] = {"run_limits": RunLimits(in_process=True), "provider": "cpu"}


def _ways(path: Path, target: Path) -> list[tuple[Callable[[], Any], list[object], str, str]]:
    """A call, the command that does the same, and what each must say."""
    where = ["--provider", "cpu", "--in-process"]
    rewrite, net = onnxshare.rewrite, str(path)
    lost = str(path.with_name("lost.npz"))
    return [
        (
            lambda: rewrite(net, ["fc-to-gap"], **HERE),
            ["rewrite", path, "--fc-to-gap", "--dry-run", *where],
            "with method='auto', keep=0.99, samples=FILE, allow",
            "with --method auto --keep 99% --samples FILE, allow",
        ),
        (
            lambda: rewrite(net, ["fc-to-conv"], node="none*", **HERE),
            ["rewrite", path, "--fc-to-conv", "--node", "none*", "--dry-run", *where],
            "no site matches node='none*'",
            "no site matches --node 'none*'",
        ),
        (
            lambda: rewrite(net, ["fc-to-conv", "conv-to-fc"], **HERE),
            ["rewrite", path, "--fc-to-conv", "--conv-to-fc", "--dry-run", *where],
            "'conv-to-fc' undoes 'fc-to-conv'",
            "--conv-to-fc undoes --fc-to-conv",
        ),
        (
            lambda: rewrite(net, ["fc-to-conv"], **HERE).save(target),
            ["rewrite", path, "--fc-to-conv", "-o", target, *where],
            "add force=True to overwrite it",
            "add --force to overwrite it",
        ),
        (
            lambda: onnxshare.inspect(net, dims={"side": 3}),
            ["inspect", path, "--dim", "side=3"],
            "dims names 'side'",
            "--dim names 'side'",
        ),
        (
            lambda: onnxshare.check(net, max_params="many"),
            ["check", path, "--max-params", "many"],
            "max-params: expected a whole number",
            "--max-params",
        ),
        (
            lambda: onnxshare.compare(net, net, samples=lost, **HERE),
            ["compare", path, path, "--samples", lost, *where],
            "check samples",
            "check --samples",
        ),
        (
            lambda: onnxshare.compare(net, net, provider="abacus"),
            ["compare", path, path, "--provider", "abacus"],
            "provider='abacus'",
            "--provider abacus",
        ),
    ]


@pytest.mark.parametrize("place", range(8))
def test_python_speaks_python_and_the_command_line_options(
    place: int, bundled: Path, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    target = tmp_path / "there.onnx"
    target.write_bytes(b"")
    call, command, python, options = _ways(bundled / "lenet5.onnx", target)[place]
    said = _python(call)
    assert python in said
    assert not NAMED.search(said)
    ran = cli(*command)
    assert options in " ".join((ran.stdout + ran.stderr).split())
    assert _python(call) == said  # and the command line leaves nothing behind


def test_processes_of_the_command_line_speak_as_it_does(
    bundled: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Two models are checked in processes of their own."""
    net = onnx.load(bundled / "lenet5.onnx")
    net.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "side"
    for name in ("a", "b"):
        onnx.save(net, tmp_path / f"{name}.onnx")
    paths = [str(tmp_path / f"{name}.onnx") for name in ("a", "b")]
    run(["check", *paths, "--max-macs", "9", "--jobs", "2", "--dim", "sides=3"])
    assert "--dim names 'sides'" in capfd.readouterr().err.replace("\n", " ")
