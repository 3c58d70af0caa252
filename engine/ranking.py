"""From row numbers and similarities to hits. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Set

from engine.background import Background, match_type
from engine.types import Hit, ImageRecord, MatchType, Rows, SearchOptions, Vectors


def rank(rows: Rows, scores: Vectors, exact: Set[int]) -> list[tuple[int, float]]:
    """Exact matches first with score 1, then the others by score, clipped to a cosine."""
    first = [(row, 1.0) for row in sorted(exact)]
    others = [
        (row, max(-1.0, min(1.0, score)))
        for row, score in zip(rows.tolist(), scores.tolist(), strict=True)
        if row not in exact
    ]
    return first + others


def match_types(
    rows: Rows, scores: Vectors, exact: Set[int], background: Background | None
) -> dict[int, MatchType]:
    """How sure each row is, by its similarity to the query itself, before any expansion."""
    kinds = {
        row: match_type(score, exact=row in exact, background=background)
        for row, score in zip(rows.tolist(), scores.tolist(), strict=True)
    }
    return kinds | dict.fromkeys(exact, MatchType.EXACT)


def select_hits(
    ranked: list[tuple[int, float]],
    records: Mapping[int, ImageRecord],
    kinds: Mapping[int, MatchType],
    exact: Set[int],
    own_id: str | None,
    options: SearchOptions,
) -> tuple[Hit, ...]:
    """Leave out what the options exclude, number the rest from 1, and cut the page.

    Args:
        own_id: id of the query, if it is a stored image; `exclude_self` then leaves out that one,
            else all images with the bytes of the query.
    """

    def wanted(row: int, score: float) -> bool:
        itself = records[row].id == own_id if own_id is not None else row in exact
        bound = options.score_threshold
        return not (options.exclude_self and itself) and (bound is None or score >= bound)

    # A row without a record was deleted while its vector could not be: it is gone.
    kept = [(row, score) for row, score in ranked if row in records and wanted(row, score)]
    page = slice(options.offset, options.offset + options.limit)
    return tuple(
        Hit(
            id=records[row].id,
            score=score,
            rank=position,
            match_type=kinds[row],
            metadata=records[row].metadata,
            width=records[row].width,
            height=records[row].height,
        )
        for position, (row, score) in list(enumerate(kept, start=1))[page]
    )
