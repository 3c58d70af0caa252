"""Snapshots of the index."""

from __future__ import annotations

from fastapi import APIRouter, Response

from app.deps import JobsDep, RootDep, SearcherDep, StateDep
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
    response: Response,
    options: SnapshotIn | None = None,
) -> JobOut:
    """Copy the index as it is now, without anybody having to wait; follow the job."""
    if searcher.catalog.count() == 0:
        raise EmptyIndex("the index is empty; add images before taking a snapshot")
    return accepted(jobs, jobs.snapshot((options or SnapshotIn()).note), root, response)
