"""What travels over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from app.security.scopes import Scope
from engine.backbones.weights import Weights
from engine.calibration import Calibration
from engine.comparing import Comparison
from engine.descriptor_weights import DescriptorWeights
from engine.filters import parse_filter
from engine.snapshots import Listed
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
    max_fpr: Annotated[
        float | None,
        Field(
            gt=0.0,
            le=0.5,
            description="Leave out results that are less like the query than all but about this "
            "share of images of other origin: of N stored images max_fpr x N pass by mistake. "
            "409 while the last build was of too few images to tell (140 for 0.01, 430 for 0.001).",
        ),
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
    exact: Annotated[
        bool,
        Field(
            description="Compare with every photo, in place of the cells of a coded index: finds "
            "all, in half a second at a million."
        ),
    ] = False
    nprobe: Annotated[
        int | None,
        Field(
            ge=1,
            le=65_536,
            description="Cells of a coded index to look into: fewer are faster, more find more. "
            "Default: as many as the build found necessary.",
        ),
    ] = None
    filter: Annotated[
        dict[str, Any] | None,
        Field(
            description='Only photos with such metadata: `{"album": "2024"}`, `{"field": "year", '
            '"gte": 2020}`, joined by `and`, `or`, `not`.'
        ),
    ] = None
    exclude_self: Annotated[
        bool, Field(description="Leave out the query itself, where it is stored.")
    ] = False
    include: Annotated[tuple[Include, ...], Field(description="What to send with each result.")] = (
        "metadata",
        "thumbnail",
    )

    def options(self) -> SearchOptions:
        """Raises InvalidFilter."""
        return SearchOptions(
            limit=self.limit,
            offset=self.offset,
            score_threshold=self.score_threshold,
            expansion=self.query_expansion,
            exclude_self=self.exclude_self,
            expansion_neighbours=self.query_expansion_neighbours,
            expansion_alpha=self.query_expansion_alpha,
            augmentation=self.database_augmentation,
            exact=self.exact,
            nprobe=self.nprobe,
            max_fpr=self.max_fpr,
            filter=None if self.filter is None else parse_filter(self.filter, at="/filter"),
        )


class QuerySource(Strict):
    """Exactly one of the three."""

    id: Annotated[str | None, Field(description="Id of a stored image.")] = None
    url: Annotated[
        str | None,
        Field(description="Where an image is fetched from, if this service allows its host."),
    ] = None
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
    filter: Annotated[
        dict[str, Any] | None,
        Field(description="Only photos with such metadata: a filter, as JSON text."),
        WithJsonSchema({"type": "string", "example": ""}),
    ] = None


class ResultOut(BaseModel):
    """One hit. `score` is a cosine in [-1, 1]; `exact` means the same bytes.

    `p_same_origin`: of pairs of images with that similarity, where as many of the same origin (a
    photo and a cropped, scaled, recompressed, recoloured or tilted copy) as random ones are
    compared, this share is of the same origin. Null while scores are not calibrated: that is done
    by a build of 50 images or more. Among the best of many images high scores come by chance;
    `max_fpr` bounds how many.
    """

    id: str
    score: float
    rank: int
    match_type: MatchType
    p_same_origin: float | None = None
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
        p_same_origin=_rounded(hit.p_same_origin),
        width=hit.width,
        height=hit.height,
        metadata=hit.metadata if "metadata" in fields.include else None,
        thumbnail_url=thumbnail_url(root, hit.id) if "thumbnail" in fields.include else None,
    )


def _rounded(probability: float | None) -> float | None:
    return None if probability is None else round(probability, 6)


class CompareJson(Strict):
    """Two images as JSON."""

    a: QuerySource
    b: QuerySource


class CompareForm(Strict):
    """Two images as multipart form: for each a file or the id of a stored one."""

    image_a: Annotated[str | None, Field(json_schema_extra={"format": "binary"})] = None
    image_b: Annotated[str | None, Field(json_schema_extra={"format": "binary"})] = None
    id_a: Annotated[str | None, Field(json_schema_extra={"example": ""})] = None
    id_b: Annotated[str | None, Field(json_schema_extra={"example": ""})] = None


class CompareOut(BaseModel):
    """What a search for one of the images would say of the other; see `ResultOut`."""

    score: float
    p_same_origin: float | None
    match_type: MatchType
    index: IndexRef

    @classmethod
    def of(cls, found: Comparison) -> CompareOut:
        return cls(
            score=round(found.score, 6),
            p_same_origin=_rounded(found.p_same_origin),
            match_type=found.match_type,
            index=IndexRef(
                fingerprint=found.fingerprint, generation=found.generation, count=found.count
            ),
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


class ImagesOut(BaseModel):
    """Stored images; `next_cursor` asks for those after them, and is null on the last page."""

    images: list[ImageOut]
    next_cursor: str | None


MAX_URLS = 10_000
"""Of one bulk add."""


class UrlImageIn(Strict):
    """An image to fetch. An `id` that is stored already is replaced; without one it is made of
    the URL's host and path, and an image whose bytes are stored is skipped."""

    url: Annotated[str, Field(min_length=1, max_length=8192)]
    id: Annotated[str | None, Field(min_length=1, max_length=512)] = None
    metadata: Annotated[dict[str, Any], Field(description="What is stored with it.")] = {}


