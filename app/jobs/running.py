"""What this process works on at the moment: how far each job is, and which of them shall stop."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from app.schemas import ProgressOut

REMEMBERED = 1000
"""Jobs whose last progress is kept in memory."""


class Stopping(BaseException):
    """Leaves a job as it is: to be taken up later, or to be forgotten if it was cancelled.

    A BaseException, because the job library records every Exception as the job's end.
    """


@dataclass(frozen=True)
class Live:
    """How far a job is. `waiting` says what it waits for, in words for people."""

    progress: ProgressOut
    phase: str | None = None
    waiting: str | None = None


class Running:
    """Jobs at work, each once; methods may be called from several threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._at_work: set[str] = set()
        self._cancelled: set[str] = set()
        self._live: OrderedDict[str, Live] = OrderedDict()

    @property
    def stopping(self) -> threading.Event:
        return self._stopping

    @contextmanager
    def job(self, job_id: str) -> Iterator[None]:
        """Work on a job. Raises Stopping if the service stops, if somebody works on it already, or
        if it was cancelled before."""
        with self._changed:
            if self._stopping.is_set() or job_id in self._at_work | self._cancelled:
                raise Stopping
            self._at_work.add(job_id)
        try:
            yield
        finally:
            with self._changed:
                self._at_work.discard(job_id)
                self._changed.notify_all()

    def check(self, job_id: str) -> None:
        """Raises Stopping if the service stops or the job was cancelled."""
        if self._stopping.is_set() or job_id in self._cancelled:
            raise Stopping

    def wait(self, job_id: str, seconds: float) -> None:
        """Do nothing for a while. Raises Stopping as `check` does, at once."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._stopping.is_set() or job_id in self._cancelled, seconds
            )
        self.check(job_id)

    def cancel(self, job_id: str) -> bool:
        """Let a job stop as soon as it can; whether anybody works on it."""
        with self._changed:
            self._cancelled.add(job_id)
            self._changed.notify_all()
            return job_id in self._at_work

    def cancelled(self, job_id: str) -> bool:
        return job_id in self._cancelled

    def at_work(self) -> set[str]:
        with self._changed:
            return set(self._at_work)

    def stop(self) -> None:
        """Let all jobs stop after the step at hand, and wait until they have."""
        with self._changed:
            self._stopping.set()
            self._changed.notify_all()
            # As long as it takes: a step that is still at work needs the index that closes next.
            self._changed.wait_for(lambda: not self._at_work)

    def report(self, job_id: str, progress: ProgressOut) -> None:
        with self._changed:
            phase = self._live[job_id].phase if job_id in self._live else None
            self._live[job_id] = Live(progress, phase)
            self._live.move_to_end(job_id)
            while len(self._live) > REMEMBERED:
                self._live.popitem(last=False)

    def enter(self, job_id: str, phase: str | None) -> None:
        """Begin a part of the work, whose progress counts from 0."""
        with self._changed:
            self._live[job_id] = Live(ProgressOut(), phase)

    def say(self, job_id: str, waiting: str | None) -> None:
        """Tell people what a job waits for; None once it goes on."""
        with self._changed:
            live = self._live.get(job_id, Live(ProgressOut()))
            self._live[job_id] = replace(live, waiting=waiting)

    def live(self, job_id: str) -> Live | None:
        with self._changed:
            return self._live.get(job_id)
