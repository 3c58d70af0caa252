"""Contact sheets: a query and what was found for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from engine.pictures.canvas import SMALL, SOFT, TITLE, Page, figure_bytes, fitted
from engine.types import Pixels

PICTURE, FRAME, GAP, MARGIN = 1.5, 0.06, 0.16, 0.2
HEAD, WORDS, FOOT = 0.4, 0.4, 0.25
"""Inches: longest side of a picture, its frame, between cells, around all; title, two lines,
legend."""


class Relevance(StrEnum):
    """What a hit is to the query, by the ground truth."""

    POSITIVE = "positive"
    UNRELATED = "unrelated"
    JUNK = "junk"


QUERY_FRAME = "#1f4e8c"
FRAMES = {
    Relevance.POSITIVE: "#1a9641",
    Relevance.UNRELATED: "#d7191c",
    Relevance.JUNK: "#9a9a9a",
}
_MARKS = {Relevance.POSITIVE: "✓", Relevance.UNRELATED: "✗", Relevance.JUNK: "–"}
"""Said twice: green and red are one colour to many people."""


@dataclass(frozen=True)
class SheetHit:
    """One answer: its picture (H, W, 3), name, rank from 1, score and relevance."""

    pixels: Pixels
    name: str
    rank: int
    score: float
    relevance: Relevance


def contact_sheet(
    query: Pixels,
    hits: Sequence[SheetHit],
    *,
    name: str,
    title: str = "",
    part: tuple[float, float, float, float] | None = None,
    columns: int = 6,
    kind: str = "png",
) -> bytes:
    """The query, then its hits in the order given, row by row, each in a frame of its colour.

    Args:
        name: of the query.
        part: of the query that was searched for: left, upper, right and lower edge in shares of
            its width and height; None for all of it. It is outlined.
        columns: cells of a row.
        kind: of file, see `KINDS`.
    """
    count = len(hits) + 1
    across, rows = min(columns, count), -(-count // columns)
    side = PICTURE + 2 * FRAME
    head = HEAD if title else 0.0
    page = Page(
        2 * MARGIN + max(2, across) * (side + GAP) - GAP,
        2 * MARGIN + head + rows * (side + WORDS + GAP) - GAP + FOOT,
    )
    room = page.width - 2 * MARGIN
    if title:
        page.text(MARGIN, MARGIN, title, width=room, size=TITLE, weight="bold")
    for number in range(count):
        left = MARGIN + number % columns * (side + GAP)
        top = MARGIN + head + number // columns * (side + WORDS + GAP)
        if number == 0:
            axes = _cell(page, left, top, query, QUERY_FRAME, "query", name)
            if part is not None:
                _outline(axes, part)
            continue
        hit = hits[number - 1]
        words = f"{_MARKS[hit.relevance]} {hit.rank}   {hit.score:.3f}"
        _cell(page, left, top, hit.pixels, FRAMES[hit.relevance], words, hit.name)
    shown = dict.fromkeys(hit.relevance for hit in hits)
    legend = "   ".join(f"{_MARKS[relevance]} {relevance}" for relevance in shown)
    page.text(MARGIN, page.height - MARGIN - 0.12, legend, width=room, size=SMALL, colour=SOFT)
    return figure_bytes(page.figure, kind=kind)


def _cell(
    page: Page, left: float, top: float, pixels: Pixels, colour: str, words: str, name: str
) -> Axes:
    """A picture in the middle of its square, framed, with two lines below; its axes."""
    side = PICTURE + 2 * FRAME
    width, height = fitted(pixels.shape[1], pixels.shape[0], PICTURE, PICTURE)
    x, y = left + (side - width) / 2, top + (side - height) / 2
    frame = Rectangle(
        ((x - FRAME) / page.width, 1 - (y + height + FRAME) / page.height),
        (width + 2 * FRAME) / page.width,
        (height + 2 * FRAME) / page.height,
        facecolor=colour,
        edgecolor="none",
        zorder=-1,  # figures draw their own artists over their axes otherwise
    )
    page.figure.add_artist(frame)
    axes = page.axes(x, y, width, height)
    axes.spines[:].set_visible(False)
    axes.imshow(pixels, aspect="auto")
    page.text(left, top + side + 0.05, words, width=side, colour=colour, weight="bold")
    page.text(left, top + side + 0.23, name, width=side, size=SMALL, colour=SOFT)
    return axes


def _outline(axes: Axes, part: tuple[float, float, float, float]) -> None:
    """A line that is seen on light and on dark pictures."""
    left, upper, right, lower = part
    for width, colour in ((2.6, "white"), (1.2, QUERY_FRAME)):
        axes.add_patch(
            Rectangle(
                (left, 1 - lower),
                right - left,
                lower - upper,
                transform=axes.transAxes,
                fill=False,
                edgecolor=colour,
                linewidth=width,
            )
        )
