"""Around every job: counted, logged under its id, traced."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from app.observing.metrics import Metrics
from engine.passes.origin import working_for
from engine.passes.stages import Stages

log = logging.getLogger(__name__)


class Outcome:
    """How a job ended; None while it has not, as it goes on at the next start."""

    state: str | None = None
    images: int = 0


class Spans(Protocol):
    """Where jobs are traced."""

    def asked(self, job_id: str) -> None:
        """The request that is answered here asks for this job."""
        ...

    def job(self, job_id: str, type: str, state: str | None, stages: Stages, began: float) -> None:
        """`began` is a time of `time.perf_counter`; it ends now."""
        ...


class JobsObserved:
    """What becomes of jobs, for those who watch."""

    def __init__(self, metrics: Metrics, spans: Spans | None = None) -> None:
        self._metrics = metrics
        self._spans = spans

    def asked(self, job_id: str) -> None:
        """To be called where a job is asked for, in the context of the request."""
        if self._spans is not None:
            self._spans.asked(job_id)

    @contextmanager
    def job(self, job_id: str, type: str) -> Iterator[Outcome]:
        """While a job is at work; the caller sets how it ended. `type` is add, build, ..."""
        outcome, stages, began = Outcome(), Stages(), time.perf_counter()
        with working_for([(("job_id", job_id),)]), stages.current():
            log.info("the job begins: %s", type, extra={"fields": {"type": type}})
            try:
                yield outcome
            finally:
                self._ended(job_id, type, outcome, stages, began)

    def _ended(
        self, job_id: str, type: str, outcome: Outcome, stages: Stages, began: float
    ) -> None:
        seconds = time.perf_counter() - began
        if outcome.state is not None:
            self._metrics.job(type, outcome.state)
        if self._spans is not None:
            self._spans.job(job_id, type, outcome.state, stages, began)
        fields = {
            "type": type,
            "state": outcome.state or "interrupted",
            "images": outcome.images,
            "seconds": round(seconds, 3),
        }
        log.info("the job ends: %s %s", type, fields["state"], extra={"fields": fields})

    def never_began(self, type: str) -> None:
        """A job was cancelled before anybody worked on it."""
        self._metrics.job(type, "cancelled")

    def images(self, counts: Mapping[str, int]) -> None:
        """Images of a job were worked through, so many with each outcome."""
        self._metrics.job_images(counts)
