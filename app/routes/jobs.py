"""Following long work."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from app.deps import JobsDep
from app.schemas import JobErrorsOut, JobOut, JobsOut

router = APIRouter(tags=["jobs"])


@router.get("/jobs")
def list_jobs(jobs: JobsDep, limit: Annotated[int, Query(ge=1, le=100)] = 20) -> JobsOut:
    """The newest jobs first."""
    return JobsOut(jobs=jobs.newest(limit))


@router.get("/jobs/{job_id}")
def get_job(job_id: str, jobs: JobsDep) -> JobOut:
    """State and progress of a job."""
    return jobs.get(job_id)


@router.get("/jobs/{job_id}/errors")
def get_job_errors(
    job_id: str, jobs: JobsDep, limit: Annotated[int, Query(ge=1, le=10_000)] = 1000
) -> JobErrorsOut:
    """Images of a bulk add that failed or were skipped, and why."""
    return jobs.errors(job_id, limit)


@router.delete("/jobs/{job_id}", status_code=202)
def cancel_job(job_id: str, jobs: JobsDep) -> JobOut:
    """Stop a job after the images at hand; what was added stays."""
    jobs.cancel(job_id)
    return jobs.get(job_id)
