"""What may be asked of a search."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import ConfigDict, Field, WithJsonSchema

from app.schemas.base import Strict
from engine.filters import parse_filter
from engine.queries.examples import NEGATIVE_WEIGHT
from engine.queries.explained_hits import EXPLAINED
from engine.queries.region import Region, Unit
from engine.types import Expansion, SearchOptions

Include = Literal["metadata", "thumbnail", "explain"]
MAX_EXAMPLES = 16
MAX_QUERIES = 16
FILES: dict[str, Any] = {
    "type": "array",
    "maxItems": 16,
    "items": {"type": "string", "format": "binary"},
}
"""Of a form, in its description; the files themselves are read apart from its fields."""


class RankingFields(Strict):
    """Which results there are, and in which order."""

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
    min_generation: Annotated[
        int,
        Field(
            ge=0,
            le=1 << 53,
            description="Refuse to search an earlier generation of the index than this: 409 with "
            "`Retry-After` until it is live.",
        ),
    ] = 0


class SearchFields(RankingFields):
    """Options of a search; the query itself comes beside them."""

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
    include: Annotated[
        tuple[Include, ...],
        Field(
            description="What to send with each result. `explain`: for the first "
            f"{EXPLAINED} which parts of both pictures make them alike; each costs about as much "
            "as a search."
        ),
    ] = ("metadata", "thumbnail")
    negative_weight: Annotated[
        float,
        Field(
            ge=0.0,
            le=2.0,
            description="How far a query of several examples is moved away from the negative "
            "ones: it is the mean of the positive ones less this times the mean of the others.",
        ),
    ] = NEGATIVE_WEIGHT

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
            min_generation=self.min_generation,
        )


class RegionIn(Strict):
    """A box on the upright image (EXIF applied), from its top left corner."""

    x: Annotated[float, Field(ge=0.0, allow_inf_nan=False, description="Its left edge.")]
    y: Annotated[float, Field(ge=0.0, allow_inf_nan=False, description="Its upper edge.")]
    width: Annotated[float, Field(gt=0.0, allow_inf_nan=False, description="From left to right.")]
    height: Annotated[float, Field(gt=0.0, allow_inf_nan=False, description="From top to bottom.")]
    unit: Annotated[
        Unit,
        Field(description="`px`: pixels of the image as it was sent; `norm`: parts of its sides."),
    ] = "px"

    def region(self) -> Region:
        return Region(self.x, self.y, self.width, self.height, self.unit)


class QuerySource(Strict):
    """Exactly one of the three."""

    id: Annotated[str | None, Field(description="Id of a stored image.")] = None
    url: Annotated[
        str | None,
        Field(description="Where an image is fetched from, if this service allows its host."),
    ] = None
    image_base64: Annotated[str | None, Field(description="An image file, base64.")] = None


class ExampleSource(QuerySource):
    """An image, or a region of one."""

    region: Annotated[
        RegionIn | None, Field(description="The part that is meant; default all.")
    ] = None


class QueryIn(QuerySource):
    """One image, or several examples: exactly one of `id`, `url`, `image_base64` and
    `positives`."""

    positives: Annotated[
        tuple[ExampleSource, ...] | None,
        Field(min_length=1, max_length=MAX_EXAMPLES, description="Images to be like."),
    ] = None
    negatives: Annotated[
        tuple[ExampleSource, ...],
        Field(
            max_length=MAX_EXAMPLES - 1,
            description=f"Images to be unlike; with `positives` at most {MAX_EXAMPLES} in all.",
        ),
    ] = ()


class SearchJson(SearchFields):
    """A search as JSON."""

    query: Annotated[QueryIn, Field(description="What to search with.")]
    region: Annotated[
        RegionIn | None,
        Field(
            description="Search with this part of the image only. Of a stored image its "
            "original must have been kept."
        ),
    ] = None


class SearchBatchJson(SearchFields):
    """Several searches as JSON; options beside `queries` hold for those that set none of their
    own."""

    queries: Annotated[
        tuple[SearchJson, ...],
        Field(min_length=1, max_length=MAX_QUERIES, description="Searches, answered in order."),
    ]


class FormFields(SearchFields):
    """Options of a search in a form or an address, where everything is text."""

    filter: Annotated[
        dict[str, Any] | None,
        Field(description="Only photos with such metadata: a filter, as JSON text."),
        WithJsonSchema({"type": "string", "example": ""}),
    ] = None


class SimilarQuery(RankingFields):
    """Options of a search by a stored image, as they stand in an address."""

    filter: Annotated[
        str | None, Field(description="Only photos with such metadata: a filter, as JSON.")
    ] = None
    include: Annotated[
        str,
        Field(
            description="What to send with each result, joined by commas: "
            f"{', '.join(get_args(Include))}."
        ),
    ] = "metadata,thumbnail"


class SearchForm(FormFields):
    """A search as multipart form: `image` files or the `id` of a stored one."""

    image: Annotated[
        tuple[str, ...],
        Field(description="An image file, or several examples of what to find."),
        WithJsonSchema(FILES),
    ] = ()
    negative: Annotated[
        tuple[str, ...],
        Field(description="Image files of what not to find; at most 16 files in all."),
        WithJsonSchema(FILES),
    ] = ()
    # Swagger UI fills in its examples: empty, as it would else ask for an image called "string".
    id: Annotated[
        str | None, Field(json_schema_extra={"example": ""}, description="Id of a stored image.")
    ] = None
    region: Annotated[
        RegionIn | None,
        Field(
            description="Search with this part of the image only, as JSON text: "
            '`{"x": 10, "y": 20, "width": 100, "height": 80}`.'
        ),
        WithJsonSchema({"type": "string", "example": ""}),
    ] = None


class SearchBatchForm(FormFields):
    """Several searches as multipart form: an answer for each `image`."""

    model_config = ConfigDict(json_schema_extra={"required": ["image"]})

    image: Annotated[
        tuple[str, ...],
        Field(description=f"Image files, at most {MAX_QUERIES}."),
        WithJsonSchema({**FILES, "minItems": 1}),
    ] = ()
