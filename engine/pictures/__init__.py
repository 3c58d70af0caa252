"""Pictures of maps, matches and rankings, as the bytes of a file. The only user of matplotlib."""

from __future__ import annotations

from engine.pictures.canvas import KINDS, figure_bytes, shortened
from engine.pictures.correlation import correlation_of, correlation_picture
from engine.pictures.curves import training_curves
from engine.pictures.filters import filter_picture, most_changed
from engine.pictures.heat import enlarged, level_of
from engine.pictures.pair import PhotoParts, pair_overlay
from engine.pictures.panels import MapPanel, image_panels
from engine.pictures.sheet import FRAMES, Relevance, SheetHit, contact_sheet
from engine.pictures.spectrum import spectrum_picture

__all__ = [
    "FRAMES",
    "KINDS",
    "MapPanel",
    "PhotoParts",
    "Relevance",
    "SheetHit",
    "contact_sheet",
    "correlation_of",
    "correlation_picture",
    "enlarged",
    "figure_bytes",
    "filter_picture",
    "image_panels",
    "level_of",
    "most_changed",
    "pair_overlay",
    "shortened",
    "spectrum_picture",
    "training_curves",
]
