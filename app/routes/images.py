"""Single images."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response

from app.deps import RootDep, SearcherDep
from app.schemas import ImageOut
from app.uploads import PutRequest, multipart, read_put
from engine.ingest import check_id

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


@router.get(
    "/images/{image_id:path}/thumbnail",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {}}}},
)
def thumbnail(image_id: str, searcher: SearcherDep) -> Response:
    """A JPEG of at most 256 pixels a side."""
    jpeg = searcher.catalog.thumbnail(image_id)
    # The image under an id may be replaced, so it has to be asked for again.
    return Response(jpeg, media_type="image/jpeg", headers={"Cache-Control": "no-cache"})


@router.put(
    "/images/{image_id:path}",
    openapi_extra=PUT_BODY,
    responses={200: {"description": "Replaced"}, 201: {"description": "Added", "model": ImageOut}},
)
def put_image(
    image_id: str,
    request: Annotated[PutRequest, Depends(read_put)],
    searcher: SearcherDep,
    root: RootDep,
    response: Response,
) -> ImageOut:
    """Add or replace one image. It is durable and found by every search after the answer."""
    record, created = searcher.put(check_id(image_id), request.image, request.metadata)
    response.status_code = 201 if created else 200
    return ImageOut.of(record, root)


@router.get("/images/{image_id:path}")
def get_image(image_id: str, searcher: SearcherDep, root: RootDep) -> ImageOut:
    """What is known of a stored image."""
    return ImageOut.of(searcher.catalog.get(image_id), root)


@router.delete("/images/{image_id:path}", status_code=204)
def delete_image(image_id: str, searcher: SearcherDep) -> None:
    """Forget an image; no search after the answer finds it."""
    searcher.delete(image_id)
