"""Cuts a hidden layer to low rank where the head's outputs notice least.

With the layer's centred predictions P (N × F) and a metric M = GᵀG + δI of its errors at the
outputs (`jacobian.py`), the best approximation of rank r in ‖(P − P_r) M^½‖ is a projection

    P_r = P Tᵀ Oᵀ,    O = Pᵀ U diag(1/σ)  (F × r),    T = diag(1/σ) Uᵀ P M  (r × F),

with U and σ² the leading eigenvectors and eigenvalues of P M Pᵀ (Eckart and Young, 1936, applied
to P M^½). A layer y = V z + b then is O (T V) z: two thin layers. Low rank from responses instead
of weights is that of Zhang et al. (arXiv 1505.06798); weighting by what follows is that of DDLR
(arXiv 2107.05787).
"""

from __future__ import annotations

import numpy as np

from rewrites.moments import Floats

#: δ, as a share of the mean of M's diagonal: directions that no probe shows still count a little.
_DAMPING = 1e-2


def low_rank(centred: Floats, probes: Floats, rank: int) -> tuple[Floats, Floats]:
    """The factors O `[F, r]` and T `[r, F]` of the projection; r is smaller where P has less.

    Args:
        centred: P, N × F.
        probes: G, rows × F.
        rank: r.
    """
    samples, size = centred.shape
    damping = _DAMPING * float((probes**2).sum()) / size
    damping = damping if damping > 0 else 1.0  # nothing follows: all directions count alike
    if samples <= size:
        seen = centred @ probes.T
        power, left = _leading(seen @ seen.T + damping * (centred @ centred.T), rank)
        out = (centred.T @ left) / np.sqrt(power)
        return out, (probes.T @ (probes @ out) + damping * out).T
    metric = probes.T @ probes + damping * np.eye(size)
    root = np.linalg.cholesky(metric)
    seen = centred @ root
    _, right = _leading(seen.T @ seen, rank)
    return np.asarray(np.linalg.solve(root.T, right)), (root @ right).T


def _leading(matrix: Floats, rank: int) -> tuple[Floats, Floats]:
    power, vectors = np.linalg.eigh(matrix)
    order = np.argsort(-power)[:rank]
    kept = order[power[order] > max(float(power.max()), 1e-300) * 1e-12]
    if not len(kept):
        kept = order[:1]
    return np.maximum(power[kept], 1e-300), vectors[:, kept]
