"""Searches that are answered when a snapshot is taken, and repeated when it is restored."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import numpy as np

from engine.searcher import Searcher
from engine.stored_describer import StoredDescriber
from engine.types import Recipe, SearchOptions

QUERIES, HITS = 32, 10
TOLERANCE = 1e-3
"""Difference of scores that another processor may cause."""


def answer_samples(
    folder: Path, recipe: Recipe, precision: str
) -> tuple[int, int, dict[str, list[tuple[str, float]]]]:
    """Open an index and ask it for sampled images: highest row, count, and the answers."""
    with closing(Searcher(folder, StoredDescriber(folder, recipe, precision))) as searcher:
        rows = searcher.catalog.live_rows()
        places = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), QUERIES)).astype(int))
        ids = [record.id for record in searcher.catalog.by_rows(rows[places].tolist()).values()]
        searcher.check()
        answers = {image_id: hits(searcher, image_id) for image_id in sorted(ids)}
        return searcher.catalog.highest_row(), len(rows), answers


def hits(searcher: Searcher, image_id: str) -> list[tuple[str, float]]:
    answer = searcher.search_id(image_id, SearchOptions(limit=HITS))
    return [(hit.id, round(float(hit.score), 6)) for hit in answer.hits]


def same_hits(expected: list[tuple[str, float]], found: list[tuple[str, float]]) -> bool:
    """Whether two answers agree: the same ids with scores within `TOLERANCE`.

    Of images that score alike with the last place, either may have it.
    """
    if len(expected) != len(found):
        return False
    if not expected:
        return True
    last = min(expected[-1][1], found[-1][1]) + TOLERANCE

    def covers(some: Mapping[str, float], others: Mapping[str, float]) -> bool:
        return all(
            abs(score - others[hit]) <= TOLERANCE if hit in others else score <= last
            for hit, score in some.items()
        )

    return covers(dict(expected), dict(found)) and covers(dict(found), dict(expected))
