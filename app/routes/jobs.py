"""Following long work."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.sse import EventSourceResponse

from app.deps import JobsDep, StateDep, get_service
from app.fetching.parsing import without_secrets
from app.job_events import ENDED, event_id
from app.schemas import JobErrorsOut, JobOut, JobsOut, JobState, JobType
from app.security.needs import needs
from app.security.scopes import Scope

router = APIRouter(tags=["jobs"])


@router.get("/jobs", dependencies=[needs(Scope.SEARCH)])
def list_jobs(
    jobs: JobsDep,
    limit: Annotated[int, Query(ge=1, le=100, description="How many at most.")] = 20,
    state: Annotated[JobState | None, Query(description="Only those in this state.")] = None,
    type: Annotated[JobType | None, Query(description="Only those that do this.")] = None,
) -> JobsOut:
    """The newest jobs first."""
    return JobsOut(jobs=jobs.newest(limit, state=state, type=type))


@router.get("/jobs/{job_id}", dependencies=[needs(Scope.SEARCH)])
def get_job(job_id: str, jobs: JobsDep) -> JobOut:
    """State and progress of a job."""
    return jobs.get(job_id)


@router.get(
    "/jobs/{job_id}/events",
    dependencies=[needs(Scope.SEARCH)],
    response_class=Response,
    responses={
        200: {"content": {"text/event-stream": {}}},
        204: {"description": "It has ended, as the client knows"},
    },
)
async def watch_job(  # on the event loop: whoever listens holds no thread
    request: Request,
    state: StateDep,
    job: Annotated[JobOut, Depends(get_job)],
    last_event_id: Annotated[
        str | None, Header(description="Id of the last event that arrived, when coming back.")
    ] = None,
) -> Response:
    """The job as server-sent events: `progress` whenever it has changed, `end` when it has ended.

    The data of each is the whole job as JSON. Comments keep the connection alive. Whoever comes
    back after `end` gets 204, which tells browsers to stop. The stream ends with the key, too.
    """
    if job.state in ENDED and last_event_id == event_id(job):
        return Response(status_code=204)
    watch, admission = get_service(request).watch, request.app.state.admission

    def stopping() -> bool:
        return admission.draining or not state.access.allows(request, Scope.SEARCH)

    return EventSourceResponse(
        watch.events(job.id, last_event_id, stopping),
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


@router.get("/jobs/{job_id}/errors", dependencies=[needs(Scope.SEARCH)])
def get_job_errors(
    request: Request,
    state: StateDep,
    job_id: str,
    jobs: JobsDep,
    limit: Annotated[int, Query(ge=1, le=10_000, description="How many at most.")] = 1000,
    cursor: Annotated[str | None, Query(description="`next_cursor` of the page before.")] = None,
) -> JobErrorsOut:
    """Images of a bulk add that failed or were skipped, and why.

    Queries of URLs are told to those who may add images, not to those who may only search.
    """
    found = jobs.errors(job_id, limit, cursor)
    if not state.access.allows(request, Scope.WRITE):
        for error in found.errors:
            if "://" in error.name:
                error.name = without_secrets(error.name)
    return found


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
