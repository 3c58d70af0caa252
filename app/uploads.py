"""Request bodies: parsed strictly, bounded while they stream."""

from __future__ import annotations

import base64
import binascii
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from app.errors import (
    InvalidFields,
    MalformedRequest,
    PayloadTooLarge,
    UnsupportedBody,
    field_errors,
    pointer_to,
)
from app.fetching.parsing import BadUrl, parse_url
from app.schemas import JSON, CompareJson, IndexAddJson, QuerySource, UrlImageIn
from engine.catalog import MAX_METADATA
from engine.files.storage import storage_errors
from engine.filters import Filter, parse_filter
from engine.types import Json

Model = TypeVar("Model", bound=BaseModel)

MAX_TEXT_BYTES = 1 << 20
MAX_URLS_BYTES = 16 << 20
"""Of a bulk add as JSON."""
MAX_JSON_VALUES = 1_000_000
"""Each takes up to 30 times its bytes in memory: those of a body are counted before it is read."""
MAX_METADATA_DEPTH = 64
"""Nested deeper, it could be stored but not sent."""
MAX_LOOSE_FILES = 1000
"""Files of one form: each is open until the form is closed. Archives hold more."""
LOOSE_FILE_BYTES = 64 << 10
"""Of each of many files that are in memory; the rest is on disk."""
FILE_BYTES = 8 << 20
"""The same of a file that is not one of many: photos. `app.serving.calls` has found room for
them; on disk each piece that arrives would take its turn in a thread."""


@dataclass(frozen=True)
class ImageUrl:
    """Where an image is to be fetched from; well-formed, but nothing else is known of it."""

    url: str


def parsed(body: bytes) -> Any:
    """JSON. Raises MalformedRequest, PayloadTooLarge."""
    # Within texts, too, of which the long ones are base64 and have none.
    if sum(map(body.count, (b",", b"[", b"{"))) > MAX_JSON_VALUES:
        raise PayloadTooLarge(
            f"the body has more than {MAX_JSON_VALUES:,} values; send it in several requests"
        )
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise MalformedRequest(f"the body is not JSON: {_why_unread(error)}") from error


def _why_unread(error: ValueError | RecursionError) -> str:
    """For people who send JSON, not for those who read it in Python."""
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    if isinstance(error, json.JSONDecodeError | UnicodeError):
        return str(error)
    return f"it has a number of more than {sys.get_int_max_str_digits()} digits"


