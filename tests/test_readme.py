"""Every code block of the README, of CONTRIBUTING and of docs/ is run, or says why not.

Commands run as they stand: `# exit 1` at the end says which exit code one must have, `# not run`
leaves it out, and `<!-- not run: why -->` leaves out the block below. Python is executed, TOML is
read as a policy, and YAML is parsed; below `<!-- run in order -->` it runs between the commands
of its page, in their folder. A `text` block below commands is what they print: to the
letter below `<!-- printed above -->`, else but for figures, which vary from machine to machine;
below `<!-- printed on one machine: why -->` it is not compared.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

import onnxshare
from onnxshare.checks.policy_file import read_policy
from onnxshare.cli import main
from rewrites.small_heads import distillation, transfer_set

ROOT = Path(__file__).resolve().parents[1]
SETUP = ("run", "test")
SHELL = ("sh", "console")
IN_ORDER = "run in order"

#: The groups by which installed packages add to this one.
ENTRY_POINTS = {"onnxshare.rewrites", "onnxshare.rules", "onnxshare.operators"}


@dataclass(frozen=True)
class Line:
    """One `onnxshare …` line of a fenced block, and the exit code that it must have."""

    number: int
    command: str
    code: int


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, its first line's number, and the comment right before it."""

    page: str
    number: int
    language: str
    text: str
    comment: str

    @property
    def commands(self) -> list[Line]:
        """The commands of a block of `sh` or `console`, but for those that are not run."""
        found: list[Line] = []
        for number, text in enumerate(self.text.splitlines(), self.number):
            text = text.strip().removeprefix("$ ")
            if self.language not in SHELL or text.endswith("# not run"):
                continue
            if text.startswith("onnxshare "):
                code = re.search(r"# exit (\d+)$", text)
                command = text.partition(" #")[0].rstrip()
                found.append(Line(number, command, int(code[1]) if code else 0))
        return found

    @property
    def where(self) -> str:
        return f"{self.page} line {self.number}"


def blocks(page: str, text: str) -> Iterator[Block]:
    """The fenced blocks of a page."""
    fence = r"(?:<!-- ([^\n]*) -->\n)?^```([\w{}]*)\n(.*?)^```$"
    for found in re.finditer(fence, text, re.DOTALL | re.MULTILINE):
        number = text.count("\n", 0, found.start(3)) + 1
        yield Block(page, number, found[2], found[3], found[1] or "")


PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "models/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
BLOCKS = [
    block
    for page in PAGES
    for block in blocks(page.relative_to(ROOT).as_posix(), page.read_text("utf-8"))
]
NOT_RUN = [block for block in BLOCKS if block.comment.startswith("not run: ")]


def of(*languages: str) -> list[Block]:
    """The blocks in some languages that are run."""
    return [b for b in BLOCKS if b.language in languages and b not in NOT_RUN]


def ids(block: Block) -> str:
    return f"{block.page}-{block.number}"


def test_the_reader_of_these_blocks() -> None:
    text = """
<!-- command: run -->
```sh
onnxshare inspect setup.onnx
```
```console
$ onnxshare inspect a.onnx
some output
$ onnxshare check a.onnx --max-params 5  # exit 1
$ onnxshare check b.onnx  # not run
```
```python
onnxshare inspect no.onnx
```
"""
    first, second, third = blocks("page", text)
    assert first == Block("page", 4, "sh", "onnxshare inspect setup.onnx\n", "command: run")
    assert second.commands == [
        Line(7, "onnxshare inspect a.onnx", 0),
        Line(9, "onnxshare check a.onnx --max-params 5", 1),
    ]
    assert (third.language, third.comment) == ("python", "")


def test_every_block_is_run_or_says_why_not() -> None:
    """A block in another language, or a command in the midst of others, would be passed over."""
    run = {"sh", "console", "python", "py", "toml", "yaml", "text", "{toctree}"}
    assert not [block.where for block in BLOCKS if block.language not in run]
    assert all(len(block.comment) > 20 for block in NOT_RUN)
    for block in of(*SHELL):
        for line in block.text.splitlines():
            if not block.comment.startswith("command: ") and (
                block.language == "sh" or line.startswith("$ ")
            ):
                assert line.removeprefix("$ ").startswith("onnxshare "), block.where


@pytest.mark.parametrize("name", SETUP)
def test_the_set_up_commands_need_nothing_but_python(name: str) -> None:
    """`.ci/run` runs them."""
    (command,) = [block.text.strip() for block in BLOCKS if block.comment == f"command: {name}"]
    assert command.startswith("python3 -m venv .venv && .venv/bin/pip install -c constraints.txt ")
    command = re.sub(r" \\\n +", " ", command)  # one command, over several lines
    assert "\n" not in command
    for part in command.split(" && ")[1:]:
        assert part.startswith(".venv/bin/"), part


def test_the_tools_that_contributors_call_are_there() -> None:
    text = "".join(block.text for block in NOT_RUN if block.page == "CONTRIBUTING.md")
    tools = set(re.findall(r"\.venv/bin/([\w-]+)", text))
    assert tools >= {"pytest", "ruff", "mypy"}
    for tool in tools - {"pip"}:
        assert shutil.which(tool, path=str(Path(sys.executable).parent)), tool
    assert {(ROOT / path).is_file() for path in re.findall(r"bash (\S+)", text)} == {True}


def groups() -> dict[str, list[Block]]:
    """Blocks of commands, each with the outputs below it. Those of one page build on each other,
    but in the README each stands alone."""
    found: dict[str, list[Block]] = {}
    name = ""
    for block in of(*SHELL, "text", "python"):
        if block.commands or block.comment == IN_ORDER:
            name = ids(block) if block.page == "README.md" else block.page
            found.setdefault(name, []).append(block)
        elif block.language == "text" and name.startswith(block.page):
            found[name].append(block)
    return found


