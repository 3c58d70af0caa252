"""Answers that are not sent again to whoever has them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO

from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

PART_BYTES = 256 << 10
"""Of a file, in memory for one client: however slowly it reads."""


def conditional(
    request: Request, content: bytes | BinaryIO, digest: str, headers: dict[str, str]
) -> Response:
    """`content` under the ETag `digest`; 304 without it to whoever names that (RFC 9110, 13.1.2).

    Args:
        content: a file is closed once it has been sent.
        headers: of the answer; its `Content-Type` among them.
    """
    # What is under an address may be replaced, so it has to be asked for again.
    headers = {**headers, "ETag": f'"{digest}"', "Cache-Control": "no-cache"}
    if names(request.headers.get("if-none-match", ""), digest):
        headers.pop("Content-Type", None)
        if not isinstance(content, bytes):
            content.close()
        return Response(status_code=304, headers=headers)
    if isinstance(content, bytes):
        return Response(content, headers=headers)
    headers["Content-Length"] = str(os.fstat(content.fileno()).st_size)
    return _SentFile(content, headers)


class _SentFile(StreamingResponse):
    """An open file, which is closed whether the client takes all of it or leaves."""

    def __init__(self, file: BinaryIO, headers: dict[str, str]) -> None:
        super().__init__(_parts(file), headers=headers)
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._file.close()


def _parts(file: BinaryIO) -> Iterator[bytes]:
    while part := file.read(PART_BYTES):
        yield part


def names(if_none_match: str, digest: str) -> bool:
    """Whether the header names this digest, strongly or weakly, or everything."""
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return "*" in tags or f'"{digest}"' in tags
