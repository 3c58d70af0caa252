"""Whether probabilities and rates hold on pairs that were not used for fitting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.calibration.tails import populations
from engine.types import Vectors

BINS = 15


@dataclass(frozen=True)
class Bin:
    """Pairs whose probability lies between `low` and `high`.

    `predicted` is their mean probability and `observed` the share of matches among them, matches
    and non-matches weighing 1 each in all; `weight` is the part of those 2 that is in here, halved.
    """

    low: float
    high: float
    predicted: float
    observed: float
    weight: float
    matches: int
    non_matches: int


def reliability(matches: Vectors, non_matches: Sequence[Vectors]) -> list[Bin]:
    """`BINS` bins of equal width, empty ones left out.

    Args:
        matches: (M,) the probabilities that they were given.
        non_matches: those of each kind; kinds count alike.
    """
    kinds = populations([(values, 1.0) for values in non_matches])
    if not len(matches) or not kinds:
        return []
    totals = np.zeros((4, BINS))  # weight, weight x probability, matches, non-matches
    for values, mass, count in [
        (matches, 0.5, 2),
        *((values, 0.5 * weight, 3) for values, weight in kinds),
    ]:
        places = np.minimum((values * BINS).astype(int), BINS - 1)
        counts = np.bincount(places, minlength=BINS)
        totals[0] += mass / len(values) * counts
        totals[1] += mass / len(values) * np.bincount(places, values, BINS)
        totals[count] += counts
    weight, predicted, matching, others = totals
    observed = 0.5 / len(matches) * matching
    return [
        Bin(
            low=k / BINS,
            high=(k + 1) / BINS,
            predicted=float(predicted[k] / weight[k]),
            observed=float(observed[k] / weight[k]),
            weight=float(weight[k]),
            matches=int(matching[k]),
            non_matches=int(others[k]),
        )
        for k in np.flatnonzero(weight)
    ]


def expected_error(bins: Sequence[Bin]) -> float:
    """Expected calibration error: sum of weight x |observed - predicted| (arXiv:1706.04599)."""
    return sum(entry.weight * abs(entry.observed - entry.predicted) for entry in bins)


def pass_rate(scores: Vectors, threshold: float) -> float:
    """Share of the scores that reach the threshold."""
    return float(np.mean(scores >= np.float32(threshold)))
