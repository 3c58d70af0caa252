"""`Idempotency-Key`: a write that is sent again is done once, and answered as the first time."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message as MailHeaders
from pathlib import Path
from typing import TypeVar

import anyio
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import (
    IdempotencyConflict,
    IdempotencyMismatch,
    InvalidFields,
    RequestProblem,
    problem_for,
)
from app.serving.idempotency_store import Answer, Claim, IdempotencyStore
from engine.errors import EngineError

Result = TypeVar("Result")

HEADER = "idempotency-key"
PREFIXES = ("/index/", "/admin/")
"""Addresses whose writes may have a key."""
REPLAYED = b"idempotency-replayed"
OWNERS = (b"authorization", b"x-api-key", b"cookie")
"""Headers that say who asks."""
KEPT = (b"content-type", b"location", b"retry-after")
"""Headers of an answer that are sent again with it."""
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
MAX_ANSWER_BYTES = 1 << 16


class Idempotency:
    """Around the application, for POST requests with the header to `PREFIXES`.

    The first request with a key claims it; its answer, where it was a success, is kept for 24
    hours and sent to whoever comes with the same key and the same body. After it was refused the
    key is free again. A key belongs to the credentials that it came with. The id of the job that a
    request makes is chosen with the claim: after a crash between making the job and answering, the
    same request comes to the same job. What makes no job is told in `scope["repeated"]` that it was
    begun before, and may have been done.
    """

    def __init__(self, app: ASGIApp, *, path: Path) -> None:
        """`path` is the file that answers are kept in; it is made at the first use."""
        self._app = app
        self._store = IdempotencyStore(path)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        key = _key_of(scope)
        if key is None:
            await self._app(scope, receive, send)
            return
        try:
            await self._keyed(key, scope, receive, send)
        except _Refused as refused:
            await problem_for(Request(scope), refused.problem)(scope, receive, send)

    async def _keyed(self, key: str, scope: Scope, receive: Receive, send: Send) -> None:
        owned = _owned(key, scope)
        claim = await self.ask(lambda store: store.claim(owned, time.time()))
        if claim.answer is not None:
            digest = await _drained(scope, receive)
            if digest != claim.digest:
                raise _Refused(_mismatch(key))
            await _replay(claim.answer, send)
            return
        if not claim.mine:
            raise _Refused(
                IdempotencyConflict(
                    f"the request with the idempotency key {key!r} is still being answered; ask "
                    "again in a moment"
                )
            )
        request = _First(self, claim, key, scope, receive, send)
        try:
            await request.answer()
        finally:
            with anyio.CancelScope(shield=True):
                await run_in_threadpool(self._store.release, claim, forget=request.refused)

    async def ask(self, what: Callable[[IdempotencyStore], Result]) -> Result:
        """In a thread, as it may wait for the disk. A full one refuses the request."""
        try:
            return await run_in_threadpool(what, self._store)
        except EngineError as error:
            raise _Refused(error) from error

    async def call(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application itself."""
        await self._app(scope, receive, send)