class IndexAddJson(Strict):
    """Images to fetch and add."""

    images: Annotated[list[UrlImageIn], Field(min_length=1, max_length=MAX_URLS)]


JobState = Literal["queued", "running", "succeeded", "partial", "failed", "cancelled"]
JobType = Literal["add", "build", "duplicates", "snapshot"]


class ProgressOut(BaseModel):
    """Images of the job: all, handled so far, and what became of them.

    While a build runs, `total` and `processed` are those of its phase; of a snapshot they are MiB.
    """

    total: int = 0
    processed: int = 0
    added: int = 0
    replaced: int = 0
    skipped: int = 0
    failed: int = 0


class JobOut(BaseModel):
    """Long work. `partial`: done, but some images failed; see `/jobs/{id}/errors`.

    `phase` is the part that a running job is at, `waiting` what it cannot go on without.
    """

    id: str
    type: JobType
    state: JobState
    progress: ProgressOut
    phase: str | None = None
    waiting: str | None = None
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
    """`total` of all pages; `next_cursor` asks for the next one, and is null on the last."""

    errors: list[JobErrorOut]
    total: int
    next_cursor: str | None = None


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


class CalibrationOut(BaseModel):
    """What scores of the live generation were measured to mean.

    From `near` on a hit is near; `lowest_max_fpr` is the lowest rate that may be asked for, null if
    there is none.
    """

    near: float
    lowest_max_fpr: float | None
    images: int
    matches: int
    non_matches: int

    @classmethod
    def of(cls, calibration: Calibration) -> CalibrationOut:
        return cls(
            near=calibration.near,
            lowest_max_fpr=min(calibration.rates, default=None),
            images=calibration.images,
            matches=calibration.matches,
            non_matches=calibration.pairs,
        )


class IndexOut(BaseModel):
    """State of the index.

    `unfitted` images were added after the last build. `recall` is the share of the 10 nearest that
    a search finds, measured on images of the collection when it was built; it looks into `nprobe`
    of `cells` cells and compares `candidates` exactly. `bytes` are those of vectors and codes in
    memory; of `mapped_bytes` the system keeps in memory what is used. `generations` can be rolled
    back to.
    """

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
    nprobe: int
    candidates: int
    cells: int
    mapped_bytes: int
    build_seconds: float
    generations: list[int]
    calibration: CalibrationOut | None


class DuplicatesIn(Strict):
    """From which score, or probability of the same origin, on two images count as duplicates; at
    most one of the two. Without either from where a search calls a hit near."""

    min_score: Annotated[float | None, Field(ge=-1.0, le=1.0)] = None
    min_probability: Annotated[float | None, Field(gt=0.0, le=1.0)] = None
    limit: Annotated[int, Field(ge=1, le=10_000, description="Groups, the largest first.")] = 1000


class RollbackIn(Strict):
    """`generation` to go back to; without it the newest one before the live one."""

    generation: Annotated[int | None, Field(ge=1)] = None


class ReloadOut(BaseModel):
    generation: int
    count: int


class SnapshotOut(BaseModel):
    name: str
    created_at: datetime | None = None
    note: str = ""
    count: int = 0
    generation: int = 0
    fingerprint: str = ""
    program_version: str = ""
    originals: int = Field(default=0, description="Image files that it holds.")
    bytes: int = Field(
        default=0, description="Originals included, which may share their room with the index."
    )
    problem: str | None = Field(default=None, description="Why it cannot be used.")

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
    note: Annotated[str, Field(max_length=1000, description="Kept with the snapshot.")] = ""


class SnapshotsOut(BaseModel):
    snapshots: list[SnapshotOut]


class SessionOut(BaseModel):
    """What the caller may do: nothing for a stranger, everything where keys are not `required`."""

    required: bool
    scopes: list[Scope]
    key_id: str | None
    key_name: str | None
    expires_at: datetime | None


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
