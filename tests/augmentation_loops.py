"""Query expansion and database-side augmentation one vector at a time, from their equations."""

from __future__ import annotations

import math

import numpy as np

from engine.types import Vectors


def dot(one: Vectors, other: Vectors) -> float:
    return float(one.astype(np.float64) @ other.astype(np.float64))


def ranked(query: Vectors, database: Vectors, without: set[int]) -> list[int]:
    """Rows by falling inner product; equal ones by row."""
    scores = {row: dot(query, vector) for row, vector in enumerate(database) if row not in without}
    return sorted(scores, key=lambda row: (-scores[row], row))


def weighted_sum(vectors: list[Vectors], weights: list[float]) -> list[float]:
    total = np.zeros(len(vectors[0]))
    for vector, weight in zip(vectors, weights, strict=True):
        total = total + weight * vector.astype(np.float64)
    return [float(value) for value in total]


def unit(vector: list[float]) -> list[float]:
    length = math.sqrt(math.fsum(value * value for value in vector))
    return [value / length for value in vector]


def positive_power(cosine: float, alpha: float) -> float:
    return cosine**alpha if cosine > 0 else 0.0


def expanded(
    query: Vectors, database: Vectors, count: int, alpha: float | None, without: set[int]
) -> list[float]:
    """L2 of q + sum of w_i d_i over the nearest; w_i is 1, or max(q . d_i, 0)^alpha."""
    rows = ranked(query, database, without)[:count]
    joining = [database[row] for row in rows]
    weights = [
        1.0 if alpha is None else positive_power(dot(query, vector), alpha) for vector in joining
    ]
    return unit(weighted_sum([query, *joining], [1.0, *weights]))


def augmented_rows(database: Vectors, k: int, alpha: float | None = None) -> list[list[float]]:
    """Mean of each vector and its k nearest others, weights 1, then (k - i) / k for i = 0..k-1,
    or 1, then max(cosine, 0)^alpha."""
    result = []
    for row, vector in enumerate(database):
        others = ranked(vector, database, {row})[:k]
        weights = [1.0]
        for number, other in enumerate(others):
            cosine = dot(vector, database[other])
            weights.append((k - number) / k if alpha is None else positive_power(cosine, alpha))
        total = math.fsum(weights)
        shares = [weight / total for weight in weights]
        result.append(weighted_sum([vector, *(database[other] for other in others)], shares))
    return result
