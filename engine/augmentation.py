"""Database-side augmentation: each stored vector becomes a mean of itself and its neighbours."""

from __future__ import annotations

from typing import Literal

import numpy as np

from engine.expansion import ALPHA, alpha_weights
from engine.nearest import nearest, row_blocks
from engine.types import Vectors

Weighting = Literal["dir", "alpha"]


def rank_weights(k: int) -> Vectors:
    """1, (k-1)/k, ..., 1/k: what the i-th of k neighbours counts for beside the vector itself.

    Those of deep image retrieval (arXiv:1610.07940, section 5.2), where the vector itself has 1.
    """
    return ((k - np.arange(k)) / max(1, k)).astype(np.float32)


def augmented(vector: Vectors, neighbours: Vectors, weights: Vectors) -> Vectors:
    """(v + sum over i of w_i d_i) / (1 + sum of w_i), not normalised.

    Vector (D,), neighbours (n, D), weights (n,) -> (D,).
    """
    total = vector + weights @ neighbours
    mean: Vectors = (total / (1 + weights.sum())).astype(np.float32)
    return mean


def augment_database(
    database: Vectors, k: int, *, weighting: Weighting = "dir", alpha: float = ALPHA
) -> Vectors:
    """Each vector with its `k` nearest others, by inner product; equally near ones by row.

    With fewer than `k` others the weights stay those of `k`. Similarities are made in blocks, so
    memory is bounded beside that of the result; time is that of an (N, D) x (D, N) product.

    Args:
        database: (N, D) unit vectors.
        k: 0 leaves everything as it is.
        weighting: `dir` by rank, see `rank_weights`; `alpha` by max(cosine, 0)^alpha.

    Returns: (N, D), not normalised: shorter where the neighbours disagree, as published.
    """
    if k < 0:
        raise ValueError(f"k is {k}; it must be at least 0")
    result = np.empty_like(database)
    for rows in row_blocks(len(database), len(database)):
        similarities = database[rows] @ database.T
        for position, row in enumerate(range(*rows.indices(len(database)))):
            found = nearest(similarities[position], k, [row])
            weights = (
                rank_weights(k)[: len(found)]
                if weighting == "dir"
                else alpha_weights(similarities[position, found], alpha)
            )
            result[row] = augmented(database[row], database[found], weights)
    return result
