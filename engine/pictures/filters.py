"""Learned co-occurrence filters beside those that they began as (paper, Figure 7)."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from engine.errors import InvalidOption
from engine.pictures.canvas import LABEL, SMALL, SOFT, TITLE, Page, colour_bar, figure_bytes

SIDE, GAP, MARGIN, HEAD, NAMES = 1.35, 0.2, 0.25, 0.85, 0.75
"""Inches: of one filter, between two, around all, the title, the names at the left."""

Filters = NDArray[np.float32]


def most_changed(learned: Filters, direct: Filters, count: int) -> list[tuple[int, int]]:
    """(k, w) of the filters that changed most: half of them raised, then half of them lowered.

    No two are of one k or of one w: else all would be of the one or two channels that changed most.

    Args:
        learned, direct: (C, C, s, s); entry [k, w] weighs channel w for the output channel k.
        count: at most; of what is missing of one half there are none.
    """
    difference = learned - direct
    change = np.square(difference).sum(axis=(2, 3))  # (C, C)
    rise = difference.sum(axis=(2, 3))
    found: list[tuple[int, int]] = []
    for half, part in ((-(-count // 2), rise > 0), (count // 2, rise < 0)):
        for _ in range(half):
            candidates = np.where(part, change, 0.0)
            k, w = (int(place) for place in np.unravel_index(candidates.argmax(), change.shape))
            if candidates[k, w] <= 0:
                break
            found.append((k, w))
            change[k, :] = change[:, w] = 0.0
    return found


def filter_picture(
    learned: Filters, direct: Filters, *, count: int = 6, caption: str = "", kind: str = "png"
) -> bytes:
    """The filters that changed most, each below what it began as, in one scale of colours.

    Args:
        learned, direct: (C, C, s, s).
        count: filters, at most.
        kind: of file, see `KINDS`.

    Raises: InvalidOption for shapes that differ or are none of filters.
    """
    if learned.shape != direct.shape or learned.ndim != 4 or not learned.size:
        raise InvalidOption(
            f"filters have shapes {learned.shape} and {direct.shape}; expected (C, C, s, s) both"
        )
    # Where nothing was learned there is still something to see.
    pairs = most_changed(learned, direct, count) or [(0, min(1, len(direct) - 1))]
    places = tuple(np.array(pairs).T)
    rows = {"direct": direct[places], "learned": learned[places]}
    low = min(0.0, *(float(values.min()) for values in rows.values()))
    high = max(float(values.max()) for values in rows.values())
    page = Page(
        2 * MARGIN + NAMES + max(3, len(pairs)) * (SIDE + GAP) + 0.7,
        HEAD + 2 * (SIDE + GAP) + MARGIN + 0.35,
    )
    room = page.width - 2 * MARGIN
    page.text(MARGIN, MARGIN, "Co-occurrence filters", width=room, size=TITLE, weight="bold")
    image = None
    for number, (name, values) in enumerate(rows.items()):
        top = HEAD + number * (SIDE + GAP)
        page.text(MARGIN, top + SIDE / 2 - 0.06, name, width=NAMES, size=LABEL)
        for column, weights in enumerate(values):
            left = MARGIN + NAMES + column * (SIDE + GAP)
            axes = page.axes(left, top, SIDE, SIDE)
            image = _filter(axes, weights, low, high)
            if number == 0:
                k, w = pairs[column]
                page.text(left, top - 0.2, f"{k} with {w}", width=SIDE, size=SMALL, colour=SOFT)
    assert image is not None
    bar = page.axes(page.width - MARGIN - 0.6, HEAD, 0.12, 2 * SIDE + GAP)
    colour_bar(page, image, bar)
    page.text(MARGIN, page.height - 0.35, caption, width=room, size=SMALL, colour=SOFT)
    return figure_bytes(page.figure, kind=kind)


def _filter(axes: Axes, weights: NDArray[np.float32], low: float, high: float) -> AxesImage:
    """White is 0; the direct filter's weight and everything above is one colour."""
    axes.spines[:].set_color(SOFT)
    axes.spines[:].set_linewidth(0.5)
    limit = max(-low, high) or 1.0
    return axes.imshow(weights, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
