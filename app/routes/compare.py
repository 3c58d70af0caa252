"""Two images against each other."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends

from app.deps import FetchDep, SearcherDep
from app.examples import COMPARISONS
from app.schemas import CompareForm, CompareJson, CompareOut
from app.security.needs import needs
from app.security.scopes import Scope
from app.uploads import CompareRequest, ImageUrl, read_compare, two_bodies

router = APIRouter(tags=["search"], dependencies=[needs(Scope.SEARCH)])

BODY = two_bodies(CompareForm, CompareJson, COMPARISONS)


@router.post("/compare", openapi_extra=BODY)
def compare(
    request: Annotated[CompareRequest, Depends(read_compare)],
    searcher: SearcherDep,
    fetch: FetchDep,
) -> CompareOut:
    """How similar two images are, and how probably they are of the same origin.

    Each is uploaded, stored already, or fetched from a URL; nothing is stored by this. The order
    makes no difference.
    """
    a, b = (
        fetch(side.url) if isinstance(side, ImageUrl) else side for side in (request.a, request.b)
    )
    return CompareOut.of(searcher.compare(a, b))
