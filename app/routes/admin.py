"""Building, reloading and looking at the index."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Body, Request, Response

from app.deps import JobIdDep, JobsDep, RootDep, SearcherDep
from app.duplicates import check_duplicate_options
from app.errors import OutcomeUnknown, UnknownReport
from app.examples import DUPLICATES
from app.jobs import Jobs
from app.schemas import CalibrationOut, DuplicatesIn, IndexOut, JobOut, ReloadOut, RollbackIn
from app.security.needs import needs
from app.security.scopes import Scope
from engine.calibration.collect import MIN_IMAGES
from engine.duplicates import DuplicateOptions
from engine.errors import EmptyIndex
from engine.live.index_stats import IndexStats

router = APIRouter(prefix="/admin/index", tags=["admin"], dependencies=[needs(Scope.ADMIN)])


@router.post("/build", status_code=202)
def build(
    searcher: SearcherDep, jobs: JobsDep, root: RootDep, job_id: JobIdDep, response: Response
) -> JobOut:
    """Fit the projection on the collection and publish a new generation; follow the job.

    Searches, adds and deletes go on meanwhile.
    """
    if searcher.catalog.count() == 0:
        raise EmptyIndex("the index is empty; add images before building it")
    return accepted(jobs, jobs.build(job_id), root, response)


@router.post("/duplicates", status_code=202)
def duplicates(
    searcher: SearcherDep,
    jobs: JobsDep,
    root: RootDep,
    job_id: JobIdDep,
    response: Response,
    options: Annotated[DuplicatesIn | None, Body(openapi_examples=DUPLICATES)] = None,
) -> JobOut:
    """Look for near-duplicates in the whole collection; `/jobs/{id}/result` has the groups."""
    if searcher.catalog.count() == 0:
        raise EmptyIndex("the index is empty; add images before looking for duplicates")
    chosen = DuplicateOptions(**(options or DuplicatesIn()).model_dump())
    check_duplicate_options(searcher, chosen)
    return accepted(jobs, jobs.duplicates(chosen, job_id), root, response)


def accepted(jobs: Jobs, job_id: str, root: str, response: Response) -> JobOut:
    """What a route answers that has queued a job."""
    response.headers["Location"] = f"{root}/jobs/{job_id}"
    response.headers["Retry-After"] = "1"
    return jobs.get(job_id)


@router.post("/rollback")
def rollback(
    request: Request, searcher: SearcherDep, jobs: JobsDep, options: RollbackIn | None = None
) -> ReloadOut:
    """Go back to an earlier generation, without a gap in service; images that came or went since
    it was built are seen to. Without a number: to the one before."""
    wanted = (options or RollbackIn()).generation
    if wanted is None and request.scope.get("repeated"):
        raise OutcomeUnknown(
            "an earlier request with this idempotency key was not answered, and may have gone back "
            "already; GET /admin/index tells the live generation: name the one to go back to, with "
            "a new key"
        )
    number = searcher.rollback(wanted)
    jobs.went_back()
    return ReloadOut(generation=number, count=searcher.stats().count)


@router.get(
    "/reliability",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}}},
)
def reliability(searcher: SearcherDep) -> Response:
    """How far the probabilities of the live generation can be trusted: a picture."""
    picture = searcher.reliability_picture()
    if picture is None:
        raise UnknownReport(
            "the live generation has no calibrated scores: that is done by a build of "
            f"{MIN_IMAGES} images or more; build the index"
        )
    return Response(picture, media_type="image/png", headers={"Cache-Control": "no-cache"})


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
        unfitted=stats.fresh,
        dim=stats.dim,
        projected=stats.projected,
        explained_variance=stats.explained,
        index_type=stats.index_type,
        bytes=stats.bytes,
        built_at=datetime.fromisoformat(stats.built_at) if stats.built_at else None,
        fingerprint=stats.recipe.fingerprint,
        recipe=stats.recipe.to_json(),
        precision=stats.precision,
        recall=stats.recall,
        nprobe=stats.nprobe,
        candidates=stats.candidates,
        cells=stats.cells,
        mapped_bytes=stats.mapped_bytes,
        build_seconds=stats.build_seconds,
        generations=list(stats.generations),
        calibration=CalibrationOut.of(stats.calibration) if stats.calibration else None,
    )
