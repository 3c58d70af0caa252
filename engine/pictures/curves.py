"""The course of a training run: loss, learning rate and validation over the steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from engine.pictures.canvas import INK, LABEL, SMALL, SOFT, Page, figure_bytes

COLOURS = ("#1f77b4", "#d55e00", "#009e73", "#cc79a7", "#8c6d31")


def training_curves(entries: Sequence[dict[str, Any]], *, title: str, kind: str = "png") -> bytes:
    """A picture of a run's log.

    Args:
        entries: as `engine.training.run_folder.RunFolder.entries` gives them: some with `step`,
            `loss` and `learning_rate`, some with `step` and the figures of a `validation`.

    Returns: the bytes of an image file.
    """
    losses = [entry for entry in entries if "loss" in entry]
    checks = [entry for entry in entries if "validation" in entry]
    page = Page(9.0, 6.4)
    page.text(0.3, 0.35, title, width=8.4)
    steps = [entry["step"] for entry in losses]
    curve = _axes(page, 0.55, 2.4, "loss")
    values = [entry["loss"] for entry in losses]
    curve.plot(steps, values, color=COLOURS[0], linewidth=0.6, alpha=0.35)
    curve.plot(steps, _smoothed(values), color=COLOURS[0], linewidth=1.4)
    if values and max(values) > 4 * min(values) > 0:
        curve.set_yscale("log")
    rate = _axes(page, 3.25, 0.7, "learning rate")
    rate.plot(steps, [entry["learning_rate"] for entry in losses], color=SOFT, linewidth=1.0)
    scores = _axes(page, 4.25, 1.6, "validation")
    names = list(dict.fromkeys(name for entry in checks for name in entry["validation"]))
    for name, colour in zip(names, COLOURS, strict=False):
        places = [entry["step"] for entry in checks if name in entry["validation"]]
        heights = [entry["validation"][name] for entry in checks if name in entry["validation"]]
        scores.plot(places, heights, color=colour, marker="o", markersize=3, label=name)
    if names:
        scores.legend(fontsize=SMALL, frameon=False, loc="best")
    scores.set_xlabel("step", fontsize=LABEL, color=INK)
    right = max([entry["step"] for entry in entries], default=1)
    for axes in (curve, rate, scores):
        axes.set_xlim(0, max(right, 1))
    return figure_bytes(page.figure, kind=kind)


def _axes(page: Page, top: float, height: float, label: str) -> Axes:
    axes = page.axes(0.95, top, 7.7, height)
    axes.set_ylabel(label, fontsize=LABEL, color=INK)
    axes.yaxis.set_label_coords(-0.085, 0.5)  # one below the other, however wide the numbers
    axes.xaxis.set_major_locator(MaxNLocator(8))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.tick_params(labelsize=SMALL, colors=SOFT)
    axes.grid(True, linewidth=0.4, alpha=0.5)
    return axes


def _smoothed(values: Sequence[float], share: float = 0.05) -> list[float]:
    """A running mean over the last twentieth of the run."""
    window = max(1, round(share * len(values)))
    sums, total = [], 0.0
    for position, value in enumerate(values):
        total += value
        if position >= window:
            total -= values[position - window]
        sums.append(total / min(position + 1, window))
    return sums
