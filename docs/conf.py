"""The site of the documentation: `python -m sphinx -W docs FOLDER`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from docs.command_pages import PRINTED, filled, schema  # noqa: E402
from onnxshare.version import __version__  # noqa: E402

project = "onnxshare"
version = release = __version__
copyright = "the authors of onnxshare, Apache-2.0"

extensions = ["myst_parser"]
myst_heading_anchors = 3  # links to headings, as on GitHub
html_theme = "furo"
html_title = f"onnxshare {__version__}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False
smartquotes = False  # `--html` stays as it is typed
html_copy_source = False


def fill(app: Sphinx, page: str, text: list[str]) -> None:
    """Put in what is made from the code."""
    text[0] = filled(text[0])


def write_schemas(app: Sphinx, error: Exception | None) -> None:
    """The JSON Schemas, next to the pages that link to them."""
    folder = Path(app.outdir) / "schemas"
    folder.mkdir(exist_ok=True)
    for command in PRINTED:
        text = json.dumps(schema(command), indent=2, ensure_ascii=False)
        (folder / f"{command}.json").write_text(text + "\n", encoding="utf-8")


def setup(app: Sphinx) -> None:
    """Connect the above."""
    app.connect("source-read", fill)
    app.connect("build-finished", write_schemas)
