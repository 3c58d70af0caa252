"""What a search answers."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from app.schemas.base import Out
from app.schemas.images import thumbnail_url
from app.schemas.problems import ProblemOut
from app.schemas.search import SearchFields
from engine.queries.explained_hits import HitExplanation, Origin
from engine.types import Expansion, Hit, Json, MatchType, SearchAnswer

if TYPE_CHECKING:
    from engine.explaining import Grid

NOTHING: Mapping[str, HitExplanation] = MappingProxyType({})


class GridOut(Out):
    """A heat map over a picture, in rows from its top: the numbers sum to the score."""

    rows: int
    """How many rows the picture is divided into."""
    columns: int
    """How many columns; also the length of each row of `parts`."""
    parts: list[list[float]]
    """What each cell adds to the score; negative where it takes away."""

    @classmethod
    def of(cls, grid: Grid) -> GridOut:
        rows, columns = grid.shape
        parts = [[round(float(value), 7) for value in row] for row in grid]
        return cls(rows=rows, columns=columns, parts=parts)


class ExplainOut(Out):
    """Why a result was found: the parts of both pictures, each adding up to `score`.

    It is of the pictures named here. A stored one is explained from its original where that was
    kept, else from its thumbnail, which has less detail than what was indexed.
    """

    score: float
    """Cosine of the two descriptors before any projection, so another number than the score of the
    result; of compact bilinear descriptors, which are sketches, that of the full ones."""
    served_score: float
    """The same of the descriptors themselves."""
    query_from: Origin
    """Picture of the query that was explained."""
    result_from: Origin
    """Picture of the result that was explained."""
    query: GridOut
    """Over the query, or the region of it that was asked with."""
    result: GridOut
    """Over the result."""

    @classmethod
    def of(cls, found: HitExplanation) -> ExplainOut:
        return cls(
            score=round(found.pair.score, 7),
            served_score=round(found.pair.served_score, 7),
            query_from=found.query_from,
            result_from=found.hit_from,
            query=GridOut.of(found.pair.first),
            result=GridOut.of(found.pair.second),
        )


class ResultOut(Out):
    """One hit."""

    id: str
    """Id of the stored image."""
    score: float
    """Cosine of the two descriptors, in [-1, 1]; 1 for the same bytes."""
    rank: int
    """From 1, also on later pages."""
    match_type: MatchType
    """`exact`: the same bytes; `near`: most likely a copy of the picture; else `similar`."""
    p_same_origin: float | None = None
    """Of pairs of images with that similarity, where as many of the same origin (a photo and a
    cropped, scaled, recompressed, recoloured or tilted copy) as random ones are compared, this
    share is of the same origin. Null while scores are not calibrated: that is done by a build of
    50 images or more. Among the best of many images high scores come by chance; `max_fpr` bounds
    how many."""
    width: int
    """Pixels of the upright image."""
    height: int
    """Pixels of the upright image."""
    metadata: Json | None = None
    """As it was stored; null unless `include` has `metadata`."""
    thumbnail_url: str | None = None
    """Path of a small JPEG; null unless `include` has `thumbnail`."""
    explain: ExplainOut | None = None
    """Of the first results, where `include` has `explain`."""


class IndexRef(Out):
    """Which index answered."""

    fingerprint: str
    """Of the recipe that its descriptors are made with."""
    generation: int
    """Of the live index; 0 before the first build."""
    count: int
    """Images in it."""


class ExpansionOut(Out):
    """What became of the wish for query expansion."""

    method: Expansion
    """The one that was asked for."""
    neighbours: int
    """How many joined the query; 0 where none was certain enough."""


class SearchOut(Out):
    """Results, best first."""

    results: list[ResultOut]
    """Empty if nothing was found."""
    query_id: str
    """Made for this search, for logs."""
    index: IndexRef
    """The index that was searched."""
    query_expansion: ExpansionOut
    """Whether the query was expanded."""
    timing_ms: dict[str, float]
    """Milliseconds of decoding, of waiting for the model (`queue`), describing, searching, and
    explaining where that was asked for. `Server-Timing` has the same, and the whole."""

    @classmethod
    def of(
        cls,
        answer: SearchAnswer,
        fields: SearchFields,
        query_id: str,
        root: str,
        explained: Mapping[str, HitExplanation] = NOTHING,
    ) -> SearchOut:
        """`explained` has explanations of some of the hits, by id."""
        return cls(
            results=[_result(hit, fields, root, explained.get(hit.id)) for hit in answer.hits],
            query_id=query_id,
            index=IndexRef(
                fingerprint=answer.fingerprint, generation=answer.generation, count=answer.count
            ),
            query_expansion=ExpansionOut(
                method=fields.query_expansion, neighbours=answer.expanded_with
            ),
            timing_ms={name: round(value, 2) for name, value in answer.timing_ms.items()},
        )


def _result(
    hit: Hit, fields: SearchFields, root: str, explained: HitExplanation | None
) -> ResultOut:
    return ResultOut(
        id=hit.id,
        score=round(hit.score, 6),
        rank=hit.rank,
        match_type=hit.match_type,
        p_same_origin=rounded(hit.p_same_origin),
        width=hit.width,
        height=hit.height,
        metadata=hit.metadata if "metadata" in fields.include else None,
        thumbnail_url=thumbnail_url(root, hit.id) if "thumbnail" in fields.include else None,
        explain=None if explained is None else ExplainOut.of(explained),
    )


class BatchItemOut(Out):
    """What became of one query of a batch: `answer` or `problem`."""

    status: int
    """As the status of a search with this query alone: 200, or that of the problem."""
    answer: SearchOut | None = None
    """The answer, where `status` is 200."""
    problem: ProblemOut | None = None
    """Why there is none."""


class BatchOut(Out):
    """What became of each query, in the order of the queries."""

    answers: list[BatchItemOut]
    """As many as there were queries."""


def rounded(probability: float | None) -> float | None:
    return None if probability is None else round(probability, 6)
