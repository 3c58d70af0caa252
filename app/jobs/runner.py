"""Takes jobs, runs them beside the searches, and tells how far they are."""

from __future__ import annotations

import logging
import sqlite3
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dbos import DBOS, DBOSConfig, SetWorkflowID, WorkflowStatus
from sqlalchemy.exc import DBAPIError
from starlette.datastructures import UploadFile

from app.errors import UnknownJob
from app.fetching.fetcher import Fetcher
from app.jobs.database import job_errors, prepare
from app.jobs.downloads import Downloads
from app.jobs.growth import Growth
from app.jobs.logs import shorten_library_logs
from app.jobs.record import FINISHED, RECORDED, STATES, UNFINISHED, error_page, job_out
from app.jobs.reports import Reports, report_page
from app.jobs.running import Running
from app.jobs.workflows import Workflows
from app.observing.jobs import JobsObserved
from app.schemas import JobErrorsOut, JobOut, JobState, JobType, UrlImageIn
from app.spool import Spool
from engine.duplicates import DuplicateOptions
from engine.errors import EngineError, StorageFull
from engine.searcher import Searcher
from engine.types import Json

log = logging.getLogger(__name__)

VERSION = "2"
"""Of the steps that workflows have. A newer program takes up what an older one left, so this
changes only with the steps; uploads of jobs of another version are queued again."""
ADD_QUEUE, BUILD_QUEUE, REPORT_QUEUE = "add", "build", "report"
POLL_S = {ADD_QUEUE: 0.5, BUILD_QUEUE: 1.0, REPORT_QUEUE: 1.0}
"""How often each queue is looked at: 5 ms of a core each time, whether there is a job or not."""
WATCH_S = 5.0
KEPT_JOBS = 1000
"""Finished jobs that are listed; older ones are forgotten."""
PAGE = 100


