"""What other packages add, under the entry point groups `onnxshare.rewrites`, `.rules` and
`.operators`. Looking for them reads every installed package's metadata, so it is done once, and
only for a name that onnxshare itself does not know."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from onnxshare.errors import UsageError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


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
                raise broken(entry, "it is no mapping of operators to rows")
            rows.update(found)
    return rows


def _is_row(row: object) -> bool:
    return hasattr(row, "work") and hasattr(row, "traits")


def load(entry: EntryPoint) -> Any:
    """What an entry point stands for.

    Raises:
        UsageError: the package cannot be imported, or has no such thing.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):  # standard output is for data
            return entry.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # another package's code, which may even try to exit
        raise broken(entry, f"{type(error).__name__}: {error}") from error


def broken(entry: EntryPoint, why: str) -> UsageError:
    """The error that says what is wrong with an entry point."""
    return UsageError(
        f"the package behind entry point '{entry.name}' cannot be loaded "
        f"({entry.group}: {entry.value}: {why})",
        "mend or remove that package",
    )
