"""Following long work."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from app.deps import JobsDep
from app.schemas import JobErrorsOut, JobOut, JobsOut, JobState, JobType
from app.security.needs import needs
from app.security.scopes import Scope

router = APIRouter(tags=["jobs"])


@router.get("/jobs", dependencies=[needs(Scope.SEARCH)])
def list_jobs(
    jobs: JobsDep,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    state: JobState | None = None,
    type: JobType | None = None,
) -> JobsOut:
    """The newest jobs first."""
    return JobsOut(jobs=jobs.newest(limit, state=state, type=type))


@router.get("/jobs/{job_id}", dependencies=[needs(Scope.SEARCH)])
def get_job(job_id: str, jobs: JobsDep) -> JobOut:
    """State and progress of a job."""
    return jobs.get(job_id)


@router.get("/jobs/{job_id}/errors", dependencies=[needs(Scope.SEARCH)])
def get_job_errors(
    job_id: str,
    jobs: JobsDep,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
    cursor: Annotated[str | None, Query(description="`next_cursor` of the page before.")] = None,
) -> JobErrorsOut:
    """Images of a bulk add that failed or were skipped, and why."""
    return jobs.errors(job_id, limit, cursor)


@router.get("/jobs/{job_id}/result", dependencies=[needs(Scope.SEARCH)])
def get_job_result(
    job_id: str,
    jobs: JobsDep,
    limit: Annotated[int, Query(ge=1, le=1000, description="Groups of one page.")] = 100,
    cursor: Annotated[str | None, Query(description="`next_cursor` of the page before.")] = None,
) -> dict[str, Any]:
    """What a report found. Those of the newest 20 jobs are kept."""
    return jobs.result(job_id, limit, cursor)


@router.delete("/jobs/{job_id}", status_code=202, dependencies=[needs(Scope.WRITE)])
def cancel_job(job_id: str, jobs: JobsDep) -> JobOut:
    """Stop a job after the images at hand, or within about a second; what was added stays."""
    jobs.cancel(job_id)
    return jobs.get(job_id)
