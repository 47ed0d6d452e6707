"""The application: the one place where errors become a line and an exit code."""

from __future__ import annotations

import os
import sys

from onnxshare.cli.plain import plain_inspect
from onnxshare.errors import OnnxShareError, printable


def main() -> None:
    """Run the command line and exit: 0 fine, 1 the answer is no, 2 usage, bad input or a crash."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code; errors become one line on stderr."""
    # Since 1.29 onnxruntime otherwise writes a device id and a database when it is imported.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        code = _call(arguments)
        sys.stdout.flush()
        return code
    except OnnxShareError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
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


def _call(arguments: list[str]) -> int:
    plain = plain_inspect(arguments)
    if plain is not None:
        from onnxshare.cli.show import show

        show(*plain)
        return 0
    from onnxshare.cli.commands import call

    return call(arguments)


def _fail(message: str) -> int:
    line = " ".join(printable(message.replace("\n", " ")).split())
    print(f"onnxshare: error: {line}", file=sys.stderr)
    return 2
