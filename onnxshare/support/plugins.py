"""What other packages add, under the entry point groups `onnxshare.rewrites`, `.rules` and
`.operators`. Looking for them reads every installed package's metadata, so it is done once, and
only for a name that onnxshare itself does not know."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from functools import cache
from types import FrameType
from typing import TYPE_CHECKING, Any

from onnxshare.errors import OnnxShareError, UsageError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


#: The groups of entry points.
GROUPS = ("rewrites", "rules", "operators")


def installed(group: str) -> tuple[EntryPoint, ...]:
    """The entry points of a group: `rewrites`, `rules` or `operators`."""
    return _installed(group, tuple(sys.path))


@cache
def _installed(group: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    from importlib.metadata import entry_points  # takes as long to import as to look

    return tuple(entry_points(group=f"onnxshare.{group}"))


def operators(domain: str) -> Mapping[str, Any]:
    """What other packages say of the operators of a custom domain: `Operator` rows by name.

    The entry point is named as the domain, so that no package is loaded for another's operators.

    Raises:
        UsageError: it cannot be loaded, or is no such mapping.
    """
    return _operators(domain, tuple(sys.path))


@cache
def _operators(domain: str, path: tuple[str, ...]) -> Mapping[str, Any]:
    rows: dict[str, Any] = {}
    for entry in installed("operators"):
        if entry.name == domain:
            found = load(entry)
            if not isinstance(found, Mapping) or not all(map(_is_row, found.values())):
                raise broken(entry, "it is not a mapping of operators to rows")
            rows.update(found)
    return rows


def _is_row(row: object) -> bool:
    return hasattr(row, "work") and hasattr(getattr(row, "traits", None), "effect")


def load(entry: EntryPoint) -> Any:
    """What an entry point stands for.

    Raises:
        UsageError: the package cannot be imported, or has no such thing.
    """
    try:
        with stdout_kept(), _in_time():
            return entry.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # another package's code, which may even try to exit
        raise broken(entry, f"{type(error).__name__}: {error}") from error


#: Seconds that a package may take to be imported.
_PATIENCE = 30


@contextlib.contextmanager
def _in_time() -> Iterator[None]:
    """An import that takes too long ends with TimeoutError, where the system can do that."""
    if threading.current_thread() is not threading.main_thread() or os.name != "posix":
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"it takes longer than {_PATIENCE} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, _PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def stdout_kept() -> Iterator[None]:
    """Keep standard output for data: what another package prints while it works goes to stderr."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


@contextlib.contextmanager
def blamed() -> Iterator[None]:
    """What goes wrong in another package's code, which may even try to exit, is said of it.

    Raises:
        UsageError: something did.
    """
    try:
        yield
    except (OnnxShareError, KeyboardInterrupt):
        raise
    except BaseException as error:
        name = None if type(error).__module__.startswith("onnxshare.") else _culprit(error)
        if name is None:
            raise
        raise UsageError(
            f"the package '{name}' fails: {type(error).__name__}: {error}",
            "fix or remove that package",
        ) from error


def _culprit(error: BaseException) -> str | None:
    """The package behind an entry point in whose code an error came up."""
    ran: set[str] = set()
    trace = error.__traceback__
    while trace is not None:
        ran.add(str(trace.tb_frame.f_globals.get("__name__")).partition(".")[0])
        trace = trace.tb_next
    entries = (entry for group in GROUPS for entry in installed(group))
    names = {entry.value.partition(":")[0].partition(".")[0] for entry in entries}
    return min(ran & (names - {"onnxshare", "rewrites"}), default=None)


def broken(entry: EntryPoint, why: str) -> UsageError:
    """The error that says what is wrong with an entry point."""
    return UsageError(
        f"the package behind entry point '{entry.name}' cannot be loaded "
        f"({entry.group}: {entry.value}: {why})",
        "fix or remove that package",
    )
