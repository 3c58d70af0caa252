"""Searches as they arrive: multipart or JSON, one or several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from app.errors import InvalidFields
from app.schemas import (
    JSON,
    MAX_EXAMPLES,
    MAX_QUERIES,
    ExampleSource,
    RegionIn,
    SearchBatchForm,
    SearchFields,
    SearchForm,
    SearchJson,
)
from app.uploads import (
    ImageUrl,
    invalid,
    json_object,
    only,
    parsed,
    read_form,
    source_of,
    split_form,
    validate,
)
from engine.errors import InvalidFilter
from engine.queries.querying import Example, ImageQuery
from engine.queries.region import Region
from engine.types import SearchOptions

Fetch = Callable[[str], bytes]
"""The bytes at a URL."""


@dataclass(frozen=True)
class Asked:
    """One image of a query as it was sent, or where to fetch it; `region` is the part meant."""

    image: bytes | str | ImageUrl
    region: Region | None = None

    def example(self, fetch: Fetch) -> Example:
        image = fetch(self.image.url) if isinstance(self.image, ImageUrl) else self.image
        return Example(image, self.region)


@dataclass(frozen=True)
class SearchRequest:
    """What is asked with, and how. `pointer` is its place within the body."""

    fields: SearchFields
    positives: tuple[Asked, ...]
    negatives: tuple[Asked, ...] = ()
    pointer: str = ""

    def query(self, fetch: Fetch) -> ImageQuery:
        """`fetch` gets what is to be fetched; raises what that does."""
        return ImageQuery(
            tuple(one.example(fetch) for one in self.positives),
            tuple(one.example(fetch) for one in self.negatives),
            self.fields.negative_weight,
        )

    def options(self) -> SearchOptions:
        """Raises InvalidFilter, naming the place within the body."""
        try:
            return self.fields.options()
        except InvalidFilter as error:
            raise InvalidFilter(error.detail, pointer=self.pointer + error.pointer) from error


async def read_search(request: Request) -> SearchRequest:
    """A search, as multipart form or as JSON.

    Raises: MalformedRequest, UnsupportedBody, InvalidFields.
    """
    if _is_json(request):
        return _from_json(parsed(await request.body()), "")
    async with read_form(request, max_files=MAX_EXAMPLES) as form:
        texts, files = split_form(form)
        only(files, ("image", "negative"))
        images = [await file.read() for name, file in files if name == "image"]
        negatives = [await file.read() for name, file in files if name == "negative"]
    for name in ("image", "negative"):
        if name in texts:
            raise invalid(f"/{name}", f"send the {name} as a file, not as text")
    fields = validate(SearchForm, _values(texts))
    if bool(images) == (fields.id is not None):
        raise invalid("/image", "send exactly one of a file `image` and the `id` of a stored one")
    sources: Sequence[bytes | str] = images if fields.id is None else [fields.id]
    region = _region(fields.region)
    if region is not None and len(sources) + len(negatives) > 1:
        raise invalid("/region", _ONE_REGION)
    positives = tuple(Asked(source, region) for source in sources)
    return _checked(SearchRequest(fields, positives, tuple(Asked(data) for data in negatives)))


_ONE_REGION = (
    "a region belongs to one image; with several examples give each its own, as JSON: "
    '{"query": {"positives": [{"id": "a", "region": {...}}, ...]}}'
)


def _from_json(content: Any, at: str) -> SearchRequest:
    """A search from plain values; `at` is their place within the body."""
    fields = validate(SearchJson, content, at, context=JSON)
    source, region = fields.query, fields.region
    if source.positives is None:
        if source.negatives:
            raise invalid(f"{at}/query/positives", "negatives need `positives` beside them")
        positives: tuple[Asked, ...] = (Asked(source_of(source, f"{at}/query"), _region(region)),)
        negatives: tuple[Asked, ...] = ()
    else:
        if (source.id, source.url, source.image_base64) != (None, None, None):
            raise invalid(f"{at}/query", "put all images into `positives`, or give one without it")
        if region is not None:
            raise invalid(f"{at}/region", _ONE_REGION)
        positives = _examples(source.positives, f"{at}/query/positives")
        negatives = _examples(source.negatives, f"{at}/query/negatives")
        if len(positives) + len(negatives) > MAX_EXAMPLES:
            given = len(positives) + len(negatives)
            raise invalid(f"{at}/query", f"has {given} examples; at most {MAX_EXAMPLES}")
    return _checked(SearchRequest(fields, positives, negatives, at))


def _examples(sources: Sequence[ExampleSource], at: str) -> tuple[Asked, ...]:
    return tuple(
        Asked(source_of(source, f"{at}/{number}"), _region(source.region))
        for number, source in enumerate(sources)
    )


def _region(given: RegionIn | None) -> Region | None:
    return None if given is None else given.region()


def _checked(request: SearchRequest) -> SearchRequest:
    """Raises InvalidFields for several examples whose results shall be explained."""
    if "explain" in request.fields.include and len(request.positives) + len(request.negatives) > 1:
        raise invalid(
            f"{request.pointer}/include",
            "a query of several examples cannot be explained; leave `explain` out",
        )
    return request


async def read_batch(request: Request) -> list[SearchRequest | InvalidFields]:
    """Several searches, each with the options of all where it has none of its own.

    A search that is wrong in itself is answered by what is wrong with it.
    Raises: as `read_search`, for what is wrong with the request as a whole.
    """
    if _is_json(request):
        return _batch_from_json(parsed(await request.body()))
    async with read_form(request, max_files=MAX_QUERIES) as form:
        texts, files = split_form(form)
        only(files, ("image",))
        images = [await file.read() for _, file in files]
    if "image" in texts:
        raise invalid("/image", "send the images as files, not as text")
    fields = validate(SearchBatchForm, _values(texts))
    if not images:
        raise invalid("/image", f"send 1 to {MAX_QUERIES} image files in the field `image`")
    _check_batch(fields)
    return [SearchRequest(fields, (Asked(image),)) for image in images]


def _batch_from_json(content: Any) -> list[SearchRequest | InvalidFields]:
    if not isinstance(content, dict):
        raise invalid("", f"must be a JSON object, not {type(content).__name__}")
    shared = {name: value for name, value in content.items() if name != "queries"}
    _check_batch(validate(SearchFields, shared, context=JSON))
    queries = content.get("queries")
    if not isinstance(queries, list) or not 1 <= len(queries) <= MAX_QUERIES:
        raise invalid("/queries", f"must be a list of 1 to {MAX_QUERIES} searches")
    return [_one_of_batch(shared, query, number) for number, query in enumerate(queries)]


def _one_of_batch(shared: dict[str, Any], query: Any, number: int) -> SearchRequest | InvalidFields:
    at = f"/queries/{number}"
    try:
        if not isinstance(query, dict):
            raise invalid(at, f"must be a JSON object, not {type(query).__name__}")
        one = _from_json({**shared, **query}, at)
        _check_batch(one.fields, at)
    except InvalidFields as error:
        return error
    return one


def _check_batch(fields: SearchFields, at: str = "") -> None:
    """Raises InvalidFields for what is too much for a batch."""
    if "explain" in fields.include:
        raise invalid(
            f"{at}/include", "results of a batch are not explained; ask for them one by one"
        )


def _is_json(request: Request) -> bool:
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    return kind == "application/json"


def _values(texts: dict[str, str]) -> dict[str, object]:
    """Fields of a form as the values they stand for."""
    # An empty field of a form is one that was not filled in; only `include` may be empty.
    values: dict[str, object] = {name: text for name, text in texts.items() if text}
    if "include" in texts:
        values["include"] = included(texts["include"])
    for name in ("filter", "region"):
        if texts.get(name):
            values[name] = json_object(texts[name], f"/{name}")
    return values


def included(text: str) -> list[str]:
    """`metadata,thumbnail` as a list; empty for nothing."""
    return [part for part in text.split(",") if part]
