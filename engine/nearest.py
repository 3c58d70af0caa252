"""The first few of many similarities, the same ones every time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from engine.types import Rows, Vectors

BLOCK_VALUES = 1 << 24
"""Similarities that are held at once: 64 MB."""


def nearest(similarities: Vectors, k: int, left_out: Sequence[int] = ()) -> Rows:
    """Positions of the `k` largest of (N,) values, best first; equal ones by position.

    Fewer if there are fewer besides those `left_out`.
    """
    allowed = similarities
    if len(left_out):
        allowed = similarities.copy()
        allowed[list(left_out)] = -np.inf
    count = min(k, len(allowed) - len(set(left_out)))
    if count < 1:
        return np.empty(0, np.int64)
    # Which of several equal ones a partition leaves out is chance: let it leave out none.
    bound = np.partition(allowed, len(allowed) - count)[len(allowed) - count]
    candidates = np.flatnonzero(allowed >= bound)
    return candidates[np.argsort(-allowed[candidates], kind="stable")[:count]]


def row_blocks(rows: int, columns: int) -> Iterator[slice]:
    """Slices of `rows` rows of which each, `columns` wide, has at most `BLOCK_VALUES` values."""
    size = max(1, BLOCK_VALUES // max(1, columns))
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))
