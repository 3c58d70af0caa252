"""The sole translator from errors to answers: RFC 9457 problem documents."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from app.answer_headers import headers_for
from app.noted_problems import code_of_status, note_problem
from engine import errors

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"


class RequestProblem(Exception):
    """A request that the HTTP side itself refuses."""

    headers: Mapping[str, str] = {}
    """Of the answer."""


class MalformedRequest(RequestProblem):
    """The body does not have the announced form."""


class PayloadTooLarge(RequestProblem):
    """The body, or what it unpacks to, is larger than the limit."""


class UnsupportedBody(RequestProblem):
    """The body has a content type that this address does not take."""


class UnknownJob(RequestProblem):
    """No job has this id."""


class UnknownReport(RequestProblem):
    """Nothing of this kind is kept: the result of a job, or the picture of a generation."""


class ShuttingDown(RequestProblem):
    """The service stops: it finishes what it accepted, and takes nothing new."""


class ClientLeft(RequestProblem):
    """Nobody waits for this answer any more."""


class IdempotencyConflict(RequestProblem):
    """A request with this idempotency key is being answered."""

    retry_after_s = 1


class IdempotencyMismatch(RequestProblem):
    """This idempotency key was used for another request."""


class OutcomeUnknown(RequestProblem):
    """An earlier attempt broke off; to do it once more may be once too often."""


class InvalidFields(RequestProblem):
    """Fields with values out of range, or that nobody knows."""

    def __init__(self, entries: list[dict[str, str]]) -> None:
        # An empty pointer is the whole body (RFC 6901).
        super().__init__("; ".join(f"{e['pointer'] or 'the body'}: {e['detail']}" for e in entries))
        self.entries = entries


_CHALLENGE = 'Bearer realm="cooc"'


class KeyRequired(RequestProblem):
    """No key came with a request that needs one."""

    headers: Mapping[str, str] = {"WWW-Authenticate": _CHALLENGE}

    def __init__(self) -> None:
        super().__init__(
            "a key is needed: send it as `Authorization: Bearer KEY` or `X-API-Key: KEY` "
            "(commands take it from COOC_API_KEY); `cooc keys create` makes one"
        )


class KeyRefused(RequestProblem):
    """The key is nobody's, or was revoked, or has expired."""

    headers: Mapping[str, str] = {"WWW-Authenticate": f'{_CHALLENGE}, error="invalid_token"'}


class ScopeMissing(RequestProblem):
    """The key is not good for this."""

    def __init__(self, scope: str) -> None:
        super().__init__(f"this needs a key with the scope {scope}")
        challenge = f'{_CHALLENGE}, error="insufficient_scope", scope="{scope}"'
        self.headers = {"WWW-Authenticate": challenge}


