"""Long work."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from app.schemas.base import Out

JobState = Literal["queued", "running", "succeeded", "partial", "failed", "cancelled"]
JobType = Literal["add", "build", "duplicates", "snapshot"]


class ProgressOut(Out):
    """How far a job is.

    While a build runs, `total` and `processed` are those of its phase; of a snapshot they are MiB.
    """

    total: int = 0
    """Images of the job; 0 while that is not known."""
    processed: int = 0
    """Of them handled so far."""
    added: int = 0
    """Of those new in the index."""
    replaced: int = 0
    """In the place of others under their ids."""
    skipped: int = 0
    """Stored already."""
    failed: int = 0
    """See `/jobs/{id}/errors`."""


class JobOut(Out):
    """Long work."""

    id: str
    """Of the job; it is forgotten after 1,000 newer ones have ended."""
    type: JobType
    """What it does."""
    state: JobState
    """`partial`: done, but some images failed; see `/jobs/{id}/errors`."""
    progress: ProgressOut
    """How far it is."""
    phase: str | None = None
    """The part that a running job is at."""
    waiting: str | None = None
    """What it cannot go on without, such as room on the disk."""
    created_at: datetime
    """When it was asked for."""
    started_at: datetime | None = None
    """When it was begun."""
    finished_at: datetime | None = None
    """When it ended, however."""
    error: str | None = None
    """Why it failed."""
    result: dict[str, Any] | None = None
    """What came of it, by type: a build tells its generation, a bulk add the build that it queued,
    a report its numbers."""


class JobsOut(Out):
    """Some jobs."""

    jobs: list[JobOut]
    """The newest first."""


class JobErrorOut(Out):
    """One image that was not added, or that was skipped, and why."""

    name: str
    """Of its file, or its URL as it was sent; without the query for those who may only search."""
    outcome: Literal["failed", "skipped"]
    """What became of it."""
    detail: str
    """Why, in words for people."""
    id: str | None = None
    """Of the stored image with the same bytes."""


class JobErrorsOut(Out):
    """A page of what did not become images of the index."""

    errors: list[JobErrorOut]
    """In the order of the upload."""
    total: int
    """Of all pages."""
    next_cursor: str | None = None
    """Asks for the next page; null on the last."""
