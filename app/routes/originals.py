"""The files of the images themselves, where they are kept."""

from __future__ import annotations

from urllib.parse import quote

from fastapi import APIRouter, Request, Response

from app.deps import SearcherDep
from app.security.needs import needs
from app.security.scopes import Scope
from app.serving.conditional import conditional
from engine.errors import NoOriginal

router = APIRouter(tags=["images"], dependencies=[needs(Scope.SEARCH)])

MEDIA_TYPES = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "AVIF": "image/avif",
    "GIF": "image/gif",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
    "HEIF": "image/heic",
}
"""By what the decoder found, not by what the client had called it."""
SHOWN = frozenset({"image/jpeg", "image/png", "image/webp", "image/avif", "image/gif", "image/bmp"})
"""What every browser shows as a picture and nothing else; the rest is saved."""


# Before `/images/{image_id:path}`, which takes every address.
@router.get(
    "/images/{image_id:path}/original",
    response_class=Response,
    responses={200: {"content": {"image/*": {}}}, 304: {"description": "The client has it"}},
)
def original(image_id: str, request: Request, searcher: SearcherDep) -> Response:
    """The bytes that were added, unchanged. 404 unless the service keeps originals."""
    record = searcher.catalog.get(image_id)
    originals = searcher.originals
    file = None if originals is None else originals.open(record.digest)
    if file is None:
        raise NoOriginal(
            f"the original of {image_id!r} was not kept; start the service with "
            "COOC_KEEP_ORIGINALS=true and add the image again"
        )
    media_type = MEDIA_TYPES.get(record.format, "application/octet-stream")
    disposition = "inline" if media_type in SHOWN else "attachment"
    name = quote(image_id.rsplit("/", 1)[-1], safe="")
    headers = {
        "Content-Disposition": f"{disposition}; filename*=UTF-8''{name}",
        # A file may be a picture and something else at once: it is only ever the picture.
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "Content-Type": media_type,
    }
    return conditional(request, file, record.digest, headers)
