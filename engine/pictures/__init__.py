"""Pictures of maps, matches and rankings, as the bytes of a file. The only user of matplotlib."""

from __future__ import annotations

from engine.pictures.canvas import KINDS, figure_bytes, shortened
from engine.pictures.correlation import correlation_of, correlation_picture
from engine.pictures.heat import enlarged, level_of
from engine.pictures.pair import PhotoParts, pair_overlay
from engine.pictures.panels import MapPanel, image_panels
from engine.pictures.sheet import FRAMES, Relevance, SheetHit, contact_sheet

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
    "image_panels",
    "level_of",
    "pair_overlay",
    "shortened",
]
