"""What one fetch may take, over all its redirects."""

from __future__ import annotations

import time
from collections.abc import Callable

from app.fetching.failures import Failed


class Budget:
    """Seconds and bytes that are left."""

    def __init__(self, seconds: float, bytes_left: int, stopped: Callable[[], bool]) -> None:
        self._ends = time.monotonic() + seconds
        self._seconds = seconds
        self._bytes = bytes_left
        self._stopped = stopped

    def seconds(self) -> float:
        """What is left, more than 0. Raises Failed, or InterruptedError if it was stopped."""
        if self._stopped():
            raise InterruptedError("stopped while a URL was fetched")
        left = self._ends - time.monotonic()
        if left <= 0:
            raise Failed(f"did not answer in full within {self._seconds:g} s", transient=True)
        return left

    def spend(self, received: int) -> None:
        """Count bytes of the network, headers and framing with them. Raises Failed."""
        self._bytes -= received
        if self._bytes < 0:
            raise Failed("sent far more than an image")
