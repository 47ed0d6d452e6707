"""The commands, put together for typer."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection
from importlib import import_module
from inspect import Signature, cleandoc
from typing import Annotated, Any, get_type_hints

import typer

from onnxshare.cli import options
from onnxshare.errors import UsageError
from onnxshare.version import __version__

#: The exit code of a command that was interrupted: 128 and the number of SIGINT.
INTERRUPTED = 130


def _version(value: bool) -> None:
    if value:
        typer.echo(f"onnxshare {__version__}")
        raise typer.Exit


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


#: What each command does, as the list of all says it: the first sentence of its docstring.
SUMMARIES = {
    "inspect": "Show where a model's weights sit and how often each is used in one inference.",
    "rewrite": "Rewrite a model so that its weights are shared, and prove what that changed.",
    "compare": "Run two models on the same inputs and judge whether they are the same function.",
    "diff": "Show what changed between two models: totals, nodes, weights by content, inputs, "
    "outputs.",
    "family": "Show which weights several models share, and store them once.",
    "check": "Check models against limits.",
    "scan": "Show one row for every model: where weights sit, and what they cost.",
    "init": "Write a policy file for `onnxshare check`, to be edited.",
    "rules": "List the rules of `onnxshare check`: code, name, option and default limit.",
    "explain": "Explain a rule of `onnxshare check`: what it measures, why, and how to fix what it "
    "finds.",
    "doctor": "Show which versions are installed and where models really run, and why not "
    "elsewhere.",
}

#: Commands that share a module; the others are each the function `command` of its own.
_SHARED = {"init": "command", "rules": "rules", "explain": "explain"}


def function_of(name: str) -> Callable[..., object]:
    """The function that a command calls; its module is imported."""
    module = "policy_commands" if name in _SHARED else name
    found: Callable[..., object] = getattr(
        import_module(f"onnxshare.cli.{module}"), _SHARED.get(name, "command")
    )
    return found


def make_app(laid_out: Collection[str]) -> typer.Typer:
    """All commands for typer: some with their options, and the others, to save the time that it
    takes to import them, with their summaries alone."""
    app = typer.Typer(
        name="onnxshare",
        help="Show where an ONNX model's weights sit and how often each is used, "
        "share them, and prove what that changed.",
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    for name, summary in SUMMARIES.items():
        if name in laid_out:
            function = function_of(name)
            app.command(name, help=_paragraphs(function))(_laid_out(function))
        else:
            app.command(name, help=summary)(_listed)
    return app


def _listed() -> None:
    """Stands for a command that is not called."""


def _laid_out(command: Callable[..., object]) -> Callable[..., object]:
    """The command with a parameter for each of its options, where it takes them as one object."""
    kind = get_type_hints(command).get("given")
    if kind is None:
        return command

    def call(**values: Any) -> object:
        return command(options.filled(kind, values))

    call.__dict__["__signature__"] = Signature(list(options.parameters(kind)))
    return call


def call(arguments: list[str]) -> int:
    """Parse a command line, call its command, and return the exit code.

    Raises:
        UsageError: the arguments are not those of a command.
    """
    first = next((word for word in arguments if not word.startswith("-")), "")
    shell = "_ONNXSHARE_COMPLETE" in os.environ  # which may want the options of any command
    app = make_app(SUMMARIES if shell else [first])
    try:
        result = app(arguments, prog_name="onnxshare", standalone_mode=False)
    except typer.TyperException as error:
        if not error.format_message():  # no command: typer has printed the help
            return 2
        raise _in_our_words(error, first) from error
    except typer.Abort:
        raise KeyboardInterrupt from None
    if result == INTERRUPTED:  # which is what typer makes of Ctrl-C; no command returns it
        raise KeyboardInterrupt
    return result if isinstance(result, int) else 0


#: How typer's libraries, and how we, say what is wrong with a value.
_SAID = (
    (r"Value error, ", ""),
    (r"Input should be a valid integer.*", "is not a whole number"),
    (r"Input should be a valid number.*", "is not a number"),
    (r"Input should be greater than or equal to (\S+)", r"is less than \1"),
    (r"Invalid value for '(.*?)': (?='|is )", r"\1: "),
)


def _in_our_words(error: typer.TyperException, command: str) -> UsageError:
    """What is wrong with a command line, and what to do."""
    said = error.format_message().strip()
    if command in ("inspect", "rewrite") and said.startswith("Got unexpected extra argument"):
        return UsageError(
            f"`onnxshare {command}` takes one model",
            "use `onnxshare scan`, `onnxshare check` or `onnxshare family` for several",
        )
    if command not in SUMMARIES and os.path.isfile(command):
        return UsageError(
            f"{command}: no command is given", f"did you mean `onnxshare inspect {command}`?"
        )
    for theirs, ours in _SAID:
        said = re.sub(theirs, ours, said)
    near = re.search(r"\.? (?:Did you mean|\(Possible options:) (.*?)[?)]?$", said)
    if near:
        names = near[1].replace("'", "").split(", ")
        return UsageError(said[: near.start()], f"did you mean {' or '.join(names)}?")
    place = f"onnxshare {command} --help" if command in SUMMARIES else "onnxshare --help"
    return UsageError(said.rstrip("."), f"see `{place}`")
