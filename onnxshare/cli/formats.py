"""How `inspect` can print its report."""

from __future__ import annotations

from typing import Literal

Format = Literal["table", "json", "csv", "markdown"]

#: The same, to look through.
FORMATS: tuple[Format, ...] = ("table", "json", "csv", "markdown")
