"""A server that stops with grace: it finishes what it accepted, within bounds."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import uvicorn

from app.admission import Admission

log = logging.getLogger(__name__)

KEEP_ALIVE_S = 75
"""Longer than proxies keep a connection (nginx 60): who closes first must not be who is asked."""
LAST_ANSWERS_S = 5
"""For what is sent already when all requests with a body are answered: downloads, events."""


class Server(uvicorn.Server):
    """On the first SIGTERM or SIGINT it goes on listening, refuses what is new (503, `/readyz`
    too), and ends once all that was accepted is answered, or has had `stop_s`. So it does by itself
    once `lost` says why it cannot go on: what runs services starts it anew."""

    def __init__(
        self,
        config: uvicorn.Config,
        admission: Admission,
        *,
        stop_s: float,
        lost: Callable[[], str | None] = lambda: None,
    ) -> None:
        super().__init__(config)
        # Else a request begins with what was set for the one before it on the same connection: its
        # deadline, its trace.
        config.reset_contextvars = True
        self._admission = admission
        self._stop_s = stop_s
        self._lost = lost
        self.failed = False
        """Whether it ended by itself."""
        self._until: float | None = None

    async def on_tick(self, counter: int) -> bool:
        if not self.failed and (why := self._lost()) is not None:
            log.critical("the service ends: %s", why)
            self.failed = self.should_exit = True
        if not await super().on_tick(counter):
            return False
        if self._until is None:
            self._admission.drain()
            self._until = time.monotonic() + self._stop_s
        if time.monotonic() >= self._until:
            self._admission.end_all()
            return True
        return self.force_exit or not len(self._admission)
