"""From row numbers and similarities to hits. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

import numpy as np

from engine.background import Background, match_type
from engine.calibration import Calibration
from engine.errors import TooFewImages
from engine.types import Hit, ImageRecord, MatchType, Rows, SearchOptions, Vectors


@dataclass(frozen=True)
class Judgement:
    """How sure a row is. `similarity` is that to the query itself, before any expansion;
    `p_same_origin` is None where scores are not calibrated."""

    similarity: float
    match_type: MatchType
    p_same_origin: float | None


def rank(rows: Rows, scores: Vectors, exact: Set[int]) -> list[tuple[int, float]]:
    """Exact matches first with score 1, then the others by score, clipped to a cosine."""
    first = [(row, 1.0) for row in sorted(exact)]
    others = [
        (row, max(-1.0, min(1.0, score)))
        for row, score in zip(rows.tolist(), scores.tolist(), strict=True)
        if row not in exact
    ]
    return first + others


def judge(
    rows: Rows,
    scores: Vectors,
    exact: Set[int],
    background: Background | None,
    calibration: Calibration | None,
) -> dict[int, Judgement]:
    """How sure each row is, and each exact match, by similarities to the query itself."""
    certain = Judgement(1.0, MatchType.EXACT, None if calibration is None else 1.0)
    chances: list[float | None] = [None] * len(rows)
    if calibration is not None:
        chances = list(calibration.probability(scores).astype(np.float64).tolist())
    judged = {
        row: Judgement(
            score,
            match_type(score, exact=False, background=background, calibration=calibration),
            chance,
        )
        for row, score, chance in zip(rows.tolist(), scores.tolist(), chances, strict=True)
    }
    return judged | dict.fromkeys(exact, certain)


def least_similarity(calibration: Calibration | None, options: SearchOptions) -> float | None:
    """The similarity that `options.max_fpr` asks for; None without it.

    Raises: InvalidOption, TooFewImages; see `Calibration.threshold`.
    """
    if options.max_fpr is None:
        return None
    if calibration is None:
        raise TooFewImages(
            f"max_fpr is {options.max_fpr:g}, but the scores of this index are not calibrated: "
            "that is done by a build of 50 images or more; build the index, or leave max_fpr out"
        )
    return calibration.threshold(options.max_fpr)


def select_hits(
    ranked: list[tuple[int, float]],
    records: Mapping[int, ImageRecord],
    judged: Mapping[int, Judgement],
    exact: Set[int],
    own_id: str | None,
    options: SearchOptions,
    least: float | None = None,
    own: Set[int] = frozenset(),
) -> tuple[Hit, ...]:
    """Leave out what the options exclude, number the rest from 1, and cut the page.

    An id that is found under two rows, as while it is replaced, is one hit, the better one.

    Args:
        own_id: id of the query, if it is a stored image; `exclude_self` then leaves out that one,
            else all images with the bytes of the query.
        least: similarity to the query itself below which rows are left out: the threshold of
            `options.max_fpr`. Exact matches are no errors and stay.
        own: rows that `exclude_self` leaves out besides.
    """

    def wanted(row: int, score: float) -> bool:
        itself = records[row].id == own_id if own_id is not None else row in exact or row in own
        bound = options.score_threshold
        alike = least is None or row in exact or judged[row].similarity >= least
        return not (options.exclude_self and itself) and (bound is None or score >= bound) and alike

    # A row without a record was deleted while its vector could not be: it is gone.
    kept: dict[str, tuple[int, float]] = {}
    for row, score in ranked:
        if row in records and wanted(row, score):
            kept.setdefault(records[row].id, (row, score))
    page = slice(options.offset, options.offset + options.limit)
    return tuple(
        Hit(
            id=image_id,
            score=score,
            rank=position,
            match_type=judged[row].match_type,
            metadata=records[row].metadata,
            width=records[row].width,
            height=records[row].height,
            p_same_origin=judged[row].p_same_origin,
        )
        for position, (image_id, (row, score)) in list(enumerate(kept.items(), start=1))[page]
    )