def source_of(source: QuerySource, pointer: str) -> bytes | str | ImageUrl:
    """The bytes of a file, the id of a stored image, or where to fetch one."""
    if [source.id, source.url, source.image_base64].count(None) != 2:
        raise invalid(pointer, "give exactly one of `id`, `url` and `image_base64`")
    if source.url is not None:
        return _well_formed(source.url, f"{pointer}/url")
    if source.image_base64 is None:
        assert source.id is not None
        return _encodable(source.id, f"{pointer}/id")
    try:
        return base64.b64decode(source.image_base64, validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid(f"{pointer}/image_base64", f"not base64: {error}") from error


def _well_formed(url: str, pointer: str) -> ImageUrl:
    try:
        parse_url(url)
    except BadUrl as error:
        raise invalid(pointer, f"the URL {error}") from error
    return ImageUrl(url)


def _encodable(text: str, pointer: str) -> str:
    """The text itself. JSON can spell half characters, which no stored text has."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise invalid(pointer, f"{text!r} has a half character; send it as UTF-8") from error
    return text


@dataclass(frozen=True)
class CompareRequest:
    """Two images: the bytes of a file, the id of a stored one, or where to fetch one."""

    a: bytes | str | ImageUrl
    b: bytes | str | ImageUrl


async def read_compare(request: Request) -> CompareRequest:
    """Two images, as multipart form or as JSON. Raises as `read_search` does."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind == "application/json":
        fields = validate(CompareJson, parsed(await request.body()), context=JSON)
        return CompareRequest(source_of(fields.a, "/a"), source_of(fields.b, "/b"))
    async with read_form(request, max_files=2) as form:
        texts, files = split_form(form)
        only(files, ("image_a", "image_b"))
        images: dict[str, bytes] = {}
        for name, file in files:
            if name in images:
                raise invalid(f"/{name}", "given more than once")
            images[name] = await file.read()
    only(texts.items(), ("id_a", "id_b"))
    sides: list[bytes | str] = []
    for side in ("a", "b"):
        image, image_id = images.get(f"image_{side}"), texts.get(f"id_{side}") or None
        if image is not None and image_id is None:
            sides.append(image)
        elif image is None and image_id is not None:
            sides.append(image_id)
        else:
            raise invalid(
                f"/image_{side}", f"send exactly one of a file `image_{side}` and an id `id_{side}`"
            )
    return CompareRequest(*sides)


@dataclass(frozen=True)
class PutRequest:
    image: bytes
    metadata: Json


async def read_put(request: Request) -> PutRequest:
    """One image with optional metadata. Raises as `read_search` does."""
    _check_address(request)
    async with read_form(request, max_files=1) as form:
        texts, files = split_form(form)
        only(files, ("image",))
        only(texts.items(), ("metadata",))
        if not files:
            raise invalid("/image", "send the image as a file in the field `image`")
        image = await files[0][1].read()
    return PutRequest(image, parse_metadata(texts.get("metadata")))


def _check_address(request: Request) -> None:
    """Raises InvalidFields for what is not UTF-8: different addresses would then be one id."""
    raw = unquote_to_bytes(request.scope.get("raw_path") or b"")
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        raise invalid("/id", f"the address is not UTF-8 ({error.reason}); encode it so") from error


MERGE_PATCH = "application/merge-patch+json"


async def read_patch(request: Request) -> Json:
    """A change of metadata: a JSON merge patch. Raises as `read_search` does, PayloadTooLarge."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind not in (MERGE_PATCH, "application/json"):
        raise UnsupportedBody(
            f"content type {kind or '(none)'!r} is not understood here; send a change of the "
            f"metadata as {MERGE_PATCH}"
        )
    body = await _bounded_body(request, MAX_TEXT_BYTES, "the change")
    return _metadata(_object(parsed(body), ""), "")


async def _bounded_body(request: Request, max_bytes: int, name: str) -> bytes:
    """Raises PayloadTooLarge as soon as it is longer."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > max_bytes:
            raise PayloadTooLarge(f"{name} is larger than {max_bytes >> 20} MB")
    return bytes(body)


def read_filter(text: str) -> Filter:
    """A filter as JSON text. Raises InvalidFields, InvalidFilter."""
    return parse_filter(json_object(text, "/filter"), at="/filter")


@dataclass(frozen=True)
class BulkRequest:
    """Files with metadata that all of them get, or `urls` of which each has its own."""

    files: list[UploadFile]
    metadata: Json
    urls: list[UrlImageIn]


@asynccontextmanager
async def read_bulk(request: Request, max_files: int) -> AsyncIterator[BulkRequest]:
    """Many images or archives in the field `files`, with metadata that all of them get; or JSON
    with URLs.

    The files are open within the context.
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind == "application/json":
        yield BulkRequest([], {}, await _read_urls(request, max_files))
        return
    async with read_form(request, max_files=min(max_files, MAX_LOOSE_FILES), bulk=True) as form:
        texts, files = split_form(form)
        only(files, ("files",))
        only(texts.items(), ("metadata",))
        if not files:
            raise invalid("/files", "send images, or a .zip or .tar of them, in `files`")
        yield BulkRequest([file for _, file in files], parse_metadata(texts.get("metadata")), [])


async def _read_urls(request: Request, max_images: int) -> list[UrlImageIn]:
    """What is wrong with a single URL is an error of its image later; all else is one now."""
    body = await _bounded_body(request, MAX_URLS_BYTES, "the list of URLs")
    images = validate(IndexAddJson, parsed(body), context=JSON).images
    if len(images) > max_images:
        raise invalid("/images", f"has {len(images):,} images; at most {max_images:,}")
    for position, image in enumerate(images):
        pointer = f"/images/{position}"
        _encodable(image.url, f"{pointer}/url")
        _encodable(image.id or "", f"{pointer}/id")
        _metadata(_object(image.metadata, f"{pointer}/metadata"), f"{pointer}/metadata")
        if len(json.dumps(image.metadata)) > MAX_METADATA:
            raise invalid(f"{pointer}/metadata", f"is longer than {MAX_METADATA:,} characters")
    return images


@asynccontextmanager
async def read_form(
    request: Request, *, max_files: int, bulk: bool = False
) -> AsyncIterator[FormData]:
    """The multipart form of a request. Files over `FILE_BYTES` are on disk, of a `bulk` upload
    those over `LOOSE_FILE_BYTES`."""
    kind = request.headers.get("content-type", "")
    if not kind.lower().startswith("multipart/form-data"):
        raise UnsupportedBody(
            f"content type {kind or '(none)'!r} is not understood here; send multipart/form-data"
        )
    parser = MultiPartParser(
        request.headers,
        request.stream(),
        max_files=max_files,
        max_fields=100,
        max_part_size=MAX_TEXT_BYTES,
    )
    parser.spool_max_size = LOOSE_FILE_BYTES if bulk else FILE_BYTES
    try:
        with storage_errors(Path(tempfile.gettempdir())):
            form = await parser.parse()
    except MultiPartException as error:
        hint = " (many files go into a .zip or .tar)" if bulk else ""
        raise MalformedRequest(f"the form cannot be read: {error.message}{hint}") from error
    except ClientDisconnect as error:
        raise MalformedRequest("the client left before the body was complete") from error
    try:
        yield form
    finally:
        await form.close()


def split_form(form: FormData) -> tuple[dict[str, str], list[tuple[str, UploadFile]]]:
    """Text fields, and files in order. Raises InvalidFields for a text field given twice."""
    texts: dict[str, str] = {}
    files: list[tuple[str, UploadFile]] = []
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            files.append((name, value))
        elif name in texts:
            raise invalid(pointer_to(name), "given more than once")
        else:
            texts[name] = value
    return texts, files


def parse_metadata(text: object) -> Json:
    """A JSON object from a text field; {} where it is absent."""
    if text in (None, ""):
        return {}
    if len(str(text)) > MAX_METADATA:
        raise invalid("/metadata", f"has {len(str(text)):,} characters; at most {MAX_METADATA:,}")
    return _metadata(json_object(str(text), "/metadata"), "/metadata")


def _metadata(value: Json, pointer: str) -> Json:
    """The value itself, if it can be stored and sent. Raises InvalidFields."""
    if not _is_shallow(value, MAX_METADATA_DEPTH):
        raise invalid(pointer, f"nested more than {MAX_METADATA_DEPTH} deep")
    return value


def _is_shallow(value: object, depth: int) -> bool:
    if not isinstance(value, dict | list):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return depth > 0 and all(_is_shallow(item, depth - 1) for item in inner)


def json_object(text: str, pointer: str) -> Json:
    """A JSON object from text. Raises InvalidFields."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise invalid(pointer, f"not JSON: {_why_unread(error)}") from error
    return _object(value, pointer)


def _object(value: Any, pointer: str) -> Json:
    try:
        # What is no JSON after all, NaN and half characters, could be stored but never sent.
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise invalid(pointer, f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise invalid(pointer, f"must be a JSON object, not {type(value).__name__}")
    return value


def validate(
    model: type[Model], content: Any, at: str = "", *, context: dict[str, bool] | None = None
) -> Model:
    """`model` from plain values, in the context `JSON` if they were that.

    Raises: InvalidFields naming each field, below `at`, and value.
    """
    try:
        return model.model_validate(content, context=context)
    except ValidationError as error:
        entries = field_errors(error.errors())
        raise InvalidFields(
            [{**entry, "pointer": at + entry["pointer"]} for entry in entries]
        ) from error


def only(fields: Iterable[tuple[str, object]], known: tuple[str, ...]) -> None:
    """Raises InvalidFields for a field of another name."""
    for name, _ in fields:
        if name not in known:
            raise invalid(pointer_to(name), f"unknown field; known are {', '.join(known)}")


def invalid(pointer: str, detail: str) -> InvalidFields:
    """One thing that is wrong, and where."""
    return InvalidFields([{"pointer": pointer, "detail": detail}])


def inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema of pydantic without `$defs`: references there do not hold within OpenAPI."""
    definitions = schema.pop("$defs", {})

    def resolve(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                return resolve(definitions[node["$ref"].rsplit("/", 1)[1]])
            return {key: resolve(value) for key, value in node.items()}
        return [resolve(value) for value in node] if isinstance(node, list) else node

    resolved: dict[str, Any] = resolve(schema)
    return resolved


def multipart(model_schema: dict[str, Any]) -> dict[str, Any]:
    """OpenAPI description of a multipart body, for routes that read it themselves."""
    return {"requestBody": {"required": True, "content": {"multipart/form-data": model_schema}}}


def two_bodies(
    form: type[BaseModel], json: type[BaseModel], examples: dict[str, Any]
) -> dict[str, Any]:
    """OpenAPI description of a body that is either a form or JSON; `examples` are of the JSON."""
    content = {
        "multipart/form-data": {"schema": inlined(form.model_json_schema())},
        "application/json": {"schema": inlined(json.model_json_schema()), "examples": examples},
    }
    return {"requestBody": {"required": True, "content": content}}
