"""Joins what several callers ask for into one forward pass."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Generic, TypeVar

from engine.errors import Overloaded
from engine.passes.origin import working_for
from engine.passes.waiting_line import Entry, Priority, Waiting, WaitingLine

__all__ = ["Batcher", "Load", "Priority"]

Item = TypeVar("Item")
Result = TypeVar("Result")

BULK_WAITING = 64
"""Items of bulk work that may wait. Few, so that they take no room from searches."""
SMOOTHING = 0.1
"""Weight of the newest batch in the mean time of an item."""
MARGIN = 1.5
"""What is waited for may take so many times as long as estimated."""
MAX_RETRY_S = 120


@dataclass(frozen=True)
class Load:
    """What the queue has seen so far, and what it holds now."""

    waiting_searches: int
    waiting_bulk: int
    waiting_bytes: int
    expected: int
    """Items that are being prepared by callers who will submit them."""
    in_hand: int
    """Items that are being worked on."""
    accepted: int
    refused: int
    cancelled: int
    expired: int
    done: int
    failed: int
    batch_sizes: dict[int, int]
    """How many calls there were of each number of items."""
    seconds_each: float | None
    """Mean time of an item, of all workers together; None before the first."""


class Batcher(Generic[Item, Result]):
    """One bounded queue before several workers, each a thread that calls its own function.

    A function takes a list of items of one kind and answers in order. Each caller holds a future
    of its own. If a call fails for a batch, every item is tried alone, so that each caller gets
    its own result or its own exception. Entries whose caller cancelled, or whose deadline has
    passed, are skipped.
    """

    def __init__(
        self,
        workers: Sequence[Callable[[list[Item]], Sequence[Result]]],
        *,
        together: int = 1,
        told: Callable[[bool], AbstractContextManager[None]] = lambda _: nullcontext(),
        max_batch: Callable[[Item], int] = lambda _: 8,
        kind: Callable[[Item], Hashable] = lambda _: None,
        size: Callable[[Item], int] = lambda _: 0,
        max_wait_ms: float = 2.0,
        max_queue: int = 256,
        max_bytes: int = 1 << 30,
    ) -> None:
        """
        Args:
            workers: each is called in a thread of its own, with 1 to `max_batch` items.
            together: if more than 1, they share one processor: a second one begins only where so
                many items wait or are worked on.
            told: around each call, whether it is the only one and nothing waits.
            max_batch: how many items like the given one share a call.
            kind: items share a call if this is equal for them.
            size: bytes of an item.
            max_wait_ms: how long an item waits for others that are being prepared (`expecting`);
                where there are none it is worked on at once.
            max_queue: searches that may wait; beyond it `submit` raises Overloaded.
            max_bytes: of all that wait. A lone item may always wait.
        """
        self._max_batch, self._kind, self._size = max_batch, kind, size
        self._max_wait_s = max_wait_ms / 1000
        self._max_queue, self._max_bytes = max_queue, max_bytes
        self._together, self._told = together, told
        self._changed = threading.Condition()
        self._line: WaitingLine[Item, Result] = WaitingLine()
        self._closed = False
        self._expected = self._in_hand = self._busy = 0
        self._accepted = self._refused = self._done = self._failed = 0
        self._batch_sizes: Counter[int] = Counter()
        self._seconds_each: float | None = None
        self._threads = [
            threading.Thread(target=self._work, args=(work,), name=f"engine-{n}", daemon=True)
            for n, work in enumerate(workers)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, item: Item, *, deadline: float = math.inf) -> Waiting[Result]:
        """Queue an item that somebody waits for.

        Args:
            deadline: a time of `time.monotonic` after which it is not worked on.

        Raises: Overloaded when the queue is full, or so long that the item would be too late;
            RuntimeError when closed.
        """
        entry = self._entry(item, Priority.SEARCH, deadline)
        with self._changed:
            self._check_open()
            if not self._has_room(entry):
                self._line.sweep()
            wait_s = self._seconds_until_done()
            if not self._has_room(entry):
                self._refuse(f"{len(self._line)} images are waiting for the model already")
            # If nothing keeps it waiting it is late by itself, and told so by its deadline.
            elif wait_s and time.monotonic() + MARGIN * wait_s > deadline:
                self._refuse(f"the images that wait take about {wait_s:.1f} s, beyond the deadline")
            self._put(entry)
        return entry.future

    def submit_bulk(self, item: Item) -> Waiting[Result]:
        """Queue an item of bulk work, after waiting for room. Raises RuntimeError when closed."""
        entry = self._entry(item, Priority.BULK, math.inf)
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._has_room(entry))
            self._check_open()
            self._put(entry)
        return entry.future

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """While an item is prepared that will be submitted: others wait a little for it."""
        with self._changed:
            self._expected += 1
        try:
            yield
        finally:
            with self._changed:
                self._expected -= 1
                self._changed.notify_all()

    def __len__(self) -> int:
        """Items that wait."""
        return len(self._line)

    @property
    def load(self) -> Load:
        with self._changed:
            return Load(
                waiting_searches=self._line.count(Priority.SEARCH),
                waiting_bulk=self._line.count(Priority.BULK),
                waiting_bytes=self._line.size,
                expected=self._expected,
                in_hand=self._in_hand,
                accepted=self._accepted,
                refused=self._refused,
                cancelled=self._line.cancelled,
                expired=self._line.expired,
                done=self._done,
                failed=self._failed,
                batch_sizes=dict(self._batch_sizes),
                seconds_each=self._seconds_each,
            )

    def retry_after_s(self) -> int:
        """Whole seconds after which about half of what waits now will be done."""
        with self._changed:
            return self._retry_after_s()

    def close(self) -> None:
        """Finish what was accepted, then stop the workers."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    # --- with the lock held ---------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the batcher is closed")

    def _entry(self, item: Item, priority: Priority, deadline: float) -> Entry[Item, Result]:
        return Entry(item, self._kind(item), self._size(item), priority, deadline)

    def _has_room(self, entry: Entry[Item, Result]) -> bool:
        most = self._max_queue if entry.priority is Priority.SEARCH else BULK_WAITING
        fits = not self._line.size or self._line.size + entry.size <= self._max_bytes
        return fits and self._line.count(entry.priority) < most

    def _put(self, entry: Entry[Item, Result]) -> None:
        self._accepted += 1
        self._line.add(entry)
        self._changed.notify_all()

    def _refuse(self, why: str) -> None:
        self._refused += 1
        wait_s = self._retry_after_s()
        raise Overloaded(f"{why}; try again in {wait_s} s", retry_after_s=wait_s)

    def _seconds_until_done(self) -> float:
        """For a search that is submitted now; 0 as long as nothing is known."""
        ahead = self._line.count(Priority.SEARCH) + self._in_hand + 1
        return ahead * (self._seconds_each or 0.0) if ahead > 1 else 0.0

    def _retry_after_s(self) -> int:
        seconds = self._seconds_until_done() / 2
        return max(1, min(MAX_RETRY_S, math.ceil(seconds)))

    # --- workers --------------------------------------------------------------------------

    def _work(self, work: Callable[[list[Item]], Sequence[Result]]) -> None:
        while batch := self._next_batch():
            started, busy = time.monotonic(), self._busy
            with self._told(busy == 1 and not len(self._line)):
                self._answer(work, batch)
            self._finished(len(batch), time.monotonic() - started, busy)

    def _next_batch(self) -> list[Entry[Item, Result]]:
        """Wait for items; an empty list means closed."""
        with self._changed:
            while True:
                self._changed.wait_for(self._has_work)
                self._wait_for_company()
                if not self._has_work():
                    continue  # somebody else took it
                batch = self._line.take(self._max_batch)
                if batch:
                    self._busy += 1
                    self._in_hand += len(batch)
                    self._batch_sizes[len(batch)] += 1
                if batch or (self._closed and not len(self._line)):
                    self._changed.notify_all()
                    return batch

    def _has_work(self) -> bool:
        """Whether one more worker has something to do, or to end."""
        if self._closed or not self._busy:
            return self._closed or len(self._line) > 0
        return len(self._line) > 0 and self._in_hand + len(self._line) >= self._together

    def _wait_for_company(self) -> None:
        until = time.monotonic() + self._max_wait_s
        while self._expected and not self._closed:
            found = self._line.company()
            left = until - time.monotonic()
            if found is None or found[1] >= self._max_batch(found[0]) or left <= 0:
                return
            self._changed.wait(left)

    def _finished(self, items: int, seconds: float, busy: int) -> None:
        with self._changed:
            self._busy -= 1
            self._in_hand -= items
            # Who shares a processor is as fast as all of it when alone.
            each = seconds / items / (busy if self._together > 1 else len(self._threads))
            # The first ones may be slow: a plain mean, until there are enough of them.
            weight = max(SMOOTHING, 1 / sum(self._batch_sizes.values()))
            known = self._seconds_each or 0.0
            self._seconds_each = known + weight * (each - known)
            self._changed.notify_all()

    def _answer(
        self,
        work: Callable[[list[Item]], Sequence[Result]],
        entries: list[Entry[Item, Result]],
    ) -> None:
        try:
            with working_for(entry.origin for entry in entries):
                results = work([entry.item for entry in entries])
            if len(results) != len(entries):
                raise RuntimeError(f"{len(results)} results for {len(entries)} items")
        # Whatever it was, it belongs to a caller; a worker that dies would hang all of them.
        except Exception as error:  # noqa: BLE001
            if len(entries) == 1:
                self._count(failed=1)
                entries[0].future.set_exception(error)
                return
            for entry in entries:
                self._answer(work, [entry])
            return
        self._count(done=len(entries))
        for entry, result in zip(entries, results, strict=True):
            entry.future.set_result(result)

    def _count(self, *, done: int = 0, failed: int = 0) -> None:
        with self._changed:
            self._done += done
            self._failed += failed
