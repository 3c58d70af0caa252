"""One photo and its maps, side by side (the figure of the co-occurrence authors' README)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from engine.pictures.canvas import SMALL, SOFT, Page, colour_bar, figure_bytes, fitted
from engine.pictures.heat import Values, enlarged
from engine.types import Pixels

PANEL, TALLEST, NARROWEST, GAP, MARGIN = 2.9, 3.6, 2.2, 0.25, 0.2
HEAD, BAR, FOOT = 0.26, 0.11, 0.7
"""Inches: largest width and height of a panel, least width of its column, between them, around
all; title, colour bar, below it."""


@dataclass(frozen=True)
class MapPanel:
    """A map (h, w) with its title; values may have any sign."""

    title: str
    values: Values


def image_panels(
    photo: Pixels,
    maps: Sequence[MapPanel],
    *,
    title: str = "photo",
    caption: str = "",
    covered: tuple[int, int] | None = None,
    kind: str = "png",
) -> bytes:
    """The photo and each of its maps with a colour scale of its own.

    Args:
        covered: see `enlarged`; default the photo's own size.
        kind: of file, see `KINDS`.
    """
    height, width = photo.shape[:2]
    across, down = fitted(width, height, PANEL, TALLEST)
    count, column = len(maps) + 1, max(across, NARROWEST)
    page = Page(2 * MARGIN + count * (column + GAP) - GAP, MARGIN + HEAD + down + FOOT)
    for number in range(count):
        left = MARGIN + number * (column + GAP)
        name = title if number == 0 else maps[number - 1].title
        page.text(left, MARGIN, name, width=column)
        axes = page.axes(left, MARGIN + HEAD, across, down)
        axes.spines[:].set_visible(False)
        if number == 0:
            axes.imshow(photo, aspect="auto")
            continue
        values = enlarged(maps[number - 1].values, (height, width), covered or (height, width))
        image = _heat(axes, values)
        bar = page.axes(left, MARGIN + HEAD + down + 0.07, max(across, 1.5), BAR)
        colour_bar(page, image, bar, horizontal=True)
    page.text(
        MARGIN, page.height - 0.28, caption, width=page.width - 2 * MARGIN, size=SMALL, colour=SOFT
    )
    return figure_bytes(page.figure, kind=kind)


def _heat(axes: Axes, values: Values) -> AxesImage:
    """From 0 up; around 0 where values are negative."""
    largest = float(np.abs(values).max()) or 1.0
    if values.min() < 0:
        return axes.imshow(values, aspect="auto", cmap="RdBu_r", vmin=-largest, vmax=largest)
    return axes.imshow(values, aspect="auto", cmap="magma", vmin=0, vmax=largest)
