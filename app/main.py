"""The application: built from settings, started and stopped by its lifespan."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio.to_thread
from fastapi import Depends, FastAPI, Request
from fastapi.responses import FileResponse, HTMLResponse, Response
from fastapi.staticfiles import StaticFiles
from fastapi.telemetry import TelemetryConfig
from fastapi_offline import FastAPIOffline
from starlette.concurrency import run_in_threadpool

from app import __version__, errors
from app.admission import Admission
from app.answer_headers import PAGE_POLICY, SecurityHeaders
from app.api_document import describe
from app.assembly import open_searcher
from app.deps import EXAMPLES_AT_MOST, Service, State
from app.docs_page import STATIC, docs_page
from app.fetching.fetcher import Fetcher
from app.fetching.policy import Policy
from app.jobs import Jobs
from app.observing.jobs import JobsObserved
from app.observing.requests import Requests
from app.observing.templates import Templates
from app.routes import (
    admin,
    compare,
    health,
    images,
    index,
    jobs,
    metrics,
    originals,
    search,
    session,
    similar,
    snapshots,
)
from app.security.callers import Callers
from app.security.needs import check_declared
from app.serving.calls import Calls
from app.serving.idempotency import Idempotency
from app.serving.middleware import BodyLimit, RequestId, SameSite
from app.serving.parameters import image_address, known_parameters
from app.settings import Settings
from app.spool import Spool
from app.state_metrics import ServiceState
from engine.backbones.weights import Progress
from engine.errors import CorruptIndex, IndexMismatch, WeightsUnavailable
from engine.passes.cores import cores

if TYPE_CHECKING:  # an extra
    from app.observing.otel import Traces

log = logging.getLogger(__name__)

WEB = Path(__file__).parent / "web"
FORM_OVERHEAD = 2 << 20
"""Bytes of a multipart body besides its file."""

SPARE_THREADS = 16
FRESH = {"Cache-Control": "no-cache"}
"""Ask again before using a stored copy: old and new files of the page must not be mixed."""
UNTRACED: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False}
SMALL_BODY = 1 << 20
SMALL = (
    "/admin/index/build",
    "/admin/index/duplicates",
    "/admin/index/reload",
    "/admin/index/rollback",
    "/admin/snapshots",
)
"""Their bodies are JSON, which the framework reads before it asks whose key came with it, and which
takes many times its bytes in memory."""
PAGES = frozenset({"/", "/web", "/docs", STATIC, "/openapi.json"})
"""Open to everybody: they are the program, which is public, and hold nothing of the collection.
Somebody who is to type in a key needs the page first."""


class PageFiles(StaticFiles):
    """Scripts and styles of the page."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers.update(FRESH)
        return response


