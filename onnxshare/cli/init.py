"""`onnxshare init`: a policy file to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from onnxshare.cli.printing import note
from onnxshare.errors import UsageError


def command(
    preset: Annotated[
        Literal["edge", "server", "teaching"],
        typer.Option(help="What the models are for: small devices, servers, or a course."),
    ] = "server",
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="The file to write.")
    ] = Path("onnxshare.toml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Write a policy file for `onnxshare check`, to be edited.

    It names the .onnx files at and below the current folder, and the limits of
    a preset, each with a word on what it measures.

    Example: onnxshare init --preset edge
    """
    from onnxshare.checks.policy_template import starter
    from onnxshare.io.atomic_write import replace_text

    if output.exists() and not force:
        raise UsageError(f"{output}: exists already", "edit it, or overwrite it with --force")
    replace_text(output, starter(preset, output.parent))
    note(f"wrote {output}; edit it, then run: onnxshare check")