class TooManyAttempts(RequestProblem):
    """Too many keys that nobody has, from one address."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"too many wrong keys from your address; wait {retry_after_s} s")
        self.headers = {"Retry-After": str(retry_after_s)}


class NotLocal(RequestProblem):
    """A service without keys is for its own machine only."""

    def __init__(self, why: str) -> None:
        super().__init__(
            f"without keys this service is open to its own machine only, but {why}; "
            "make a key with `cooc keys create NAME --scope admin`"
        )


class KeysUnreadable(errors.EngineError):
    """The file of the keys cannot be read."""


class UrlNotAllowed(RequestProblem):
    """A URL that this service does not fetch, or that leads to what it must not ask."""


class UrlFetchFailed(RequestProblem):
    """An allowed URL that gave no image: silent, broken off, another status than 200.

    `transient`: may work later. `answered`: with a status, at least. `busy`: the other side says so
    itself, and may say in `wait_s` how many seconds later.
    """

    def __init__(
        self,
        message: str,
        *,
        transient: bool = False,
        busy: bool = False,
        wait_s: float | None = None,
        answered: bool = False,
    ) -> None:
        super().__init__(message)
        self.transient = transient
        self.answered = answered
        self.busy = busy
        self.wait_s = wait_s


STATUS: dict[type[Exception], int] = {
    errors.BadImage: 422,
    errors.UnsupportedImage: 415,
    errors.ImageTooLarge: 413,
    errors.UnknownImage: 404,
    errors.NoOriginal: 404,
    errors.BadRegion: 422,
    errors.RegionNeedsOriginal: 409,
    errors.GenerationNotReached: 409,
    errors.RebuildIncomplete: 409,
    errors.UnknownSnapshot: 404,
    errors.InvalidOption: 422,
    errors.EmptyIndex: 409,
    errors.IndexMismatch: 409,
    errors.NoGeneration: 409,
    errors.TooFewImages: 409,
    errors.CorruptIndex: 503,
    errors.WeightsUnavailable: 503,
    errors.StorageFull: 507,
    errors.StorageReadOnly: 503,
    errors.DataFolderInUse: 503,
    errors.Overloaded: 503,
    errors.DeadlineExceeded: 504,
    errors.OutOfMemory: 503,
    errors.DeviceLost: 503,
    MalformedRequest: 400,
    UnknownJob: 404,
    UnknownReport: 404,
    PayloadTooLarge: 413,
    UnsupportedBody: 415,
    InvalidFields: 422,
    KeyRequired: 401,
    KeyRefused: 401,
    ScopeMissing: 403,
    NotLocal: 403,
    TooManyAttempts: 429,
    KeysUnreadable: 503,
    ShuttingDown: 503,
    ClientLeft: 408,
    UrlNotAllowed: 403,
    # Not 502: a proxy before us would take that for a failure of this service.
    UrlFetchFailed: 422,
    IdempotencyConflict: 409,
    IdempotencyMismatch: 422,
    OutcomeUnknown: 409,
}

RETRY_AFTER_S: dict[type[Exception], int] = {ShuttingDown: 5, errors.DeviceLost: 10}
"""After most problems of status 503 an operator has something to do first: 30."""


def code_of(error: type[Exception]) -> str:
    """`BadImage` -> `bad_image`."""
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in error.__name__).lstrip("_")


def problem(
    request_id: str,
    path: str,
    status: int,
    detail: str,
    code: str | None = None,
    entries: list[dict[str, str]] | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """The answer with one problem document."""
    content = problem_content(request_id, path, status, detail, code, entries)
    return JSONResponse(content, status, headers=headers, media_type=MEDIA_TYPE)


def problem_content(
    request_id: str,
    path: str,
    status: int,
    detail: str,
    code: str | None = None,
    entries: list[dict[str, str]] | None = None,
) -> dict[str, Any]:
    """One problem document. `code` is stable for programs, `detail` is for people."""
    phrase = HTTPStatus(status).phrase
    code = code or code_of_status(status)
    return {
        "type": f"urn:cooc:problem:{code}",
        "title": phrase,
        "status": status,
        "detail": detail,
        "instance": path,
        "code": code,
        "request_id": request_id,
        "errors": entries or [],
    }


def problem_for(request: Request, error: Exception) -> JSONResponse:
    """The answer to a request that met an error of the engine or of the HTTP side."""
    content = content_for(request, error)
    note_problem(request.scope, content["code"])
    headers = dict(error.headers) if isinstance(error, RequestProblem) else {}
    if content["status"] == 503:
        headers["Retry-After"] = str(RETRY_AFTER_S.get(type(error), 30))
    if hasattr(error, "retry_after_s"):
        headers["Retry-After"] = str(error.retry_after_s)
    return JSONResponse(content, content["status"], headers=headers, media_type=MEDIA_TYPE)


def content_for(request: Request, error: Exception, pointer: str = "") -> dict[str, Any]:
    """The problem document of an error; `pointer` is the part of the request that it is about."""
    status = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
    entries = error.entries if isinstance(error, InvalidFields) else None
    if isinstance(error, errors.InvalidFilter):
        entries = [{"pointer": error.pointer, "detail": error.detail}]
    if isinstance(error, errors.Overloaded | errors.DeadlineExceeded | ShuttingDown):
        # Thousands of them, where thousands ask for more than there is.
        log.info("%s %s: %s", request.method, request.url.path, error)
    elif status >= 500:
        log.error("%s %s: %s", request.method, request.url.path, error)
    return problem_content(
        request_id_of(request),
        request.url.path,
        status,
        str(error),
        code_of(type(error)),
        [{**entry, "pointer": pointer + entry["pointer"]} for entry in entries or []],
    )


def request_id_of(request: Request) -> str:
    value = request.scope.get("request_id")
    return str(value) if value else uuid.uuid4().hex


def install(app: FastAPI) -> None:
    """Make every 4xx and 5xx a problem document, the framework's own included."""

    async def known(request: Request, error: Exception) -> JSONResponse:
        return problem_for(request, error)

    async def framework(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        headers = dict(error.headers or {})
        remedy = ""
        if type(error) is HTTPException and error.status_code == 405:
            headers["Allow"] = _allowed(request, headers)
            remedy = f"; this address takes {headers['Allow']}" if headers["Allow"] else ""
        elif type(error) is HTTPException and error.status_code == 404:
            remedy = f"; {request.scope.get('root_path', '')}/docs has all addresses"
        return problem(
            request_id_of(request),
            request.url.path,
            error.status_code,
            f"{request.method} {request.url.path}: {error.detail}{remedy}",
            headers=headers,
        )

    async def validation(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        for entry in error.errors():
            if entry["type"] == "json_invalid":
                why = f"{entry['ctx']['error']}: char {entry['loc'][-1]}"
                return problem_for(request, MalformedRequest(f"the body is not JSON: {why}"))
        # The framework says first where a field was: in the body, the query, the path.
        entries = [{**entry, "loc": entry["loc"][1:]} for entry in error.errors()]
        return problem_for(request, InvalidFields(field_errors(entries)))

    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        log.exception("%s %s failed", request.method, request.url.path, exc_info=error)
        return problem(
            request_id_of(request),
            request.url.path,
            500,
            "something went wrong here; the log has the details under this request_id",
            # This handler runs outside the middleware that adds them to all other answers.
            headers={"X-Request-ID": request_id_of(request), **headers_for(request.scope)},
        )

    app.add_exception_handler(errors.EngineError, known)
    app.add_exception_handler(RequestProblem, known)
    app.add_exception_handler(HTTPException, framework)
    app.add_exception_handler(RequestValidationError, validation)
    app.add_exception_handler(Exception, unexpected)


def _allowed(request: Request, headers: dict[str, str]) -> str:
    """All methods of an address: the framework names those of one of its routes only."""
    path = getattr(request.scope.get("route"), "path_format", "")
    methods = request.app.openapi()["paths"].get(path, {})
    return ", ".join(sorted(map(str.upper, methods))) or headers.get("Allow", "")


def pointer_to(*parts: object) -> str:
    """The JSON pointer of a field (RFC 6901)."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


def field_errors(details: Any) -> list[dict[str, str]]:
    """Pydantic's errors as pointer and detail, each naming the value that was given."""
    return [
        {
            "pointer": pointer_to(*entry["loc"]),
            "detail": f"{entry['msg']} (got {_short(entry.get('input'))})",
        }
        for entry in details
    ]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
