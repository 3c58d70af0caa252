"""What keys are good for."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum


class Scope(StrEnum):
    """What a key is good for; each includes those before it."""

    SEARCH = "search"
    WRITE = "write"
    ADMIN = "admin"


def included(scopes: Collection[Scope]) -> tuple[Scope, ...]:
    """All scopes that `scopes` amount to, the lowest first."""
    order = list(Scope)
    highest = max((order.index(scope) for scope in scopes), default=-1)
    return tuple(order[: highest + 1])
