"""Show where an ONNX model's weights sit and how often each is used, share them, and prove it.

The public names, and nothing else; what they need is imported when they are first used, so that
`import onnxshare` costs next to nothing.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from onnxshare.errors import (
    ModelError,
    ModelFileError,
    OnnxShareError,
    RewriteError,
    RuntimeFailure,
    SamplesError,
    UsageError,
)
from onnxshare.version import __version__

if TYPE_CHECKING:
    import rewrites
    from onnxshare.analysis.results import Inspection
    from onnxshare.api import check, inspect
    from onnxshare.checks.policy import Policy
    from onnxshare.checks.results import CheckReport
    from onnxshare.comparison.compare import compare
    from onnxshare.comparison.results import Comparison, Verdict
    from onnxshare.differences.diff import diff
    from onnxshare.differences.family import Family, family
    from onnxshare.differences.results import Difference
    from onnxshare.io.load import Model, load
    from onnxshare.model_family.results import WrittenFamily
    from onnxshare.model_family.write import write_family
    from onnxshare.model_scan.results import ScanRow
    from onnxshare.model_scan.scan import scan
    from onnxshare.runtime.family_sessions import family_sessions
    from onnxshare.runtime.limits import RunLimits
    from onnxshare.samples.images import ImageOptions
    from onnxshare.samples.samples import Samples
    from rewrites.base import Change, Site
    from rewrites.run import RewriteResult, rewrite

__all__ = [
    "Change",
    "CheckReport",
    "Comparison",
    "Difference",
    "Family",
    "ImageOptions",
    "Inspection",
    "Model",
    "ModelError",
    "ModelFileError",
    "OnnxShareError",
    "Policy",
    "RewriteError",
    "RewriteResult",
    "RunLimits",
    "RuntimeFailure",
    "Samples",
    "SamplesError",
    "ScanRow",
    "Site",
    "UsageError",
    "Verdict",
    "WrittenFamily",
    "__version__",
    "check",
    "compare",
    "diff",
    "family",
    "family_sessions",
    "inspect",
    "load",
    "rewrite",
    "rewrites",
    "scan",
    "write_family",
]

_HOMES = {
    "Change": "rewrites.base",
    "CheckReport": "onnxshare.checks.results",
    "Comparison": "onnxshare.comparison.results",
    "Difference": "onnxshare.differences.results",
    "Family": "onnxshare.differences.family",
    "ImageOptions": "onnxshare.samples.images",
    "Inspection": "onnxshare.analysis.results",
    "Model": "onnxshare.io.load",
    "Policy": "onnxshare.checks.policy",
    "RewriteResult": "rewrites.run",
    "RunLimits": "onnxshare.runtime.limits",
    "Samples": "onnxshare.samples.samples",
    "ScanRow": "onnxshare.model_scan.results",
    "Site": "rewrites.base",
    "Verdict": "onnxshare.comparison.results",
    "WrittenFamily": "onnxshare.model_family.results",
    "check": "onnxshare.api",
    "compare": "onnxshare.comparison.compare",
    "diff": "onnxshare.differences.diff",
    "family": "onnxshare.differences.family",
    "family_sessions": "onnxshare.runtime.family_sessions",
    "inspect": "onnxshare.api",
    "load": "onnxshare.io.load",
    "rewrite": "rewrites.run",
    "scan": "onnxshare.model_scan.scan",
    "write_family": "onnxshare.model_family.write",
}

# Since 1.29 onnxruntime otherwise writes a device id and a database when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "rewrites":
        return import_module("onnxshare.rewrites")
    if name not in _HOMES:
        raise AttributeError(f"module 'onnxshare' has no attribute '{name}'")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
