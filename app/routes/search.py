"""Searching."""

from __future__ import annotations

import uuid
from typing import Annotated, Any

from fastapi import APIRouter, Depends

from app.deps import FetcherDep, RootDep, SearcherDep
from app.schemas import SearchForm, SearchJson, SearchOut
from app.security.needs import needs
from app.security.scopes import Scope
from app.uploads import ImageUrl, SearchRequest, inlined, read_search

router = APIRouter(tags=["search"], dependencies=[needs(Scope.SEARCH)])

BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": inlined(SearchForm.model_json_schema())},
            "application/json": {
                "schema": inlined(SearchJson.model_json_schema()),
                "example": {"query": {"id": "holiday/beach.jpg"}, "limit": 5},
            },
        },
    }
}


@router.post("/search", openapi_extra=BODY)
def search(
    request: Annotated[SearchRequest, Depends(read_search)],
    searcher: SearcherDep,
    fetcher: FetcherDep,
    root: RootDep,
) -> SearchOut:
    """The stored images most similar to an uploaded or a stored one, or one at a URL, best first.

    An image that is stored finds itself at rank 1 with score 1 as `exact`. Nothing found is an
    empty list. URLs are fetched only if the operator of the service allows their host.
    """
    options = request.fields.options()
    if request.id is not None:
        answer = searcher.search_id(request.id, options)
    else:
        assert request.image is not None, "a search has an image or an id"
        image = request.image
        data = fetcher.query(image.url) if isinstance(image, ImageUrl) else image
        answer = searcher.search(data, options)
    return SearchOut.of(answer, request.fields, uuid.uuid4().hex, root)
