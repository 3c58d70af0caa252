"""Which similarity tells images of the same origin from unrelated ones: the "cover" protocol."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from engine.errors import InvalidOption
from engine.evaluation.datasets import Dataset
from engine.evaluation.protocols import Similarities, check_shape

MAX_THRESHOLDS = 10_000


@dataclass(frozen=True)
class ThresholdRow:
    """What calling every pair with a score >= `threshold` one of the same origin would find.

    `same_origin` and `unrelated` count the pairs over the threshold that are and that are not of
    the same origin. Precision is 1 where there is none; recall is over all true pairs.
    """

    threshold: float
    same_origin: int
    unrelated: int
    precision: float
    recall: float
    f1: float


def same_origin_table(
    dataset: Dataset, similarities: Similarities, *, low: float, high: float, step: float
) -> list[ThresholdRow]:
    """One row per threshold low, low + step, ..., up to and including `high`.

    A pair is a query and a database entry that is neither the query itself nor junk; two images
    that are both queries are one pair, not two. It is true if the entry is a positive of the
    query. Of a revisited data set only the medium queries are taken: the others repeat them.

    Args:
        similarities: (Q, N), row i for `dataset.queries[i]`.

    Raises: InvalidOption for thresholds that are none, or if there is no true pair.
    """
    check_shape(dataset, similarities.shape)
    thresholds = threshold_steps(low, high, step)
    entries = _entries(dataset)
    true, counted = _pairs(dataset, entries)
    chosen = similarities[entries]
    same_origin = np.sort(chosen[counted & true])
    unrelated = np.sort(chosen[counted & ~true])
    if not len(same_origin):
        raise InvalidOption(f"the data set {dataset.name!r} has no two images of the same origin")
    # In the type of the scores: a float32 score of .7 is less than a float64 threshold of .7.
    limits = np.asarray(thresholds, dtype=similarities.dtype)
    found = len(same_origin) - np.searchsorted(same_origin, limits)
    wrong = len(unrelated) - np.searchsorted(unrelated, limits)
    return [
        _row(*values, len(same_origin))
        for values in zip(thresholds, found.tolist(), wrong.tolist(), strict=True)
    ]


def best_threshold(rows: Sequence[ThresholdRow]) -> ThresholdRow:
    """The row of the highest F1; of equal ones that of the highest threshold."""
    if not rows:
        raise InvalidOption("there is no threshold to choose from")
    return max(rows, key=lambda row: (row.f1, row.threshold))


def threshold_steps(low: float, high: float, step: float) -> list[float]:
    """low, low + step, ... up to high. Raises InvalidOption for values that give none."""
    if not all(map(math.isfinite, (low, high, step))) or low > high or step <= 0:
        raise InvalidOption(
            f"thresholds from {low} to {high} by {step} are none; "
            "low must be at most high, and the step positive"
        )
    # Of the decimals as they are written, so that no sum is off by a rounding.
    start, end, width = (Fraction(str(float(value))) for value in (low, high, step))
    count = (end - start) // width + 1
    if count > MAX_THRESHOLDS:
        raise InvalidOption(
            f"a step of {step} gives {count:,} thresholds; at most {MAX_THRESHOLDS:,} are computed"
        )
    return [float(start + number * width) for number in range(count)]


def _entries(dataset: Dataset) -> list[int]:
    return [
        entry
        for entry, query in enumerate(dataset.queries)
        if dataset.format != "revisited" or query.kind == "medium"
    ]


def _pairs(dataset: Dataset, entries: Sequence[int]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(E, N) each: whether a pair is true, and whether it is counted."""
    position = {name: row for row, name in enumerate(dataset.database)}
    shape = len(entries), len(dataset.database)
    true, counted = np.zeros(shape, bool), np.ones(shape, bool)
    own = np.full(len(entries), -1)  # (E,) row of the query image in the database
    for place, entry in enumerate(entries):
        query = dataset.queries[entry]
        own[place] = position.get(query.name, -1)
        left_out = query.junk | {query.name}
        counted[place, [position[name] for name in left_out if name in position]] = False
        true[place, [position[name] for name in query.positives]] = True
    return true, counted & ~_mirrored(counted, own)


def _mirrored(counted: NDArray[np.bool_], own: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(E, N): pairs that are counted from the other side too, from an earlier database row."""
    mirrored = np.zeros_like(counted)
    inside = np.flatnonzero(own >= 0)
    if not len(inside):
        return mirrored
    inside = inside[np.argsort(own[inside], kind="stable")]
    # One image may be several queries, with a box each.
    rows, starts = np.unique(own[inside], return_index=True)  # (U,)
    seen = np.logical_or.reduceat(counted[np.ix_(inside, rows)], starts)  # (U, U): image, entry
    earlier = rows[None, :] < rows[:, None]  # (U, U): the entry before the image
    image = np.searchsorted(rows, own[inside])
    mirrored[np.ix_(inside, rows)] = (seen.T & earlier)[image]
    return mirrored


def _row(threshold: float, same_origin: int, unrelated: int, pairs: int) -> ThresholdRow:
    found = same_origin + unrelated
    return ThresholdRow(
        threshold=threshold,
        same_origin=same_origin,
        unrelated=unrelated,
        precision=same_origin / found if found else 1.0,
        recall=same_origin / pairs,
        f1=2 * same_origin / (found + pairs),
    )
