"""What the job library logs, in our words where we have some."""

from __future__ import annotations

import logging

from app.errors import RequestProblem
from engine.errors import EngineError

log = logging.getLogger(__name__)


def shorten_library_logs() -> None:
    """An upload that is refused is no failure of ours: a line, not a traceback."""
    logging.getLogger("dbos").addFilter(_shortened)


def _shortened(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, EngineError | RequestProblem):
        log.warning("a job failed: %s", error)
        return False
    return True
