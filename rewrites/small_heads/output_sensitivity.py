"""How a head's outputs answer to its map and to its hidden layers, on average over samples.

With slopes d_i = f_i'(y_parent) the Jacobian of a leaf's outputs with respect to the root's
outputs is, per sample, W_L D_L W_{L−1} … W_1 D_1 with D_i = diag(d_i). Its mean over the samples
needs no loop for up to two hidden layers:

    L = 0:  I        L = 1:  W_1 ∘ E[d_1]ᵀ        L = 2:  W_2 (W_1 ∘ E[d_2 d_1ᵀ])

The mean Jacobian is the best linear fit for Gaussian inputs (Stein's lemma), and so the prior of a
collapse. That works the other way round too: where what is between the layers has no formula here,
the linear fit of the leaf's outputs to the root's outputs, ridge around nothing (`ridge.py`), takes
its place. The Gauss–Newton metric of a hidden layer is M = E[JᵀJ], J the Jacobian of the outputs
with respect to that layer: an error e there costs eᵀMe at the outputs, to second order
(Schraudolph, "Fast curvature matrix-vector products for second-order gradient descent", 2002).
It is gathered as M = GᵀG from back-propagated probes v with E[vvᵀ] = I (Hutchinson, 1990): all unit
vectors where the outputs are few, random signs where they are many.

Cuts a hidden layer to low rank where the head's outputs notice least.

With the layer's centred predictions P (N × F) and a metric M = GᵀG + δI of its errors at the
outputs (`output_sensitivity.py`), the best approximation of rank r in ‖(P − P_r) M^½‖ is a
projection

    P_r = P Tᵀ Oᵀ,    O = Pᵀ U diag(1/σ)  (F × r),    T = diag(1/σ) Uᵀ P M  (r × F),

with U and σ² the leading eigenvectors and eigenvalues of P M Pᵀ (Eckart and Young, 1936, applied
to P M^½). A layer y = V z + b then is O (T V) z: two thin layers. Low rank from responses instead
of weights is that of Zhang et al. (arXiv 1505.06798); weighting by what follows is that of DDLR
(arXiv 2107.05787).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rewrites.small_heads.head_layers import Chain
from rewrites.small_heads.ridge import Ridge
from rewrites.small_heads.sufficient_statistics import Floats, Matrix

#: Probes per hidden layer, over all samples together.
_PROBES = 8192

#: Multiply-accumulates of all probes: a wide head gets fewer.
_WORK = 4e10

#: Above two hidden layers the mean is taken over so many samples.
_DEEP_SAMPLES = 128


def mean_jacobian(chain: Chain, leaf: int, results: Mapping[int, Floats]) -> Floats:
    """E[∂ leaf / ∂ map], `[K, C, S]`, given per layer its outputs on the samples, `[N, F]`."""
    path = chain.path(leaf)
    inner = _to_root(chain, path, results)
    total: Floats | None = None
    for part, piece in chain.parts(path[0]):
        flat = inner[:, part].astype(piece.dtype, copy=False) @ piece.reshape(len(piece), -1)
        total = flat.astype(np.float64) if total is None else total + flat
    assert total is not None
    return total.reshape(len(inner), chain.head.channels, chain.positions)


def _to_root(chain: Chain, path: tuple[int, ...], results: Mapping[int, Floats]) -> Floats:
    """E[∂ leaf / ∂ root's outputs], `[K, F]`."""
    if len(path) == 1:
        return np.eye(chain.layers[path[0]].fc.out_features)
    if any(chain.layers[place].step is None for place in path[1:]):
        known, wanted = results[path[0]], results[path[-1]]
        return Ridge(Matrix(known)).fit(wanted, np.zeros((wanted.shape[1], known.shape[1]))).weight
    slopes = [chain.step(place).slope(results[chain.layers[place].parent]) for place in path[1:]]
    weights = [chain.weight(place).astype(np.float64) for place in path[1:]]
    if len(path) == 2:
        return np.asarray(weights[0] * slopes[0].mean(axis=0))
    if len(path) == 3:
        return weights[1] @ (weights[0] * (slopes[1].T @ slopes[0] / len(slopes[0])))
    samples = len(slopes[0])
    chosen = np.linspace(0, samples - 1, min(samples, _DEEP_SAMPLES)).astype(int)
    total = np.zeros((weights[-1].shape[0], weights[0].shape[1]))
    for sample in chosen:
        answer = weights[-1] * slopes[-1][sample]
        for weight, slope in zip(weights[-2::-1], slopes[-2::-1], strict=True):
            answer = (answer @ weight) * slope[sample]
        total += answer
    return total / len(chosen)


def output_probes(chain: Chain, results: Mapping[int, Floats]) -> dict[int, Floats]:
    """Per hidden layer G `[P, F]` with GᵀG ≈ E[JᵀJ], leaves weighted by 1 / their variance.

    Raises:
        Refusal: what is between the FCs is not known.
    """
    samples = len(results[0])
    wide = sum(chain.layers[leaf].fc.out_features for leaf in chain.leaves)
    later = [place for place, layer in enumerate(chain.layers) if layer.parent >= 0]
    work = samples * sum(chain.layers[place].macs for place in later)
    each = max(1, min(wide, _PROBES // max(1, samples), int(_WORK // max(1, work))))
    exact = each == wide
    random = np.random.default_rng(0)
    slopes = {i: chain.step(i).slope(results[chain.layers[i].parent]) for i in later}
    weights = {i: chain.weight(i).astype(np.float64) for i in later}
    found: dict[int, list[Floats]] = {}
    for probe in range(each):
        if exact:
            vector: Floats = np.zeros((samples, wide))
            vector[:, probe] = 1.0
        else:
            vector = np.asarray(random.integers(0, 2, (samples, wide)) * 2.0 - 1.0, np.float64)
        back = _at_leaves(chain, results, vector)
        for place in reversed(later):
            parent = chain.layers[place].parent
            pulled = (back[place] @ weights[place]) * slopes[place]
            back[parent] = back[parent] + pulled if parent in back else pulled
        for place in back.keys() - set(chain.leaves):
            found.setdefault(place, []).append(back[place])
    scale = np.sqrt(samples * (1 if exact else each))
    return {place: np.concatenate(parts) / scale for place, parts in found.items()}


def _at_leaves(chain: Chain, results: Mapping[int, Floats], vector: Floats) -> dict[int, Floats]:
    """A probe over all leaves, cut at the leaves and scaled by 1 / their standard deviation."""
    found: dict[int, Floats] = {}
    start = 0
    for leaf in chain.leaves:
        stop = start + chain.layers[leaf].fc.out_features
        deviation = float(np.sqrt(results[leaf].var(axis=0).mean()))
        found[leaf] = vector[:, start:stop] / (deviation if deviation > 0 else 1.0)
        start = stop
    return found


#: δ, as a share of the mean of M's diagonal: directions that no probe shows still count a little.
_DAMPING = 1e-2


def low_rank(centred: Floats, probes: Floats, rank: int) -> tuple[Floats, Floats]:
    """The factors O `[F, r]` and T `[r, F]` of the projection of P, with the probes G, rows × F; r
    is smaller than the rank where P has less."""
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
