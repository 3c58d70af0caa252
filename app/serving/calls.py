"""Around every request with a body: is it let in, until when, and does its client still wait?"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.admission import Admission, Admitted, shutting_down
from app.errors import ClientLeft, MalformedRequest, RequestProblem, problem_for
from app.security.callers import SIGN_IN
from engine.errors import DeadlineExceeded, EngineError
from engine.passes.calls import Call

DEADLINE = b"x-deadline-ms"
WITH_BODY = ("POST", "PUT", "PATCH")
ALWAYS = ("/livez", "/version", "/metrics")
"""Addresses that answer while the service stops."""
BULK = "/index/add"
BULK_BYTES = 64 << 20
"""What a bulk upload holds in memory, `MAX_LOOSE_FILES` times `LOOSE_FILE_BYTES`."""
COPIES, JSON_COPIES = 2, 4
"""How often a body is in memory while it is read: as sent and as the image in it; in JSON also as
text, and in parts."""


class Calls:
    """Lets requests in or refuses them, and gives each the `Call` that the engine asks.

    A request's time counts from its first byte, so a slow upload uses it up. While the answer is
    made, the connection is watched: work for a client that left is not begun.
    """

    def __init__(self, app: ASGIApp, *, admission: Admission, deadline_s: float) -> None:
        self._app = app
        self._admission = admission
        self._deadline_s = deadline_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = _Watched(scope, receive, send)
        try:
            if self._admission.draining and request.path not in ALWAYS:
                raise shutting_down()
            # A key is read by its route: strangers must not take the places of those let in.
            if scope["method"] not in WITH_BODY or request.path == SIGN_IN:
                await self._app(scope, receive, send)
                return
            call = Call(min(self._deadline_s, _allowed_s(scope) or self._deadline_s))
            with self._admission.request(call, bulk=request.path == BULK) as admitted:
                admitted.grow(_announced(scope, request.path))
                self._admission.accepted += 1
                await self._answer(request, admitted)
        except (EngineError, RequestProblem) as error:
            await request.refuse(error)
        except _GivenUp as given_up:
            if request.started:
                raise
            if not isinstance(given_up.error, ClientLeft):
                await request.refuse(given_up.error)

    async def _answer(self, request: _Watched, admitted: Admitted) -> None:
        gone = False

        def left() -> None:
            nonlocal gone
            if not request.finished:
                gone = True
                self._admission.left += 1
                admitted.call.end(_client_left)

        receive = _Body(request, admitted, left)
        request.scope["admitted"] = admitted
        try:
            with admitted.call.current():
                await self._app(request.scope, receive, request.send)
            admitted.answered = request.status < 500 and not gone
        except _GivenUp as given_up:
            self._admission.late += isinstance(given_up.error, DeadlineExceeded)
            raise
        finally:
            receive.close()


class _GivenUp(BaseException):
    """Passes through handlers of Exception in the application unseen: its body never came."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class _Watched:
    """A request, and how far its answer is."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope, self.receive, self._send = scope, receive, send
        self.path: str = scope["path"].removeprefix(scope.get("root_path", ""))
        self.started = self.finished = False
        self.status = 0

    async def send(self, message: Message) -> None:
        self.started = True
        self.status = message.get("status", self.status)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.finished = True
        await self._send(message)

    async def refuse(self, error: Exception) -> None:
        response = problem_for(Request(self.scope), error)
        await response(self.scope, self.receive, self._send)


class _Body:
    """What the application receives: the body within its time, then whether the client left."""

    def __init__(self, request: _Watched, admitted: Admitted, left: Callable[[], None]) -> None:
        self._request, self._admitted, self._left = request, admitted, left
        # The whole of a bulk upload may take any time, as long as it goes on.
        self._bulk = request.path == BULK
        self._announced = self._bulk or _length(request.scope) is not None
        self._watch: asyncio.Task[None] | None = None
        self._gone = asyncio.Event()

    async def __call__(self) -> Message:
        if self._watch is not None:
            await self._gone.wait()
            return {"type": "http.disconnect"}
        call = self._admitted.call
        seconds = call.seconds if self._bulk else call.remaining
        try:
            async with asyncio.timeout(seconds):
                message = await self._request.receive()
        except TimeoutError as error:
            raise _GivenUp(call.late()) from error
        if message["type"] == "http.disconnect":
            self._left()
            raise _GivenUp(_client_left())
        whole = not message.get("more_body", False)
        try:
            if not self._announced:
                copies = _copies(self._request.scope)
                self._admitted.grow(copies * len(message.get("body", b"")))
            if whole and not self._bulk:
                self._admitted.begin()
        except EngineError as error:
            raise _GivenUp(error) from error
        if whole:
            self._watch = asyncio.create_task(self._wait_for_the_end())
        return message

    async def _wait_for_the_end(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
        self._gone.set()
        self._left()

    def close(self) -> None:
        if self._watch is not None:
            self._watch.cancel()


def _allowed_s(scope: Scope) -> float | None:
    """Seconds that the client allows. Raises MalformedRequest."""
    given = dict(scope["headers"]).get(DEADLINE)
    if given is None:
        return None
    if not given.isdigit() or not 0 < int(given) < 10**9:
        raise MalformedRequest(
            f"X-Deadline-Ms is {given.decode('latin-1')[:40]!r}; send whole milliseconds, e.g. 2000"
        )
    return int(given) / 1000


def _length(scope: Scope) -> int | None:
    announced = dict(scope["headers"]).get(b"content-length", b"")
    return int(announced) if announced.isdigit() else None


def _announced(scope: Scope, path: str) -> int:
    """Bytes that a request may hold, as far as it says."""
    if path == BULK:
        return BULK_BYTES
    return _copies(scope) * (_length(scope) or 0)


def _copies(scope: Scope) -> int:
    kind = dict(scope["headers"]).get(b"content-type", b"")
    return JSON_COPIES if kind.lower().startswith(b"application/json") else COPIES


def _client_left() -> ClientLeft:
    return ClientLeft("the client left before the answer")
