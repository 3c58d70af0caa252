"""Stored images that are like a stored one."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from app.deps import RootDep, SearcherDep
from app.routes.search import answered
from app.schemas import SearchFields, SearchOut, SimilarQuery
from app.search_requests import SearchRequest, included
from app.security.needs import needs
from app.security.scopes import Scope
from app.uploads import json_object, validate
from engine.queries.querying import Example, ImageQuery

router = APIRouter(tags=["images"], dependencies=[needs(Scope.SEARCH)])


# Before `/images/{image_id:path}`, which takes every address.
@router.get("/images/{image_id:path}/similar")
def similar(
    image_id: str,
    wanted: Annotated[SimilarQuery, Query()],
    searcher: SearcherDep,
    root: RootDep,
) -> SearchOut:
    """The stored images most similar to this one, best first, without itself.

    Nothing has to be described for it, unless `explain` is asked for.
    """
    values = wanted.model_dump(exclude_unset=True) | {"exclude_self": True}
    values["include"] = included(wanted.include)
    values["filter"] = json_object(wanted.filter, "/filter") if wanted.filter else None
    query = ImageQuery((Example(image_id),))
    asked = SearchRequest(validate(SearchFields, values), ())
    answer = searcher.search_query(query, asked.options())
    return answered(searcher, answer, asked, query, root)
