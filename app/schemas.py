"""What travels over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field

from engine.backbones.weights import Weights
from engine.descriptor_weights import DescriptorWeights
from engine.types import (
    Expansion,
    Hit,
    ImageRecord,
    Json,
    MatchType,
    SearchAnswer,
    SearchOptions,
)

Include = Literal["metadata", "thumbnail"]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SearchFields(Strict):
    """Options of a search; the query itself comes beside them."""

    limit: Annotated[int, Field(ge=1, le=100, description="How many results.")] = 10
    offset: Annotated[int, Field(ge=0, le=10_000, description="Results to skip.")] = 0
    score_threshold: Annotated[
        float | None, Field(ge=-1.0, le=1.0, description="Leave out lower scores.")
    ] = None
    query_expansion: Annotated[
        Expansion,
        Field(
            description="Search again with the first neighbours: `average`, `alpha`, or `auto`, "
            "which does so only where several certain neighbours agree."
        ),
    ] = Expansion.NONE
    query_expansion_neighbours: Annotated[
        int,
        Field(ge=1, le=50, description="How many may join the query; `auto` wants 3 at least."),
    ] = 10
    query_expansion_alpha: Annotated[
        float,
        Field(ge=0.0, le=10.0, description="Exponent of their weights, for `alpha` and `auto`."),
    ] = 3.0
    database_augmentation: Annotated[
        int,
        Field(
            ge=0,
            le=50,
            description="Compare with the mean of each stored photo and so many of its own "
            "neighbours: as slow as 50 searches; pages beyond 100 results may then overlap.",
        ),
    ] = 0
    exclude_self: Annotated[
        bool, Field(description="Leave out the query itself, where it is stored.")
    ] = False
    include: Annotated[tuple[Include, ...], Field(description="What to send with each result.")] = (
        "metadata",
        "thumbnail",
    )

    def options(self) -> SearchOptions:
        return SearchOptions(
            limit=self.limit,
            offset=self.offset,
            score_threshold=self.score_threshold,
            expansion=self.query_expansion,
            exclude_self=self.exclude_self,
            expansion_neighbours=self.query_expansion_neighbours,
            expansion_alpha=self.query_expansion_alpha,
            augmentation=self.database_augmentation,
        )


class QuerySource(Strict):
    """Exactly one of the two."""

    id: Annotated[str | None, Field(description="Id of a stored image.")] = None
    image_base64: Annotated[str | None, Field(description="An image file, base64.")] = None


class SearchJson(SearchFields):
    """A search as JSON."""

    query: QuerySource


class SearchForm(SearchFields):
    """A search as multipart form: an `image` file or the `id` of a stored one."""

    image: Annotated[
        str | None, Field(json_schema_extra={"format": "binary"}, description="An image file.")
    ] = None
    # Swagger UI fills in its examples: empty, as it would else ask for an image called "string".
    id: Annotated[
        str | None, Field(json_schema_extra={"example": ""}, description="Id of a stored image.")
    ] = None


class ResultOut(BaseModel):
    """One hit. `score` is a cosine in [-1, 1]; `exact` means the same bytes."""

    id: str
    score: float
    rank: int
    match_type: MatchType
    width: int
    height: int
    metadata: Json | None = None
    thumbnail_url: str | None = None


class IndexRef(BaseModel):
    fingerprint: str
    generation: int
    count: int


class ExpansionOut(BaseModel):
    """`neighbours` is how many joined the query; 0 where none was certain enough."""

    method: Expansion
    neighbours: int


class SearchOut(BaseModel):
    """Results, best first."""

    results: list[ResultOut]
    query_id: str
    index: IndexRef
    query_expansion: ExpansionOut
    timing_ms: dict[str, float]

    @classmethod
    def of(cls, answer: SearchAnswer, fields: SearchFields, query_id: str, root: str) -> SearchOut:
        return cls(
            results=[_result(hit, fields, root) for hit in answer.hits],
            query_id=query_id,
            index=IndexRef(
                fingerprint=answer.fingerprint, generation=answer.generation, count=answer.count
            ),
            query_expansion=ExpansionOut(
                method=fields.query_expansion, neighbours=answer.expanded_with
            ),
            timing_ms={name: round(value, 2) for name, value in answer.timing_ms.items()},
        )


def _result(hit: Hit, fields: SearchFields, root: str) -> ResultOut:
    return ResultOut(
        id=hit.id,
        score=round(hit.score, 6),
        rank=hit.rank,
        match_type=hit.match_type,
        width=hit.width,
        height=hit.height,
        metadata=hit.metadata if "metadata" in fields.include else None,
        thumbnail_url=thumbnail_url(root, hit.id) if "thumbnail" in fields.include else None,
    )


def thumbnail_url(root: str, image_id: str) -> str:
    return f"{root}/images/{quote(image_id)}/thumbnail"


class ImageOut(BaseModel):
    """A stored image. `digest` is the SHA-256 of its file."""

    id: str
    digest: str
    width: int
    height: int
    format: str
    metadata: Json
    created_at: datetime
    thumbnail_url: str

    @classmethod
    def of(cls, record: ImageRecord, root: str) -> ImageOut:
        return cls(
            id=record.id,
            digest=record.digest,
            width=record.width,
            height=record.height,
            format=record.format,
            metadata=record.metadata,
            created_at=datetime.fromisoformat(record.created_at),
            thumbnail_url=thumbnail_url(root, record.id),
        )


JobState = Literal["queued", "running", "succeeded", "partial", "failed", "cancelled"]


class ProgressOut(BaseModel):
    """Images of the job: all, handled so far, and what became of them."""

    total: int = 0
    processed: int = 0
    added: int = 0
    replaced: int = 0
    skipped: int = 0
    failed: int = 0


class JobOut(BaseModel):
    """Long work. `partial`: done, but some images failed; see `/jobs/{id}/errors`."""

    id: str
    type: Literal["add", "build"]
    state: JobState
    progress: ProgressOut
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    error: str | None = None
    result: dict[str, Any] | None = None


class JobsOut(BaseModel):
    jobs: list[JobOut]


class JobErrorOut(BaseModel):
    """One image that was not added, or that was skipped, and why."""

    name: str
    outcome: Literal["failed", "skipped"]
    detail: str
    id: str | None = None


class JobErrorsOut(BaseModel):
    errors: list[JobErrorOut]
    total: int


class WeightsOut(BaseModel):
    """Where the model's parameters come from; `notice` is one sentence for people.

    `fallback`: they are used because those that `auto` prefers could not be had.
    """

    name: str
    trained: bool
    fallback: bool
    digest: str
    notice: str

    @classmethod
    def of(cls, weights: Weights) -> WeightsOut:
        return cls(
            name=weights.name,
            trained=weights.trained,
            fallback=weights.fallback,
            digest=weights.digest,
            notice=weights.notice,
        )


class LearnedOut(BaseModel):
    """Something trained besides the trunk: the file it was given as, and its content."""

    name: str
    digest: str

    @classmethod
    def of(cls, weights: DescriptorWeights | None) -> LearnedOut | None:
        return None if weights is None else cls(name=weights.name, digest=weights.digest)


class VersionOut(BaseModel):
    """`cooccurrence` and `projection` are null unless they were trained."""

    name: str
    version: str
    weights: WeightsOut | None
    backbone: str | None
    pooling: str | None
    cooccurrence: LearnedOut | None
    projection: LearnedOut | None
    fingerprint: str | None
    device: str | None
    precision: str | None


class IndexOut(BaseModel):
    """State of the index. `unfitted` images were added after the last build."""

    count: int
    generation: int
    fitted: int
    unfitted: int
    dim: int
    projected: bool
    explained_variance: float
    index_type: str
    bytes: int
    built_at: datetime | None
    fingerprint: str
    recipe: dict[str, Any]
    precision: str
    recall: float


class ReloadOut(BaseModel):
    generation: int
    count: int


class HealthOut(BaseModel):
    status: Literal["ok"]


class ProblemOut(BaseModel):
    """RFC 9457 problem document; `code` is stable for programs, `detail` is for people."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str
    errors: list[dict[str, str]]
