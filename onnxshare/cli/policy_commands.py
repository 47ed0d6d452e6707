"""`onnxshare rules`, `explain` and `init`: what checks measure and why; a policy to start from."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from onnxshare.cli import options
from onnxshare.cli.printing import note
from onnxshare.errors import UsageError


def rules(
    output: options.TableOrJson = "table",
    out: options.Out = None,
    force: options.Force = False,
) -> None:
    """List the rules of `onnxshare check`: code, name, option and default limit.

    Exit code: 0.

    Example: onnxshare rules
    """
    with options.report_to(out, read={}, force=force):
        _list(output)


def _list(output: str) -> None:
    from onnxshare.checks.explain import default
    from onnxshare.checks.limits import show
    from onnxshare.checks.rules import BY_CODE

    every = BY_CODE.values()
    if output == "json":
        fields = ("code", "name", "option", "unit", "default", "measures", "why", "fix", "short")
        found = [
            {field: getattr(rule, field) for field in fields}
            | {"options": {name: asdict(option) for name, option in rule.options.items()}}
            for rule in every
        ]
        options.print_json({"schema_version": 1, "rules": found})
        return
    from onnxshare.report.console import make_console
    from onnxshare.report.table import Column, Table, rows

    cells: list[tuple[str, str, str, str]] = []
    for rule in every:
        cells.append((rule.code, rule.name, rule.option, default(rule)))
        for name, option in rule.options.items():
            cells.append(("", "", f"{rule.name}.{name}", show(option.default, option.unit)))
    console = make_console()
    console.print(Table([*map(Column, ("code", "name", "limit", "default"))], rows(cells)).text())
    console.print("\n`onnxshare explain CODE` says what a rule measures and why.", soft_wrap=True)


def explain(
    rule: Annotated[
        str,
        typer.Argument(
            metavar="RULE",
            help="Its code or name, such as WS101.",
            autocompletion=options.complete_rules,
        ),
    ],
    out: options.Out = None,
    force: options.Force = False,
) -> None:
    """Explain a rule of `onnxshare check`: what it measures, why, and how to fix what it finds.

    Exit code: 0; 2 if there is no such rule.

    Example: onnxshare explain WS101
    """
    from onnxshare.checks.explain import page
    from onnxshare.checks.policy import fail_on, find_codes
    from onnxshare.checks.rules import BY_CODE

    problems: list[str] = []
    word = rule.upper() if rule.upper() in BY_CODE else rule
    codes = find_codes([word], "explain", problems)
    fail_on(problems, "")
    text = "\n".join(page(BY_CODE[code]) for code in codes)
    with options.report_to(out, read={}, force=force):
        if not sys.stdout.isatty():
            sys.stdout.write(text)
            return
        from rich.markdown import Markdown

        from onnxshare.report.console import make_console

        make_console().print(Markdown(text))


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

    Exit code: 0; 2 if the file is there already.

    Example: onnxshare init --preset edge
    """
    from onnxshare.checks.policy_template import starter
    from onnxshare.io.atomic_write import replace_file
    from onnxshare.io.save import check_output

    if output.exists() and not force:
        raise UsageError(f"{output}: already exists", "edit it, or overwrite it with --force")
    check_output(output, force=force)
    replace_file(output, starter(preset, output.parent))
    note(f"wrote {output}; edit it, then run: onnxshare check")
