"""Progress of jobs as server-sent events."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.concurrency import run_in_threadpool

from app.errors import UnknownJob
from app.schemas import JobOut
from engine.errors import EngineError

POLL_S = 0.25
KEEP_ALIVE_S = 15.0
"""Proxies take a connection for dead that has been silent for longer, often a minute."""
RECONNECT_MS = 2000
ENDED = frozenset({"succeeded", "partial", "failed", "cancelled"})


def event_id(job: JobOut) -> str:
    """Names this state of the job, so that a client that comes back is not told it again."""
    return hashlib.sha256(job.model_dump_json().encode()).hexdigest()[:16]


class Watch:
    """Looks at each watched job, once for all who listen to it, in one thread for a moment."""

    def __init__(self, look: Callable[[str], JobOut]) -> None:
        self._look = look
        self._seen: dict[str, tuple[float, JobOut]] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._listening: dict[str, int] = {}

    async def look(self, job_id: str) -> JobOut:
        """The job as it was at most `POLL_S` ago. Raises as `Jobs.get` does."""
        async with self._locks.setdefault(job_id, asyncio.Lock()):
            seen = self._seen.get(job_id)
            if seen is None or time.monotonic() - seen[0] >= POLL_S:
                job = await run_in_threadpool(self._look, job_id)
                seen = time.monotonic(), job
                self._seen[job_id] = seen
            return seen[1]

    async def events(
        self, job_id: str, last_id: str | None, stopping: Callable[[], bool]
    ) -> AsyncIterator[bytes]:
        """`progress` whenever the job has changed, then `end`; comments while nothing happens.

        Each has the whole job, so what was missed while a client was away does not matter. The
        stream ends without `end` once `stopping()`: the client comes back by itself, and is told
        why.
        """
        self._listening[job_id] = self._listening.get(job_id, 0) + 1
        try:
            # At once, so that proxies pass the head of the answer on.
            yield format_sse_event(retry=RECONNECT_MS, comment="progress of a job")
            said = time.monotonic()
            while not stopping():
                try:
                    job = await self.look(job_id)
                except (EngineError, UnknownJob):
                    return  # forgotten meanwhile: asking again tells why
                current = event_id(job)
                ended = job.state in ENDED
                if current != last_id or ended:
                    kind = "end" if ended else "progress"
                    yield format_sse_event(data_str=job.model_dump_json(), event=kind, id=current)
                    last_id, said = current, time.monotonic()
                if ended:
                    return
                if time.monotonic() - said >= KEEP_ALIVE_S:
                    yield KEEPALIVE_COMMENT
                    said = time.monotonic()
                await asyncio.sleep(POLL_S)
        finally:
            self._listening[job_id] -= 1
            if not self._listening[job_id]:
                for kept in (self._listening, self._seen, self._locks):
                    kept.pop(job_id, None)
