"""What is counted while requests are answered and jobs run. One set for each service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from app.errors import STATUS, code_of
from app.schemas import JobState, JobType
from engine.types import AddOutcome

REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
STAGE_BUCKETS = (0.001, 0.0025, *REQUEST_BUCKETS)
TOTAL = "total"


class Metrics:
    """Labels have few values: no ids of images, nothing that clients choose."""

    def __init__(self) -> None:
        # When a series began is of use to nobody here, and doubles the number of lines.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._requests = Histogram(
            "cooc_request_duration_seconds",
            "From the first byte of a request to the last of its answer.",
            ("method", "route", "status"),
            buckets=REQUEST_BUCKETS,
            registry=self.registry,
        )
        self._stages = Histogram(
            "cooc_stage_duration_seconds",
            "Parts of a request: upload, decode, queue, describe, search, ...; and total.",
            ("stage", "route"),
            buckets=STAGE_BUCKETS,
            registry=self.registry,
        )
        self._problems = Counter(
            "cooc_problems",
            "Requests that were refused or failed, by the code of their problem document.",
            ("code",),
            registry=self.registry,
        )
        self._jobs = Counter(
            "cooc_jobs_ended",
            "Jobs that this process has ended.",
            ("type", "state"),
            registry=self.registry,
        )
        self._job_images = Counter(
            "cooc_job_images",
            "Images that jobs were given, by what became of them.",
            ("outcome",),
            registry=self.registry,
        )
        # From 0, so that the first of each can be seen.
        for error in STATUS:
            self._problems.labels(code_of(error))
        for type in get_args(JobType):
            for state in set(get_args(JobState)) - {"queued", "running"}:
                self._jobs.labels(type, state)
        for outcome in AddOutcome:
            self._job_images.labels(outcome.value)

    def request(
        self,
        method: str,
        route: str,
        status: int,
        problem: str | None,
        seconds: float,
        stages: Mapping[str, float],
    ) -> None:
        """Count a request that has been answered. Stages of 0 seconds were not needed."""
        self._requests.labels(method, route, str(status)).observe(seconds)
        if problem is not None:
            self._problems.labels(problem).inc()
        took = {name: part for name, part in stages.items() if part > 0}
        if took:
            took[TOTAL] = seconds
        for name, part in took.items():
            self._stages.labels(name, route).observe(part)

    def job(self, type: str, state: str) -> None:
        """Count a job that has ended."""
        self._jobs.labels(type, state).inc()

    def job_images(self, counts: Mapping[str, int]) -> None:
        """Count images of a job by their outcome."""
        for outcome, count in counts.items():
            self._job_images.labels(outcome).inc(count)
