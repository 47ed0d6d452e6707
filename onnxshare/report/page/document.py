"""One page from a template: self-contained, with nothing in it that acts but its own script.

A Content-Security-Policy forbids every address and every script and style but those whose hashes it
names (https://www.w3.org/TR/CSP3/); all values come as text, escaped by Jinja2.
"""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from onnxshare.errors import printable
from onnxshare.report.plot.picture import STYLE, Picture, embedded
from onnxshare.report.table import Table
from onnxshare.version import __version__

_FOLDER = Path(__file__).parent / "templates"


def render(template: str, *, data: dict[str, Any] | None = None, **values: Any) -> str:
    """The page of a template.

    Args:
        template: its name without the ending, such as `inspect`.
        data: what the script reads, as JSON.
        values: what the template names; text is escaped, and signs that act on a terminal or hide
            others are written out.
    """
    style, script = _asset("page.css") + STYLE, _asset("page.js")
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        _environment()
        .get_template(f"{template}.html")
        .render(
            policy=policy,
            style=Markup(style),
            script=Markup(script),
            data=Markup(_json(data)) if data is not None else None,
            version=__version__,
            **values,
        )
        + "\n"
    )


def drawn(picture: Picture | None, **attributes: str) -> Markup | None:
    """A picture as an element of the page, or nothing for none."""
    if picture is None:
        return None
    marks = " ".join(f'{name.replace("_", "-")}="{value}"' for name, value in attributes.items())
    return Markup(embedded(picture, marks))


def chart(picture: Picture | None) -> Markup | None:
    """The same for one whose words grow on a narrow screen."""
    return drawn(picture, **{"class": "chart"})


def tabulated(table: Table) -> Markup:
    """A table as an element of the page."""
    return Markup("\n".join(table.html()))


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _asset(name: str) -> str:
    return (_FOLDER / name).read_text("utf-8")


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )


def _shown(value: Any) -> Any:
    """Text that holds no sign that acts; markup of our own as it is."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _json(data: dict[str, Any]) -> str:
    """JSON that ends no script element and holds no sign that acts."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
