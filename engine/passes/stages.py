"""Where the time of an answer goes: named stages, noted wherever they happen."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

_CURRENT: ContextVar[Stages | None] = ContextVar("stages", default=None)


@dataclass(frozen=True)
class Interval:
    """One stage, once: from `began` to `ended`, seconds of `time.perf_counter`."""

    name: str
    began: float
    ended: float


class Stages:
    """The stages of one answer. Of the time of whoever waits for it, each second counts once.

    Travels in the context, like a `Call`; noted by one thread at a time.
    """

    def __init__(self, *expected: str) -> None:
        """`expected` are counted as 0 where they turn out not to be needed."""
        self.seconds: dict[str, float] = dict.fromkeys(expected, 0.0)
        self.intervals: list[Interval] = []

    def add(self, name: str, began: float, ended: float) -> None:
        """Note a stage by its two times of `time.perf_counter`."""
        self.seconds[name] = self.seconds.get(name, 0.0) + ended - began
        self.intervals.append(Interval(name, began, ended))

    def milliseconds(self) -> dict[str, float]:
        return {name: 1000 * seconds for name, seconds in self.seconds.items()}

    @contextmanager
    def current(self) -> Iterator[None]:
        """Within, stages are noted here, in threads that copy the context, too."""
        token = _CURRENT.set(self)
        try:
            yield
        finally:
            _CURRENT.reset(token)

    def _include(self, part: Stages) -> None:
        for name, seconds in part.seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        self.intervals += part.intervals


@contextmanager
def stages(*expected: str) -> Iterator[Stages]:
    """What is noted within; it counts as part of what is around it, too."""
    around, within = _CURRENT.get(), Stages(*expected)
    try:
        with within.current():
            yield within
    finally:
        if around is not None:
            around._include(within)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Note what happens within as one stage, whether it succeeds or not."""
    began = time.perf_counter()
    try:
        yield
    finally:
        note(name, began, time.perf_counter())


def note(name: str, began: float, ended: float) -> None:
    """Note a stage of the answer that is made here; nothing where none is."""
    current = _CURRENT.get()
    if current is not None:
        current.add(name, began, ended)
