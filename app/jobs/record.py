"""From the records of the job library to what clients are told."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import cast

from dbos import DBOS, WorkflowStatus

from app.cursor import no_cursor
from app.jobs.running import Live
from app.schemas import JobErrorOut, JobErrorsOut, JobOut, JobState, JobType, ProgressOut

STATES: dict[str, JobState] = {
    "ENQUEUED": "queued",
    "DELAYED": "queued",
    "PENDING": "running",
    "SUCCESS": "succeeded",
    "ERROR": "failed",
    "CANCELLED": "cancelled",
    "MAX_RECOVERY_ATTEMPTS_EXCEEDED": "failed",
}
RECORDED: dict[JobState, list[str]] = {
    "queued": ["ENQUEUED", "DELAYED"],
    "running": ["PENDING"],
    "succeeded": ["SUCCESS"],
    "partial": ["SUCCESS"],
    "failed": ["ERROR", "MAX_RECOVERY_ATTEMPTS_EXCEEDED", "SUCCESS"],
    "cancelled": ["CANCELLED"],
}
"""How the library may call each state: images that failed are a success to it."""
UNFINISHED = ["ENQUEUED", "DELAYED", "PENDING"]
FINISHED = sorted(set(STATES) - set(UNFINISHED))

STEPS_READ = 200
CURSOR = re.compile(r"(\d{1,9})\.(\d{1,9})")
"""Number of a step, and of an error in it."""


def job_out(status: WorkflowStatus, live: Live | None) -> JobOut:
    """`live` is what this process knows of the job, which may be ahead of its record."""
    state = STATES[status.status]
    ended = status.output if isinstance(status.output, dict) else {}
    progress = _progress(status, ended, live)
    if state == "succeeded":
        state = judged(progress)
    error = str(status.error) if status.error else None
    if state == "failed" and error is None:
        error = "no image of this upload could be added; see its errors"
    finished = state not in ("queued", "running")
    return JobOut(
        id=status.workflow_id,
        type=cast(JobType, status.name),
        state=state,
        progress=progress,
        phase=live.phase if live and state == "running" else None,
        waiting=live.waiting if live and not finished else None,
        created_at=_time(status.created_at) or datetime.now(UTC),
        started_at=_time(status.dequeued_at),
        finished_at=_time(status.completed_at or status.updated_at) if finished else None,
        error=error,
        result=ended.get("result"),
    )


def judged(progress: ProgressOut) -> JobState:
    """The state of a job that came to its end: images may have failed meanwhile."""
    if not progress.failed:
        return "succeeded"
    return "failed" if progress.failed == progress.total else "partial"


def _progress(
    status: WorkflowStatus, ended: dict[str, dict[str, int]], live: Live | None
) -> ProgressOut:
    if "progress" in ended:
        return ProgressOut(**ended["progress"])
    if live is not None:
        return live.progress
    return ProgressOut(**(status.attributes or {}).get("progress", {}))


def error_page(job: JobOut, limit: int, cursor: str | None) -> JobErrorsOut:
    """Images of a job that were not added, from `cursor` on. Raises InvalidFields for a bad one."""
    step, skipped = 0, 0
    if cursor is not None:
        found = CURSOR.fullmatch(cursor)
        if found is None:
            raise no_cursor(cursor)
        step, skipped = int(found[1]), int(found[2])
    entries = list(islice(_errors(job.id, step, skipped), limit + 1))
    more = entries[limit][0] if len(entries) > limit else None
    return JobErrorsOut(
        errors=[entry for _, entry in entries[:limit]],
        total=job.progress.failed + job.progress.skipped,
        next_cursor=more,
    )


def _errors(job_id: str, step: int, skipped: int) -> Iterator[tuple[str, JobErrorOut]]:
    """Errors from number `skipped` of step number `step` on, each with its cursor."""
    while True:
        steps = DBOS.list_workflow_steps(job_id, limit=STEPS_READ, offset=step)
        for number, entry in enumerate(steps, start=step):
            if entry["function_name"] == "add_images" and entry["output"]:
                errors = entry["output"]["errors"]
                for position in range(skipped, len(errors)):
                    yield f"{number}.{position}", JobErrorOut(**errors[position])
            skipped = 0
        if len(steps) < STEPS_READ:
            return
        step += STEPS_READ


def _time(milliseconds: int | None) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None
