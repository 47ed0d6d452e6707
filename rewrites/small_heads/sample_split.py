"""What may be asked of an approximation; which samples a fit may see, and which measure it."""

from __future__ import annotations

from collections.abc import Collection
from math import floor

import numpy as np

from onnxshare.errors import SamplesError, UsageError
from onnxshare.samples.samples import Samples
from onnxshare.support.option_text import option
from rewrites.base import Options
from rewrites.small_heads.certificate import CONFIDENCE, Target, percent, samples_needed
from rewrites.small_heads.methods import parse
from rewrites.small_heads.search import OBJECTIVES

#: Fewer samples leave nothing to fit and to hold out.
MIN_SAMPLES = 8

#: Share of the samples that a fit never sees, and on which it is measured: where nothing has to
#: be promised, and where something has.
_HELD_OUT = 0.25
_CERTIFIED = 0.5


def split(samples: Samples, options: Options) -> tuple[Samples, Samples]:
    """The samples to fit to, and the ones to measure on.

    Raises:
        SamplesError: there are too few, and how many are needed.
    """
    target = Target(options.keep, options.max_error)
    if samples.count < MIN_SAMPLES and not target.asked:
        raise SamplesError(
            f"{_held(samples)}, and a fit needs {MIN_SAMPLES}",
            "give more; a few hundred are a good start",
        )
    held = max(1, round(samples.count * (_CERTIFIED if target.asked else _HELD_OUT)))
    if target.asked:
        needed = _enough(samples, target, searches=options.method == "auto")
        held = max(needed, min(held, samples.count - MIN_SAMPLES))
    order = np.random.default_rng(options.seed).permutation(samples.count)
    return samples.take(order[held:].tolist()), samples.take(order[:held].tolist())


def _enough(samples: Samples, target: Target, *, searches: bool) -> int:
    """The samples that a certification takes at least.

    Raises:
        SamplesError: there are fewer than that and what a fit or a search takes.
    """
    needed = samples_needed(target)
    rest = max(needed if searches else 0, MIN_SAMPLES)
    if samples.count < needed + rest:
        why = f"the search takes {rest} more" if searches else f"the fit takes {rest} more"
        less = _provable(min(samples.count // (1 + searches), samples.count - MIN_SAMPLES), target)
        raise SamplesError(
            f"{_held(samples)}; to promise {target.words} with {CONFIDENCE:.0%} confidence takes "
            f"at least {needed} that no fit has seen, and {why}",
            f"give {needed + rest} or more (twice that leaves room for chance), or promise {less}",
        )
    return needed


def _provable(count: int, target: Target) -> str:
    """The most that so many certified samples could prove, as text."""
    if target.keep is None or count < 1:
        return "less"
    share = floor((1 - CONFIDENCE) ** (1 / count) * 1000) / 1000
    return f"less: these could prove at most {percent(share)}, and that if not one answer changes"


def _held(samples: Samples) -> str:
    """Whose samples these are, and how many."""
    return f"{samples.origin}: holds {samples.count} sample{'' if samples.count == 1 else 's'}"


def check_method(options: Options, names: Collection[str], *, given: bool) -> None:
    """Make sure that the options of small heads go together, with the names of the rewrites
    requested , and with whether samples are given.

    Raises:
        UsageError: they do not.
    """
    if "fc-to-gap" not in names:
        raise UsageError(
            f"{option('--method')}, {option('--keep')} and {option('--max-error')} need "
            + option("--fc-to-gap")
        )
    if options.method not in ("", "auto"):
        parse(options.method)
    for name, value in (
        (option("--keep"), options.keep),
        (option("--max-error"), options.max_error),
    ):
        if value is not None and not 0 < value < 1:
            raise UsageError(f"{name} is a share between 0 and 1, or a percentage", "such as 99%")
    if options.objective not in OBJECTIVES:
        raise UsageError(
            f"there is no objective '{options.objective}'", f"available: {', '.join(OBJECTIVES)}"
        )
    if options.time_limit is not None and not options.time_limit > 0:
        raise UsageError(f"{option('--time-limit')} is a number of seconds above 0")
    if options.time_limit is not None and options.method != "auto":
        raise UsageError(
            f"{option('--time-limit')} ends a search", f"request one with {option('--method auto')}"
        )
    if options.method == "auto" and options.keep is None and options.max_error is None:
        raise UsageError(
            f"{option('--method auto')} searches for what keeps a promise",
            f"say which with {option('--keep 99%')} (classes) or {option('--max-error 5%')} "
            "(values)",
        )
    if not given and options.method not in ("", "auto", "gap", "exact"):
        raise UsageError(
            f"'{options.method}' needs inputs to fit to",
            f"give some with {option('--samples FILE.npz')} or a folder",
        )