class _First:
    """The first request with a key, while it is answered."""

    def __init__(
        self,
        around: Idempotency,
        claim: Claim,
        key: str,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        self._around, self._claim, self._key = around, claim, key
        self._scope, self._receive, self._send = scope, receive, send
        self._body, self._record = BodyDigest(scope), _Record()
        self._repeated = claim.digest is not None
        self._checked = False
        self._early: list[Message] = []

    @property
    def refused(self) -> bool:
        """Whether the application refused the request, or sent it to another address, so that
        nothing was done for it, now or before."""
        return 300 <= self._record.status < 500 and not self._repeated

    async def answer(self) -> None:
        # Of most requests that is all: their digest is kept before anything is done for them.
        self._early.append(await self._arrived())
        scope = {**self._scope, "job_id": self._claim.job_id, "repeated": self._repeated}
        await self._around.call(scope, self._next, self._answered)

    async def _next(self) -> Message:
        return self._early.pop() if self._early else await self._arrived()

    async def _arrived(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request" and not self._checked:
            self._body.update(message.get("body", b""))
            if not message.get("more_body", False):
                await self._check()
        return message

    async def _check(self) -> None:
        self._checked = True
        claim, digest = self._claim, self._body.hexdigest()
        # Before anything is done, so that it is known after a crash, too.
        if not await self._around.ask(lambda store: store.begin(claim, digest)):
            raise _Refused(_mismatch(self._key))

    async def _answered(self, message: Message) -> None:
        self._record.note(message)
        answer = self._record.answer
        if answer is not None:
            # What the application did not want to read.
            while not self._checked and (await self._arrived())["type"] == "http.request":
                pass
            # First kept, then sent: what the client has seen is never done again.
            await self._around.ask(lambda store: store.keep(self._claim, answer))
        for held in self._record.released():
            await self._send(held)


class _Refused(BaseException):
    """Passes through handlers of Exception in the application unseen."""

    def __init__(self, problem: RequestProblem | EngineError) -> None:
        super().__init__(str(problem))
        self.problem = problem


@dataclass
class _Record:
    """An answer on its way: held back until it is kept, if it is one to keep."""

    held: list[Message] = field(default_factory=list)
    size: int = 0
    status: int = 0
    complete: bool = False
    passed: bool = False

    def note(self, message: Message) -> None:
        self.held.append(message)
        self.size += len(message.get("body", b""))
        if message["type"] == "http.response.start":
            self.status = int(message["status"])
        if not 200 <= self.status < 300 or self.size > MAX_ANSWER_BYTES:
            self.passed = True
        self.complete = message["type"] == "http.response.body" and not message.get("more_body")

    @property
    def answer(self) -> Answer | None:
        """The whole answer, once it is there, if it is one to keep."""
        if self.passed or not self.complete:
            return None
        start, *parts = self.held
        headers = [(name, value) for name, value in start["headers"] if name.lower() in KEPT]
        body = b"".join(part.get("body", b"") for part in parts)
        return Answer(start["status"], tuple(headers), body)

    def released(self) -> list[Message]:
        """Messages that may be sent now."""
        if not (self.passed or self.complete):
            return []
        held, self.held = self.held, []
        return held


def _key_of(scope: Scope) -> str | None:
    """The key of a request that is to be done once; None for all others."""
    if scope["type"] != "http" or scope["method"] != "POST":
        return None
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    given = dict(scope["headers"]).get(HEADER.encode())
    if given is None or not path.startswith(PREFIXES):
        return None
    return str(given.decode("latin-1"))


def _owned(key: str, scope: Scope) -> str:
    """The key as it is stored: with whose it is, and for which address. Raises _Refused."""
    if not _KEY.fullmatch(key):
        detail = "must be 1 to 255 visible ASCII characters, such as a UUID"
        raise _Refused(InvalidFields([{"pointer": "/Idempotency-Key", "detail": detail}]))
    headers = dict(scope["headers"])
    who = [headers.get(name, b"").decode("latin-1") for name in OWNERS]
    return hashlib.sha256(json.dumps([*who, key]).encode()).hexdigest()


class BodyDigest:
    """SHA-256 of a request: address, type and body, while the body arrives.

    A form sent again has another boundary between its parts, made up by the client: it is left
    out wherever it stands.
    """

    def __init__(self, scope: Scope) -> None:
        kind = MailHeaders()
        kind["content-type"] = dict(scope["headers"]).get(b"content-type", b"").decode("latin-1")
        address = [scope["path"], scope["query_string"].decode("latin-1"), kind.get_content_type()]
        self._hash = hashlib.sha256(json.dumps(address).encode())
        boundary = kind.get_param("boundary") if "content-type" in kind else None
        self._boundary = f"--{boundary}".encode("latin-1") if isinstance(boundary, str) else b""
        self._tail = b""

    def update(self, data: bytes) -> None:
        if not self._boundary:
            self._hash.update(data)
            return
        data = (self._tail + data).replace(self._boundary, b"")
        # What may be the beginning of a boundary waits for the rest.
        keep = min(len(data), len(self._boundary) - 1)
        self._tail = data[len(data) - keep :]
        self._hash.update(data[: len(data) - keep])

    def hexdigest(self) -> str:
        """Of all that came; nothing more may come after this."""
        self._hash.update(self._tail)
        self._tail = b""
        return self._hash.hexdigest()


async def _drained(scope: Scope, receive: Receive) -> str:
    """Digest of a request whose body nobody else reads."""
    body = BodyDigest(scope)
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return ""  # the client has left
        body.update(message.get("body", b""))
        if not message.get("more_body", False):
            return body.hexdigest()


async def _replay(answer: Answer, send: Send) -> None:
    length = str(len(answer.body)).encode()
    headers = [*answer.headers, (b"content-length", length), (REPLAYED, b"true")]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


def _mismatch(key: str) -> IdempotencyMismatch:
    return IdempotencyMismatch(
        f"the idempotency key {key!r} was used for another request within the last 24 hours; use "
        "a new key for each request"
    )
