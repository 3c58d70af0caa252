"""What a learned whitening found along its directions, and what it is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.ticker import MaxNLocator

from engine.pictures.canvas import INK, LABEL, SMALL, SOFT, TITLE, Page, figure_bytes


def spectrum_picture(
    eigenvalues: Sequence[float],
    scores: Mapping[str, float],
    *,
    caption: str = "",
    kind: str = "png",
) -> bytes:
    """The eigenvalues, largest first, on a logarithmic scale, and a table of scores beside them.

    Args:
        eigenvalues: above 0.
        scores: by the names under which they are listed; may be empty.
        kind: of file, see `KINDS`.
    """
    page = Page(9.0, 4.2)
    page.text(0.3, 0.25, "Learned whitening", width=8.4, size=TITLE, weight="bold")
    axes = page.axes(0.95, 0.75, 5.2, 2.6)
    axes.plot(range(1, len(eigenvalues) + 1), eigenvalues, color="#1f77b4", linewidth=1.4)
    axes.axhline(1.0, color=SOFT, linewidth=0.8, linestyle=":")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set_xlabel("direction", fontsize=LABEL, color=INK)
    axes.set_ylabel("all photos, where pairs are 1", fontsize=LABEL, color=INK)
    axes.tick_params(labelsize=SMALL, colors=SOFT)
    axes.grid(True, linewidth=0.4, alpha=0.5)
    for row, (name, score) in enumerate(scores.items()):
        top = 0.85 + 0.28 * row
        page.text(6.5, top, name, width=1.6)
        page.text(8.1, top, f"{score:.4f}", width=0.7)
    page.text(0.3, 3.9, caption, width=8.4, size=SMALL, colour=SOFT)
    return figure_bytes(page.figure, kind=kind)
