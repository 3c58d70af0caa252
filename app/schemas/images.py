"""Stored images."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from urllib.parse import quote

from pydantic import Field

from app.schemas.base import Out, Strict
from engine.types import ImageRecord, Json


def thumbnail_url(root: str, image_id: str) -> str:
    return f"{root}/images/{quote(image_id)}/thumbnail"


class ImageOut(Out):
    """A stored image."""

    id: str
    """The name it was added under; slashes are part of it."""
    digest: str
    """SHA-256 of its file."""
    width: int
    """Pixels of the upright image."""
    height: int
    """Pixels of the upright image."""
    format: str
    """As the decoder found it, such as JPEG."""
    metadata: Json
    """As it was given."""
    created_at: datetime
    """When these bytes were added."""
    thumbnail_url: str
    """Path of a JPEG of at most 256 pixels a side."""

    @classmethod
    def of(cls, record: ImageRecord, root: str) -> ImageOut:
        return cls(
            id=record.id,
            digest=record.digest,
            width=record.width,
            height=record.height,
            format=record.format,
            metadata=record.metadata,
            created_at=datetime.fromisoformat(record.created_at),
            thumbnail_url=thumbnail_url(root, record.id),
        )


class ImagesOut(Out):
    """A page of stored images."""

    images: list[ImageOut]
    """In the order of their ids."""
    next_cursor: str | None
    """Asks for those after them; null on the last page."""


MAX_URLS = 10_000
"""Of one bulk add."""


class UrlImageIn(Strict):
    """An image to fetch. An `id` that is stored already is replaced; without one it is made of
    the URL's host and path, and an image whose bytes are stored is skipped."""

    url: Annotated[
        str,
        Field(min_length=1, max_length=8192, description="Of a host that this service allows."),
    ]
    id: Annotated[
        str | None, Field(min_length=1, max_length=512, description="The id that it gets.")
    ] = None
    metadata: Annotated[
        dict[str, Any], Field(default_factory=dict, description="What is stored with it.")
    ]


class IndexAddJson(Strict):
    """Images to fetch and add."""

    images: Annotated[
        list[UrlImageIn], Field(min_length=1, max_length=MAX_URLS, description="In any order.")
    ]
