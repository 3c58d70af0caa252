"""From a query vector to ranked rows of the index: expansion, search, augmentation.

As published (arXiv:1610.07940, section 5.2) stored vectors are augmented before the query is
expanded: the neighbours that join a query are the nearest after augmentation, in their augmented
form. Only whether they are certain is told by the stored vectors, as the bound for that is.
"""

from __future__ import annotations

from collections.abc import Set

import numpy as np

from engine.augmentation import augmented, rank_weights
from engine.background import Background
from engine.expansion import expand
from engine.types import Expansion, Rows, SearchOptions, Vectors
from engine.vector_index import Allowed, SearchKnobs, VectorIndex

MIN_AUGMENTED = 100
"""Candidates that are augmented and ranked anew, or more where more results are asked for."""
DEFAULT = SearchKnobs()
BLOCK_ROWS = 128
"""Rows that are augmented at once: 50 neighbours each of 8192 values are 210 MB."""


def expand_query(
    index: VectorIndex,
    query: Vectors,
    exact: Set[int],
    options: SearchOptions,
    background: Background | None,
    knobs: SearchKnobs = DEFAULT,
    allowed: Allowed | None = None,
) -> tuple[Vectors, int]:
    """The (D,) query to search with, and how many neighbours joined it; see `expand`.

    The same for every page of an answer. Rows with the bytes of the query itself, `exact`, would
    only repeat it and do not join.
    """
    if options.expansion is Expansion.NONE:
        return query, 0
    count, augmentation = options.expansion_neighbours, options.augmentation
    rows, _ = rank_rows(index, query, count, exact, augmentation, knobs, allowed)
    others = np.array([row for row in rows.tolist() if row not in exact], np.int64)[:count]
    if not len(others):
        return query, 0
    return expand(
        query,
        index.vectors(others),
        options.expansion,
        background,
        count=count,
        alpha=options.expansion_alpha,
        augmented=augmented_vectors(index, others, augmentation) if augmentation else None,
    )


def rank_rows(
    index: VectorIndex,
    query: Vectors,
    wanted: int,
    exact: Set[int],
    augmentation: int = 0,
    knobs: SearchKnobs = DEFAULT,
    allowed: Allowed | None = None,
) -> tuple[Rows, Vectors]:
    """Rows and similarities of the best for a (D,) unit vector, best first.

    As many as are `wanted` and all of `exact`, which is known to be best whatever is found here.
    With `augmentation` the best by stored vector, at least `MIN_AUGMENTED`, are ranked by their
    augmented ones. Where that is the whole index, this is the ranking of an augmented database.
    Only rows that are `allowed` are found; those that augment them need not be.
    """
    count = wanted + len(exact)
    if not augmentation:
        return index.search(query, count, knobs, allowed)
    rows, _ = index.search(query, max(wanted, MIN_AUGMENTED) + len(exact), knobs, allowed)
    scores = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), BLOCK_ROWS):
        part = slice(start, start + BLOCK_ROWS)
        scores[part] = augmented_vectors(index, rows[part], augmentation) @ query
    order = np.lexsort((rows, -scores))[:count]
    return rows[order], scores[order]


def augmented_vectors(index: VectorIndex, rows: Rows, k: int) -> Vectors:
    """The vectors of `rows`, each averaged with its `k` nearest others in the index.

    (n, D), as `engine.augmentation.augment_database` makes them, then L2-normalised: similarities
    to them are cosines. Raises KeyError for an absent row.
    """
    own = index.vectors(rows)
    found, _ = index.search_many(own, k + 1)  # (n, <= k + 1)
    needed, positions = np.unique(found, return_inverse=True)
    positions, stored = positions.reshape(found.shape), index.vectors(needed)
    result = np.empty_like(own)
    for number, row in enumerate(rows.tolist()):
        # With k copies under lower rows, the row itself is not among them.
        neighbours = stored[positions[number][found[number] != row][:k]]
        mean = augmented(own[number], neighbours, rank_weights(k)[: len(neighbours)])
        result[number] = mean / max(float(np.linalg.norm(mean)), 1e-12)
    return result
