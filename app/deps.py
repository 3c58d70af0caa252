"""What routes ask for by type.

All of it on the event loop: what is no coroutine would take a turn in a thread, each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, cast

from anyio import from_thread
from fastapi import Depends, Request

from app.errors import PayloadTooLarge
from app.fetching.fetcher import Fetcher
from app.job_events import Watch
from app.jobs import Jobs
from app.learned import Learned
from app.observing.metrics import Metrics
from app.readiness import Readiness
from app.security.access import Access
from app.settings import Settings
from engine.backbones.weights import Weights
from engine.errors import EngineError
from engine.searcher import Searcher

if TYPE_CHECKING:  # an extra
    from app.observing.otel import Traces


EXAMPLES_AT_MOST = 4
"""Images of the largest size that one request may have, sent or fetched."""


@dataclass(frozen=True)
class Service:
    """The working parts of a started service."""

    searcher: Searcher
    jobs: Jobs
    weights: Weights
    learned: Learned
    fetcher: Fetcher

    @cached_property
    def readiness(self) -> Readiness:
        return Readiness(self.searcher.check)

    @cached_property
    def watch(self) -> Watch:
        """Who listens to the progress of jobs."""
        return Watch(self.jobs.get)


@dataclass
class State:
    """What the lifespan fills: a service, or the reason why there is none."""

    settings: Settings
    access: Access = field(init=False)
    close: Callable[[], None] = lambda: None
    service: Service | None = None
    failure: EngineError | None = None
    metrics: Metrics = field(default_factory=Metrics)
    traces: Traces | None = None

    @property
    def lost(self) -> str | None:
        """Why this process cannot go on, and a new one might; None if it can."""
        return self.service.searcher.lost if self.service else None

    def __post_init__(self) -> None:
        self.access = Access(self.settings)


async def get_state(request: Request) -> State:
    return cast(State, request.app.state.cooc)


def get_service(request: Request) -> Service:
    """The service. Raises the error that kept it from starting."""
    state: State = request.app.state.cooc
    if state.service is None:
        raise state.failure or EngineError("the service is not started")
    return state.service


async def get_searcher(request: Request) -> Searcher:
    return get_service(request).searcher


async def get_jobs(request: Request) -> Jobs:
    return get_service(request).jobs


async def get_fetch(request: Request) -> Callable[[str], bytes]:
    """Fetches images for this request, in a thread of it. What comes counts as if it had been sent.

    Raises: PayloadTooLarge, and as `Fetcher.query` does.
    """
    state = await get_state(request)
    fetcher, admitted = get_service(request).fetcher, request.scope["admitted"]
    most = EXAMPLES_AT_MOST * state.settings.max_upload_mb << 20
    held = 0

    def fetch(url: str) -> bytes:
        nonlocal held
        data = fetcher.query(url)
        if held + len(data) > most:
            raise PayloadTooLarge(
                f"the images of the URLs of one request have more than {most >> 20:,} MB together"
            )
        from_thread.run_sync(admitted.grow, len(data))
        held += len(data)
        return data

    return fetch


async def get_root(request: Request) -> str:
    """Path prefix under which a proxy serves us, without its last slash."""
    return str(request.scope.get("root_path", "")).rstrip("/")


async def get_job_id(request: Request) -> str | None:
    """The id that a job has to get, if the request has an idempotency key."""
    return request.scope.get("job_id")


StateDep = Annotated[State, Depends(get_state)]
SearcherDep = Annotated[Searcher, Depends(get_searcher)]
FetchDep = Annotated[Callable[[str], bytes], Depends(get_fetch)]
JobsDep = Annotated[Jobs, Depends(get_jobs)]
RootDep = Annotated[str, Depends(get_root)]
JobIdDep = Annotated[str | None, Depends(get_job_id)]
