"""Bulk adds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from app.deps import JobIdDep, JobsDep, RootDep, StateDep
from app.schemas import IndexAddJson, JobOut
from app.security.needs import needs
from app.security.scopes import Scope
from app.uploads import BulkRequest, inlined, multipart, read_bulk

router = APIRouter(tags=["index"])

ADD_BODY: dict[str, Any] = multipart(
    {
        "schema": {
            "type": "object",
            "required": ["files"],
            "properties": {
                "files": {
                    "type": "array",
                    "items": {"type": "string", "format": "binary"},
                    "description": "Images, or .zip and .tar archives of images.",
                },
                "metadata": {
                    "type": "string",
                    "description": "A JSON object that all of these images get.",
                },
            },
        }
    }
)
ADD_BODY["requestBody"]["content"]["application/json"] = {
    "schema": inlined(IndexAddJson.model_json_schema()),
    "example": {
        "images": [{"url": "https://example.com/beach.jpg", "metadata": {"album": "2024"}}]
    },
}


async def bulk_request(request: Request, state: StateDep) -> AsyncIterator[BulkRequest]:
    async with read_bulk(request, state.settings.max_bulk_images) as bulk:
        yield bulk


@router.post(
    "/index/add",
    status_code=202,
    openapi_extra=ADD_BODY,
    dependencies=[needs(Scope.WRITE)],
)
def add(
    request: Annotated[BulkRequest, Depends(bulk_request)],
    jobs: JobsDep,
    root: RootDep,
    job_id: JobIdDep,
    response: Response,
) -> JobOut:
    """Add many images: accepted uploads are on disk and survive a crash; follow the job.

    An image's id is its file name (with its path in an archive). An image whose bytes are stored
    already is skipped; a name that another image has gets part of the digest added.

    As JSON: URLs, which the job fetches where the operator of the service allows their hosts.
    """
    if request.urls:
        job = jobs.get(jobs.add_urls(request.urls, job_id))
    else:
        job = jobs.get(jobs.add(request.files, request.metadata, job_id))
    response.headers["Location"] = f"{root}/jobs/{job.id}"
    response.headers["Retry-After"] = "1"
    return job
