"""Near-duplicates of an open index."""

from __future__ import annotations

from engine.duplicates import (
    DuplicateOptions,
    DuplicateReport,
    Progress,
    check_options,
)
from engine.searcher import Searcher


def check_duplicate_options(searcher: Searcher, options: DuplicateOptions) -> None:
    """Before the work begins. Raises InvalidOption."""
    check_options(options, searcher.calibration)


def duplicates_of(
    searcher: Searcher, options: DuplicateOptions, *, progress: Progress
) -> DuplicateReport:
    """See `find_duplicates`."""
    return searcher.duplicates(options, progress)
