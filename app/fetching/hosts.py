"""Politeness: a few connections to one host at a time, and none while it asks for rest."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PER_HOST = 4
POLL_S = 0.2


class Hosts:
    """Turns of hosts; methods may be called from several threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._busy: Counter[str] = Counter()
        self._rest_until: dict[str, float] = {}

    @contextmanager
    def turn(self, host: str, stopped: Callable[[], bool]) -> Iterator[None]:
        """Wait until the host may be asked. Raises InterruptedError once `stopped()`."""
        with self._changed:
            while self._busy[host] >= PER_HOST or self._resting_s(host) > 0:
                if stopped():
                    raise InterruptedError("stopped while it waited for a host")
                self._changed.wait(min(POLL_S, self._resting_s(host) or POLL_S))
            self._busy[host] += 1
        try:
            yield
        finally:
            with self._changed:
                self._busy[host] -= 1
                if not self._busy[host]:
                    del self._busy[host]
                self._changed.notify_all()

    def pause(self, host: str, seconds: float) -> None:
        """Leave a host alone for so long, from now on."""
        with self._changed:
            until = time.monotonic() + seconds
            self._rest_until[host] = max(until, self._rest_until.get(host, 0.0))

    def _resting_s(self, host: str) -> float:
        left = self._rest_until.get(host, 0.0) - time.monotonic()
        if left <= 0:
            self._rest_until.pop(host, None)
        return max(0.0, left)