class Jobs:
    """Bulk adds, builds and reports: of each kind one after the other.

    A job is a sequence of steps whose results are recorded; after a crash the recorded ones are
    not run again, and the one that was cut off is safe to repeat.
    """

    def __init__(
        self,
        searcher: Searcher,
        spool: Spool,
        data_dir: Path,
        fetcher: Fetcher,
        *,
        observed: JobsObserved,
        auto_build: bool = True,
    ) -> None:
        self._searcher = searcher
        self._spool = spool
        self._path = data_dir / "jobs.sqlite"
        self._auto_build = auto_build
        self._reports = Reports(data_dir)
        self._running = Running()
        self._growth = Growth()
        self._queueing = threading.Lock()
        self._launched = False
        self._problem = "the service has not started yet"
        self._closed = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="jobs-watch", daemon=True)
        # Outside of any job, as what a job calls becomes a step of it.
        self._aside = ThreadPoolExecutor(1, thread_name_prefix="jobs-aside")
        self._fetcher = fetcher
        self._downloads = Downloads(spool, fetcher, self._running)
        self._observed = observed
        self._work = Workflows(
            searcher,
            spool,
            data_dir,
            self._reports,
            self._running,
            self._downloads,
            observed,
            self,
        )

    def start(self) -> None:
        """Begin to work, with what an earlier process left undone first.

        A full disk does not keep the service from starting: jobs wait until there is room.
        """
        try:
            self._launch()
        except (StorageFull, DBAPIError, sqlite3.OperationalError) as error:
            log.error("jobs cannot run yet: %s", error)
            self._problem = str(error)
        self._watcher.start()

    def stop(self) -> None:
        """Finish the step at hand and stop; unfinished jobs go on at the next start."""
        self._closed.set()
        if self._watcher.is_alive():
            self._watcher.join()
        self._running.stop()
        self._aside.shutdown()
        self._downloads.close()
        self._fetcher.close()
        DBOS.destroy(destroy_registry=False)
        _forget_instance(self._work)

    def _launch(self) -> None:
        """Raises StorageFull, StorageReadOnly."""
        prepare(self._path)
        shorten_library_logs()
        DBOS(
            config=DBOSConfig(
                name="cooc",
                system_database_url=f"sqlite:///{self._path}",
                log_level="ERROR",
                application_version=VERSION,
                executor_id="local",
                notification_listener_polling_interval_sec=0.5,
            )
        )
        try:
            with job_errors(self._path):
                DBOS.launch()
                for name, seconds in POLL_S.items():
                    DBOS.register_queue(name, worker_concurrency=1, polling_interval_sec=seconds)
                self._take_up()
                self._prune()
        except BaseException:
            DBOS.destroy(destroy_registry=False)
            raise
        self._launched = True

    def _take_up(self) -> None:
        """Bring uploads and jobs together: neither is there without the other after this.

        An upload without a job was either cut off just before it was acknowledged, or its job was
        lost with the file of the jobs: adding it is right in both cases, as it was meant to be,
        and images that are stored already are skipped.
        """
        known = {job.workflow_id: job for job in _listed(load_output=False)}
        for job_id, job in list(known.items()):
            if job.status in UNFINISHED and job.app_version != VERSION:
                log.warning("the job %s is of another version and begins again", job_id)
                DBOS.delete_workflow(job_id)
                del known[job_id]
        for job_id in self._spool.jobs():
            if job_id in known:
                if known[job_id].status in FINISHED:
                    self._spool.remove(job_id)
            elif self._spool.is_complete(job_id):
                log.warning("the upload %s has no job; it is queued again", job_id)
                self._enqueue(ADD_QUEUE, self._work.run_add, job_id, True)
            else:
                log.warning("the upload %s was cut off before it was accepted; removed", job_id)
                self._spool.remove(job_id)

    # --- offering work --------------------------------------------------------------------

    def add(self, files: list[UploadFile], metadata: Json, job_id: str | None = None) -> str:
        """Keep the uploads on disk and queue their job; returns its id. Raises StorageFull.

        For a `job_id` that there is already, nothing happens: it was asked for again. So below.
        """
        self._check_launched()
        if job_id is not None and self._exists(job_id):
            return job_id
        job_id = job_id or uuid.uuid4().hex
        uploads = [(file.filename or "image", file.file) for file in files]
        self._spool.receive(job_id, uploads, metadata)
        return self._accepted(job_id)

    def add_urls(self, images: list[UrlImageIn], job_id: str | None = None) -> str:
        """Keep the list and queue its job; returns its id. Raises StorageFull, UrlNotAllowed where
        nothing is fetched at all."""
        self._fetcher.check_on()
        self._check_launched()
        if job_id is not None and self._exists(job_id):
            return job_id
        job_id = job_id or uuid.uuid4().hex
        self._spool.receive_urls(job_id, [image.model_dump() for image in images])
        return self._accepted(job_id)

    def _accepted(self, job_id: str) -> str:
        try:
            self._enqueue(ADD_QUEUE, self._work.run_add, job_id, False)
        except BaseException:
            self._spool.remove(job_id)
            raise
        return job_id

    def build(self, job_id: str | None = None) -> str:
        """Queue a build, unless one waits already; returns the job's id."""
        self._check_launched()
        if job_id is not None and self._exists(job_id):
            return job_id
        with self._queueing, job_errors(self._path):
            for waiting in _listed(status=RECORDED["queued"], name="build"):
                # It begins after this call and so has everything that is stored now.
                return waiting.workflow_id
            return self._enqueue(BUILD_QUEUE, self._work.run_build, job_id)

    def duplicates(self, options: DuplicateOptions, job_id: str | None = None) -> str:
        """Queue a report of near-duplicates; returns the job's id."""
        self._check_launched()
        if job_id is not None and self._exists(job_id):
            return job_id
        return self._enqueue(REPORT_QUEUE, self._work.run_duplicates, job_id, asdict(options))

    def snapshot(self, note: str, job_id: str | None = None) -> str:
        """Queue a snapshot; returns the job's id."""
        self._check_launched()
        if job_id is not None and self._exists(job_id):
            return job_id
        return self._enqueue(REPORT_QUEUE, self._work.run_snapshot, job_id, note)

    def _exists(self, job_id: str) -> bool:
        try:
            self._find(job_id)
        except UnknownJob:
            return False
        return True

    def wrote(self, images: int) -> None:
        """Count images that were stored, and queue a build if the collection has outgrown its
        last one. Cheap, and never fails: the images are stored."""
        try:
            self._build_if_grown(images)
        except (EngineError, DBAPIError) as error:
            log.warning("a build that is due could not be queued: %s", error)

    def went_back(self) -> None:
        """An earlier generation is live: not to be replaced before the collection has grown."""
        stats = self._searcher.stats()
        self._growth.tried(stats.count, stats.fresh)

    def cancel(self, job_id: str) -> None:
        """Stop a job as soon as it can; what was added stays. Raises UnknownJob."""
        status = self._find(job_id)
        with job_errors(self._path):
            DBOS.cancel_workflow(job_id)
        ended = STATES[self._find(job_id).status] != "cancelled"
        if not ended and not self._running.cancel(job_id):
            self._spool.remove(job_id)  # nobody is left who would
            if status.status in UNFINISHED:  # else it was cancelled before
                self._observed.never_began(status.name)

    def _enqueue(
        self, queue: str, work: Callable[..., Json], job_id: str | None = None, *more: Any
    ) -> str:
        job_id = job_id or uuid.uuid4().hex
        self._observed.asked(job_id)  # before it may begin
        with job_errors(self._path), SetWorkflowID(job_id):
            DBOS.enqueue_workflow(queue, work, job_id, *more)
        return job_id

    def _check_launched(self) -> None:
        if not self._launched:
            raise StorageFull(
                f"jobs cannot run yet: {self._problem}; it is tried again every {WATCH_S:g} s"
            )

    # --- looking --------------------------------------------------------------------------

    def get(self, job_id: str) -> JobOut:
        """Raises UnknownJob."""
        return job_out(self._find(job_id), self._running.live(job_id))

    def newest(
        self, limit: int, *, state: JobState | None = None, type: JobType | None = None
    ) -> list[JobOut]:
        """At most `limit` jobs, the newest first."""
        self._check_launched()
        found: list[JobOut] = []
        with job_errors(self._path):
            for status in _listed(status=RECORDED[state] if state else None, name=type):
                job = job_out(status, self._running.live(status.workflow_id))
                if state in (None, job.state):
                    found.append(job)
                if len(found) == limit:
                    break
        return found

    def errors(self, job_id: str, limit: int, cursor: str | None = None) -> JobErrorsOut:
        """Images that were not added. Raises UnknownJob, InvalidFields for a bad cursor."""
        job = self.get(job_id)
        with job_errors(self._path):
            return error_page(job, limit, cursor)

    def result(self, job_id: str, limit: int, cursor: str | None = None) -> Json:
        """A page of the report that a job made.

        Raises: UnknownJob, UnknownReport, InvalidFields for a bad cursor.
        """
        self._find(job_id)
        return report_page(self._reports.read(job_id), limit, cursor)

    def unfinished(self) -> Counter[tuple[str, JobState]]:
        """How many jobs wait or run, by type and state."""
        self._check_launched()
        with job_errors(self._path):
            jobs = list(_listed(status=UNFINISHED, load_output=False))
        return Counter((job.name, STATES[job.status]) for job in jobs)

    def _find(self, job_id: str) -> WorkflowStatus:
        self._check_launched()
        with job_errors(self._path):
            status = DBOS.get_workflow_status(job_id)
        if status is None:
            raise UnknownJob(f"no job has the id {job_id!r}")
        return status

    # --- beside the jobs ------------------------------------------------------------------

    def build_if_grown(self, images: int) -> str | None:
        """As `wrote`, for a job: the id of the build that was queued."""
        return self._aside.submit(self._build_if_grown, images).result()

    def _build_if_grown(self, images: int) -> str | None:
        if not (self._auto_build and self._launched and self._growth.wrote(images)):
            return None
        stats = self._searcher.stats()
        if not self._growth.outgrown(stats.count, stats.fitted, stats.fresh):
            return None
        with self._queueing:
            if any(True for _ in _listed(status=UNFINISHED, name="build")):
                return None
            self._growth.tried(stats.count, stats.fresh)
            return self._enqueue(BUILD_QUEUE, self._work.run_build)

    def left(self, job_id: str) -> None:
        """A job was left by its worker: keep its progress where no step records it, and tidy."""
        if self._running.cancelled(job_id) or not self._running.stopping.is_set():
            self._aside.submit(self._tidy, job_id)

    def _tidy(self, job_id: str) -> None:
        live = self._running.live(job_id)
        try:
            status = DBOS.get_workflow_status(job_id)
            if live is not None and status is not None and not status.output:
                progress = {"progress": live.progress.model_dump()}
                DBOS.update_workflow_attributes(job_id, progress)
            self._prune()
        except DBAPIError as error:
            log.warning("the end of the job %s could not be tidied up: %s", job_id, error)

    def _prune(self) -> None:
        old = [
            job.workflow_id for job in _listed(status=FINISHED, offset=KEPT_JOBS, load_output=False)
        ]
        if old:
            DBOS.delete_workflows(old)

    def _watch(self) -> None:
        """Launch once there is room, and take up jobs that are recorded as running though nobody
        works on them: their last step could not be recorded."""
        idle: set[str] = set()
        while not self._closed.wait(WATCH_S):
            try:
                if not self._launched:
                    self._launch()
                    log.info("there is room again; jobs run")
                before, at_work = idle, self._running.at_work()
                pending = list(_listed(status=RECORDED["running"], load_output=False))
                idle = {job.workflow_id for job in pending} - at_work
                for job in pending:
                    # Seen twice: one that was just taken from its queue is begun in a moment.
                    if job.workflow_id in idle & before:
                        log.warning("the job %s is taken up again", job.workflow_id)
                        DBOS.resume_workflow(job.workflow_id, queue_name=QUEUE_OF[job.name])
            except (EngineError, DBAPIError, sqlite3.OperationalError) as error:
                log.warning("jobs cannot be looked after: %s", error)


QUEUE_OF = {
    "add": ADD_QUEUE,
    "build": BUILD_QUEUE,
    "duplicates": REPORT_QUEUE,
    "snapshot": REPORT_QUEUE,
}


def _listed(*, offset: int = 0, **filters: Any) -> Iterator[WorkflowStatus]:
    """Jobs, the newest first, read a page at a time."""
    while True:
        page = DBOS.list_workflows(
            limit=PAGE, offset=offset, sort_desc=True, load_input=False, **filters
        )
        yield from page
        if len(page) < PAGE:
            return
        offset += PAGE


def _forget_instance(work: Workflows) -> None:
    """The library keeps instances by name for ever; a later start makes a new one."""
    from dbos import _dbos

    registry = _dbos._get_or_create_dbos_registry()
    for name, instance in list(registry.instance_info_map.items()):
        if instance is work:
            del registry.instance_info_map[name]
