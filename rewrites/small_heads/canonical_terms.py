"""A weight over a map as a sum of few terms, each one mixture of channels under one spatial mask.

A weight D[r, c, s] from a map of C channels and S positions to R directions becomes

    D[r, c, s] ≈ Σ_k a[r, k] u[k, c] m[k, s]        (canonical polyadic decomposition, K terms)

by alternating least squares (Carroll and Chang, 1970; Harshman, 1970): each of a, u and m in turn
is the least-squares fit with the others fixed, a solution of K equations whose matrix is the
product, element by element, of the others' Gram matrices (Kolda and Bader, "Tensor decompositions
and applications", SIAM Review 2009, section 3.4). It starts from the leading singular pairs of the
matrices D[r], over all r.
"""

from __future__ import annotations

import numpy as np

from onnxshare.io.tensors import Array
from rewrites.small_heads.sufficient_statistics import Singles, blocks

#: Rounds, and multiply-accumulates of all rounds: terms are a start for other fits.
_ROUNDS = 30
_WORK = 1e11

#: Damping of the equations, as a share of the mean of their diagonal.
_DAMPING = 1e-6


def canonical_terms(
    weight: Array, count: int, random: np.random.Generator
) -> tuple[Singles, Singles]:
    """The mixtures `[K, C]` and masks `[K, S]` of `count` terms of a weight `[R, C, S]`, all of
    length 1; those that the weight has no use for are random."""
    weight = np.asarray(weight, np.float32)
    directions, channels, positions = weight.shape
    second = random.standard_normal((channels, count), dtype=np.float32)
    third = random.standard_normal((positions, count), dtype=np.float32)
    left, power, right = np.linalg.svd(weight, full_matrices=False)
    order = np.argsort(-power, axis=None)[:count]
    order = order[power.reshape(-1)[order] > 0]
    rows, places = np.unravel_index(order, power.shape)
    second[:, : len(order)] = left[rows, :, places].T
    third[:, : len(order)] = right[rows, places].T
    second, third = _unit(second), _unit(third)
    if len(order):
        rounds = int(_WORK // (3 * directions * channels * positions * count))
        for _ in range(min(_ROUNDS, rounds)):
            first = _fit(weight, second, third)
            second = _unit(_fit(weight.transpose(1, 0, 2), first, third))
            third = _unit(_fit(weight.transpose(2, 0, 1), first, second))
    return second.T, third.T


def _unit(vectors: Singles) -> Singles:
    length = np.linalg.norm(vectors, axis=0)
    return np.asarray(vectors / np.where(length > 0, length, 1), np.float32)


def _fit(weight: Array, one: Singles, other: Singles) -> Singles:
    """The factor `[I, K]` of a weight `[I, A, B]` for the other two, `[A, K]` and `[B, K]`."""
    gram = ((one.T @ one) * (other.T @ other)).astype(np.float64)
    gram += _DAMPING * np.trace(gram) / len(gram) * np.eye(len(gram))
    found = np.empty((len(weight), len(gram)), np.float32)
    for part in blocks(len(weight), len(one) * len(gram)):
        found[part] = np.einsum("iak,ak->ik", weight[part] @ other, one)
    return np.asarray(np.linalg.solve(gram, found.T).T, np.float32)
