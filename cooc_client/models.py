"""What the service answers, as values. What only newer services say is left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

Json = dict[str, Any]
T = TypeVar("T")


def known(kind: type[T], value: Mapping[str, Any], **more: Any) -> T:
    """`kind` of those entries that it has; `more` replaces some."""
    names = {entry.name for entry in fields(kind)}  # type: ignore[arg-type]
    return kind(**{**{name: value[name] for name in names if name in value}, **more})


@dataclass(frozen=True)
class Grid:
    """A heat map over a picture, in rows from its top; its numbers sum to the score."""

    rows: int
    columns: int
    parts: list[list[float]]


@dataclass(frozen=True)
class Why:
    """What each part of query and result adds to their score."""

    score: float
    served_score: float
    query_from: str
    result_from: str
    query: Grid
    result: Grid

    @classmethod
    def of(cls, value: Json) -> Why:
        query, result = known(Grid, value["query"]), known(Grid, value["result"])
        return known(cls, value, query=query, result=result)


@dataclass(frozen=True)
class Result:
    """One hit. `score` is a cosine; `match_type` is `exact`, `near` or `similar`."""

    id: str
    score: float
    rank: int
    match_type: str
    width: int
    height: int
    p_same_origin: float | None = None
    metadata: Json | None = None
    thumbnail_url: str | None = None
    explain: Why | None = None

    @classmethod
    def of(cls, value: Json) -> Result:
        why = value.get("explain")
        return known(cls, value, explain=None if why is None else Why.of(why))


@dataclass(frozen=True)
class SearchAnswer:
    """Results, best first; `index` and `timing_ms` as the service said them."""

    results: list[Result]
    query_id: str
    index: Json
    query_expansion: Json
    timing_ms: dict[str, float]

    @classmethod
    def of(cls, value: Json) -> SearchAnswer:
        return known(cls, value, results=[Result.of(result) for result in value["results"]])


@dataclass(frozen=True)
class Comparison:
    """Two images against each other."""

    score: float
    p_same_origin: float | None
    match_type: str
    index: Json


@dataclass(frozen=True)
class Image:
    """A stored image; `digest` is the SHA-256 of its file, `created_at` ISO 8601."""

    id: str
    digest: str
    width: int
    height: int
    format: str
    metadata: Json
    created_at: str
    thumbnail_url: str


@dataclass(frozen=True)
class Progress:
    """Images of a job: all, handled so far, and what became of them."""

    total: int = 0
    processed: int = 0
    added: int = 0
    replaced: int = 0
    skipped: int = 0
    failed: int = 0


@dataclass(frozen=True)
class Job:
    """Long work; `state` is queued, running, succeeded, partial, failed or cancelled."""

    id: str
    type: str
    state: str
    progress: Progress = field(default_factory=Progress)
    phase: str | None = None
    waiting: str | None = None
    created_at: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    error: str | None = None
    result: Json | None = None

    @property
    def ended(self) -> bool:
        return self.state not in ("queued", "running")

    @classmethod
    def of(cls, value: Json) -> Job:
        return known(cls, value, progress=known(Progress, value.get("progress", {})))


@dataclass(frozen=True)
class JobError:
    """One image that was not added, or that was skipped, and why."""

    name: str
    outcome: str
    detail: str
    id: str | None = None
