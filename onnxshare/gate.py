"""`onnxshare.check`: the checks, with the rewrites to name those that help."""

from __future__ import annotations

import functools

from onnxshare.checks.results import CheckReport
from onnxshare.checks.run import check as _check
from rewrites.head_offers import judge_heads

__all__ = ["CheckReport", "check"]

#: `onnxshare.checks.run.check` with `judge` filled in.
check = functools.partial(_check, judge=judge_heads)
functools.update_wrapper(check, _check)
