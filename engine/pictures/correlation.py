"""How alike the total co-occurrence vectors of images are (paper, section 3.1.1, Figure 2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.errors import InvalidOption
from engine.pictures.canvas import (
    LABEL,
    SMALL,
    SOFT,
    TITLE,
    Page,
    colour_bar,
    figure_bytes,
    plain,
    shortened,
)

SIDE, NAMES, MARGIN, HEAD = 5.2, 1.45, 0.2, 0.42
"""Inches: the matrix, the names beside and below it, around all, the title."""

MOST_NAMES = 40
"""More would lie over each other: then only some of them are written."""


def correlation_of(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    """Pearson correlation of each pair of rows: (N, C) -> (N, N) in [-1, 1].

    A row without variance has no correlation: it gets 0, with itself too.
    """
    x = np.asarray(vectors, dtype=np.float64)
    centred = x - x.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    # The mean of equal values is rounded: what is left of them is noise, not variance.
    varied = lengths > 1e-12 * np.linalg.norm(x, axis=1, keepdims=True)
    unit = np.where(varied, centred / np.where(varied, lengths, 1.0), 0.0)
    return np.asarray(np.clip(unit @ unit.T, -1.0, 1.0))


def correlation_picture(
    matrix: NDArray[np.floating],
    labels: Sequence[str],
    title: str,
    *,
    caption: str = "",
    kind: str = "png",
) -> bytes:
    """The matrix with its images sorted by group, and the groups' names along both sides.

    Args:
        matrix: (N, N) correlations.
        labels: group of each row; groups are drawn in the order in which they first appear.
        kind: of file, see `KINDS`.

    Raises: InvalidOption if the matrix is not square with one label per row, or empty.
    """
    if not labels or matrix.shape != (len(labels), len(labels)):
        raise InvalidOption(
            f"the correlation matrix has shape {matrix.shape}, and there are {len(labels)} labels"
        )
    groups = list(dict.fromkeys(labels))
    place = {group: number for number, group in enumerate(groups)}
    order = sorted(range(len(labels)), key=lambda row: place[labels[row]])
    ordered = matrix[np.ix_(order, order)]
    ends = np.cumsum([labels.count(group) for group in groups])  # (G,)
    page = Page(2 * MARGIN + NAMES + SIDE + 0.95, MARGIN + HEAD + SIDE + NAMES + 2 * MARGIN)
    room = page.width - 2 * MARGIN
    page.text(MARGIN, MARGIN, title, width=room, size=TITLE, weight="bold")
    axes = page.axes(MARGIN + NAMES, MARGIN + HEAD, SIDE, SIDE)
    lowest = min(0.0, float(ordered.min()))
    image = axes.imshow(ordered, cmap="magma", vmin=lowest, vmax=1, interpolation="nearest")
    if len(groups) > 1:
        for end in ends[:-1]:
            for line in (axes.axhline, axes.axvline):
                line(end - 0.5, color="white", linewidth=min(0.8, 16 / len(groups)))
    starts = np.concatenate([[0], ends[:-1]])
    step = -(-len(groups) // MOST_NAMES)
    centres = ((starts + ends - 1) / 2)[::step]
    names = [plain(shortened(group, 18)) for group in groups[::step]]
    size = SMALL if len(names) > 16 else LABEL
    axes.set_xticks(centres, names, rotation=90, fontsize=size, parse_math=False)
    axes.set_yticks(centres, names, fontsize=size, parse_math=False)
    axes.tick_params(length=2, color=SOFT)
    axes.spines[:].set_visible(False)
    bar = page.axes(MARGIN + NAMES + SIDE + 0.2, MARGIN + HEAD, 0.14, SIDE)
    colour_bar(page, image, bar, label="correlation")
    page.text(MARGIN, page.height - 0.28, caption, width=room, size=SMALL, colour=SOFT)
    return figure_bytes(page.figure, kind=kind)
