"""One query of several example images, wanted and unwanted. Pure functions."""

from __future__ import annotations

import numpy as np

from engine.errors import InvalidOption
from engine.types import Vectors

NEGATIVE_WEIGHT = 0.15
"""See docs/methods.md for what was measured."""
LEAST_LENGTH = 1e-3
"""Of what is left when examples cancel each other: below it only rounding decides."""


def combine(positives: Vectors, negatives: Vectors, *, negative_weight: float) -> Vectors:
    """q = L2(mean of positives - beta * mean of negatives), after Rocchio (1971).

    Args:
        positives: (P, D) unit vectors, P at least 1.
        negatives: (N, D) unit vectors; N may be 0.
        negative_weight: beta.

    Returns: (D,) float32 of length 1.
    Raises: InvalidOption if the examples cancel each other.
    """
    total = positives.mean(axis=0, dtype=np.float64)  # (D,)
    if len(negatives):
        total = total - negative_weight * negatives.mean(axis=0, dtype=np.float64)
    length = float(np.linalg.norm(total))
    if length < LEAST_LENGTH:
        raise InvalidOption(
            f"the {len(positives)} positive and {len(negatives)} negative examples cancel each "
            f"other at negative_weight {negative_weight:g}; lower it, or leave some out"
        )
    combined: Vectors = (total / length).astype(np.float32)
    return combined
