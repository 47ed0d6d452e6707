"""The words of CONTRIBUTING.md: what stands on the left of its list is nowhere else."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "CONTRIBUTING.md"
TABLE = PAGE.read_text("utf-8").partition("### Words")[2].partition("\n## ")[0]
ROWS = re.findall(r"^\| (`.*`) \| .* \|$", TABLE, re.MULTILINE)
WORDS = [word for row in ROWS for word in re.findall(r"`([^`]+)`", row)]

#: "There is no such file" and "no longer" are good English.
FINE = r"f?\W*(?:there|where|here)"
COMPARED = r"longer|more|such|less|smaller|larger|weaker|newer|use|way"


def pattern(word: str) -> re.Pattern[str]:
    """What finds a word of the list, over the end of a line too."""
    if word.endswith(" no …"):
        verb = word.removesuffix(" no …")
        return re.compile(rf"(?i)(?<!\S)(?!{FINE} )[\w`'\"*)}}]+ {verb} no (?!{COMPARED})[`\w]")
    ending = r"\w*" if word.endswith("…") else r"(?!\w)"
    return re.compile(rf"(?i)(?<![\w.=-]){re.escape(word.rstrip('…'))}{ending}(?![=(.]\w)")


def prose(path: Path) -> Iterator[str]:
    """The comments and strings of a program, each without its line ends; a page by paragraphs."""
    text = path.read_text("utf-8")
    if path.suffix != ".py":
        yield from text.splitlines()
        return
    comments: list[str] = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            comments.append(token.string.lstrip("#: "))
        elif token.type not in (tokenize.NL, tokenize.NEWLINE) and comments:
            yield " ".join(comments)
            comments = []
        if token.type == tokenize.STRING and not re.fullmatch(r"[\"']\w+[\"']", token.string):
            yield " ".join(token.string.split())


@cache
def said() -> dict[Path, list[str]]:
    """What the product and its pages say."""
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "SECURITY.md", ROOT / "action.yml"]
    programs = [path for room in ("onnxshare", "rewrites") for path in (ROOT / room).rglob("*.py")]
    found = {
        path: list(prose(path)) for path in [*pages, *(ROOT / "docs").rglob("*.md"), *programs]
    }
    found[PAGE] = [line for line in prose(PAGE) if not line.startswith("| `")]
    return found


def test_the_list_is_there() -> None:
    assert {"beside", "shall", "quantis…"} <= set(WORDS)
    assert len(WORDS) > 25


@pytest.mark.parametrize("word", WORDS)
def test_words_that_have_a_better_one(word: str) -> None:
    find = pattern(word)
    assert not [
        f"{path.relative_to(ROOT)}: {line[max(0, hit.start() - 40) : hit.end() + 40]}"
        for path, lines in said().items()
        for line in lines
        for hit in find.finditer(line)
    ]


@pytest.mark.parametrize(
    ("word", "bad", "good"),
    [
        ("is no …", "'x' is no size", "there is no size; it is no longer one"),
        ("mend…", "how to mend it, mended", "recommended"),
        ("lone", "a lone weight", "alone"),
        ("asked for", "what was asked for", "asked forever"),
    ],
)
def test_what_is_found(word: str, bad: str, good: str) -> None:
    assert pattern(word).search(bad)
    assert not pattern(word).search(good)


def test_identifiers_are_spelled_as_onnx_spells_them() -> None:
    programs = [path for path in said() if path.suffix == ".py"]
    british = re.compile(r"(?i)quantis|normalis")
    assert not [str(path) for path in programs if british.search(path.read_text("utf-8"))]
