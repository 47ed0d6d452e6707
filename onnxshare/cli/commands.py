"""The commands, put together for typer."""

from __future__ import annotations

import os
from collections.abc import Callable
from inspect import Signature, cleandoc
from typing import Annotated, Any, get_type_hints

import typer

from onnxshare.cli import options
from onnxshare.cli.check import command as check
from onnxshare.cli.compare import command as compare
from onnxshare.cli.diff import command as diff
from onnxshare.cli.doctor import command as doctor
from onnxshare.cli.family import command as family
from onnxshare.cli.inspect import command as inspect
from onnxshare.cli.policy_commands import command as init
from onnxshare.cli.policy_commands import explain, rules
from onnxshare.cli.rewrite import command as rewrite
from onnxshare.cli.scan import command as scan
from onnxshare.errors import UsageError
from onnxshare.version import __version__

app = typer.Typer(
    name="onnxshare",
    help="Show where an ONNX model's weights sit and how often each is used, "
    "share them, and prove what that changed.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

#: The exit code of a command that was interrupted: 128 and the number of SIGINT.
INTERRUPTED = 130


def _version(value: bool) -> None:
    if value:
        typer.echo(f"onnxshare {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def _paragraphs(function: Callable[..., object]) -> str:
    """The docstring with each paragraph on one line, for typer keeps the breaks of the source."""
    text = cleandoc(function.__doc__ or "")
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


_COMMANDS: dict[str, Callable[..., object]] = {
    "inspect": inspect,
    "rewrite": rewrite,
    "compare": compare,
    "diff": diff,
    "family": family,
    "check": check,
    "scan": scan,
    "init": init,
    "rules": rules,
    "explain": explain,
    "doctor": doctor,
}


def _laid_out(command: Callable[..., object]) -> Callable[..., object]:
    """The command with a parameter for each of its options, where it takes them as one object."""
    kind = get_type_hints(command).get("given")
    if kind is None:
        return command

    def call(**values: Any) -> object:
        return command(options.filled(kind, values))

    call.__dict__["__signature__"] = Signature(list(options.parameters(kind)))
    return call


for _name, _command in _COMMANDS.items():
    app.command(_name, help=_paragraphs(_command))(_laid_out(_command))


def call(arguments: list[str]) -> int:
    """Parse a command line, call its command, and return the exit code.

    Raises:
        UsageError: the arguments are not those of a command.
    """
    try:
        result = app(arguments, prog_name="onnxshare", standalone_mode=False)
    except typer.TyperException as error:
        said = error.format_message().rstrip(".?")
        if not said:  # no command: typer has printed the help
            return 2
        first = arguments[0]
        if first in ("inspect", "rewrite") and said.startswith("Got unexpected extra argument"):
            raise UsageError(
                f"`onnxshare {first}` takes one model",
                "use `onnxshare check` or `onnxshare family` for several",
            ) from error
        if first not in _COMMANDS and os.path.isfile(first):
            raise UsageError(
                f"{first}: no command is given", f"did you mean `onnxshare inspect {first}`?"
            ) from error
        raise UsageError(said, "see `onnxshare --help`") from error
    except typer.Abort:
        raise KeyboardInterrupt from None
    if result == INTERRUPTED:  # which is what typer makes of Ctrl-C; no command returns it
        raise KeyboardInterrupt
    return result if isinstance(result, int) else 0
