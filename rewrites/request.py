"""What a call asks for: which rewrites, in which order, and whether its options go together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnxshare.errors import UsageError
from onnxshare.support import plugins
from onnxshare.support.option_text import option
from rewrites import ALL
from rewrites.base import Options, Rewrite
from rewrites.small_heads.sample_split import check_method

#: What a call may name: names of rewrites and rewrites themselves, or one of these.
Asked = str | Rewrite | Sequence[str | Rewrite]


def request(asked: Asked, options: Options, *, given: bool) -> tuple[list[Rewrite], Options]:
    """The rewrites that are requested, in the order of `ALL`, then others as they are given; and
    the options, with those of each rewrite's own. `given` is whether there are samples.

    Raises:
        UsageError: one is unknown, is none, or is requested in two ways; or options do not go
            together.
    """
    found: dict[str, Rewrite] = {}
    for item in [asked] if isinstance(asked, (str, Rewrite, type)) else asked:
        rewrite = _named(item) if isinstance(item, str) else checked(item)
        if found.setdefault(rewrite.name, rewrite) != rewrite:
            raise UsageError(f"'{rewrite.name}' is requested twice", "request one of them")
    order = [rewrite.name for rewrite in ALL]
    if not found:
        raise UsageError("no rewrite was requested", f"available: {', '.join(order)}")
    for rewrite in found.values():
        options = rewrite.with_own_options(options)
    _check(set(found), options, given=given)
    names = sorted(found, key=lambda name: order.index(name) if name in order else len(order))
    return [found[name] for name in names], options


def checked(item: Any) -> Rewrite:
    """The rewrite that an object is, or that a class makes.

    Raises:
        UsageError: it is none.
    """
    rewrite = item() if isinstance(item, type) else item
    if not isinstance(rewrite, Rewrite):
        raise UsageError(
            f"{rewrite!r} is not a rewrite", "derive its class from onnxshare.rewrites.Rewrite"
        )
    return rewrite


def _named(name: str) -> Rewrite:
    """This project's rewrite of that name, else an installed package's."""
    known = {rewrite.name: rewrite for rewrite in ALL}
    if name in known:
        return known[name]
    failed: UsageError | None = None
    for entry in plugins.installed("rewrites"):
        try:
            rewrite = checked(plugins.load(entry))
            known.setdefault(rewrite.name, rewrite)
        except Exception as error:  # another package's code
            why = error if isinstance(error, UsageError) else plugins.broken(entry, repr(error))
            failed = failed or why
    if name in known:
        return known[name]
    unknown = f"there is no rewrite '{name}'"
    if failed is not None:
        raise UsageError(f"{unknown}, and {failed.cause}", failed.remedy)
    raise UsageError(unknown, f"available: {', '.join(known)}")


def _check(names: set[str], options: Options, *, given: bool) -> None:
    if {"fc-to-conv", "conv-to-fc"} <= names:
        raise UsageError(
            f"{option('--conv-to-fc')} undoes {option('--fc-to-conv')}", "request one of them"
        )
    if options.fully_convolutional and "fc-to-conv" not in names:
        raise UsageError(f"{option('--fully-convolutional')} needs {option('--fc-to-conv')}")
    if options.pool_outputs and not options.fully_convolutional:
        raise UsageError(f"{option('--pool-outputs')} needs {option('--fully-convolutional')}")
    if options.approximate and not given:
        raise UsageError(
            f"{option('--approximate')} needs inputs to fit to",
            f"give some with {option('--samples FILE.npz')} or a folder",
        )
    searches = options.search_share is not None or options.int8_activations
    if options.small_head or options.time_limit is not None or searches:
        check_method(options, names, given=given)
