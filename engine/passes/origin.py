"""For whom something is done: which requests and jobs, so that log lines can name them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Origin = tuple[tuple[str, str], ...]
"""What asked, with its id: `("request_id", "4711")`; several pairs where work is shared."""

_ORIGIN: ContextVar[Origin] = ContextVar("origin", default=())


def origin() -> Origin:
    """Whom the work at hand is for; empty where nobody said."""
    return _ORIGIN.get()


def set_origin(kind: str, name: str) -> None:
    """All that follows in this context is for `name`."""
    _ORIGIN.set(((kind, name),))


@contextmanager
def working_for(asked: Iterable[Origin]) -> Iterator[None]:
    """Within, work is for all of them, each named once."""
    token = _ORIGIN.set(tuple(dict.fromkeys(pair for one in asked for pair in one)))
    try:
        yield
    finally:
        _ORIGIN.reset(token)
