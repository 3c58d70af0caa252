"""How far the probabilities of a calibration hold, and where its thresholds lie."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from engine.calibration.collect import EDGES, RATES, CalibrationReport
from engine.calibration.measuring import Bin
from engine.pictures.canvas import INK, LABEL, SMALL, SOFT, TITLE, Page, figure_bytes

MATCHES, OTHERS, PROBABILITY, MARK = "#1f77b4", "#d55e00", "#009e73", "#444444"
LEAST_WEIGHT = 0.002
"""Share of all pairs that a bin needs to be drawn."""
KEPT = 4
"""Bins of scores that are drawn as one."""


def reliability_picture(report: CalibrationReport, *, title: str = "", kind: str = "png") -> bytes:
    """A reliability diagram with its counts, and the scores of matches and non-matches.

    The diagram is of images that were not fitted on; all else is as it is used.

    Returns: the bytes of an image file.
    """
    page = Page(11.0, 5.55)
    page.text(0.35, 0.25, title or "What scores mean", width=10, size=TITLE, weight="bold")
    page.text(0.35, 0.52, _summary(report), width=10.3, colour=SOFT)
    page.text(0.35, 0.74, _passed(report), width=10.3, colour=SOFT)
    _diagram(page, report.bins)
    _histograms(page, report)
    return figure_bytes(page.figure, kind=kind)


def _summary(report: CalibrationReport) -> str:
    calibration = report.calibration
    text = f"{calibration.images:,} images, {calibration.matches:,} made copies"
    if report.expected_error is None:
        return f"{text}; too few to measure on images that were not fitted on"
    return f"{text}; expected calibration error {report.expected_error:.3f}"


def _passed(report: CalibrationReport) -> str:
    """How many passed each threshold, by who asked."""
    parts = []
    for rate, passed in report.passed.items():
        shares = ", ".join(f"{100 * share:.2g} % of {kind}" for kind, share in passed.items())
        parts.append(f"max_fpr {rate:g} passed {shares}")
    return "; ".join(parts)


def _diagram(page: Page, bins: Sequence[Bin]) -> None:
    axes = page.axes(0.85, 1.3, 3.5, 2.75)
    axes.plot([0, 1], [0, 1], color=SOFT, linewidth=0.8, linestyle=":", label="as it should be")
    # A handful of pairs tells nothing, and a line through them hides what the others tell.
    told = [entry for entry in bins if entry.weight >= LEAST_WEIGHT]
    predicted, observed = [e.predicted for e in told], [e.observed for e in told]
    axes.plot(
        predicted, observed, color=PROBABILITY, linewidth=1.2, label="pairs not used for fitting"
    )
    axes.scatter(
        predicted, observed, s=[400 * entry.weight + 6 for entry in told], color=PROBABILITY
    )
    axes.set_ylabel("share of matches among them", fontsize=LABEL, color=INK)
    axes.set_ylim(-0.03, 1.03)
    axes.legend(fontsize=SMALL, frameon=False, loc="upper left")
    counts = page.axes(0.85, 4.2, 3.5, 0.75)
    width = 1 / 15
    middles = [(entry.low + entry.high) / 2 for entry in bins]
    for offset, numbers, colour in (
        (-0.2, [entry.matches for entry in bins], MATCHES),
        (0.2, [entry.non_matches for entry in bins], OTHERS),
    ):
        places = [middle + offset * width for middle in middles]
        counts.bar(places, numbers, width=0.38 * width, color=colour)
    if bins:
        counts.set_yscale("log")
        counts.set_ylim(bottom=0.7)
    counts.set_ylabel("pairs", fontsize=LABEL, color=INK)
    counts.set_xlabel("probability of same origin", fontsize=LABEL, color=INK)
    for part in (axes, counts):
        part.set_xlim(-0.03, 1.03)
        _plain(part)
        part.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xticklabels([])
    axes.yaxis.set_major_locator(MaxNLocator(5))


def _histograms(page: Page, report: CalibrationReport) -> None:
    calibration = report.calibration
    axes = page.axes(5.45, 1.6, 4.6, 3.35)
    edges = EDGES[::KEPT]
    highest = 0.0
    for counts, colour, label in (
        (report.match_counts, MATCHES, "photo and made copy"),
        (report.non_match_counts, OTHERS, "two photos"),
    ):
        sums = np.array(counts).reshape(-1, KEPT).sum(axis=1)
        shares = sums / max(1, sums.sum())
        highest = max(highest, float(shares.max()))
        axes.stairs(shares, edges, color=colour, fill=True, alpha=0.35)
        axes.stairs(shares, edges, color=colour, linewidth=1.0, label=label)
    axes.set_ylabel("share of pairs", fontsize=LABEL, color=INK)
    axes.set_xlabel("score", fontsize=LABEL, color=INK)
    axes.set_yscale("log")
    axes.set_ylim(1e-5, max(1e-2, 4 * highest))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    marks = [
        (calibration.threshold(rate), f"max_fpr {rate:g}", style)
        for rate, style in zip(RATES, ("--", "-."), strict=True)
        if calibration.rates and rate >= calibration.rates[-1]
    ]
    marks.append((calibration.near, "near", "-"))
    for place, name, style in marks:
        axes.axvline(
            place, color=MARK, linewidth=1.0, linestyle=style, label=f"{name}: from {place:.3f}"
        )
    right = axes.twinx()
    scores = np.linspace(-1, 1, 801, dtype=np.float32)
    chances = calibration.probability(scores)
    right.plot(scores, chances, color=PROBABILITY, linewidth=1.6)
    # For the legend, which belongs to the other axes.
    axes.plot([], [], color=PROBABILITY, linewidth=1.6, label="probability of same origin")
    right.set_ylabel("probability of same origin", fontsize=LABEL, color=PROBABILITY)
    right.set_ylim(0, 1.02)
    right.tick_params(labelsize=SMALL, colors=PROBABILITY)
    filled = np.flatnonzero(np.array(report.match_counts) + np.array(report.non_match_counts))
    left = float(EDGES[filled[0]]) if len(filled) else -1.0
    axes.set_xlim(max(-1.0, left - 0.05), 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(8))
    _plain(axes)
    # Above the plot, where no curve can be behind it.
    axes.legend(
        fontsize=SMALL, frameon=False, loc="lower left", ncols=3, bbox_to_anchor=(-0.02, 0.995)
    )


def _plain(axes: Axes) -> None:
    axes.tick_params(labelsize=SMALL, colors=SOFT)
    axes.grid(True, linewidth=0.4, alpha=0.5)
    axes.set_axisbelow(True)
