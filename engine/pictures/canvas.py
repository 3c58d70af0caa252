"""A page measured in inches from its top left corner, and its bytes. No pyplot, no global state."""

from __future__ import annotations

import io
from functools import cache
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ticker import FuncFormatter, MaxNLocator

from engine.errors import InvalidOption

KINDS = ("png", "jpg", "jpeg", "svg", "pdf")
DPI = 110
"""Pixels of an inch."""

INK, SOFT = "#1c1c1c", "#6b6b6b"
TITLE, LABEL, SMALL = 11.0, 9.0, 7.5
"""Points."""


class Page:
    """A white figure of `width` x `height` inches."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
        canvas = FigureCanvasAgg(self.figure)
        self._renderer: Any = canvas.get_renderer()  # type: ignore[no-untyped-call]

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Axes without ticks, at inches from the top left corner."""
        bottom = self.height - top - height
        box = (left / self.width, bottom / self.height, width / self.width, height / self.height)
        axes = self.figure.add_axes(box)
        axes.set_xticks([])
        axes.set_yticks([])
        return axes

    def text(
        self,
        left: float,
        top: float,
        text: str,
        *,
        width: float,
        size: float = LABEL,
        colour: str = INK,
        weight: str = "normal",
    ) -> None:
        """One line with its upper left corner there, shortened to `width` inches."""
        self.figure.text(
            left / self.width,
            1 - top / self.height,
            self._fitting(plain(text), width, FontProperties(size=size, weight=weight)),
            fontsize=size,
            fontweight=weight,
            color=colour,
            ha="left",
            va="top",
            parse_math=False,  # a file may be called $x$.jpg
        )

    def _fitting(self, text: str, width: float, font: FontProperties) -> str:
        """`text`, or as much of it as `width` inches hold."""
        measure = self._renderer.get_text_width_height_descent
        room, limit, short = width * self.figure.dpi, len(text), text
        while limit > 1 and (wide := measure(short, font, False)[0]) > room:
            limit = min(limit - 1, int(limit * room / wide) + 2)
            short = shortened(text, limit)
        return short


def colour_bar(
    page: Page,
    mappable: ScalarMappable,
    axes: Axes,
    *,
    label: str = "",
    horizontal: bool = False,
    percent: bool = False,
    lowest: float | None = None,
    beyond: Literal["neither", "max", "both"] = "neither",
) -> None:
    """The scale of `mappable` in `axes`, with a few small numbers.

    Args:
        lowest: where a vertical scale begins; default all that `mappable` knows.
        beyond: the ends at which values lie beyond the scale: an arrow says so.
    """
    bar = page.figure.colorbar(
        mappable,
        cax=axes,
        orientation="horizontal" if horizontal else "vertical",
        extend=beyond,
        extendfrac=0.03,
    )
    if lowest is not None:
        axes.set_ylim(bottom=lowest)
    bar.locator = MaxNLocator(nbins=4 if horizontal else 6)
    if percent:
        bar.formatter = FuncFormatter(lambda value, _: f"{100 * value:.3g} %")
    axes.tick_params(labelsize=SMALL, colors=SOFT, length=2, pad=2)
    axes.spines[:].set_visible(False)
    bar.set_label(label, size=SMALL, color=SOFT)
    bar.update_ticks()


def figure_bytes(figure: Figure, *, kind: str = "png", dpi: float = DPI) -> bytes:
    """The figure as a file. Raises InvalidOption for a kind outside `KINDS`."""
    if kind not in KINDS:
        raise InvalidOption(f"picture kind is {kind!r}; choose from {', '.join(KINDS)}")
    # Without a date, equal figures are equal files.
    dates: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    out = io.BytesIO()
    figure.savefig(out, format=kind, dpi=dpi, metadata=dates.get(kind))
    return out.getvalue()


def shortened(text: str, limit: int) -> str:
    """At most `limit` characters; the middle goes, as file names differ at their ends."""
    if len(text) <= limit:
        return text
    tail = (limit - 1) // 2
    return f"{text[: limit - 1 - tail]}…{text[len(text) - tail :]}"


def plain(text: str) -> str:
    """`text` with a question mark for everything that the font cannot draw."""
    return "".join(character if _drawable(character) else "?" for character in text)


@cache
def _drawable(character: str) -> bool:
    if not character.isprintable():
        return False
    return bool(get_font(findfont(FontProperties())).get_char_index(ord(character)))


def fitted(width: int, height: int, box_width: float, box_height: float) -> tuple[float, float]:
    """Width and height of the largest picture of that shape in a box, inches."""
    scale = min(box_width / width, box_height / height)
    return width * scale, height * scale
