"""How similar two unrelated images of a collection are: the scale on which scores are read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.calibration import Calibration
from engine.types import MatchType, Vectors

MIN_IMAGES = 10
"""Fewer give no idea of what is unusual."""
SAMPLE = 512
RELATED_SPREADS, HIGH_SPREADS = 2.0, 3.0
"""Bounds in units of (95 % quantile - median): 1.4 and 1.9 for a normal distribution, more for
the heavier tails that descriptors have."""
NEAR = 0.5
"""Relative score from which a hit counts as near: recompressed, resized and slightly cropped
copies lie above it (0.6 to 0.9 with trained weights), other photos below."""
NEAR_WITHOUT_BACKGROUND = 0.98


@dataclass(frozen=True)
class Background:
    """Similarity of random pairs of the collection.

    `related` is exceeded by about one pair in a hundred, `high` by one in a thousand. Where
    related photos are so common that they fill the upper tail themselves (bursts, video frames),
    both are extrapolated from the middle of the distribution instead. A raw cosine means little,
    as its usual size depends on trunk, pooling and collection (unrelated photos: 0.8 with an
    untrained trunk, 0.0 after a projection), so bounds are taken from these.
    """

    mean: float
    related: float
    high: float

    def relative(self, score: float) -> float:
        """0 at `high`, 1 at identity; negative for what random pairs reach too."""
        return (score - self.high) / max(1e-6, 1.0 - self.high)

    def score(self, relative: float) -> float:
        """The inverse of `relative`."""
        return self.high + relative * (1.0 - self.high)

    @classmethod
    def of(cls, vectors: Vectors) -> Background | None:
        """From (N, D) unit vectors of distinct images; None for fewer than `MIN_IMAGES`."""
        if len(vectors) < MIN_IMAGES:
            return None
        chosen = vectors[np.linspace(0, len(vectors) - 1, min(len(vectors), SAMPLE)).astype(int)]
        pairs = (chosen @ chosen.T)[np.triu_indices(len(chosen), k=1)]
        median, upper, related, high = np.quantile(pairs, (0.5, 0.95, 0.99, 0.999))
        spread = upper - median
        return cls(
            mean=float(pairs.mean()),
            related=float(min(related, median + RELATED_SPREADS * spread)),
            high=float(min(high, median + HIGH_SPREADS * spread)),
        )


def match_type(
    score: float,
    *,
    exact: bool,
    background: Background | None,
    calibration: Calibration | None = None,
) -> MatchType:
    """How sure a hit of this score is.

    Where scores are calibrated, that says from where on a hit is near; else the background does.
    """
    if exact:
        return MatchType.EXACT
    if calibration is not None:
        bound = calibration.near
    else:
        bound = background.score(NEAR) if background else NEAR_WITHOUT_BACKGROUND
    return MatchType.NEAR if score >= bound else MatchType.SIMILAR
