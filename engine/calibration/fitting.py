"""Scores of matches and non-matches to a calibration."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.calibration.isotonic import rising_curve
from engine.calibration.model import MAX_RATE, PAIRS_PER_ERROR, Calibration
from engine.calibration.tails import Population, populations, share_above, upper_threshold
from engine.types import Vectors

COPY_QUANTILE = 0.95
"""Two photos as alike as a photo and the mildest twentieth of its copies may be copies."""
MAX_COPIES = 0.0025
"""Share of the non-matches that the curve may so leave out: were they none after all, what it takes
for .95 and more would still be right 19 times in 20."""
RULE_OF_THREE = 3.0
"""What was seen 0 times in N has, with 95 % confidence, at most this / N as its share."""
NEAR_PROBABILITY, NEAR_RATE = 0.95, 1e-3
STEPS_PER_DECADE = 40


def fit(
    matches: Vectors, non_matches: Sequence[tuple[Vectors, float]], *, images: int
) -> Calibration:
    """The curve, the thresholds and the bound for `near`.

    Some of the non-matches are matches: bursts of nearly the same photo, files stored twice. The
    share c of pairs that score as high as the mildest copies is taken for those. The curve leaves
    them out where they are few, and a threshold lets that share pass besides its rate, but no more
    than half the rate: at most 1.5 times the rate of all pairs, copies included, reach it. A
    collection of which more is alike gets higher thresholds, not broken promises.

    Args:
        matches: (M,) similarities of photos and made copies of them, M >= 1.
        non_matches: similarities of random pairs for each kind of query, and how much the kind
            counts; those without any are left out.
        images: how many the pairs come from; recorded.

    Raises: ValueError without matches or non-matches.
    """
    kinds = populations(non_matches)
    if not len(matches) or not kinds:
        raise ValueError("there are no matches or no non-matches to fit on")
    made = matches.astype(np.float32)
    copy = float(np.quantile(made, COPY_QUANTILE))
    copies = share_above(kinds, copy)

    def bound(rate: float) -> float:
        return upper_threshold(kinds, rate + min(copies, rate / 2))

    pairs = sum(len(kind.scores) for kind in kinds)
    curve, shares = rising_curve(
        made,
        [_below(kind, copy) for kind in kinds] if copies <= MAX_COPIES else kinds,
        top=RULE_OF_THREE / pairs,
        bottom=RULE_OF_THREE / len(made),
    )
    certain = np.flatnonzero(shares >= NEAR_PROBABILITY)
    near = max(float(curve[certain[0]]), bound(NEAR_RATE)) if len(certain) else 1.0
    rates = measurable_rates(min(len(kind.scores) for kind in kinds))
    return Calibration(
        scores=tuple(curve.tolist()),
        probabilities=tuple(shares.tolist()),
        rates=tuple(rates),
        thresholds=tuple(bound(rate) for rate in rates),
        near=min(1.0, near),
        images=images,
        matches=len(made),
        pairs=pairs,
    )


def measurable_rates(pairs: int) -> list[float]:
    """Rates for which thresholds are kept, descending: as low as so many pairs can show."""
    lowest = PAIRS_PER_ERROR / pairs
    if lowest > MAX_RATE:
        return []
    powers = range(1, 10 * STEPS_PER_DECADE)
    steps = [rate for k in powers if lowest < (rate := 10 ** (-k / STEPS_PER_DECADE)) < MAX_RATE]
    return list(dict.fromkeys([MAX_RATE, *steps, lowest]))


def _below(kind: Population, score: float) -> Population:
    kept = kind.scores[: int(np.searchsorted(kind.scores, np.float32(score)))]
    return kind._replace(scores=kept if len(kept) else kind.scores)
