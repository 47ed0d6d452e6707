"""The commands that the README and the pages in docs/ show do what they say."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SETUP = ("run", "test")


@dataclass(frozen=True)
class Line:
    """One `onnxshare …` line of a fenced block, and the exit code that it must have."""

    number: int
    command: str
    code: int


def blocks(text: str) -> list[list[tuple[int, str]]]:
    """The numbered lines of each ```sh and ```console fence, set-up commands left out."""
    found: list[list[tuple[int, str]]] = []
    block: list[tuple[int, str]] | None = None
    before = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if block is None and line.strip() in ("```sh", "```console"):
            block = []
            if not re.fullmatch(r"<!-- command: \w+ -->", before.strip()):
                found.append(block)
        elif block is not None and line.strip() == "```":
            block = None
        elif block is not None:
            block.append((number, line))
        before = line
    return found


def lines(block: list[tuple[int, str]]) -> list[Line]:
    """The commands of a block: `# exit 1` at the end sets the code, `# not run` leaves it out."""
    commands: list[Line] = []
    for number, text in block:
        text = text.strip().removeprefix("$ ")
        if not text.startswith("onnxshare ") or text.endswith("# not run"):
            continue
        code = re.search(r"# exit (\d+)$", text)
        commands.append(Line(number, text.partition(" #")[0].rstrip(), int(code[1]) if code else 0))
    return commands


def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


BLOCKS = [found for block in blocks(readme()) if (found := lines(block))]


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
    (block,) = blocks(text)
    assert lines(block) == [
        Line(7, "onnxshare inspect a.onnx", 0),
        Line(9, "onnxshare check a.onnx --max-params 5", 1),
    ]


@pytest.mark.parametrize("name", SETUP)
def test_the_set_up_commands_need_nothing_but_python(name: str) -> None:
    (command,) = re.findall(rf"<!-- command: {name} -->\n```sh\n(.+?)\n```", readme(), re.DOTALL)
    assert command.startswith("python3 -m venv .venv && .venv/bin/pip install -c constraints.txt ")
    command = re.sub(r" \\\n +", " ", command)  # one command, over several lines
    assert "\n" not in command
    for part in command.split(" && ")[1:]:
        assert part.startswith(".venv/bin/"), part


def test_every_command_is_shown() -> None:
    shown = {line.command.split()[1] for block in BLOCKS for line in block}
    assert shown >= {"inspect", "rewrite", "compare", "check", "diff"}


#: A block of commands, and the lines that the last one is said to print.
_PRINTED = re.compile(
    r"```console\n((?:(?!```).)+)```\n\n<!-- printed above -->\n```text\n(.+?)```", re.DOTALL
)


def test_what_is_said_to_be_printed_is_printed(tmp_path: Path) -> None:
    found = _PRINTED.findall(readme())
    assert found
    for place, (commands, text) in enumerate(found):
        block = lines(list(enumerate(commands.splitlines())))
        printed = run(block, tmp_path / str(place), "README.md")
        assert text in printed


PAGES = {
    page.name: found
    for page in sorted((ROOT / "docs").glob("*.md"))
    if (found := [line for block in blocks(page.read_text("utf-8")) for line in lines(block)])
}


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"line-{block[0].number}")
def test_a_block_of_the_readme_runs_as_written(block: list[Line], tmp_path: Path) -> None:
    run(block, tmp_path, "README.md")


@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs_from_top_to_bottom(page: str, tmp_path: Path) -> None:
    run(PAGES[page], tmp_path, page)


def test_the_tutorial_is_run() -> None:
    assert len(PAGES["tutorial.md"]) > 5


def run(block: list[Line], folder: Path, page: str) -> str:
    """Run commands one after the other and return what the last one prints."""
    printed = ""
    shutil.copytree(ROOT / "models", folder / "models")
    for line in block:
        words = shlex.split(line.command)
        done = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"},
            capture_output=True,
            text=True,
            check=False,
            timeout=900,  # a search takes a minute of a core that is not shared
        )
        said = f"{page} line {line.number}: {line.command}\n{done.stdout}{done.stderr}"
        assert done.returncode == line.code, said
        assert "Traceback" not in done.stderr, said
        printed = done.stdout
    return printed