def create_app(settings: Settings, traces: Traces | None = None) -> FastAPI:
    """The service. Nothing is loaded before its lifespan starts."""
    state = State(settings, traces=traces)
    admission = Admission(
        # One pass is being made while the queue is full.
        max_requests=settings.max_queue + settings.batch_size,
        max_bytes=settings.max_waiting_mb << 20,
        retry_after=lambda: state.service.searcher.retry_after_s() if state.service else 1,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # Each search waits in a thread: as many as are let in, and some for everything else.
        threads = anyio.to_thread.current_default_thread_limiter()
        threads.total_tokens = settings.max_queue + settings.batch_size + SPARE_THREADS
        if state.service is None and state.failure is None:
            await run_in_threadpool(start, state)
        try:
            yield
        finally:
            await run_in_threadpool(_stop, state)

    app = FastAPIOffline(
        docs_url=None,
        redoc_url=None,
        static_url=STATIC,
        title="Co-occurrence image search",
        version=__version__,
        lifespan=lifespan,
        telemetry=UNTRACED if traces is None else traces.telemetry(),
    )
    app.state.cooc = state
    app.state.admission = admission
    state.metrics.registry.register(ServiceState(state, admission))
    errors.install(app)
    checked = [Depends(image_address), Depends(known_parameters)]
    for routes in (search, compare, similar, originals, images, index, jobs, admin, snapshots):
        app.include_router(routes.router, dependencies=checked)
    for lenient in (session, health, metrics):
        app.include_router(lenient.router)
    describe(app)
    app.mount("/web", PageFiles(directory=WEB), name="web")

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    def page() -> FileResponse:
        headers = {**FRESH, "Content-Security-Policy": PAGE_POLICY}
        return FileResponse(WEB / "index.html", headers=headers)

    @app.api_route("/docs", methods=["GET", "HEAD"], include_in_schema=False)
    def docs(request: Request) -> HTMLResponse:
        return docs_page(app, str(request.scope.get("root_path", "")))

    check_declared(app, without=PAGES)

    # Innermost: what is replayed or refused was let in like any other.
    app.add_middleware(Idempotency, path=settings.data_dir / "idempotency.sqlite")
    app.add_middleware(Calls, admission=admission, deadline_s=settings.deadline_s)
    # The images of several examples or queries, together; base64 as below.
    several = EXAMPLES_AT_MOST * (settings.max_upload_mb << 20) * 4 // 3 + FORM_OVERHEAD
    app.add_middleware(
        BodyLimit,
        # base64 in JSON is a third longer than the image itself
        max_bytes=(settings.max_upload_mb << 20) * 4 // 3 + FORM_OVERHEAD,
        others={
            "/index/add": (settings.max_bulk_mb << 20) + FORM_OVERHEAD,
            "/search": several,
            "/search/batch": several,
            **dict.fromkeys(SMALL, SMALL_BODY),
            "/compare": (settings.max_upload_mb << 20) * 8 // 3 + FORM_OVERHEAD,
            # Of strangers: they must not take the room of uploads.
            "/session": session.MAX_BODY,
        },
    )
    app.add_middleware(SameSite)
    app.add_middleware(Callers, access=state.access)
    app.add_middleware(
        Requests, metrics=state.metrics, templates=Templates(app.routes), spans=traces
    )
    app.add_middleware(RequestId)
    app.add_middleware(SecurityHeaders)
    return app


def start(state: State, progress: Progress | None = None) -> None:
    """Build the working parts; the lifespan does so unless it was done before.

    Raises: what keeps a service from existing at all, such as DataFolderInUse or InvalidOption.
        An index that cannot be used is kept in `state.failure` instead.
    """
    settings = state.settings
    state.access.check_start()
    cores().keep_main_free()
    try:
        opened = open_searcher(settings, url=settings.url, progress=progress)
    # The service answers, with the reason on every address, so that an operator can read it.
    except (IndexMismatch, CorruptIndex, WeightsUnavailable) as error:
        log.error("the index cannot be used: %s", error)
        state.failure = error
        return
    spool = Spool(
        settings.data_dir,
        max_image_bytes=settings.max_upload_mb << 20,
        max_images=settings.max_bulk_images,
        max_total_bytes=4 * (settings.max_bulk_mb << 20),
    )
    policy = Policy.parse(settings.url_allow, settings.url_allow_private)
    if policy.open:
        log.warning("URLs of every public host are fetched: whoever may search chooses which")
    fetcher = Fetcher(
        policy,
        max_bytes=settings.max_upload_mb << 20,
        timeout_s=settings.url_timeout_s,
    )
    try:
        runner = Jobs(
            opened.searcher,
            spool,
            settings.data_dir,
            fetcher,
            observed=JobsObserved(state.metrics, state.traces),
            auto_build=settings.auto_build,
        )
        runner.start()
    except BaseException:
        opened.close()
        raise
    state.service = Service(opened.searcher, runner, opened.weights, opened.learned, fetcher)
    state.close = opened.close
    log.info("%d images are indexed; ready at %s", opened.searcher.stats().count, settings.place)


def _stop(state: State) -> None:
    if state.service is not None:
        try:
            state.service.jobs.stop()
        finally:
            state.close()
            state.service = None
            if state.traces is not None:
                state.traces.close()
