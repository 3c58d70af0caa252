"""Around every request: an id, and a bound on the body while it streams."""

from __future__ import annotations

import re
import uuid

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import PayloadTooLarge, code_of, problem
from app.noted_problems import note_problem

_SAFE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class RequestId:
    """Takes `X-Request-ID` from the caller, or makes one, and sends it back."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = given if _SAFE_ID.fullmatch(given) else uuid.uuid4().hex
        scope["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append((b"x-request-id", request_id.encode()))
            await send(message)

        await self._app(scope, receive, send_with_id)


class SameSite:
    """Refuses changes that another web site asks a visitor's browser to make (CSRF).

    Browsers say where a request comes from; other clients send no such header.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            origin = dict(scope["headers"]).get(b"sec-fetch-site", b"none")
            if origin not in (b"same-origin", b"none"):
                detail = "another web site asked for this; use the page of this service"
                request_id = scope.get("request_id", "")
                await problem(request_id, scope["path"], 403, detail)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class BodyLimit:
    """Answers 413 as soon as a body, chunked or not, is larger than allowed for its path."""

    def __init__(self, app: ASGIApp, *, max_bytes: int, others: dict[str, int]) -> None:
        """`others` has the bounds of the paths that take more than `max_bytes`, or less."""
        self._app = app
        self._max_bytes = max_bytes
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        limit = self._others.get(path, self._max_bytes)
        announced = dict(scope["headers"]).get(b"content-length", b"")
        if announced.isdigit() and int(announced) > limit:
            await self._refuse(scope, receive, send, limit)
            return
        received = 0
        started = False

        async def bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise _TooLarge
            return message

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, bounded, watched)
        except _TooLarge:
            if started:
                raise
            await self._refuse(scope, receive, send, limit)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, limit: int) -> None:
        note_problem(scope, code_of(PayloadTooLarge))
        response = problem(
            scope.get("request_id", ""),
            scope["path"],
            413,
            f"the body is larger than {_size(limit)}, the limit of this address",
            code_of(PayloadTooLarge),
        )
        await response(scope, receive, send)


def _size(bytes_: int) -> str:
    return f"{bytes_ >> 20:,} MB" if bytes_ >= 1 << 20 else f"{bytes_:,} bytes"


class _TooLarge(BaseException):
    """Passes through handlers of Exception in the application unseen."""
