"""Two photos with what each position adds to their score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from engine.pictures.canvas import (
    INK,
    SMALL,
    SOFT,
    TITLE,
    Page,
    colour_bar,
    figure_bytes,
    fitted,
)
from engine.pictures.heat import Values, enlarged, level_of
from engine.types import Pixels

BOX, NARROWEST, GAP, MARGIN = 4.0, 2.0, 0.3, 0.25
HEAD, NAME, FOOT, SIDE = 0.36, 0.23, 0.55, 0.95
"""Inches: longest side of a photo, least width of its column, between them, around all; score,
name, caption, colour bar."""

COLOURS = "RdBu_r"
SATURATED = 0.05
"""Part of all amounts that lies beyond the ends of the colour scale."""

NOTE = "outlined: the fewest pixels that make half of the score"


@dataclass(frozen=True)
class PhotoParts:
    """A photo, its name, and the parts (h, w) of the score that its positions make.

    `covered` is what the parts span, see `enlarged`; default the photo's own size.
    """

    name: str
    pixels: Pixels
    parts: Values
    covered: tuple[int, int] | None = None


def pair_overlay(
    first: PhotoParts,
    second: PhotoParts,
    *,
    title: str,
    caption: str = "",
    kind: str = "png",
) -> bytes:
    """Both photos in grey, parts of the score in colour over them: red adds, blue takes away.

    The colours mean the same on both. A line is drawn around the fewest pixels that make half of
    the score.
    """
    photos = (first, second)
    total = abs(float(first.parts.sum())) or 1.0
    shares = [photo.parts / total for photo in photos]
    amounts = np.concatenate([np.abs(share).ravel() for share in shares])
    # A few positions may tower over all others: the strongest colour begins below them.
    largest = level_of(amounts, SATURATED) or 1.0
    negative = any(float(share.min()) < -0.02 * largest for share in shares)
    norm = Normalize(-largest, largest)
    sizes = [fitted(photo.pixels.shape[1], photo.pixels.shape[0], BOX, BOX) for photo in photos]
    tallest = max(height for _, height in sizes)
    page = Page(
        2 * MARGIN + sum(max(width, NARROWEST) for width, _ in sizes) + GAP + SIDE,
        MARGIN + HEAD + NAME + tallest + FOOT,
    )
    room = page.width - 2 * MARGIN
    page.text(MARGIN, MARGIN, title, width=room, size=TITLE, weight="bold")
    left, top = MARGIN, MARGIN + HEAD
    for photo, share, (width, height) in zip(photos, shares, sizes, strict=True):
        page.text(left, top, photo.name, width=max(width, NARROWEST))
        axes = page.axes(left, top + NAME, width, height)
        _draw(axes, photo, share, norm)
        left += max(width, NARROWEST) + GAP
    bar = page.axes(left, top + NAME, 0.14, tallest)
    colour_bar(
        page,
        ScalarMappable(norm, COLOURS),
        bar,
        label="share of the score, per position",
        percent=True,
        # Only what occurs: most poolings have nothing negative.
        lowest=-largest if negative else 0.0,
        beyond="both" if negative else "max",
    )
    for line, words in enumerate((caption, NOTE)):
        top = page.height - FOOT + 0.12 + 0.16 * line
        page.text(MARGIN, top, words, width=room, size=SMALL, colour=SOFT)
    return figure_bytes(page.figure, kind=kind)


def _draw(axes: Axes, photo: PhotoParts, share: Values, norm: Normalize) -> None:
    size = (photo.pixels.shape[0], photo.pixels.shape[1])
    values = enlarged(share, size, photo.covered or size)  # (H, W)
    axes.imshow(_blend(photo.pixels, values, norm), aspect="auto")
    axes.spines[:].set_visible(False)
    level = level_of(values, 0.5)
    if level is not None and values.min() < level < values.max():
        for width, colour in ((2.4, "white"), (1.0, INK)):
            axes.contour(values, levels=[level], colors=[colour], linewidths=[width])


def _blend(pixels: Pixels, values: Values, norm: Normalize) -> Values:
    """Colours over a light grey photo, the stronger the larger the value. (H, W, 3) in [0, 1]."""
    grey = (pixels @ np.array([0.299, 0.587, 0.114]) / 255)[..., None]  # (H, W, 1)
    colours = colormaps[COLOURS](norm(values))[..., :3]
    largest = float(norm.vmax or 1.0)
    strength = 0.8 * np.sqrt(np.clip(np.abs(values) / largest, 0, 1))[..., None]
    return np.asarray((1 - strength) * (0.25 + 0.75 * grey) + strength * colours)
