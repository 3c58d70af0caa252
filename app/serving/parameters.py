"""Addresses and their parameters: what nobody knows is refused, not ignored."""

from __future__ import annotations

import difflib

from fastapi import FastAPI, HTTPException, Request

from app.errors import InvalidFields, pointer_to
from engine.ingest import RESERVED_SUFFIXES


class OnlyShown(HTTPException):
    """An address that shows something of an image and is none itself."""


async def image_address(request: Request) -> None:
    """A dependency of routes. Raises OnlyShown for `/images/a/thumbnail` and the like: no image
    has such an id, whatever takes all addresses below `/images/`."""
    request.scope["caller"].check_known()  # before telling a stranger anything
    changes = request.method not in ("GET", "HEAD")
    if changes and request.url.path.endswith(RESERVED_SUFFIXES):
        raise OnlyShown(405, "it can only be read", {"Allow": "GET"})


async def known_parameters(request: Request) -> None:
    """A dependency of routes. Raises InvalidFields that suggests the nearest name."""
    given = request.query_params
    if not given:
        return
    known = _documented(request.app, request.scope["route"].path_format, request.method.lower())
    entries = [
        {"pointer": pointer_to(name), "detail": f"unknown parameter; {_hint(name, known)}"}
        for name in dict.fromkeys(given)
        if name not in known
    ]
    if entries:
        raise InvalidFields(entries)


def _documented(app: FastAPI, path: str, method: str) -> tuple[str, ...]:
    """Names that the OpenAPI document has for this operation."""
    if not hasattr(app.state, "parameters"):
        app.state.parameters = {}
    known: dict[tuple[str, str], tuple[str, ...]] = app.state.parameters
    if (path, method) not in known:
        known[path, method] = _read(app, path, method)
    return known[path, method]


def _read(app: FastAPI, path: str, method: str) -> tuple[str, ...]:
    operation = app.openapi()["paths"].get(path, {}).get(method, {})
    return tuple(
        parameter["name"]
        for parameter in operation.get("parameters", [])
        if parameter["in"] == "query"
    )


def _hint(name: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"did you mean `{near[0]}`?"
    return f"known are {', '.join(known)}" if known else "this address takes none"
