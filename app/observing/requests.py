"""Around every request: its time by stage, counted, logged, and told to the client."""

from __future__ import annotations

import logging
import time
from typing import Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import ClientLeft, code_of
from app.noted_problems import Problem, code_of_status, expect_problem
from app.observing.metrics import TOTAL, Metrics
from app.observing.templates import Templates, method_of
from engine.passes.origin import set_origin
from engine.passes.stages import Stages

log = logging.getLogger(__name__)

POLLED = frozenset({"/livez", "/readyz", "/metrics", "/version"})
"""Asked for every few seconds, /version by nginx before each upload: their lines are for
debugging."""
LEFT, FAILED = 499, 500
"""What no answer says: the client left before it (as nginx counts that), or it was an exception."""
CLIENT_LEFT = code_of(ClientLeft)


class Spans(Protocol):
    """Where the stages of requests are traced."""

    def annotate(self, name: str, value: str) -> str | None:
        """Say something of the request that is being answered; the id of its trace."""
        ...

    def request(self, stages: Stages) -> None:
        """The stages of the request that was answered."""
        ...


class Requests:
    """To be put around all that may refuse a request, within what gives it an id."""

    def __init__(
        self, app: ASGIApp, *, metrics: Metrics, templates: Templates, spans: Spans | None = None
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._templates = templates
        self._spans = spans

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # For good: what is logged of a request after it failed here is in its own task, too.
        set_origin("request_id", scope["request_id"])
        request = _Request(scope, receive, send, self._templates.of(scope), self._spans)
        status = LEFT
        try:
            with request.stages.current():
                await self._app(scope, request.receive, request.send)
        except Exception:
            status = FAILED
            raise
        finally:
            self._answered(request, request.status or status)

    def _answered(self, request: _Request, status: int) -> None:
        request.end_upload()
        scope, stages, route = request.scope, request.stages, request.route
        seconds = time.perf_counter() - request.began
        method = method_of(scope)
        problem = request.problem.code
        if status == LEFT or problem == CLIENT_LEFT:
            # Also where an answer was made, that nobody got.
            status, problem = LEFT, CLIENT_LEFT
        elif problem is None and status >= 400:
            problem = code_of_status(status)
        self._metrics.request(method, route, status, problem, seconds, stages.seconds)
        if self._spans is not None:
            self._spans.request(stages)
        level = logging.DEBUG if route in POLLED and status < 400 else logging.INFO
        if not log.isEnabledFor(level):
            return
        client = scope.get("client")
        fields = {
            "method": method,
            "route": route,
            "status": status,
            "ms": _milliseconds({**stages.seconds, TOTAL: seconds}),
            "key_id": _key_id(scope),
            "client": client[0] if client else None,
            "problem": problem,
            "trace_id": request.trace_id,
        }
        # Without the query: people put secrets there, by mistake.
        log.log(level, "%s %s %d", method, scope["path"], status, extra={"fields": fields})


class _Request:
    """A request on its way: when it came, what of it has arrived, what was answered."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, route: str, spans: Spans | None
    ) -> None:
        self.began = time.perf_counter()
        self.scope, self._receive, self._send = scope, receive, send
        # Found out before it is routed, as folders of files change what the scope says of the path.
        self.route, self._spans = route, spans
        self.trace_id = spans.annotate("cooc.request_id", scope["request_id"]) if spans else None
        self.stages = Stages()
        self.problem: Problem = expect_problem(scope)
        self.status = 0
        self._arrived = False
        self._upload_ended: float | None = None

    async def receive(self) -> Message:
        message = await self._receive()
        if not self._arrived:
            self._arrived = not message.get("more_body", False)
            if message.get("body") or self._upload_ended is not None:
                self._upload_ended = time.perf_counter()
            if self._arrived:
                self.end_upload()
        return message

    def end_upload(self) -> None:
        """Of an upload that is broken off, what there was of it counts."""
        if self._upload_ended is not None:
            self.stages.add("upload", self.began, self._upload_ended)
            self._upload_ended = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            key_id = _key_id(self.scope)
            if self._spans is not None and key_id is not None:
                self._spans.annotate("cooc.key_id", key_id)
            total = time.perf_counter() - self.began
            timing = server_timing({**self.stages.seconds, TOTAL: total})
            message["headers"] = [*message["headers"], (b"server-timing", timing.encode())]
        await self._send(message)


def _key_id(scope: Scope) -> str | None:
    """Of the key that the request came with; not its secret."""
    caller = scope.get("caller")
    return caller.key.id if caller is not None and caller.key is not None else None


def server_timing(seconds: dict[str, float]) -> str:
    """The value of `Server-Timing`: `decode;dur=8.21, describe;dur=65.4` (W3C), milliseconds."""
    return ", ".join(f"{name};dur={value}" for name, value in _milliseconds(seconds).items())


def _milliseconds(seconds: dict[str, float]) -> dict[str, float]:
    return {name: round(1000 * value, 2) for name, value in seconds.items()}
