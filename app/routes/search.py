"""Searching."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request

from app.deps import FetchDep, RootDep, SearcherDep
from app.errors import InvalidFields, RequestProblem, content_for
from app.examples import BATCHES, SEARCHES
from app.schemas import (
    BatchItemOut,
    BatchOut,
    ProblemOut,
    SearchBatchForm,
    SearchBatchJson,
    SearchForm,
    SearchJson,
    SearchOut,
)
from app.search_requests import SearchRequest, read_batch, read_search
from app.security.needs import needs
from app.security.scopes import Scope
from app.uploads import two_bodies
from engine.errors import EngineError
from engine.passes.stages import stage, stages
from engine.queries.explained_hits import HitExplanation
from engine.queries.querying import Example, ImageQuery
from engine.searcher import Searcher
from engine.types import SearchAnswer

router = APIRouter(tags=["search"], dependencies=[needs(Scope.SEARCH)])

BODY: dict[str, Any] = two_bodies(SearchForm, SearchJson, SEARCHES)
BATCH_BODY: dict[str, Any] = two_bodies(SearchBatchForm, SearchBatchJson, BATCHES)


@router.post("/search", openapi_extra=BODY)
def search(
    request: Annotated[SearchRequest, Depends(read_search)],
    searcher: SearcherDep,
    fetch: FetchDep,
    root: RootDep,
) -> SearchOut:
    """The stored images most similar to an uploaded or a stored one, or one at a URL, best first.

    An image that is stored finds itself at rank 1 with score 1 as `exact`. Nothing found is an
    empty list. URLs are fetched only if the operator of the service allows their host.

    Several examples are one query: images like all of them, and unlike the negative
    ones. A `region` is cut out of the upright image, at the scale that the whole image would get,
    and is never `exact`.
    """
    query = request.query(fetch)
    answer = searcher.search_query(query, request.options())
    return answered(searcher, answer, request, query, root)


@router.post("/search/batch", openapi_extra=BATCH_BODY)
def search_batch(
    requests: Annotated[list[SearchRequest | InvalidFields], Depends(read_batch)],
    request: Request,
    searcher: SearcherDep,
    fetch: FetchDep,
    root: RootDep,
) -> BatchOut:
    """Up to 16 searches at once: for each, in order, its answer or its problem.

    They share passes of the model. The status of the whole is 200 even if every query has a
    problem; an image that is damaged spoils only its own.
    """
    problems: dict[int, EngineError | RequestProblem] = {}
    asked = []
    for number, one in enumerate(requests):
        try:
            if isinstance(one, InvalidFields):
                raise one
            options = one.options()
            asked.append((number, one, one.query(fetch), options))
        except (EngineError, RequestProblem) as error:
            problems[number] = error
    answers = searcher.search_many([(query, options) for _, _, query, options in asked])
    items: dict[int, BatchItemOut] = {}
    for (number, one, query, _), answer in zip(asked, answers, strict=True):
        if isinstance(answer, EngineError):
            problems[number] = answer
        else:
            found = answered(searcher, answer, one, query, root)
            items[number] = BatchItemOut(status=200, answer=found)
    for number, met in problems.items():
        problem = ProblemOut(**content_for(request, met))
        items[number] = BatchItemOut(status=problem.status, problem=problem)
    return BatchOut(answers=[items[number] for number in range(len(requests))])


def answered(
    searcher: Searcher, answer: SearchAnswer, request: SearchRequest, query: ImageQuery, root: str
) -> SearchOut:
    """The answer as it is sent, explained where that was asked for."""
    query_id = uuid.uuid4().hex
    if "explain" not in request.fields.include:
        return SearchOut.of(answer, request.fields, query_id, root)
    with stages() as timing, stage("explain"):
        explained = explain(searcher, answer, query.positives[0])
    timing_ms = {**answer.timing_ms, **timing.milliseconds()}
    timed = replace(answer, timing_ms=timing_ms)
    return SearchOut.of(timed, request.fields, query_id, root, explained)


def explain(searcher: Searcher, answer: SearchAnswer, query: Example) -> dict[str, HitExplanation]:
    return searcher.explainer.explain(query, [hit.id for hit in answer.hits])
