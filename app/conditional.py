"""Answers that are not sent again to whoever has them."""

from __future__ import annotations

from fastapi import Request, Response


def conditional(request: Request, content: bytes, digest: str, headers: dict[str, str]) -> Response:
    """`content` under the ETag `digest`; 304 without it to whoever names that (RFC 9110, 13.1.2).

    Args:
        headers: of the answer; its `Content-Type` among them.
    """
    # What is under an address may be replaced, so it has to be asked for again.
    headers = {**headers, "ETag": f'"{digest}"', "Cache-Control": "no-cache"}
    if names(request.headers.get("if-none-match", ""), digest):
        headers.pop("Content-Type", None)
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers)


def names(if_none_match: str, digest: str) -> bool:
    """Whether the header names this digest, strongly or weakly, or everything."""
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return "*" in tags or f'"{digest}"' in tags
