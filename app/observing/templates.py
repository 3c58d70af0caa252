"""The routes that requests are counted under: few, whatever addresses are asked for."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from re import Pattern
from typing import Any

from fastapi.routing import iter_route_contexts
from starlette.routing import BaseRoute
from starlette.types import Scope

UNKNOWN = "(none)"
"""Addresses that no route has."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER = "OTHER"
"""Methods are made up by clients, too."""


class Templates:
    """Finds `/images/{image_id}` for `/images/beach.jpg`.

    By itself, as a request that is refused before it is routed has no route yet.
    """

    def __init__(self, routes: Iterable[BaseRoute]) -> None:
        """`routes` are looked at at the first request, when all are there."""
        self._routes = routes

    @cached_property
    def _known(self) -> list[tuple[frozenset[str] | None, Pattern[str], str]]:
        contexts: Any = iter_route_contexts(list(self._routes))
        return [
            (
                frozenset(route.methods) if route.methods else None,
                route.path_regex,
                # A folder of files is one, whatever is asked for in it.
                route.path_format if route.methods else route.path,
            )
            for route in contexts
        ]

    def of(self, scope: Scope) -> str:
        """The template for a request; of several for one address that with its method."""
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        found = None
        for methods, pattern, template in self._known:
            if pattern.match(path):
                if methods is None or scope["method"] in methods:
                    return template
                found = found or template
        return found or UNKNOWN


def method_of(scope: Scope) -> str:
    return scope["method"] if scope["method"] in METHODS else OTHER
