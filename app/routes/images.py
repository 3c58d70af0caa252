"""Single images."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response

from app.cursor import from_cursor, to_cursor
from app.deps import JobsDep, RootDep, SearcherDep
from app.examples import CHANGES
from app.schemas import ImageOut, ImagesOut
from app.security.needs import needs
from app.security.scopes import Scope
from app.serving.conditional import conditional
from app.uploads import MERGE_PATCH, PutRequest, multipart, read_filter, read_patch, read_put
from engine.catalog.listing import list_images
from engine.ingest import check_id
from engine.types import Json

router = APIRouter(tags=["images"])

PUT_BODY: dict[str, Any] = multipart(
    {
        "schema": {
            "type": "object",
            "required": ["image"],
            "properties": {
                "image": {"type": "string", "format": "binary", "description": "An image file."},
                "metadata": {"type": "string", "description": "A JSON object."},
            },
        }
    }
)

_CHANGE: dict[str, Any] = {"schema": {"type": "object"}, "examples": CHANGES}
PATCH_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {MERGE_PATCH: _CHANGE, "application/json": _CHANGE},
    }
}


@router.get("/images", dependencies=[needs(Scope.SEARCH)])
def get_images(
    searcher: SearcherDep,
    root: RootDep,
    cursor: Annotated[str | None, Query(description="`next_cursor` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="How many at most.")] = 100,
    filter: Annotated[
        str | None, Query(description="Only photos with such metadata: a filter, as JSON.")
    ] = None,
) -> ImagesOut:
    """All stored images, in the order of their ids, a page at a time.

    What is stored from the first page to the last is listed exactly once, whatever is added,
    replaced or deleted meanwhile.
    """
    found, place = list_images(
        searcher.catalog,
        searcher.columns,
        after=from_cursor(cursor) if cursor else "",
        limit=limit,
        where=read_filter(filter) if filter else None,
    )
    return ImagesOut(
        images=[ImageOut.of(record, root) for record in found],
        next_cursor=None if place is None else to_cursor(place),
    )


@router.get(
    "/images/{image_id:path}/thumbnail",
    dependencies=[needs(Scope.SEARCH)],
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {}}}, 304: {"description": "The client has it"}},
)
def thumbnail(image_id: str, request: Request, searcher: SearcherDep) -> Response:
    """A JPEG of at most 256 pixels a side."""
    # In this order: if it is replaced meanwhile, the next question is answered in full.
    digest = searcher.catalog.get(image_id).digest
    jpeg = searcher.catalog.thumbnail(image_id)
    return conditional(request, jpeg, digest, {"Content-Type": "image/jpeg"})


@router.put(
    "/images/{image_id:path}",
    dependencies=[needs(Scope.WRITE)],
    openapi_extra=PUT_BODY,
    responses={200: {"description": "Replaced"}, 201: {"description": "Added", "model": ImageOut}},
)
def put_image(
    image_id: str,
    request: Annotated[PutRequest, Depends(read_put)],
    searcher: SearcherDep,
    jobs: JobsDep,
    root: RootDep,
    response: Response,
) -> ImageOut:
    """Add or replace one image. It is durable and found by every search after the answer."""
    record, created = searcher.put(check_id(image_id), request.image, request.metadata)
    jobs.wrote(1)
    response.status_code = 201 if created else 200
    return ImageOut.of(record, root)


@router.get("/images/{image_id:path}", dependencies=[needs(Scope.SEARCH)])
def get_image(image_id: str, searcher: SearcherDep, root: RootDep) -> ImageOut:
    """What is known of a stored image."""
    return ImageOut.of(searcher.catalog.get(image_id), root)


@router.patch(
    "/images/{image_id:path}", dependencies=[needs(Scope.WRITE)], openapi_extra=PATCH_BODY
)
def patch_image(
    image_id: str,
    change: Annotated[Json, Depends(read_patch)],
    searcher: SearcherDep,
    root: RootDep,
) -> ImageOut:
    """Change the metadata by a JSON merge patch: entries are set, or removed where null.

    It is durable, and every filter after the answer sees it.
    """
    return ImageOut.of(searcher.patch(image_id, change), root)


@router.delete("/images/{image_id:path}", dependencies=[needs(Scope.WRITE)], status_code=204)
def delete_image(image_id: str, searcher: SearcherDep) -> None:
    """Forget an image; no search after the answer finds it."""
    searcher.delete(image_id)
