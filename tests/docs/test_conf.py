"""The site: built without a warning, no dead link, nothing wider than a phone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""


@pytest.fixture(scope="module")
def site(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    words = "-m sphinx -q -W --keep-going".split()
    done = subprocess.run(
        [sys.executable, *words, "-d", folder / "trees", root / "docs", folder / "html"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder / "html"


class Page(HTMLParser):
    """What a page links to, and the places in it that others can link to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = set()
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.places.update(value for name in ("id", "name") if (value := given.get(name)))
        self.links += [value for name in ("href", "src") if (value := given.get(name))]


def dead_links(site: Path) -> Iterator[str]:
    pages = {path.resolve(): Page(path) for path in site.rglob("*.html")}
    for path, page in pages.items():
        for link in page.links:
            address, place = urldefrag(link)
            if urlsplit(address).scheme:
                continue
            target = (path.parent / unquote(urlsplit(address).path)).resolve() if address else path
            there = pages[target].places if target in pages and place else {place}
            if not target.is_file() or unquote(place) not in there:
                yield f"{path.name}: {link}"


def test_no_link_is_dead(site: Path) -> None:
    assert not list(dead_links(site))


def test_a_dead_link_would_be_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text('<p id="here"></p><a href="b.html#not"><a href="#here">')
    (tmp_path / "b.html").write_text('<img src="no.svg"><a href="a.html#here">')
    assert sorted(dead_links(tmp_path)) == ["a.html: b.html#not", "b.html: no.svg"]


def test_every_page_is_in_the_site(root: Path, site: Path) -> None:
    pages = {path.relative_to(root / "docs") for path in (root / "docs").rglob("*.md")}
    assert len(pages) > 25
    assert not [page for page in pages if not (site / page).with_suffix(".html").is_file()]
    assert "<!-- options of" not in (site / "reference" / "inspect.html").read_text("utf-8")


@pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium")
def test_nothing_is_wider_than_a_phone(site: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    wide, said = [], []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 800})
        page.on("console", lambda line: said.append(line.text) if line.type == "error" else None)
        for path in sorted(site.rglob("*.html")):
            page.goto(path.as_uri())
            width = page.evaluate("document.documentElement.scrollWidth")
            wide += [f"{path.name}: {width}"] if width > 390 else []
        browser.close()
    assert not wide
    assert not said
