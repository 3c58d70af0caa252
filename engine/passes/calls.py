"""Somebody who waits for an answer: until when, and whether they still do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from engine.errors import DeadlineExceeded
from engine.passes.stages import note
from engine.passes.waiting_line import Waiting

Result = TypeVar("Result")

_CURRENT: ContextVar[Call | None] = ContextVar("call", default=None)


class Call:
    """One question with its deadline. Whoever asked may leave before it is answered.

    It travels in the context of the caller's thread (`current_call`), so that what is computed for
    it, however deep, can be given up. Methods may be called from several threads.
    """

    def __init__(self, seconds: float) -> None:
        """Begins now and lasts `seconds`."""
        self.seconds = seconds
        self.deadline = time.monotonic() + seconds
        self._lock = threading.Lock()
        self._waiting: set[Future[object]] = set()
        self._reason: Callable[[], Exception] | None = None

    @property
    def remaining(self) -> float:
        """Seconds that are left, not below 0."""
        return max(0.0, self.deadline - time.monotonic())

    @property
    def over(self) -> bool:
        """Whether nobody waits any more: `check` says why."""
        return self._reason is not None or self.remaining == 0.0

    def end(self, reason: Callable[[], Exception]) -> None:
        """Nobody waits any more: what has not begun is cancelled, `check` and `wait` raise what
        `reason` makes."""
        with self._lock:
            self._reason = self._reason or reason
            waiting = list(self._waiting)
        for future in waiting:
            future.cancel()

    def check(self) -> None:
        """Raises the reason for which the call was ended, or DeadlineExceeded."""
        if self._reason is not None:
            raise self._reason()
        if self.remaining == 0.0:
            raise self.late()

    def late(self) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"there was no answer within {self.seconds:g} s; try again later, or allow more time"
        )

    def wait(self, future: Future[Result]) -> Result:
        """The result of `future`, which is cancelled if the call ends before it.

        Raises: its exception, the reason for which the call was ended, or DeadlineExceeded.
        """
        with self._lock:
            ended = self._reason
            self._waiting.add(future)  # type: ignore[arg-type]
        try:
            if ended is not None:
                raise ended()
            return future.result(self.remaining)
        except (FutureTimeout, CancelledError) as error:
            if future.done() and not future.cancelled():
                return future.result()  # at the last moment, or a time-out of the work itself
            self.check()
            raise self.late() from error
        finally:
            future.cancel()
            with self._lock:
                self._waiting.discard(future)

    def wait_in_line(self, waiting: Waiting[Result]) -> Result:
        """As `wait`; until its turn the time is noted as `queue`, then as `describe`."""
        since = time.perf_counter()
        try:
            return self.wait(waiting)
        finally:
            ended = time.perf_counter()
            began = ended if waiting.began is None else min(max(waiting.began, since), ended)
            note("queue", since, began)
            if waiting.began is not None:
                note("describe", began, ended)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Within, `current_call` is this one, in threads that copy the context, too."""
        token = _CURRENT.set(self)
        try:
            yield
        finally:
            _CURRENT.reset(token)


def current_call(seconds: float) -> Call:
    """The call that is answered here; outside of any a new one of `seconds`."""
    return _CURRENT.get() or Call(seconds)
