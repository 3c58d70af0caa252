"""What waits for the model: who is next, and who may share their forward pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Generic, TypeVar

from engine.errors import DeadlineExceeded
from engine.passes.origin import Origin, origin

Item = TypeVar("Item")
Result = TypeVar("Result")

SEARCHES_IN_A_ROW = 8
"""Passes of searches before one of bulk work that waits: a flood of searches slows it down, by a
ninth of the passes that it needs, and never stops it."""


class Priority(IntEnum):
    """Searches go before bulk work."""

    SEARCH = 0
    BULK = 1


class Waiting(Future[Result]):
    """What becomes of an entry, and since when it has been worked on."""

    began: float | None = None
    """A time of `time.perf_counter`; None while it waits."""

    def set_running_or_notify_cancel(self) -> bool:
        # Before: whoever waits may be told at once.
        self.began = time.perf_counter()
        running = super().set_running_or_notify_cancel()
        if not running:
            self.began = None
        return running


@dataclass(eq=False)
class Entry(Generic[Item, Result]):
    """An item that waits. Items of one `kind` may share a call; `size` is in bytes, `deadline` a
    time of `time.monotonic`, `origin` whom it is for."""

    item: Item
    kind: Hashable
    size: int
    priority: Priority
    deadline: float
    future: Waiting[Result] = field(default_factory=Waiting)
    origin: Origin = field(default_factory=origin)

    def alive(self, now: float) -> bool:
        return self.deadline > now and not self.future.cancelled()


class WaitingLine(Generic[Item, Result]):
    """Entries in the order of their arrival. The oldest decides the kind of the next batch, its
    company is taken from behind it, so nobody waits longer than for those who came before.

    Not for several threads: its owner has a lock.
    """

    def __init__(self) -> None:
        self._lines: dict[Priority, list[Entry[Item, Result]]] = {p: [] for p in Priority}
        self._in_a_row = 0
        self.size = 0
        """Bytes of all that wait."""
        self.cancelled = 0
        """Entries that were left out as nobody waited for them any more."""
        self.expired = 0
        """Entries that were left out as their deadline had passed."""

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def count(self, priority: Priority) -> int:
        return len(self._lines[priority])

    def add(self, entry: Entry[Item, Result]) -> None:
        self._lines[entry.priority].append(entry)
        self.size += entry.size

    def company(self) -> tuple[Item, int] | None:
        """The item that is next, and how many of its kind wait, it included."""
        self.sweep()
        line = self._next_line()
        if not line:
            return None
        return line[0].item, sum(entry.kind == line[0].kind for entry in line)

    def take(self, max_batch: Callable[[Item], int]) -> list[Entry[Item, Result]]:
        """Remove the next batch, of one kind; all of it has been set running.

        Args:
            max_batch: how many items like the given one share a call.
        """
        while True:
            self.sweep()
            line = self._next_line()
            if not line:
                return []
            priority, kind = line[0].priority, line[0].kind
            most = max(1, max_batch(line[0].item))
            batch: list[Entry[Item, Result]] = []
            rest: list[Entry[Item, Result]] = []
            for entry in line:
                (batch if entry.kind == kind and len(batch) < most else rest).append(entry)
            self._lines[priority] = rest
            self.size -= sum(entry.size for entry in batch)
            # Cancelled since the sweep: their callers may leave at any moment.
            live = [entry for entry in batch if entry.future.set_running_or_notify_cancel()]
            self.cancelled += len(batch) - len(live)
            if live:
                searches = priority is Priority.SEARCH and self._lines[Priority.BULK]
                self._in_a_row = self._in_a_row + 1 if searches else 0
                return live

    def sweep(self) -> None:
        """Leave out what nobody waits for; whose deadline has passed is told so."""
        now = time.monotonic()
        for priority, line in self._lines.items():
            if all(entry.alive(now) for entry in line):
                continue
            self._lines[priority] = [entry for entry in line if entry.alive(now)]
            for entry in line:
                if not entry.alive(now):
                    self.size -= entry.size
                    self._leave_out(entry)

    def _leave_out(self, entry: Entry[Item, Result]) -> None:
        if entry.future.set_running_or_notify_cancel():
            self.expired += 1
            entry.future.set_exception(
                DeadlineExceeded("the deadline passed while the image waited; try again later")
            )
        else:
            self.cancelled += 1

    def _next_line(self) -> list[Entry[Item, Result]]:
        searches, bulk = self._lines[Priority.SEARCH], self._lines[Priority.BULK]
        bulk_is_due = bulk and self._in_a_row >= SEARCHES_IN_A_ROW
        return bulk if bulk_is_due or not searches else searches
