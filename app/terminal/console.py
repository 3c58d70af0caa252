"""What the command line shows: tables and progress on a terminal, or one JSON object."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from engine.errors import InvalidOption

# Into a file or a pipe nothing is cut off, however wide a table is.
out = Console(width=None if sys.stdout.isatty() else 1000)
err = Console(stderr=True)


def log_to_stderr(level: int = logging.INFO) -> None:
    """Log lines on stderr, the program's own only: libraries from warnings on."""
    handler = RichHandler(console=err, show_path=False, log_time_format="%H:%M:%S")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    for name in ("app", "engine"):
        logging.getLogger(name).setLevel(level)


def print_json(value: Any) -> None:
    """One machine-readable object on stdout. Raises InvalidOption for infinite numbers."""
    try:
        text = json.dumps(value, indent=2, allow_nan=False)
    except ValueError as error:
        raise InvalidOption(f"the result has numbers that are not finite: {error}") from error
    sys.stdout.write(text + "\n")


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str | None = None) -> None:
    """Numbers on the right, text on the left; columns in the order given."""
    # Texts, not strings: names of files and data sets may look like markup.
    heading = None if title is None else Text(title, style="table.title")
    view = Table(title=heading, title_justify="left")
    for position, column in enumerate(columns):
        numeric = all(isinstance(row[position], int | float) for row in rows)
        view.add_column(Text(column), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        view.add_row(*(Text(_cell(cell)) for cell in row))
    out.print(view)


def _cell(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


class Bar:
    """A running progress bar; `update` takes how much is done, and of how much."""

    def __init__(self, progress: Progress, label: str) -> None:
        self._progress = progress
        self._task = progress.add_task(label, total=None)

    def update(self, done: int, total: int | None = None) -> None:
        self._progress.update(self._task, completed=done, total=total or None)


@contextmanager
def progress_bar(label: str, total: int | None = None) -> Iterator[Bar]:
    """A progress bar on stderr with time left; gone quietly where stderr is no terminal."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, disable=not err.is_terminal) as progress:
        bar = Bar(progress, label)
        bar.update(0, total)
        yield bar


@contextmanager
def late_progress_bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """For work that may not be needed: the bar appears at the first report."""
    with ExitStack() as stack:
        bars: list[Bar] = []

        def update(done: int, total: int) -> None:
            if not bars:
                bars.append(stack.enter_context(progress_bar(label, total)))
            bars[0].update(done, total)

        yield update
