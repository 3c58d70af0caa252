"""Who is let in: a bounded number of requests with bounded bytes, and nobody while it stops."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from app.errors import ShuttingDown
from engine.errors import Overloaded
from engine.passes.calls import Call

SMOOTHING = 0.05
"""Weight of the newest answer in the mean time between two."""
MARGIN = 1.5
"""What is waited for may take so many times as long as estimated."""


class Admitted:
    """One request: the bytes that it may hold in memory, which can grow while it arrives."""

    def __init__(self, admission: Admission, call: Call, *, bulk: bool = False) -> None:
        self._admission = admission
        self.call = call
        self.bulk = bulk
        self.bytes = 0
        self.answered = False
        """Whether it got what it asked for, however that turned out."""

    def grow(self, size: int) -> None:
        """Raises Overloaded if all requests together would then hold too much."""
        self.bytes += self._admission.hold(self, size)

    def begin(self) -> None:
        """Its body is there. Raises Overloaded if the answer would be too late."""
        self._admission.check_time(self.call)
        self._admission.begin(self)


class Admission:
    """Requests with a body, from their first byte to their answer. For one event loop.

    Refusing costs little: most is decided before a body is read, the rest before any work.
    """

    def __init__(
        self,
        *,
        max_requests: int,
        max_bytes: int,
        retry_after: Callable[[], int] = lambda: 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            max_bytes: that all of them may hold together. A lone request may hold more. Bulk
                uploads have half of it: they may take hours to arrive.
            retry_after: seconds after which a refused one may try again.
        """
        self._max_requests, self._max_bytes = max_requests, max_bytes
        self._retry_after, self._clock = retry_after, clock
        self._admitted: set[Admitted] = set()
        self._in_work: set[Admitted] = set()
        self._busy_since = 0.0
        self._last_answer: float | None = None
        self._measured = 0
        self.draining = False
        self.bytes_held = self._bulk_bytes = 0
        self.seconds_each = 0.0
        """Mean time from one answer to the next, while there is always something to do."""
        self.accepted = self.refused = self.left = self.late = 0
        """Counts so far: `left` are clients that did not wait, `late` uploads took too long."""

    def __len__(self) -> int:
        """Requests that are let in and not answered yet."""
        return len(self._admitted)

    @contextmanager
    def request(self, call: Call, *, bulk: bool = False) -> Iterator[Admitted]:
        """Answer one request within. Raises Overloaded, ShuttingDown."""
        if self.draining:
            raise shutting_down()
        if len(self._admitted) >= self._max_requests:
            raise self._overloaded(f"{len(self._admitted)} requests are being answered already")
        self.check_time(call)
        one = Admitted(self, call, bulk=bulk)
        self._admitted.add(one)
        try:
            yield one
        finally:
            self._admitted.discard(one)
            self._give_back(one)
            if one in self._in_work:
                self._end(one)

    def hold(self, one: Admitted, more: int) -> int:
        """Bytes that `one` is taken to hold from now on, besides those that it does. Raises
        Overloaded unless they fit beside what the others hold."""
        if one.bulk:
            # Else a single one would keep all searches out where the bound is low.
            more = min(more, self._max_bytes // 2)
            if self._bulk_bytes > one.bytes and self._bulk_bytes + more > self._max_bytes // 2:
                held = self._bulk_bytes >> 20
                raise self._overloaded(f"bulk uploads of {held:,} MB are in hand already")
        if self.bytes_held > one.bytes and self.bytes_held + more > self._max_bytes:
            raise self._overloaded(f"uploads of {self.bytes_held >> 20:,} MB are in hand already")
        self.bytes_held += more
        self._bulk_bytes += more if one.bulk else 0
        return more

    def _give_back(self, one: Admitted) -> None:
        self.bytes_held -= one.bytes
        self._bulk_bytes -= one.bytes if one.bulk else 0

    def check_time(self, call: Call) -> None:
        """Raises Overloaded if what is in work leaves no time for one more.

        As many as are in work, times the time from one answer to the next, is how long one takes
        (Little's law), whatever it is that takes the time.
        """
        wait_s = len(self._in_work) * self.seconds_each
        if MARGIN * wait_s > call.remaining:
            count = len(self._in_work)
            raise self._overloaded(f"{count} requests take {wait_s:.1f} s, beyond the deadline")

    def begin(self, one: Admitted) -> None:
        if not self._in_work:
            self._busy_since = self._clock()
        self._in_work.add(one)

    def _end(self, one: Admitted) -> None:
        self._in_work.discard(one)
        if one.answered:
            self._learn(self._clock())
        if not self._in_work:
            # From an idle service nothing is learned about how much it could do.
            self._last_answer = None

    def _learn(self, now: float) -> None:
        if self._last_answer is not None:
            self._measured += 1
            weight = max(SMOOTHING, 1 / self._measured)
            self.seconds_each += weight * (now - self._last_answer - self.seconds_each)
        elif (took := now - self._busy_since) < self.seconds_each:
            # The first since it was idle: it can do at least one in that time. Where only one is
            # let in at a time, nothing else would ever correct an estimate that is too long.
            self.seconds_each += SMOOTHING * (took - self.seconds_each)
        self._last_answer = now

    def drain(self) -> None:
        """Take nothing new from now on."""
        self.draining = True

    def end_all(self) -> None:
        """Give up what is still being answered: it has had its time."""
        for one in list(self._admitted):
            one.call.end(shutting_down)

    def _overloaded(self, why: str) -> Overloaded:
        self.refused += 1
        wait_s = self._retry_after()
        return Overloaded(f"{why}; try again in {wait_s} s", retry_after_s=wait_s)


def shutting_down() -> ShuttingDown:
    return ShuttingDown("the service is being stopped; try again in a few seconds")
