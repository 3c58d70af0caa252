"""Politeness: a few connections to one host at a time, and none while it asks for rest.

And patience: a host that does not answer at all is given up, so that it holds up no others.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PER_HOST = 4
POLL_S = 0.2
PATIENCE_S = 60.0
"""How long a host may be silent before it is given up, and how often it is tried after that."""
MAX_RESTING = 1024
"""Hosts that are remembered beyond their rest."""


class Hosts:
    """Turns of hosts; methods may be called from several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._silent: dict[str, tuple[float, float]] = {}
        """When it was noticed first, and last, that a host does not answer."""
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
            now = self._clock()
            if len(self._rest_until) >= MAX_RESTING:
                self._rest_until = {name: t for name, t in self._rest_until.items() if t > now}
            self._rest_until[host] = max(now + seconds, self._rest_until.get(host, 0.0))

    def noted(self, host: str, *, answers: bool) -> None:
        """What became of asking it."""
        with self._changed:
            if answers:
                self._silent.pop(host, None)
            else:
                now = self._clock()
                self._silent[host] = self._silent.get(host, (now, now))[0], now

    def given_up(self, host: str) -> bool:
        """Whether it has been silent for so long that it is not to be asked now."""
        with self._changed:
            if host not in self._silent:
                return False
            first, last = self._silent[host]
            now = self._clock()
            if last - first < PATIENCE_S:
                return False
            if now - last < PATIENCE_S:
                return True
            self._silent[host] = first, now  # whoever asked this tries it again
            return False

    def forgive(self) -> None:
        """Give up no host for what was before."""
        with self._changed:
            self._silent.clear()

    def _resting_s(self, host: str) -> float:
        left = self._rest_until.get(host, 0.0) - self._clock()
        if left <= 0:
            self._rest_until.pop(host, None)
        return max(0.0, left)
