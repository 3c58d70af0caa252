"""Snapshots."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field

from app.schemas.base import Out, Strict
from engine.snapshots import Listed


class SnapshotOut(Out):
    """A copy of the index to go back to; `cooc snapshot restore` does so."""

    name: str
    """Of its folder."""
    created_at: datetime | None = None
    """The moment whose state it holds."""
    note: str = ""
    """What was said of it."""
    count: int = 0
    """Images in it."""
    generation: int = 0
    """That was live."""
    fingerprint: str = ""
    """Of the recipe."""
    program_version: str = ""
    """That made it."""
    originals: int = 0
    """Image files that it holds."""
    bytes: int = 0
    """Originals included, which may share their room with the index."""
    problem: str | None = None
    """Why it cannot be used."""

    @classmethod
    def of(cls, listed: Listed) -> SnapshotOut:
        snapshot = listed.snapshot
        if snapshot is None:
            return cls(name=listed.name, problem=listed.problem)
        return cls(
            name=listed.name,
            created_at=datetime.fromisoformat(snapshot.created_at),
            note=snapshot.note,
            count=snapshot.count,
            generation=snapshot.generation,
            fingerprint=snapshot.fingerprint,
            program_version=snapshot.program_version,
            originals=snapshot.originals,
            bytes=snapshot.bytes,
        )


class SnapshotIn(Strict):
    """About a snapshot that is asked for."""

    note: Annotated[str, Field(max_length=1000, description="Kept with the snapshot.")] = ""


class SnapshotsOut(Out):
    """Snapshots in the data folder."""

    snapshots: list[SnapshotOut]
    """The oldest first."""
