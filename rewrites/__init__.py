"""The rewrites: each one file, its algebra on top.

`ALL` is a plain tuple in the order in which rewrites run when several are asked for. Third
parties add theirs by the entry point group `onnxshare.rewrites`.
"""

from rewrites.base import Change, Rewrite, Site
from rewrites.conv_to_fc import ConvToFc
from rewrites.fc_to_conv import FcToConv
from rewrites.fc_to_gap import FcToGap

#: The rewrites of this project; those that shrink come before those that only reshape.
ALL: tuple[Rewrite, ...] = (FcToGap(), FcToConv(), ConvToFc())

__all__ = ["ALL", "Change", "Rewrite", "Site"]
