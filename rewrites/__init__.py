"""The rewrites: each one file, its algebra on top.

`ALL` is a plain tuple in the order in which rewrites run when several are requested, each until it
fits nowhere any more:

1. `share` first, so that nothing after it un-shares what is equal: `fold-batchnorm` refuses a
   kernel that is used twice.
2. `fold-batchnorm` before all that look at a convolution's neighbours.
3. `global-pool` before `pool-first`, which then finds every pooling as one.
4. `fc-to-gap` before `fc-to-conv`: what shrinks before what only reshapes.
5. `conv-to-fc` last: it takes the 1×1 convolutions that pooling left. It undoes `fc-to-conv`, so
   both in one call are an error.

Third parties add theirs by the entry point group `onnxshare.rewrites`, or hand an object to
`onnxshare.rewrite`. `onnxshare.rewrites` is another name of this package, the documented one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxshare.analysis.heads.head import Subject
    from onnxshare.graph.editor import Editor
    from rewrites.base import Change, Fitting, Options, Rewrite, Site
    from rewrites.conv_to_fc import ConvToFc
    from rewrites.fc_to_conv import FcToConv
    from rewrites.fc_to_gap import FcToGap
    from rewrites.fold_batchnorm import FoldBatchNorm
    from rewrites.global_pool import GlobalPool
    from rewrites.pool_first import PoolFirst
    from rewrites.refusal import Refusal
    from rewrites.share import Share

    #: The rewrites of this project, in the order above.
    ALL: tuple[Rewrite, ...]

_ORDER = {
    "Share": "rewrites.share",
    "FoldBatchNorm": "rewrites.fold_batchnorm",
    "GlobalPool": "rewrites.global_pool",
    "PoolFirst": "rewrites.pool_first",
    "FcToGap": "rewrites.fc_to_gap",
    "FcToConv": "rewrites.fc_to_conv",
    "ConvToFc": "rewrites.conv_to_fc",
}
_HOMES = {
    **_ORDER,
    **dict.fromkeys(("Change", "Fitting", "Options", "Rewrite", "Site"), "rewrites.base"),
    "Editor": "onnxshare.graph.editor",
    "Refusal": "rewrites.refusal",
    "Subject": "onnxshare.analysis.heads.head",
}

__all__ = [
    "ALL",
    "Change",
    "ConvToFc",
    "Editor",
    "FcToConv",
    "FcToGap",
    "Fitting",
    "FoldBatchNorm",
    "GlobalPool",
    "Options",
    "PoolFirst",
    "Refusal",
    "Rewrite",
    "Share",
    "Site",
    "Subject",
]


def __getattr__(name: str) -> Any:
    """Import what is needed only then: `inspect` needs two of the rewrites, if any."""
    from importlib import import_module

    if name == "ALL":
        value: Any = tuple(getattr(import_module(home), item)() for item, home in _ORDER.items())
    elif name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'rewrites' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
