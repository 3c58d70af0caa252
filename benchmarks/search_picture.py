"""How searches grow with the number of images: a picture of what `cooc bench search` measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from engine.pictures.canvas import INK, LABEL, SMALL, SOFT, Page, figure_bytes

STYLES = {
    "ours": ("#d55e00", "o"),
    "faiss-flat": ("#6b6b6b", "s"),
    "lancedb-rq": ("#1f77b4", "^"),
    "lancedb-hnsw": ("#56b4e9", "v"),
    "hnswlib": ("#009e73", "D"),
}

Figure = Callable[[Mapping[str, Any]], float | None]


def search_picture(report: Mapping[str, Any], *, kind: str = "png") -> bytes:
    """Six panels over the number of images, both axes logarithmic; a line for each engine.

    A hollow mark stands for a setting that missed the target recall, or a build that was estimated.

    Returns: the bytes of an image file.
    """
    page = Page(10.0, 6.6)
    page.text(0.3, 0.3, f"k = {report['k']}, recall >= {report['target']}", width=9.0)
    panels: tuple[tuple[str, Figure, Figure], ...] = (
        ("median of one search, ms", _of("plain", "p50_ms"), _of("plain", "recall")),
        ("searches per second, two clients", _of("plain", "per_s_two"), _of("plain", "recall")),
        ("bytes an image in memory", _memory, lambda row: 1.0),
        ("median among 1 % of the images, ms", _of("keep_1", "p50_ms"), _of("keep_1", "recall")),
        ("median while images are added, ms", _of("adds", "p50_ms"), _of("adds", "recall")),
        ("build, s", _build, lambda row: None if row["build_s"] is None else 1.0),
    )
    for number, (label, figure, sure) in enumerate(panels):
        column, line = number % 3, number // 3
        axes = page.axes(0.65 + 3.15 * column, 0.95 + 2.8 * line, 2.5, 2.1)
        _panel(axes, label, report, figure, sure)
    page.figure.legend(
        *page.figure.axes[0].get_legend_handles_labels(),
        loc="lower center",
        ncols=len(STYLES),
        fontsize=SMALL,
        frameon=False,
    )
    return figure_bytes(page.figure, kind=kind)


def _panel(axes: Axes, label: str, report: Mapping[str, Any], figure: Figure, sure: Figure) -> None:
    # Half a percent below is chance: the setting was chosen on other questions.
    enough = float(report["target"]) - 0.005
    axes.set_title(label, fontsize=LABEL, color=INK, loc="left")
    axes.set_xscale("log")
    axes.set_yscale("log")
    for engine, (colour, marker) in STYLES.items():
        rows = [row for row in report["rows"] if row["engine"] == engine]
        points = [(row["size"], value, sure(row)) for row in rows if (value := figure(row))]
        places, heights = [p[0] for p in points], [p[1] for p in points]
        axes.plot(places, heights, color=colour, linewidth=1.2, label=engine)
        for place, height, known in points:
            face = colour if known is not None and known >= enough else "white"
            axes.plot([place], [height], marker, color=colour, markerfacecolor=face, markersize=4)
    sizes = sorted({row["size"] for row in report["rows"]})
    axes.set_xticks(sizes, [_short(size) for size in sizes])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("images", fontsize=SMALL, color=SOFT)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.tick_params(which="both", labelsize=SMALL, colors=SOFT)
    axes.grid(True, linewidth=0.4, alpha=0.5)


def _of(stage: str, name: str) -> Figure:
    return lambda row: None if row.get(stage) is None else row[stage].get(name)


def _memory(row: Mapping[str, Any]) -> float | None:
    if row["own_bytes"] is None:
        return None
    return float(row["own_bytes"] + (row["file_bytes"] or 0.0))


def _build(row: Mapping[str, Any]) -> float | None:
    seconds = row["build_s_estimate"] if row["build_s"] is None else row["build_s"]
    return None if seconds is None else float(seconds)


def _short(size: int) -> str:
    for unit, sign in ((1_000_000, "M"), (1_000, "k")):
        if size >= unit:
            return f"{size / unit:g}{sign}"
    return str(size)
