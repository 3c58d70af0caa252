"""Signing in from the page, whose pictures and event streams cannot send headers."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from starlette.requests import ClientDisconnect

from app.deps import RootDep, StateDep
from app.errors import (
    ClientLeft,
    InvalidFields,
    MalformedRequest,
    PayloadTooLarge,
    UnsupportedBody,
)
from app.schemas import SessionOut
from app.security.access import Access, Caller
from app.security.needs import ANYBODY, cookie_for
from engine.errors import DeadlineExceeded

router = APIRouter(prefix="/session", tags=["session"], dependencies=[ANYBODY])

MAX_BODY = 4096
MAX_S = 10.0
"""For the body to arrive: nobody knows yet who sends it."""
LONGEST = timedelta(days=30)

BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["key"],
                    "additionalProperties": False,
                    "properties": {
                        "key": {
                            "type": "string",
                            "format": "password",
                            "description": "The key.",
                        }
                    },
                }
            }
        },
    }
}


async def read_key(request: Request) -> str:
    """The key in the body, which no message repeats.

    Raises: UnsupportedBody, PayloadTooLarge, MalformedRequest, InvalidFields, DeadlineExceeded,
        ClientLeft.
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/json":  # which a form of another site cannot send
        raise UnsupportedBody("send the key as application/json")
    body = b""
    try:
        async with asyncio.timeout(MAX_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY:
                    raise PayloadTooLarge(
                        f"the body is larger than {MAX_BODY:,} bytes, which no key needs"
                    )
    except TimeoutError as error:
        raise DeadlineExceeded(f"the key did not arrive within {MAX_S:g} s") from error
    except ClientDisconnect as error:
        raise ClientLeft("the client left before its key was there") from error
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise MalformedRequest("the body is not JSON") from error
    if not isinstance(content, dict) or set(content) != {"key"}:
        raise InvalidFields([{"pointer": "", "detail": "send an object with one field, `key`"}])
    if not isinstance(content["key"], str):
        raise InvalidFields([{"pointer": "/key", "detail": "a key is text"}])
    return content["key"]


@router.get("")
async def session(request: Request, state: StateDep) -> SessionOut:
    """What the caller may do, and whether keys are asked for at all."""
    return _session_out(state.access, request.scope["caller"])


@router.post("", openapi_extra=BODY)
async def sign_in(
    key: Annotated[str, Depends(read_key)],
    request: Request,
    state: StateDep,
    root: RootDep,
    response: Response,
) -> SessionOut:
    """Send a key once; the browser keeps it in a cookie that scripts cannot read."""
    caller = state.access.sign_in(key, request)
    caller.check_known()
    if caller.key is not None:
        response.set_cookie(
            cookie_for(request),
            key,
            max_age=_lifetime_s(caller.key.expires_at),
            path=root or "/",
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )
    response.headers["Cache-Control"] = "no-store"
    return _session_out(state.access, caller)


@router.delete("", status_code=204)
async def sign_out(request: Request, root: RootDep, response: Response) -> None:
    """Make the browser forget the key; the key itself stays good."""
    response.delete_cookie(cookie_for(request), path=root or "/", httponly=True, samesite="strict")


def _lifetime_s(expires_at: datetime | None) -> int:
    longest = int(LONGEST.total_seconds())
    if expires_at is None:
        return longest
    return max(1, min(longest, int((expires_at - datetime.now(UTC)).total_seconds())))


def _session_out(access: Access, caller: Caller) -> SessionOut:
    key = caller.key
    return SessionOut(
        required=access.required(),
        scopes=list(caller.scopes),
        key_id=key.id if key else None,
        key_name=key.name if key else None,
        expires_at=key.expires_at if key else None,
    )
