"""Joins what several callers ask for into one forward pass."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Generic, TypeVar

from engine.errors import Overloaded

Item = TypeVar("Item")
Result = TypeVar("Result")


class Priority(IntEnum):
    """Searches go before bulk work."""

    SEARCH = 0
    BULK = 1


@dataclass(order=True)
class _Entry(Generic[Item, Result]):
    priority: int
    order: int
    item: Item = field(compare=False)
    future: Future[Result] = field(compare=False)


class Batcher(Generic[Item, Result]):
    """One worker thread before `handle`, which takes a list of items and answers in order.

    Each caller holds a future of its own. If `handle` fails for a batch, every item is tried
    alone, so that each caller gets its own result or its own exception. Entries whose caller
    cancelled are skipped.
    """

    def __init__(
        self,
        handle: Callable[[list[Item]], Sequence[Result]],
        *,
        max_batch: int = 8,
        max_wait_ms: float = 2.0,
        max_queue: int = 256,
    ) -> None:
        """
        Args:
            handle: called in the worker thread with 1 to `max_batch` items.
            max_wait_ms: how long a lone item waits for company.
            max_queue: items that may wait; beyond it `submit` raises Overloaded.
        """
        self._handle = handle
        self._max_batch, self._max_wait_s = max_batch, max_wait_ms / 1000
        self._max_queue = max_queue
        self._order = itertools.count()
        self._heap: list[_Entry[Item, Result]] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    def submit(self, item: Item, priority: Priority = Priority.SEARCH) -> Future[Result]:
        """Queue an item. Raises Overloaded when the queue is full, RuntimeError when closed."""
        future: Future[Result] = Future()
        with self._changed:
            if self._closed:
                raise RuntimeError("the batcher is closed")
            if len(self._heap) >= self._max_queue:
                # Callers that gave up do not count.
                self._heap = [entry for entry in self._heap if not entry.future.cancelled()]
                heapq.heapify(self._heap)
            if len(self._heap) >= self._max_queue:
                raise Overloaded(
                    f"{len(self._heap)} images are waiting for the model already; try again",
                    retry_after_s=2,
                )
            heapq.heappush(self._heap, _Entry(priority, next(self._order), item, future))
            self._changed.notify()
        return future

    def __len__(self) -> int:
        """Items that wait."""
        return len(self._heap)

    def close(self) -> None:
        """Finish what was accepted, then stop the worker."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._next_batch():
            live = [entry for entry in batch if entry.future.set_running_or_notify_cancel()]
            if live:
                self._answer(live)

    def _next_batch(self) -> list[_Entry[Item, Result]]:
        """Wait for items; an empty list means closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._heap or self._closed)
            deadline = time.monotonic() + self._max_wait_s
            while len(self._heap) < self._max_batch and not self._closed:
                remaining = deadline - time.monotonic()
                if remaining <= 0 or not self._changed.wait(remaining):
                    break
            size = min(self._max_batch, len(self._heap))
            return [heapq.heappop(self._heap) for _ in range(size)]

    def _answer(self, entries: list[_Entry[Item, Result]]) -> None:
        try:
            results = self._handle([entry.item for entry in entries])
            if len(results) != len(entries):
                raise RuntimeError(f"{len(results)} results for {len(entries)} items")
        # Whatever it was, it belongs to a caller; a worker that dies would hang all of them.
        except Exception as error:  # noqa: BLE001
            if len(entries) == 1:
                entries[0].future.set_exception(error)
                return
            for entry in entries:
                self._answer([entry])
            return
        for entry, result in zip(entries, results, strict=True):
            entry.future.set_result(result)
