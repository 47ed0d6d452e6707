"""What other packages add, under the entry point groups `onnxshare.rewrites`, `.rules` and
`.operators`. Looking for them reads every installed package's metadata, so it is done once, and
only for a name that onnxshare itself does not know."""

from __future__ import annotations

import sys
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from onnxshare.errors import UsageError


def installed(group: str) -> tuple[EntryPoint, ...]:
    """The entry points of a group: `rewrites`, `rules` or `operators`."""
    return _installed(group, tuple(sys.path))


@cache
def _installed(group: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=f"onnxshare.{group}"))


def load(entry: EntryPoint) -> Any:
    """What an entry point stands for.

    Raises:
        UsageError: the package cannot be imported, or has no such thing.
    """
    try:
        return entry.load()
    except Exception as error:  # another package's code
        raise broken(entry, f"{type(error).__name__}: {error}") from error


def broken(entry: EntryPoint, why: str) -> UsageError:
    """The error that says what is wrong with an entry point."""
    return UsageError(
        f"the package behind entry point '{entry.name}' cannot be loaded "
        f"({entry.group}: {entry.value}: {why})",
        "mend or remove that package",
    )
