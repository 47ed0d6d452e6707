"""Every page in a real browser: nothing in its console, views there, and what can be done works."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest

import onnxshare
from onnxshare.report.page.inspect import as_html
from tests.builders import model, node, tensor
from tests.report.page.test_document import hostile, pages
from tests.report.page.test_inspect import blocks

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium")

_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=_FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def files(bundled: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages by name, as files."""
    folder = tmp_path_factory.mktemp("pages")
    texts = pages(bundled)
    texts["vgg"] = as_html(onnxshare.inspect(bundled / "vgg_small.onnx"))
    texts["blocks"] = as_html(onnxshare.inspect(blocks(1000)))
    texts["hostile"] = as_html(hostile())
    texts["long"] = as_html(onnxshare.inspect(long_names()))
    found = {}
    for name, text in texts.items():
        found[name] = folder / f"{name}.html"
        found[name].write_text(text, "utf-8")
    return found


def long_names() -> onnx.ModelProto:
    """A head whose names have 400 letters without a place to break them."""
    name = "StatefulPartitionedCall" * 17
    return model(
        [
            node("Conv", "x k", f"{name}m", name=name),
            node("Relu", f"{name}m", "r", name=f"{name}r"),
            node("Flatten", "r", "f"),
            node("MatMul", "f w", "y", name=f"{name}/inner"),
        ],
        {"x": ["n", 1, 4, 4]},
        ["y"],
        [tensor("k", 2, 1, 3, 3), tensor("w", 8, 3)],
    )


class Opened:
    """A page that is open, and what its console said."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.said: list[str] = []
        self.asked: list[str] = []
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()


NAMES = ["inspect", "vgg", "blocks", "hostile", "long", "compare", "check", "rewrite"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_and_fits(browser: Any, files: dict[str, Path], name: str, scheme: str) -> None:
    size = {"width": 390, "height": 800}
    with Opened(browser, files[name], viewport=size, color_scheme=scheme) as opened:
        assert opened.said == []
        assert opened.asked == [files[name].as_uri()]  # nothing else is loaded
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390
        paper = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(255, 255, 255)") == (scheme == "light")


def test_the_views_are_there(browser: Any, files: dict[str, Path]) -> None:
    with Opened(browser, files["vgg"]) as opened:
        for view in ("treemap", "scatter", "memory", "head", "table"):
            box = opened.page.locator(f'[data-view="{view}"]').first.bounding_box()
            assert box["width"] > 100
            assert box["height"] > 60
        for picture in opened.page.locator("main svg[role=img]").all():
            assert picture.locator("title").first.text_content()


def test_areas_are_seen_as_they_are(browser: Any, files: dict[str, Path]) -> None:
    """The first FC holds 295,040 of 378,442 parameters."""
    with Opened(browser, files["vgg"]) as opened:
        boxes = [part.bounding_box() for part in opened.page.locator("svg[data-map] rect").all()]
        areas = sorted(box["width"] * box["height"] for box in boxes)
        assert areas[-1] / sum(areas) == pytest.approx(295_040 / 378_442, abs=0.02)


def test_pointing_tells_the_layer(browser: Any, files: dict[str, Path]) -> None:
    with Opened(browser, files["vgg"]) as opened:
        opened.page.locator("svg[data-map] rect").first.hover()
        told = opened.page.locator('[data-view="treemap"] .row').text_content()
        assert "295,040 parameters, each used 1×" in told
        assert opened.page.locator("#rows tr.marked").count() == 1


def test_zoom_by_keys_and_back(browser: Any, files: dict[str, Path]) -> None:
    with Opened(browser, files["blocks"]) as opened:
        picture, where = opened.page.locator("svg[data-map]"), opened.page.locator(".where")
        seen = 'svg[data-map] rect[data-row][visibility="visible"]'
        whole = opened.page.locator(seen).count()
        picture.focus()
        opened.page.keyboard.press("ArrowRight")
        opened.page.keyboard.press("Enter")
        assert where.text_content().startswith("model / layers.")
        assert 0 < opened.page.locator(seen).count() < whole
        opened.page.keyboard.press("Escape")
        assert where.text_content() == ""
        assert opened.page.locator(seen).count() == whole


def test_other_areas(browser: Any, files: dict[str, Path]) -> None:
    """MACs of vgg_small: the second convolution has 28.9 of 35.0 million."""
    with Opened(browser, files["vgg"]) as opened:
        opened.page.get_by_label("MACs", exact=True).check()
        opened.page.locator("svg[data-map] rect").first.hover()
        assert "node_conv2d_1 " in opened.page.locator('[data-view="treemap"] .row').text_content()


def test_the_table_is_searched_sorted_and_folded(browser: Any, files: dict[str, Path]) -> None:
    with Opened(browser, files["blocks"]) as opened:
        page, rows = opened.page, opened.page.locator("#rows tbody tr")
        assert rows.count() == 100
        page.locator("#more").click()
        assert rows.count() == 200
        page.locator("#search").fill("layers.7/ matmul")
        assert rows.count() == 2
        assert page.locator("#count").text_content() == "2 of 3,000 nodes"
        page.locator("#search").fill("")
        page.get_by_role("button", name="layer", exact=True).click()
        assert page.locator("th[aria-sort=ascending]").count() == 1
        assert "/model/layers.0/down/MatMul" in rows.first.text_content()
        page.locator("#fold").check()
        assert "2 layers" in rows.first.text_content()
        page.locator("#rows tr.module button").first.click()
        assert page.locator("#rows tr:not(.module) td").count() == 2 * 8


def test_a_command_is_copied(browser: Any, files: dict[str, Path]) -> None:
    permissions = ["clipboard-read", "clipboard-write"]
    with Opened(browser, files["vgg"], permissions=permissions) as opened:
        opened.page.get_by_role("button", name="Copy").first.click()
        text = opened.page.evaluate("navigator.clipboard.readText()")
        assert text == opened.page.locator(".command code").first.text_content()


def test_names_do_nothing(browser: Any, files: dict[str, Path]) -> None:
    with Opened(browser, files["hostile"]) as opened:
        page = opened.page
        page.on("dialog", lambda dialog: pytest.fail("a name ran as a script"))
        page.locator("svg[data-map] rect").first.hover()
        page.locator("#fold").check()
        assert "alert('x')" in page.locator('[data-view="treemap"] .row').text_content()
        assert opened.said == []


def test_3000_nodes_are_drawn_in_two_seconds(browser: Any, files: dict[str, Path]) -> None:
    """Processor time of the page, which other programs on the machine do not change."""
    with Opened(browser, files["blocks"]) as opened:
        session = opened.context.new_cdp_session(opened.page)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})
        before = time.monotonic()
        opened.page.reload()
        metrics = {m["name"]: m["value"] for m in session.send("Performance.getMetrics")["metrics"]}
        assert metrics["TaskDuration"] < 2, time.monotonic() - before


def test_it_is_read_without_a_script(browser: Any, files: dict[str, Path]) -> None:
    with Opened(browser, files["vgg"], java_script_enabled=False) as opened:
        assert opened.page.locator("svg[data-map] rect").count() == 6
        assert opened.page.locator("noscript table").count() == 1
