"""Two images against each other: what a search would say of them. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.background import Background
from engine.calibration import Calibration
from engine.queries.ranking import judge
from engine.types import MatchType, Vectors


@dataclass(frozen=True)
class Described:
    """An image as it is compared: its (D,) unit vector, as it is searched, and the digest of its
    file."""

    vector: Vectors
    digest: str


@dataclass(frozen=True)
class Comparison:
    """Similarity of two images, with what is needed to judge and reproduce it.

    `score` is a cosine in [-1, 1], and 1 for the same bytes; `p_same_origin` is None where scores
    are not calibrated (see `engine.calibration.Calibration` for what it means).
    """

    score: float
    p_same_origin: float | None
    match_type: MatchType
    fingerprint: str
    generation: int
    count: int


def compare(
    a: Described,
    b: Described,
    *,
    background: Background | None,
    calibration: Calibration | None,
    fingerprint: str,
    generation: int,
    count: int,
) -> Comparison:
    """The same whichever of the two comes first; neither needs to be stored."""
    exact = {0} if a.digest == b.digest else set()
    # Both orders have the same products to sum up, whatever the kernel does.
    score = 1.0 if exact else max(-1.0, min(1.0, float((a.vector * b.vector).sum())))
    found = np.zeros(1, np.int64), np.array([score], np.float32)
    judged = judge(*found, exact, background, calibration)[0]
    return Comparison(
        score=score,
        p_same_origin=judged.p_same_origin,
        match_type=judged.match_type,
        fingerprint=fingerprint,
        generation=generation,
        count=count,
    )
