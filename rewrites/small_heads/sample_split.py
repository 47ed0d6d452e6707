"""What may be asked of an approximation; which samples a fit may see, and which measure it."""

from __future__ import annotations

from collections.abc import Collection
from math import ceil

import numpy as np

from onnxshare.comparison.target import CONFIDENCE, Criterion, Target
from onnxshare.comparison.tolerance import needs_labels
from onnxshare.errors import SamplesError, UsageError
from onnxshare.samples.samples import Samples
from onnxshare.support.option_text import option
from onnxshare.support.progress import log
from rewrites.base import Options
from rewrites.small_heads.certificate import samples_needed
from rewrites.small_heads.methods import parse
from rewrites.small_heads.search import OBJECTIVES

#: Fewer samples leave nothing to fit and to hold out.
MIN_SAMPLES = 8

#: The share of the samples that a fit never sees where nothing has to be promised; and the most
#: where something has, as a search wants as many for the same bound.
_HELD_OUT = 0.25
_CERTIFIED = 0.5

#: How much better than the promise a head is that is certified more often than not, as a part of
#: the gap to perfect: where samples abound, and before a user is told that there are few.
_LEAST = 0.1
_MOST = 0.25

#: The one-sided quantile of the normal distribution at 95 %.
_QUANTILE = 1.645


def split(samples: Samples, options: Options) -> tuple[Samples, Samples]:
    """The samples to fit to, and the ones to measure on: of a promise as many as it takes, half of
    all at most, or what `search_share` leaves.

    Raises:
        SamplesError: there are too few, and how many are needed.
        UsageError: accuracy is to be kept, and there are no labels.
    """
    target = options.target
    needs_labels(target, samples.labels is not None)
    if samples.count < MIN_SAMPLES and not target.asked:
        raise SamplesError(
            f"{_held(samples)}, and a fit needs {MIN_SAMPLES}",
            "give more; a few hundred are a good start",
        )
    held = max(1, round(samples.count * _HELD_OUT))
    if target.asked:
        held = _certifying(samples, options)
    elif options.search_share is not None:
        held = samples.count - round(samples.count * options.search_share)
        held = min(max(1, held), samples.count - MIN_SAMPLES)
    order = np.random.default_rng(options.seed).permutation(samples.count)
    return samples.take(order[held:].tolist()), samples.take(order[:held].tolist())


def _certifying(samples: Samples, options: Options) -> int:
    """How many samples certify: so many that a head whose true figure is better than the promise by
    a tenth of the gap to perfect is certified more often than not. Says, before any work, what a
    head has to be like where there are too few even for a quarter of it.

    Raises:
        SamplesError: they cannot prove the promise at all.
    """
    target, share = options.target, options.search_share
    needed = _enough(samples, target, searches=options.method == "auto")
    wanted = max([needed, *(_showing(item, _MOST) for item in target.criteria)])
    held = round(samples.count * _CERTIFIED)
    if target.max_error is None:
        held = min(held, max([needed, *(_showing(item, _LEAST) for item in target.criteria)]))
    if share is not None:
        held = samples.count - round(samples.count * share)
        if not needed <= held <= samples.count - MIN_SAMPLES:
            raise UsageError(
                f"{option('--search-share')} of {share:.0%} leaves {held} of {samples.count} "
                f"samples, and to promise {target.words} takes at least {needed}, and "
                f"{MIN_SAMPLES} others",
                "leave it out, or give more samples",
            )
    held = max(needed, min(held, samples.count - MIN_SAMPLES))
    if held < wanted:
        worst = max(target.criteria, key=lambda item: _showing(item, _MOST))
        log(
            f"of {held:,} samples that certify, {worst.most_missed(held):,} may differ to show "
            f"{worst.words}: heads have to be much better than that; {wanted - held:,} samples "
            "more would certify heads that are a little better"
        )
    return held


def _showing(criterion: Criterion, part: float) -> int:
    """Samples on which a true figure that is better than the promised by this part of the gap to
    perfect shows, by the normal approximation: z² p / ((1 − p) part²)."""
    share = 1 + criterion.least if criterion.paired else criterion.least
    return ceil((_QUANTILE / part) ** 2 * share / (1 - share))


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
        more = needed + rest - samples.count
        raise SamplesError(
            f"{_held(samples)}; to promise {target.words} with {CONFIDENCE:.0%} confidence takes "
            f"at least {needed} that no fit has seen, and {why}",
            f"give {needed + rest} or more ({more} more than now; twice as many leave room for "
            f"chance), or promise {less}",
        )
    return needed


def _provable(count: int, target: Target) -> str:
    """The most that so many certified samples could prove, as text."""
    if not target.criteria or count < 1:
        return "less"
    most = max(target.criteria, key=lambda item: item.samples_needed)
    return f"less: these could prove {most.provable(count)}, and that if not one answer changes"


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
    options.target.check()
    if options.search_share is not None and not 0 < options.search_share < 1:
        raise UsageError(f"{option('--search-share')} is a share between 0 and 1, such as 50%")
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
    if options.int8_activations and options.method != "auto":
        raise UsageError(
            f"{option('--int8-activations')} is for a search",
            f"request one with {option('--method auto')}, or name a head, such as "
            f"{option('--method w8a8')} or stack:32+w8a8",
        )
    if options.method == "auto" and not options.target.asked:
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
