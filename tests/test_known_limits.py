"""docs/known-limits.md and the reasons in the code: each is in the other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from onnxshare.analysis.heads.head import ONE_POSITION
from tests.rewrites.forms import FORMS, REFERENCE_FORMS

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "known-limits.md"

#: Files whose `Refusal`s, and whose variables called `reason` or `fault`, are reasons.
REFUSING = (
    "conv_to_fc edits/average_pooling edits/node_uses fc_to_conv fold_batchnorm global_pool "
    "head_as_maps/elementwise head_as_maps/fc_weights head_as_maps/features "
    "head_as_maps/head_builder "
    "head_as_maps/kernels head_as_maps/maps head_as_maps/quantized head_as_maps/sliding "
    "head_as_maps/trunk pool_first"
).split()

#: Functions that return reasons, and what else they may return.
RETURNING = {
    "rewrites/share.py": ["_why_not"],
    "rewrites/subgraph_bodies.py": ["_maps", "judged"],
    "rewrites/fc_to_conv.py": ["_why_not"],
    "rewrites/pool_first.py": ["_pair"],
    "rewrites/edits/node_uses.py": ["may_be_given"],
    "onnxshare/analysis/heads/lookalikes.py": [
        "several_rows",
        "not_followed",
        "_unstored",
        "_einsum",
    ],
    "onnxshare/analysis/heads/search.py": ["_order", "_judge"],
    "onnxshare/analysis/heads/element_order.py": ["column_order"],
    "onnxshare/analysis/heads/joined_maps.py": ["join_of"],
}

#: Shorter strings in these functions are no reasons but parts of one.
LEAST = 22

#: Reasons in these files that only `--fc-to-gap` gives.
OF_SMALL_HEADS = frozenset(("FC '…' is a …: …", "its FC reads several feature maps"))

PHRASES = re.findall(r"^\| `([^`]+)` \|", PAGE.read_text(), re.MULTILINE)


def text(node: ast.AST | None) -> str:
    """The words of a string in the code, with … for what is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(map(text, node.values))
    if isinstance(node, ast.BinOp):
        return text(node.left) + text(node.right)
    if isinstance(node, ast.IfExp):
        return text(node.body)
    return "…"


def reasons() -> Iterator[tuple[str, str]]:
    """File and words of every reason in the code."""
    yield "onnxshare/analysis/heads/head.py", ONE_POSITION
    for name in REFUSING:
        tree = ast.parse((ROOT / "rewrites" / f"{name}.py").read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Refusal":
                yield name, text(node.args[0])
            targets = getattr(node, "targets", [])
            if {getattr(target, "id", "") for target in targets} & {"reason", "fault"}:
                yield name, text(getattr(node, "value", None))
    for path, functions in RETURNING.items():
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            if isinstance(node, ast.FunctionDef) and node.name in functions:
                within = list(ast.walk(node))
                parts = {
                    id(p) for item in within if isinstance(item, ast.JoinedStr) for p in item.values
                }
                about = ast.get_docstring(node, clean=False)
                for item in within:
                    found = text(item) if isinstance(item, (ast.Constant, ast.JoinedStr)) else ""
                    known = id(item) in parts or found == about
                    if not known and len(found.strip("… ")) >= LEAST:
                        yield path, found


FOUND = sorted({item for item in reasons() if item[1].strip("… ") and " " in item[1].strip("… ")})


@pytest.mark.parametrize(("where", "words"), FOUND)
def test_every_reason_is_on_the_page(where: str, words: str) -> None:
    if words in OF_SMALL_HEADS:
        return
    assert any(phrase in words for phrase in PHRASES), f"{where}: {words}"


@cache
def said() -> set[str]:
    """Every string in the code that gives reasons and notes, but docstrings."""
    files = [*(ROOT / "rewrites").rglob("*.py"), *(ROOT / "onnxshare" / "analysis").rglob("*.py")]
    found = set()
    for file in files:
        tree = ast.parse(file.read_text())
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        found |= {text(node) for node in ast.walk(tree) if id(node) not in docs}
    return found


@pytest.mark.parametrize("phrase", PHRASES)
def test_everything_on_the_page_is_a_reason(phrase: str) -> None:
    assert any(phrase in words for words in said())


@pytest.mark.parametrize(
    "words", sorted({f.refused for f in (FORMS | REFERENCE_FORMS).values() if f.refused})
)
def test_what_the_table_of_heads_is_refused_for_is_a_reason(words: str) -> None:
    filled_in = any(phrase in words for phrase in PHRASES)
    assert filled_in or any(words.lstrip("0123456789 ") in found for _, found in FOUND)
