"""The OpenAPI document: names for generated clients, words for people, every status that occurs."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI

from app.errors import MEDIA_TYPE, problem_content
from app.serving.idempotency import PREFIXES
from engine.types import Json

DESCRIPTION = """\
Finds the photos of a collection that show the same object, place or frame as another.

**Errors** are [RFC 9457](https://www.rfc-editor.org/rfc/rfc9457) documents,
`application/problem+json`, on every address: `code` is for programs, `detail` names the value and
the remedy. Answers of 429 and 503 say in `Retry-After` when to try again.

**Keys**: where this service asks for one, send `Authorization: Bearer KEY` or `X-API-Key: KEY`.

**Long work** answers 202 with the job, its address in `Location`: follow `/jobs/{id}` or its
`/events`.

**Sending a write again** is safe with an `Idempotency-Key`: a POST to `/index/` or `/admin/` with
the key and the body of an earlier one gets the answer of that one, for 24 hours (the newest
10,000 are kept), with `Idempotency-Replayed: true`.

**Every answer** says in `Server-Timing` where its time went, and in `X-Request-ID` under which id
the log has it: send your own, or one is made.

**Unknown fields and parameters** are refused, not ignored.
"""

TAGS = [
    {"name": "search", "description": "Ask which stored images are like others."},
    {"name": "images", "description": "Single images: put, look at, change, delete."},
    {"name": "index", "description": "Many images at once."},
    {"name": "jobs", "description": "Follow and stop long work."},
    {"name": "admin", "description": "Build the index, go back, find duplicates, copy it."},
    {"name": "session", "description": "Sign in from a browser, which then keeps the key."},
    {"name": "health", "description": "For operators and load balancers."},
]

EVERYWHERE = (401, 403, 429, 500, 503)
INDEX = (409,)
"""Of whatever needs an index that can be used."""
BODY = (400, 413, 415, 422, 504)
MODEL = (413, 415, 422, 504)
DISK = (507,)
"""Of whatever writes, and of what takes files: large ones pass through a temporary one."""


@dataclass(frozen=True)
class Operation:
    """What the document says of one address besides what its route says."""

    id: str
    summary: str
    problems: tuple[int, ...] = ()


OPERATIONS: dict[tuple[str, str], Operation] = {
    ("post", "/search"): Operation(
        "search", "Find similar images", (*BODY, *MODEL, *INDEX, *DISK, 404)
    ),
    ("post", "/search/batch"): Operation(
        "search_batch", "Search several times", (*BODY, *INDEX, *DISK)
    ),
    ("post", "/compare"): Operation(
        "compare", "Compare two images", (*BODY, *MODEL, *INDEX, *DISK, 404)
    ),
    ("get", "/images"): Operation("list_images", "List images", (*INDEX, 422)),
    ("put", "/images/{image_id}"): Operation(
        "put_image", "Add or replace an image", (*BODY, *MODEL, *INDEX, *DISK, 404)
    ),
    ("get", "/images/{image_id}"): Operation("get_image", "Look at an image", (*INDEX, 404, 422)),
    ("patch", "/images/{image_id}"): Operation(
        "patch_image", "Change metadata", (*BODY, *INDEX, *DISK, 404)
    ),
    ("delete", "/images/{image_id}"): Operation(
        "delete_image", "Delete an image", (*INDEX, *DISK, 404, 422)
    ),
    ("get", "/images/{image_id}/thumbnail"): Operation(
        "get_thumbnail", "Small picture of an image", (*INDEX, 404, 422)
    ),
    ("get", "/images/{image_id}/original"): Operation(
        "get_original", "File of an image", (*INDEX, 404, 422)
    ),
    ("get", "/images/{image_id}/similar"): Operation(
        "find_similar", "Images like a stored one", (*INDEX, 404, 422, 504)
    ),
    ("post", "/index/add"): Operation("add_images", "Add many images", (*BODY, *INDEX, *DISK)),
    ("get", "/jobs"): Operation("list_jobs", "List jobs", (*INDEX, 422, *DISK)),
    ("get", "/jobs/{job_id}"): Operation("get_job", "Look at a job", (*INDEX, 404, 422, *DISK)),
    ("get", "/jobs/{job_id}/events"): Operation(
        "watch_job", "Follow a job", (*INDEX, 404, 422, *DISK)
    ),
    ("get", "/jobs/{job_id}/errors"): Operation(
        "get_job_errors", "Images that were not added", (*INDEX, 404, 422, *DISK)
    ),
    ("get", "/jobs/{job_id}/result"): Operation(
        "get_job_result", "What a report found", (*INDEX, 404, 422, *DISK)
    ),
    ("delete", "/jobs/{job_id}"): Operation("cancel_job", "Stop a job", (*INDEX, 404, 422, *DISK)),
    ("post", "/admin/index/build"): Operation(
        "build_index", "Build the index", (*BODY, *INDEX, *DISK)
    ),
    ("post", "/admin/index/reload"): Operation(
        "reload_index", "Load the generation on disk", (*BODY, *INDEX, *DISK)
    ),
    ("post", "/admin/index/rollback"): Operation(
        "rollback_index", "Go back to an earlier generation", (*BODY, *INDEX, *DISK)
    ),
    ("post", "/admin/index/duplicates"): Operation(
        "find_duplicates", "Look for near-duplicates", (*BODY, *INDEX, *DISK)
    ),
    ("get", "/admin/index"): Operation("get_index", "State of the index", (*INDEX, 422)),
    ("get", "/admin/index/reliability"): Operation(
        "get_reliability", "Picture of how far probabilities hold", (*INDEX, 404, 422)
    ),
    ("get", "/admin/snapshots"): Operation("list_snapshots", "List snapshots", (422,)),
    ("post", "/admin/snapshots"): Operation(
        "create_snapshot", "Take a snapshot", (*BODY, *INDEX, *DISK)
    ),
    ("get", "/session"): Operation("get_session", "What may I do?"),
    ("post", "/session"): Operation("sign_in", "Sign in", BODY),
    ("delete", "/session"): Operation("sign_out", "Sign out"),
    ("get", "/livez"): Operation("get_liveness", "Is it alive?"),
    ("get", "/readyz"): Operation("get_readiness", "Can it answer?", INDEX),
    ("get", "/version"): Operation("get_version", "What is it made of?"),
    ("get", "/metrics"): Operation("get_metrics", "What is counted"),
}

PROBLEMS: dict[int, tuple[str, str]] = {
    400: ("malformed_request", "the body is not JSON: Expecting value: line 1 column 1 (char 0)"),
    401: (
        "key_required",
        "a key is needed: send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`",
    ),
    403: ("scope_missing", "this needs a key with the scope write"),
    404: ("unknown_image", "no image has the id 'holiday/beach.jpg'"),
    409: (
        "index_mismatch",
        "the index was made with another recipe (max_side is 512, not 1024): leave these options "
        "out, or choose another --data-dir",
    ),
    413: ("payload_too_large", "the body is larger than 44 MB, the limit of this address"),
    415: (
        "unsupported_image",
        "not an image of a known format; accepted are JPEG, PNG, WEBP, AVIF, GIF, TIFF, BMP and "
        "HEIC",
    ),
    422: ("invalid_fields", "/limit: Input should be greater than or equal to 1 (got 0)"),
    429: ("too_many_attempts", "too many wrong keys from your address; wait 30 s"),
    500: (
        "internal_server_error",
        "something went wrong here; the log has the details under this request_id",
    ),
    503: ("overloaded", "256 images are waiting for the model already; try again"),
    504: ("deadline_exceeded", "the image was not described within 120 s; try again later"),
    507: (
        "storage_full",
        "no room is left in index_data; free space there and try again: nothing of this write was "
        "kept",
    ),
}
"""Code and detail of an example of each."""

PARAMETERS = {
    "image_id": "Id of the image. Its slashes stay as they are; all else is percent-encoded.",
    "job_id": "Id of the job.",
}
RETRY = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}
KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "A name of this request, such as a UUID: sent again with it, it is done once.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
}
KNOWN = {
    "name": "If-None-Match",
    "in": "header",
    "required": False,
    "description": "The `ETag` of what the client has: 304 if it still is that.",
    "schema": {"type": "string"},
}
TAG = {
    "ETag": {
        "description": "SHA-256 of the file of the image, in quotes.",
        "schema": {"type": "string"},
    }
}
TIMED = ("/search", "/search/batch", "/compare")
DEADLINE = {
    "name": "X-Deadline-Ms",
    "in": "header",
    "required": False,
    "description": "Milliseconds after which nobody needs the answer any more.",
    "schema": {"type": "integer", "minimum": 1, "maximum": 999_999_999},
}


def describe(app: FastAPI) -> None:
    """Let the application document itself like this."""
    app.openapi_tags = TAGS
    app.description = DESCRIPTION
    plain = app.openapi

    def document() -> Json:
        if app.openapi_schema is None:
            app.openapi_schema = _finished(plain())
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _finished(document: Json) -> Json:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            _finish(operation, method, path)
    for left in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(left, None)
    return document


def _finish(operation: Json, method: str, path: str) -> None:
    known = OPERATIONS.get((method, path))
    responses = operation["responses"]
    problems: set[int] = {*EVERYWHERE}
    if known is not None:
        operation |= {"operationId": known.id, "summary": known.summary}
        problems |= {*known.problems}
        responses.pop("422", None)
    for status in sorted(problems):
        responses[str(status)] = _problem(status, method, path)
    for parameter in operation.get("parameters", []):
        if parameter["name"] in PARAMETERS:
            parameter["description"] = PARAMETERS[parameter["name"]]
    if "202" in responses:
        responses["202"]["description"] = "Accepted: follow the job"
        if method == "post":
            location = {"description": "Address of the job.", "schema": {"type": "string"}}
            responses["202"] |= {"headers": {"Location": location, **RETRY}}
    if "304" in responses:
        operation["parameters"] = [*operation.get("parameters", []), KNOWN]
        for sent in ("200", "304"):
            responses[sent] |= {"headers": TAG}
    if path in TIMED:
        operation["parameters"] = [*operation.get("parameters", []), DEADLINE]
    if method == "post" and path.startswith(PREFIXES):
        operation["parameters"] = [*operation.get("parameters", []), KEY]
    operation["responses"] = dict(sorted(responses.items()))


def _problem(status: int, method: str, path: str) -> Json:
    code, detail = PROBLEMS[status]
    entries = []
    if code == "invalid_fields":
        pointer, _, words = detail.partition(": ")
        entries = [{"pointer": pointer, "detail": words}]
    instance = path.replace("{image_id}", "holiday/beach.jpg").replace("{job_id}", "b1946ac9")
    example = problem_content("4f1d9c0e", instance, status, detail, code, entries)
    schema: dict[str, Any] = {"$ref": "#/components/schemas/ProblemOut"}
    described: Json = {
        "description": HTTPStatus(status).phrase,
        "content": {MEDIA_TYPE: {"schema": schema, "example": example}},
    }
    if status in (429, 503):
        described["headers"] = RETRY
    return described
