"""Two images against each other."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from app.schemas.base import Out, Strict
from app.schemas.results import IndexRef, rounded
from app.schemas.search import QuerySource
from engine.queries.comparing import Comparison
from engine.types import MatchType

_FILE = {"format": "binary"}
_EMPTY = {"example": ""}


class CompareJson(Strict):
    """Two images as JSON."""

    a: Annotated[QuerySource, Field(description="One image.")]
    b: Annotated[QuerySource, Field(description="The other; the order makes no difference.")]


class CompareForm(Strict):
    """Two images as multipart form: for each a file or the id of a stored one."""

    image_a: Annotated[
        str | None, Field(json_schema_extra={**_FILE}, description="File of one image.")
    ] = None
    image_b: Annotated[
        str | None, Field(json_schema_extra={**_FILE}, description="File of the other image.")
    ] = None
    id_a: Annotated[
        str | None, Field(json_schema_extra={**_EMPTY}, description="Or the id of a stored one.")
    ] = None
    id_b: Annotated[
        str | None, Field(json_schema_extra={**_EMPTY}, description="Or the id of a stored one.")
    ] = None


class CompareOut(Out):
    """What a search for one of the images would say of the other."""

    score: float
    """Cosine of the two descriptors, in [-1, 1]; 1 for the same bytes."""
    p_same_origin: float | None
    """Share of pairs with that similarity that are of the same origin, as of a search result."""
    match_type: MatchType
    """As of a search result."""
    index: IndexRef
    """The index that tells what scores mean."""

    @classmethod
    def of(cls, found: Comparison) -> CompareOut:
        return cls(
            score=round(found.score, 6),
            p_same_origin=rounded(found.p_same_origin),
            match_type=found.match_type,
            index=IndexRef(
                fingerprint=found.fingerprint, generation=found.generation, count=found.count
            ),
        )