GROUPS = groups()


def test_every_command_is_shown() -> None:
    readme = [block for block in BLOCKS if block.page == "README.md"]
    shown = {line.command.split()[1] for block in readme for line in block.commands}
    assert shown >= {"inspect", "rewrite", "compare", "check", "diff"}


def test_the_tutorial_is_run() -> None:
    assert sum(len(block.commands) for block in GROUPS["docs/tutorial.md"]) > 5


@dataclass(frozen=True)
class Done:
    """A command that was run: its exit code, what it printed, and the files it wrote."""

    code: int
    printed: str
    wrote: dict[str, bytes]


#: By command and by the digests of all files that were there.
DONE: dict[tuple[str, frozenset[tuple[str, str]]], Done] = {}


def files(folder: Path) -> dict[str, str]:
    """All files below a folder, and digests of what they hold."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def perform(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[[Line, str], str]:
    """Runs a command in a folder with the models, and returns what it prints.

    Those of the README run as a user's do, those of other pages in this process, with little
    distillation. What was run before, on the same files, is not run again.
    """
    shutil.copytree(ROOT / "models", tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(distillation, "_STEPS", (50, 150))
    monkeypatch.setattr(transfer_set, "_POOL", (1000, 1000))

    def here(words: list[str]) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main.run(words[1:])
        return code, *capfd.readouterr()

    def call(line: Line, page: str) -> str:
        before = files(tmp_path)
        done = DONE.get(known := (line.command, frozenset(before.items())))
        if done is None:
            words = shlex.split(line.command)
            code, out, err = elsewhere(words) if page == "README.md" else here(words)
            assert "Traceback" not in err, f"{page} line {line.number}: {err}"
            wrote = {
                name: (tmp_path / name).read_bytes()
                for name, digest in files(tmp_path).items()
                if digest != before.get(name)
            }
            done = DONE[known] = Done(code, out + err, wrote)
        for name, data in done.wrote.items():
            (tmp_path / name).write_bytes(data)
        said = f"{page} line {line.number}: {line.command}\n{done.printed}"
        assert done.code == line.code, said
        return done.printed

    return call


def elsewhere(words: list[str]) -> tuple[int, str, str]:
    """Run a command in a process of its own: exit code, output and errors."""
    done = subprocess.run(
        [sys.executable, "-m", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,  # a search takes a minute of a core that is not shared
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.isolated
@pytest.mark.parametrize("name", GROUPS)
def test_commands_run_as_written_and_print_what_is_said(
    name: str, perform: Callable[[Line, str], str]
) -> None:
    printed = ""
    for block in GROUPS[name]:
        if block.comment == IN_ORDER:
            exec(compile(block.text, block.where, "exec"), {})
        elif block.language != "text":
            printed += "".join(perform(line, block.page) for line in block.commands)
        elif block.comment == "printed above":
            assert block.text in printed, block.where
        elif not block.comment:
            lines = {without_figures(line) for line in printed.splitlines()}
            for line in block.text.splitlines():
                assert without_figures(line) in lines, f"{block.where}: {line}"


def without_figures(line: str) -> str:
    """A line without what differs from machine to machine: figures, bars, and where it ran."""
    line = re.sub(r"\((?:CPU|CUDA)[^;]*;", "(;", line)
    return " ".join(re.sub(r"[-+]?\d[\d,.]*(e[-+]\d+)?|[█▉▊▋▌▍▎▏]", " ", line).split())


SIGNATURES = [block for block in of("python") if block.text.startswith("onnxshare.")]


@pytest.mark.parametrize(
    "block",
    [b for b in of("python", "py") if b not in SIGNATURES and b.comment != IN_ORDER],
    ids=ids,
)
def test_python_runs(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On files of those names, with a data loader such as PyTorch's, and little distillation."""
    monkeypatch.setattr(distillation, "_STEPS", (50, 150))
    monkeypatch.setattr(transfer_set, "_POOL", (1000, 1000))
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "models" / "lenet5.onnx", "model.onnx")
    images = np.load(ROOT / "models" / "calibration.npz")["image"][:700]
    np.savez("samples.npz", image=images)
    loader = [(SimpleNamespace(numpy=part.copy), None) for part in np.split(images, 10)]
    given = {"onnxshare": onnxshare, "source": "model.onnx", "loader": loader}
    exec(compile(block.text, block.where, "exec"), given)


@pytest.mark.parametrize("block", SIGNATURES, ids=ids)
def test_signatures_are_those_of_the_functions(block: Block) -> None:
    for line in block.text.splitlines():
        text, _, returns = line.replace(", ...)", ")").partition("#")
        call = ast.parse(text.strip(), mode="eval").body
        assert isinstance(call, ast.Call)
        assert isinstance(call.func, ast.Attribute)
        signature = inspect.signature(getattr(onnxshare, call.func.attr))
        assert {keyword.arg for keyword in call.keywords} <= set(signature.parameters), line
        assert returns.strip() == signature.return_annotation, line


@pytest.mark.parametrize("block", of("toml"), ids=ids)
def test_toml_is_a_policy_or_an_entry_point(block: Block, tmp_path: Path) -> None:
    given = tomllib.loads(block.text)
    if "project" in given:
        assert set(given["project"]["entry-points"]) <= ENTRY_POINTS
        return
    path = tmp_path / "onnxshare.toml"
    path.write_text(block.text, encoding="utf-8")
    read_policy(path)


@pytest.mark.parametrize("block", of("yaml"), ids=ids)
def test_yaml_is_read(block: Block) -> None:
    """What the files for CI ask for is tried in `tests/cli/test_policy_commands.py`."""
    assert yaml.safe_load(block.text)
