"""Finds out who asks before anything else looks at a request."""

from __future__ import annotations

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import problem_for
from app.security.access import Access

SIGN_IN = "/session"


class Callers:
    """Puts the `Caller` into `scope["caller"]`; the routes say what they need of it.

    A change that a stranger asks for is refused here, so that nobody reads the body.
    """

    def __init__(self, app: ASGIApp, *, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        caller = scope["caller"] = self._access.caller(request)
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        changes = scope["method"] not in ("GET", "HEAD", "OPTIONS") and path != SIGN_IN
        if changes and caller.refusal is not None:
            await problem_for(request, caller.refusal)(scope, receive, send)
            return
        await self._app(scope, receive, send)
