"""Who is let in: a bounded number of requests with bounded bytes, and nobody while it stops."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from app.errors import ShuttingDown
from engine.calls import Call
from engine.errors import Overloaded


class Held:
    """Bytes that one request may hold in memory; they can grow while it arrives."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self.bytes = 0

    def grow(self, size: int) -> None:
        """Raises Overloaded if all requests together would then hold too much."""
        if self._admission.bytes_held > self.bytes:  # it is not alone
            self._admission.check_bytes(size)
        self.bytes += size
        self._admission.bytes_held += size


class Admission:
    """Requests with a body, from their first byte to their answer. For one event loop.

    Refusing costs nothing: it is decided before a body is read.
    """

    def __init__(
        self, *, max_requests: int, max_bytes: int, retry_after: Callable[[], int] = lambda: 1
    ) -> None:
        """
        Args:
            max_bytes: that all of them may hold together. A lone request may hold more.
            retry_after: seconds after which a refused one may try again.
        """
        self._max_requests, self._max_bytes = max_requests, max_bytes
        self._retry_after = retry_after
        self._calls: set[Call] = set()
        self.draining = False
        self.bytes_held = 0
        self.accepted = self.refused = self.left = self.late = 0
        """Counts so far: `left` are clients that did not wait, `late` uploads took too long."""

    def __len__(self) -> int:
        """Requests that are being answered."""
        return len(self._calls)

    @contextmanager
    def request(self, call: Call) -> Iterator[Held]:
        """Answer one request within. Raises Overloaded, ShuttingDown."""
        if self.draining:
            raise shutting_down()
        if len(self._calls) >= self._max_requests:
            raise self._overloaded(f"{len(self._calls)} requests are being answered already")
        held = Held(self)
        self._calls.add(call)
        try:
            yield held
        finally:
            self._calls.discard(call)
            self.bytes_held -= held.bytes

    def check_bytes(self, more: int) -> None:
        """Raises Overloaded unless `more` bytes fit beside what is held."""
        if self.bytes_held + more > self._max_bytes:
            raise self._overloaded(f"uploads of {self.bytes_held >> 20:,} MB are in hand already")

    def drain(self) -> None:
        """Take nothing new from now on."""
        self.draining = True

    def end_all(self) -> None:
        """Give up what is still being answered: it has had its time."""
        for call in list(self._calls):
            call.end(shutting_down)

    def _overloaded(self, why: str) -> Overloaded:
        self.refused += 1
        wait_s = self._retry_after()
        return Overloaded(f"{why}; try again in {wait_s} s", retry_after_s=wait_s)


def shutting_down() -> ShuttingDown:
    return ShuttingDown("the service is being stopped; try again in a few seconds")
