"""What may be asked of an approximation; which samples a fit may see, and which measure it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxshare.errors import SamplesError, UsageError
from onnxshare.inputs import Samples
from rewrites.base import Options
from rewrites.certify import CONFIDENCE, Target, samples_needed
from rewrites.methods import parse
from rewrites.search import OBJECTIVES

#: Fewer samples leave nothing to fit and to hold out.
MIN_SAMPLES = 8

#: Share of the samples that a fit never sees, and on which it is measured: where nothing has to
#: be promised, and where something has.
_HELD_OUT = 0.25
_CERTIFIED = 0.5


def split(samples: Samples | None, options: Options) -> tuple[Samples | None, Samples | None]:
    """The samples to fit to, and the ones to measure on.

    Raises:
        SamplesError: there are too few, and how many are needed.
    """
    if samples is None:
        return None, None
    if samples.count < MIN_SAMPLES:
        raise SamplesError(
            f"{samples.origin}: holds {samples.count} samples, and a fit needs {MIN_SAMPLES}",
            "give more; a few hundred are a good start",
        )
    target = Target(options.keep, options.max_error)
    held = max(1, round(samples.count * (_CERTIFIED if target.asked else _HELD_OUT)))
    if target.asked:
        held = max(held, _enough(samples, target, searches=options.method == "auto"))
    order = np.random.default_rng(options.seed).permutation(samples.count)
    return samples.take(order[held:].tolist()), samples.take(order[:held].tolist())


def _enough(samples: Samples, target: Target, *, searches: bool) -> int:
    """The samples that a certification takes at least."""
    needed = samples_needed(target)
    rest = needed if searches else MIN_SAMPLES
    if samples.count < needed + rest:
        why = f"the search takes {needed} more" if searches else f"the fit takes {rest} more"
        raise SamplesError(
            f"{samples.origin}: holds {samples.count} samples; to promise {target.words} with "
            f"{CONFIDENCE:.0%} confidence takes at least {needed} that no fit has seen, and {why}",
            f"give {needed + rest} or more (twice that leaves room for chance), or promise less",
        )
    return needed


def check_method(options: Options, names: Sequence[str], *, given: bool) -> None:
    """Make sure that the options of small heads go together.

    Args:
        options: the options.
        names: the rewrites asked for.
        given: whether there are samples.

    Raises:
        UsageError: they do not.
    """
    if "fc-to-gap" not in names:
        raise UsageError("--method, --keep and --max-error need --fc-to-gap")
    if options.method not in ("", "auto"):
        parse(options.method)
    for name, value in (("--keep", options.keep), ("--max-error", options.max_error)):
        if value is not None and not 0 < value < 1:
            raise UsageError(f"{name} is a share between 0 and 1, or a percentage", "such as 99%")
    if options.objective not in OBJECTIVES:
        raise UsageError(
            f"there is no objective '{options.objective}'", f"there are: {', '.join(OBJECTIVES)}"
        )
    if options.method == "auto" and options.keep is None and options.max_error is None:
        raise UsageError(
            "--method auto searches for what keeps a promise",
            "say which with --keep 99% (classes) or --max-error 5% (values)",
        )
    if not given and options.method not in ("", "auto", "gap", "exact"):
        raise UsageError(
            f"'{options.method}' needs inputs to fit to",
            "give some with --samples FILE.npz or a folder",
        )
