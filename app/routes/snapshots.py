"""Snapshots of the index."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Response

from app.deps import JobIdDep, JobsDep, RootDep, SearcherDep, StateDep
from app.examples import SNAPSHOTS
from app.routes.admin import accepted
from app.schemas import JobOut, SnapshotIn, SnapshotOut, SnapshotsOut
from app.security.needs import needs
from app.security.scopes import Scope
from engine.errors import EmptyIndex
from engine.snapshots import FOLDER, list_snapshots

router = APIRouter(prefix="/admin/snapshots", tags=["admin"], dependencies=[needs(Scope.ADMIN)])


@router.get("")
def snapshots(state: StateDep) -> SnapshotsOut:
    """Those in the data folder, oldest first. `cooc snapshot` restores them."""
    found = list_snapshots(state.settings.data_dir / FOLDER)
    return SnapshotsOut(snapshots=[SnapshotOut.of(listed) for listed in found])


@router.post("", status_code=202)
def take_snapshot(
    searcher: SearcherDep,
    jobs: JobsDep,
    root: RootDep,
    job_id: JobIdDep,
    response: Response,
    options: Annotated[SnapshotIn | None, Body(openapi_examples=SNAPSHOTS)] = None,
) -> JobOut:
    """Copy the index as it is now, without anybody having to wait; follow the job."""
    if searcher.catalog.count() == 0:
        raise EmptyIndex("the index is empty; add images before taking a snapshot")
    note = (options or SnapshotIn()).note
    return accepted(jobs, jobs.snapshot(note, job_id), root, response)
