"""Features of a map that are each one mixture of channels under one spatial weighting.

    z[n, k] = Σ_s m[k, s] Σ_c u[k, c] · map[n, c, s]

A linear layer on these is a weight W[f, c, s] = Σ_k H[f, k] u[k, c] m[k, s] on the map: the
canonical polyadic decomposition of that weight in K terms, which costs K (C + S) instead of F·C·S
(Lebedev et al., "Speeding-up convolutional neural networks using fine-tuned CP-decomposition",
arXiv 1412.6553). As operators it is a 1×1 convolution followed by a depthwise one over the map.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

import numpy as np

from onnxshare.io.tensors import Array
from rewrites.moments import Floats


@dataclass(frozen=True)
class Separable:
    """K separable features.

    Attributes:
        spatial: the spatial sizes of the map.
        channels: u, `[K, C]`.
        rows: m, `[K, S]`.
    """

    spatial: tuple[int, ...]
    channels: Floats = field(repr=False)
    rows: Floats = field(repr=False)

    @property
    def kind(self) -> str:
        """Its name in a method."""
        return "separable"

    @property
    def params(self) -> int:
        """Stored weights."""
        return self.channels.size + self.rows.size

    def macs(self, channels: int) -> int:
        """Multiply-accumulates per sample."""
        return len(self.rows) * prod(self.spatial) * (channels + 1)

    def apply(self, maps: Array) -> Floats:
        """The features `[n, K]` of maps `[n, C, S]`."""
        mixed = self.channels @ maps.astype(np.float64)
        return np.asarray(np.einsum("nks,ks->nk", mixed, self.rows))
