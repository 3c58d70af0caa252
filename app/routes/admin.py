"""Building, reloading and looking at the index."""

from __future__ import annotations

from datetime import datetime

from fastapi import APIRouter, Response

from app.deps import JobsDep, RootDep, SearcherDep
from app.schemas import IndexOut, JobOut, ReloadOut
from engine.errors import EmptyIndex
from engine.searcher import IndexStats

router = APIRouter(prefix="/admin/index", tags=["admin"])


@router.post("/build", status_code=202)
def build(searcher: SearcherDep, jobs: JobsDep, root: RootDep, response: Response) -> JobOut:
    """Fit the projection on the collection and publish a new generation; follow the job.

    Searches, adds and deletes go on meanwhile.
    """
    if searcher.catalog.count() == 0:
        raise EmptyIndex("the index is empty; add images before building it")
    job = jobs.get(jobs.build())
    response.headers["Location"] = f"{root}/jobs/{job.id}"
    response.headers["Retry-After"] = "1"
    return job


@router.post("/reload")
def reload(searcher: SearcherDep) -> ReloadOut:
    """Load the generation that CURRENT names, without a gap in service."""
    generation = searcher.reload()
    return ReloadOut(generation=generation, count=searcher.stats().count)


@router.get("")
def stats(searcher: SearcherDep) -> IndexOut:
    """Size, generation, fingerprint and recipe of the index."""
    return index_out(searcher.stats())


def index_out(stats: IndexStats) -> IndexOut:
    return IndexOut(
        count=stats.count,
        generation=stats.generation,
        fitted=stats.fitted,
        unfitted=max(0, stats.count - stats.fitted),
        dim=stats.dim,
        projected=stats.projected,
        explained_variance=stats.explained,
        index_type=stats.index_type,
        bytes=stats.bytes,
        built_at=datetime.fromisoformat(stats.built_at) if stats.built_at else None,
        fingerprint=stats.recipe.fingerprint,
        recipe=stats.recipe.to_json(),
        precision=stats.precision,
        recall=1.0,  # a flat scan is exact
    )
