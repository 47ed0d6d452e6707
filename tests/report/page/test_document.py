"""Every page: a policy that allows nothing else, hashes that hold, names that are only text."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import re
from pathlib import Path

import pytest

import onnxshare
from onnxshare.report.checks import html as check_page
from onnxshare.report.page import compare, inspect, rewrite
from tests.builders import model, node, tensor

HOSTILE = "</script><script>alert('x')</script>\"'&amp;\x1b[31m\u202e{{ 7 * 7 }}::error::"


class Parsed(html.parser.HTMLParser):
    """The elements of a page, their attributes and texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.inside: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in ("meta", "input", "img", "br"):
            self.inside.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.inside.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self.inside[-1] if self.inside else "", []).append(data)


def hostile() -> onnxshare.Inspection:
    built = model(
        [
            node("Conv", "x k", "m", name=HOSTILE),
            node("Flatten", "m", "f"),
            node("MatMul", "f w", "y", name=f"{HOSTILE}/inner"),
        ],
        {"x": [HOSTILE, 1, 4, 4]},
        ["y"],
        [tensor("k", 2, 1, 3, 3), tensor("w", 8, 3)],
    )
    built.producer_name = HOSTILE
    return onnxshare.inspect(built)


def pages(bundled: Path) -> dict[str, str]:
    lenet = bundled / "lenet5.onnx"
    report = onnxshare.inspect(lenet)
    same = onnxshare.compare(lenet, lenet)
    checked = onnxshare.check([lenet, bundled / "none.onnx"], max_fc_share=0.1)
    found = hostile()
    unproven = onnxshare.rewrite(lenet, ["fc-to-conv"], validate=False)
    return {
        "inspect": inspect.as_html(report),
        "hostile": inspect.as_html(found),
        "compare": compare.as_html(same, report, found),
        "check": check_page.render(checked),
        "rewrite": rewrite.as_html(unproven, report, onnxshare.inspect(unproven.rewritten)),
    }


@pytest.fixture(scope="module")
def made(bundled: Path) -> dict[str, str]:
    return pages(bundled)


@pytest.mark.parametrize("name", ["inspect", "hostile", "compare", "check", "rewrite"])
def test_a_page_needs_and_allows_nothing_else(made: dict[str, str], name: str) -> None:
    text = made[name]
    page = Parsed(text)
    assert page.inside == []
    assert not {"link", "img", "iframe", "object", "base", "form"} & set(page.tags)
    assert not [item for item in page.attributes if item[1] in ("style", "href", "src", "xmlns")]
    assert not [item for item in page.attributes if item[1].startswith("on")]
    policy = next(value for tag, name, value in page.attributes if "default-src" in value)
    assert policy.startswith("default-src 'none'; ")
    style, script = "".join(page.texts["style"]), page.texts["script"][-1]
    for word, content in (("style-src", style), ("script-src", script)):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{word} 'sha256-{digest}'" in policy
    assert page.tags.count("script") == 1 + ('id="data"' in text)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)


def test_names_are_only_text(made: dict[str, str]) -> None:
    text = made["hostile"]
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "<script>alert" not in text
    assert "</script><script>" not in text
    assert "{{ 7 * 7 }}" in text  # a name is no template
    assert ">49<" not in text
    assert not set("<>&") & set(Parsed(text).texts["script"][0])  # the data, whose end HTML seeks


def test_phones_are_told_the_width(made: dict[str, str]) -> None:
    for text in made.values():
        assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text


def test_an_error_names_what_a_template_lacks() -> None:
    from jinja2 import UndefinedError

    from onnxshare.report.page.document import render

    with pytest.raises(UndefinedError):
        render("inspect", title="x", about=[])
