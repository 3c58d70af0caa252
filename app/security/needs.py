"""What a route needs, said where the route is declared."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Annotated

from fastapi import Depends, FastAPI, Request, Security
from fastapi.params import Depends as Dependency
from fastapi.params import Security as SecurityDependency
from fastapi.routing import iter_route_contexts
from fastapi.security import APIKeyCookie, APIKeyHeader, HTTPBearer, SecurityScopes
from starlette.requests import HTTPConnection

from app.security.scopes import Scope

COOKIE = "cooc_session"


def cookie_for(request: HTTPConnection) -> str:
    """The name of the cookie at the address by which a browser knows this service.

    Browsers send a cookie to all ports of a host, and to all paths below its own: without these in
    its name, the services of one machine would sign each other out.
    """
    port = re.search(r":(\d+)$", request.headers.get("host", ""))
    prefix = re.sub(r"[^A-Za-z0-9]+", "_", request.scope.get("root_path", "")).strip("_")
    return "_".join(part for part in (COOKIE, port and port[1], prefix) if part)


BEARER = HTTPBearer(
    scheme_name="bearer", auto_error=False, description="`Authorization: Bearer cooc_...`"
)
HEADER = APIKeyHeader(
    name="X-API-Key", scheme_name="header", auto_error=False, description="The key alone."
)
SESSION = APIKeyCookie(
    name=COOKIE,
    scheme_name="session",
    auto_error=False,
    description="For the page: `POST /session` sets it. Its name ends with the port and the path "
    "prefix, where there are any.",
)


async def let_in(
    needed: SecurityScopes,
    request: Request,
    # These three only write the document: `Callers` has read the key already.
    _bearer: Annotated[object, Depends(BEARER)],
    _header: Annotated[object, Depends(HEADER)],
    _session: Annotated[object, Depends(SESSION)],
) -> None:
    """Raises what keeps the caller from this route: KeyRequired, KeyRefused, ScopeMissing, ..."""
    for scope in needed.scopes:
        request.scope["caller"].check(Scope(scope))


async def anybody() -> None:
    """Lets everybody in."""


def needs(scope: Scope) -> Dependency:
    """For `dependencies=[...]` of a route, or of a router whose routes all need the same."""
    declaration: Dependency = Security(let_in, scopes=[scope.value])
    return declaration


ANYBODY = Depends(anybody)
"""In the place of `needs` for a route that tells nothing of the collection."""


def check_declared(app: FastAPI, *, without: Collection[str]) -> None:
    """A route that forgets to say what it needs would be open: such a service must not start.

    Args:
        without: paths of pages and folders of files, which cannot declare anything.

    Raises: RuntimeError that names the route.
    """
    for route in iter_route_contexts(app.routes):
        declared = getattr(route, "dependencies", None) or ()
        if route.path in without or any(_is_declaration(entry) for entry in declared):
            continue
        methods = ", ".join(sorted(route.methods or {"any method"}))
        raise RuntimeError(
            f"{methods} {route.path} does not say who may use it; declare it with "
            "dependencies=[needs(Scope.SEARCH)], WRITE or ADMIN, or [ANYBODY] (app.security.needs)"
        )


def _is_declaration(entry: Dependency) -> bool:
    if isinstance(entry, SecurityDependency):
        return entry.dependency is let_in and bool(entry.scopes)
    return entry.dependency is anybody
