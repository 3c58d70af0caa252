"""Why two images are alike, position by position, and the maps behind a descriptor."""

from __future__ import annotations

from engine.explaining.grids import Grid, covered, spread
from engine.explaining.image import ImageExplanation, explain_image
from engine.explaining.pair import PairExplanation, explain_pair, explain_pairs

__all__ = [
    "Grid",
    "ImageExplanation",
    "PairExplanation",
    "covered",
    "explain_image",
    "explain_pair",
    "explain_pairs",
    "spread",
]
