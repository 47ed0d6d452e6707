"""The rewrites: each one file, its algebra on top.

`ALL` is a plain tuple in the order in which rewrites run when several are asked for, each until it
fits nowhere any more:

1. `share` first, so that nothing after it un-shares what is equal: `fold-batchnorm` refuses a
   kernel that is used twice.
2. `fold-batchnorm` before all that look at a convolution's neighbours.
3. `global-pool` before `pool-first`, which then finds every pooling as one.
4. `fc-to-gap` before `fc-to-conv`: what shrinks before what only reshapes.
5. `conv-to-fc` last: it takes the 1×1 convolutions that pooling left. It undoes `fc-to-conv`, so
   both in one call are an error.

Third parties add theirs by the entry point group `onnxshare.rewrites`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rewrites.base import Change, Rewrite, Site

    #: The rewrites of this project, in the order above.
    ALL: tuple[Rewrite, ...]

__all__ = ["ALL", "Change", "Rewrite", "Site"]


def _all() -> tuple[Rewrite, ...]:
    from rewrites.conv_to_fc import ConvToFc
    from rewrites.fc_to_conv import FcToConv
    from rewrites.fc_to_gap import FcToGap
    from rewrites.fold_batchnorm import FoldBatchNorm
    from rewrites.global_pool import GlobalPool
    from rewrites.pool_first import PoolFirst
    from rewrites.share import Share

    return (
        Share(),
        FoldBatchNorm(),
        GlobalPool(),
        PoolFirst(),
        FcToGap(),
        FcToConv(),
        ConvToFc(),
    )


def __getattr__(name: str) -> Any:
    """Import what is asked for only then: `inspect` needs two of the rewrites, if any."""
    if name not in __all__:
        raise AttributeError(f"module 'rewrites' has no attribute '{name}'")
    if name == "ALL":
        value: Any = _all()
    else:
        from rewrites import base

        value = getattr(base, name)
    globals()[name] = value
    return value
