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
HEAD, NAME, FOOT, SCALE = 0.36, 0.23, 0.55, 0.6
"""Inches: longest side of a photo, least width of its column, between them, around all; score,
name, caption, colour bar with its words."""

COLOURS = "RdBu_r"
SATURATED = 0.05
"""Part of the amounts of a photo that lies beyond the ends of the colour scale."""

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

    Each photo has its own scale: a share of the score goes to few positions in a thin photo and to
    many in another, which would stay grey beside it. A line is drawn around the fewest pixels that
    make half of the score.
    """
    photos = (first, second)
    total = abs(float(first.parts.sum())) or 1.0
    sizes = [fitted(photo.pixels.shape[1], photo.pixels.shape[0], BOX, BOX) for photo in photos]
    tallest = max(height for _, height in sizes)
    page = Page(
        2 * MARGIN + sum(max(width, NARROWEST) for width, _ in sizes) + GAP,
        MARGIN + HEAD + NAME + tallest + SCALE + FOOT,
    )
    room = page.width - 2 * MARGIN
    page.text(MARGIN, MARGIN, title, width=room, size=TITLE, weight="bold")
    left, top = MARGIN, MARGIN + HEAD
    for photo, (width, height) in zip(photos, sizes, strict=True):
        column = max(width, NARROWEST)
        page.text(left, top, photo.name, width=column)
        share = photo.parts / total
        # A few positions may tower over all others: the strongest colour begins below them.
        largest = level_of(np.abs(share), SATURATED) or 1.0
        _draw(page.axes(left, top + NAME, width, height), photo, share, largest)
        bar = page.axes(left, top + NAME + tallest + 0.1, column, 0.12)
        _scale(page, bar, largest, negative=float(share.min()) < -0.02 * largest)
        left += column + GAP
    for line, words in enumerate((caption, NOTE)):
        top = page.height - FOOT + 0.12 + 0.16 * line
        page.text(MARGIN, top, words, width=room, size=SMALL, colour=SOFT)
    return figure_bytes(page.figure, kind=kind)


def _scale(page: Page, axes: Axes, largest: float, *, negative: bool) -> None:
    """The colours of one photo below it."""
    colour_bar(
        page,
        ScalarMappable(Normalize(-largest, largest), COLOURS),
        axes,
        label="share of the score, per position",
        horizontal=True,
        percent=True,
        beyond="both" if negative else "max",
    )
    if not negative:  # only what occurs: most poolings have nothing negative
        axes.set_xlim(left=0.0)


def _draw(axes: Axes, photo: PhotoParts, share: Values, largest: float) -> None:
    size = (photo.pixels.shape[0], photo.pixels.shape[1])
    values = enlarged(share, size, photo.covered or size)  # (H, W)
    axes.imshow(_blend(photo.pixels, values, largest), aspect="auto")
    axes.spines[:].set_visible(False)
    level = level_of(values, 0.5)
    if level is not None and values.min() < level < values.max():
        for width, colour in ((2.4, "white"), (1.0, INK)):
            axes.contour(values, levels=[level], colors=[colour], linewidths=[width])


def _blend(pixels: Pixels, values: Values, largest: float) -> Values:
    """Colours over a light grey photo, the stronger the larger the value. (H, W, 3) in [0, 1]."""
    grey = (pixels @ np.array([0.299, 0.587, 0.114]) / 255)[..., None]  # (H, W, 1)
    colours = colormaps[COLOURS](Normalize(-largest, largest)(values))[..., :3]
    strength = 0.8 * np.sqrt(np.clip(np.abs(values) / largest, 0, 1))[..., None]
    return np.asarray((1 - strength) * (0.25 + 0.75 * grey) + strength * colours)
