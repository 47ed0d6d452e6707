"""The application: its commands, and the one place where errors become a line and an exit code."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from onnxshare.cli.check import command as check
from onnxshare.cli.compare import command as compare
from onnxshare.cli.doctor import command as doctor
from onnxshare.cli.inspect import command as inspect
from onnxshare.cli.rewrite import command as rewrite
from onnxshare.errors import OnnxShareError, printable
from onnxshare.version import __version__

app = typer.Typer(
    name="onnxshare",
    help="Show where an ONNX model's weights sit and how often each is used, "
    "share them, and prove what that changed.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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


app.command("inspect")(inspect)
app.command("rewrite")(rewrite)
app.command("compare")(compare)
app.command("check")(check)
app.command("doctor")(doctor)


def main() -> None:
    """Run the command line and exit: 0 fine, 1 the answer is no, 2 usage, bad input or a crash."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code; errors become one line on stderr."""
    # Since 1.29 onnxruntime otherwise writes a device id and a database when it is imported.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        result = app(arguments, prog_name="onnxshare", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except OnnxShareError as error:
        return _fail(str(error))
    except typer.TyperException as error:
        return _fail(f"{error.format_message().rstrip('.')}; see `onnxshare --help`")
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted")
        return 130
    except BrokenPipeError:
        # The reader of our output has gone; python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError:
        return _fail("there is not enough memory for this; free some, or use a smaller model")
    except Exception as error:
        if os.environ.get("ONNXSHARE_DEBUG"):
            raise
        return _fail(
            f"internal error: {type(error).__name__}: {error}; this is a bug: "
            "set ONNXSHARE_DEBUG=1 to see where, and report it"
        )


def _fail(message: str) -> int:
    line = " ".join(printable(message.replace("\n", " ")).split())
    print(f"onnxshare: error: {line}", file=sys.stderr)
    return 2
