"""What pages take from the code: every command has a page, and every option is on it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.command_pages import COMMANDS, MARK, filled, json_fields, options
from docs.json_schemas import PRINTED


@pytest.fixture(scope="module")
def marks(root: Path) -> set[tuple[str, str]]:
    texts = [path.read_text("utf-8") for path in (root / "docs" / "reference").glob("*.md")]
    return {(mark[1], mark[2]) for text in texts for mark in MARK.finditer(text)}


def test_every_command_has_its_page(marks: set[tuple[str, str]]) -> None:
    assert marks == {("options", name) for name in COMMANDS} | {("fields", n) for n in PRINTED}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_and_exit_code_is_there(name: str) -> None:
    text = options(name)
    for item in COMMANDS[name].params:
        if item.param_type_name == "option" and item.name != "help":
            for word in (*item.opts, *item.secondary_opts):
                assert re.search(rf"`{word}[ `]", text), word
            assert item.help, item.name
    assert "\nExit code: 0" in text


def test_choices_defaults_and_required_arguments() -> None:
    text = options("scan")
    assert "onnxshare scan [OPTIONS] PATH..." in text
    assert (
        "| `--format` | How to write the rows. One of `table`, `csv`, `jsonl`, `parquet`. " in text
    )
    assert "Default: `table`. |" in text
    assert "| `-o`, `--output FILE` |" in text
    assert "onnxshare inspect [OPTIONS] [MODEL]\n" in options("inspect")
    assert "onnxshare check [OPTIONS] [MODEL...]\n" in options("check")


def test_fields_with_their_types() -> None:
    text = json_fields("diff")
    assert "| `totals` | list: object |" in text
    assert "\n`model[]`: " in text
    assert "| `changes` | list: object as `model[]` |" in text
    assert "object as the whole of [compare](compare.md#json) or null" in json_fields("rewrite")


def test_only_marks_are_filled() -> None:
    assert filled("a\n<!-- not run: b -->\n") == "a\n<!-- not run: b -->\n"
    assert filled("# t\n\n<!-- options of doctor -->\n").startswith("# t\n\nShow which versions")
