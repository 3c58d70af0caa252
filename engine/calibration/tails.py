"""How many of the non-matches score higher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from engine.types import Vectors


class Population(NamedTuple):
    """Scores of pairs of one kind, and how much this kind counts among others.

    What takes populations wants float32 scores, ascending, at least one of each kind, and weights
    whose sum is 1; `populations` makes them so.
    """

    scores: Vectors
    weight: float


def populations(kinds: Sequence[tuple[Vectors, float]]) -> list[Population]:
    """Of scores in any order and weights of any sum; kinds without scores are left out."""
    filled = [(scores, weight) for scores, weight in kinds if len(scores)]
    total = sum(weight for _, weight in filled)
    return [Population(np.sort(scores.astype(np.float32)), w / total) for scores, w in filled]


def share_above(kinds: Sequence[Population], threshold: float) -> float:
    """Share of the scores that reach `threshold`."""
    bound = np.float32(threshold)  # in their own type: else each look-up copies them all
    above = [
        (len(scores) - int(np.searchsorted(scores, bound))) / len(scores) for scores, _ in kinds
    ]
    return sum(share * kind.weight for share, kind in zip(above, kinds, strict=True))


def upper_threshold(kinds: Sequence[Population], rate: float) -> float:
    """The lowest float32 threshold that at most `rate` of the scores reach; see `share_above`.

    Equal scores are let in or kept out together, so that never more than the rate pass.
    """
    allowed = rate * (1 + 1e-9)  # sums of weights are rounded
    low = np.float32(min(kind.scores[0] for kind in kinds))
    high = np.nextafter(np.float32(max(kind.scores[-1] for kind in kinds)), np.float32(np.inf))
    if share_above(kinds, float(low)) <= allowed:
        return float(low)
    # `low` lets too many in, `high` none: halve until no number is between them.
    while (middle := np.float32((float(low) + float(high)) / 2)) not in (low, high):
        if share_above(kinds, float(middle)) <= allowed:
            high = middle
        else:
            low = middle
    return float(high)
