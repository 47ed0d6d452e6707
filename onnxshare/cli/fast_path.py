"""Recognises the plainest command line, `inspect MODEL [--format json]`, without typer.

Scripts run it once per model, and typer with what it imports takes about as long as the inspection
of a ResNet-50. Anything else, whatever is wrong with it included, is left to typer.
"""

from __future__ import annotations

from pathlib import Path

from onnxshare.cli.inspect_run import FORMATS, Format


def plain_inspect(arguments: list[str]) -> tuple[Path, Format] | None:
    """The model and the format, or None if the command line is any other."""
    if not arguments or arguments[0] != "inspect":
        return None
    words: list[str] = []
    for word in arguments[1:]:
        words += word.split("=", 1) if word.startswith("--format=") else [word]
    output: Format = "table"
    if "--format" in words:
        place = words.index("--format")
        chosen = [name for name in FORMATS if name in words[place + 1 : place + 2]]
        if not chosen:
            return None
        output = chosen[0]
        del words[place : place + 2]
    if len(words) != 1 or not words[0] or (words[0].startswith("-") and words[0] != "-"):
        return None
    return Path(words[0]), output
