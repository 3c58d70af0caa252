"""A server that stops with grace: it finishes what it accepted, within bounds."""

from __future__ import annotations

import time

import uvicorn

from app.admission import Admission

KEEP_ALIVE_S = 75
"""Longer than proxies keep a connection (nginx 60): who closes first must not be who is asked."""
LAST_ANSWERS_S = 5
"""For what is sent already when all requests with a body are answered: downloads, events."""


class Server(uvicorn.Server):
    """On the first SIGTERM or SIGINT it goes on listening, refuses what is new (503, `/readyz`
    too), and ends once all that was accepted is answered, or has had `stop_s`."""

    def __init__(self, config: uvicorn.Config, admission: Admission, *, stop_s: float) -> None:
        super().__init__(config)
        # Else a request begins with what was set for the one before it on the same connection: its
        # deadline, its trace.
        config.reset_contextvars = True
        self._admission = admission
        self._stop_s = stop_s
        self._until: float | None = None

    async def on_tick(self, counter: int) -> bool:
        if not await super().on_tick(counter):
            return False
        if self._until is None:
            self._admission.drain()
            self._until = time.monotonic() + self._stop_s
        if time.monotonic() >= self._until:
            self._admission.end_all()
            return True
        return self.force_exit or not len(self._admission)
