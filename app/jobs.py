"""Durable jobs: bulk adds and builds that survive a crash and go on where they were."""

from __future__ import annotations

import logging
import threading
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from dbos import (
    DBOS,
    DBOSConfig,
    DBOSConfiguredInstance,
    SetWorkflowID,
    WorkflowStatus,
)
from dbos import error as dbos_error
from starlette.datastructures import UploadFile

from app.errors import UnknownJob
from app.schemas import JobErrorOut, JobErrorsOut, JobOut, JobState, ProgressOut
from app.spool import Spool
from engine.ingest import CHUNK, Offered, add_chunk
from engine.searcher import Searcher
from engine.storage import storage_errors
from engine.types import AddOutcome, AddResult, Json

log = logging.getLogger(__name__)

ADD_QUEUE, BUILD_QUEUE = "add", "build"
ADD_WORKFLOW, BUILD_WORKFLOW = "add", "build"
AUTO_BUILD_MIN, AUTO_BUILD_GROWTH = 100, 4

STATES: dict[str, JobState] = {
    "ENQUEUED": "queued",
    "DELAYED": "queued",
    "PENDING": "running",
    "SUCCESS": "succeeded",
    "ERROR": "failed",
    "CANCELLED": "cancelled",
    "MAX_RECOVERY_ATTEMPTS_EXCEEDED": "failed",
}


class Stopping(BaseException):
    """Leaves a job as it is, to be taken up at the next start.

    A BaseException, because the job library records every Exception as the job's end.
    """


@DBOS.dbos_class("Jobs")
class Jobs(DBOSConfiguredInstance):
    """Runs bulk adds and builds one after the other, beside the searches.

    A job is a sequence of steps whose results are recorded; after a crash the recorded ones are
    not run again, and the one that was cut off is safe to repeat. There is one instance per
    process, as the library underneath is a process-wide service.
    """

    def __init__(
        self, searcher: Searcher, spool: Spool, data_dir: Path, *, auto_build: bool = True
    ) -> None:
        self._searcher = searcher
        self._spool = spool
        self._database = data_dir / "jobs.sqlite"
        self._auto_build = auto_build
        self._stopping = threading.Event()
        self._idle = threading.Semaphore()
        self._live: dict[str, ProgressOut] = {}
        config = DBOSConfig(
            name="cooc",
            system_database_url=f"sqlite:///{self._database}",
            log_level="ERROR",
            # Constant, so that a newer version takes up what an older one left.
            application_version="1",
            executor_id="local",
            notification_listener_polling_interval_sec=0.5,
        )
        with storage_errors(data_dir):
            DBOS(config=config)
            super().__init__("jobs")

    def start(self) -> None:
        """Begin to work, with what an earlier process left undone first."""
        with storage_errors(self._database.parent):
            DBOS.launch()
            for name in (ADD_QUEUE, BUILD_QUEUE):
                DBOS.register_queue(name, worker_concurrency=1, polling_interval_sec=0.2)
        unfinished = DBOS.list_workflows(status=["ENQUEUED", "PENDING", "DELAYED"])
        self._spool.sweep({job.workflow_id for job in unfinished})

    def stop(self) -> None:
        """Finish the step at hand and stop; unfinished jobs go on at the next start."""
        self._stopping.set()
        # As long as it takes: a step that is still at work needs the index that closes next.
        self._idle.acquire()
        DBOS.destroy(destroy_registry=False)
        _forget_instance(self)
        # A job that was just taken from the queue sees that it has to stop.
        self._idle.release()

    # --- offering work --------------------------------------------------------------------

    def add(self, files: list[UploadFile], metadata: Json) -> str:
        """Keep the uploads on disk and queue their job; returns its id. Raises StorageFull."""
        job_id = uuid.uuid4().hex
        uploads = [(file.filename or "image", file.file) for file in files]
        self._spool.receive(job_id, uploads, metadata)
        try:
            with storage_errors(self._database.parent), SetWorkflowID(job_id):
                DBOS.enqueue_workflow(ADD_QUEUE, self.run_add, job_id, _now())
        except BaseException:
            self._spool.remove(job_id)
            raise
        return job_id

    def build(self) -> str:
        """Queue a build; returns the job's id."""
        job_id = uuid.uuid4().hex
        with storage_errors(self._database.parent), SetWorkflowID(job_id):
            DBOS.enqueue_workflow(BUILD_QUEUE, self.run_build, job_id)
        return job_id

    def cancel(self, job_id: str) -> None:
        """Stop a job after its step at hand; what was added stays. Raises UnknownJob."""
        state = STATES[self._find(job_id).status]
        DBOS.cancel_workflow(job_id)
        if state == "queued":  # it will never run and tidy up itself
            self._spool.remove(job_id)

    # --- looking --------------------------------------------------------------------------

    def get(self, job_id: str) -> JobOut:
        """Raises UnknownJob."""
        return self._job(self._find(job_id))

    def newest(self, limit: int) -> list[JobOut]:
        """At most `limit` jobs, the newest first."""
        found = DBOS.list_workflows(limit=limit, sort_desc=True, load_input=False)
        return [self._job(status) for status in found]

    def errors(self, job_id: str, limit: int) -> JobErrorsOut:
        """Images that were not added. Raises UnknownJob."""
        self._find(job_id)
        entries = [
            JobErrorOut(**entry)
            for step in DBOS.list_workflow_steps(job_id)
            if step["function_name"] == "add_images" and step["output"]
            for entry in step["output"]["errors"]
        ]
        return JobErrorsOut(errors=entries[:limit], total=len(entries))

    def _find(self, job_id: str) -> WorkflowStatus:
        status = DBOS.get_workflow_status(job_id)
        if status is None:
            raise UnknownJob(f"no job has the id {job_id!r}")
        return status

    def _job(self, status: WorkflowStatus) -> JobOut:
        kind: Literal["add", "build"] = "build" if status.name == BUILD_WORKFLOW else "add"
        state = STATES[status.status]
        progress = self._live.get(status.workflow_id)
        if progress is None:
            recorded = DBOS.get_all_events(status.workflow_id).get("progress", {})
            progress = ProgressOut(**recorded)
        if state == "succeeded" and progress.failed:
            state = "failed" if progress.failed == progress.total else "partial"
        error = str(status.error) if status.error else None
        if state == "failed" and error is None:
            error = "no image of this upload could be added; see its errors"
        finished = state not in ("queued", "running")
        return JobOut(
            id=status.workflow_id,
            type=kind,
            state=state,
            progress=progress,
            created_at=_time(status.created_at) or datetime.now(UTC),
            started_at=_time(status.dequeued_at),
            finished_at=_time(status.completed_at or status.updated_at) if finished else None,
            error=error,
            result=status.output if isinstance(status.output, dict) else None,
        )

    # --- working --------------------------------------------------------------------------

    @DBOS.workflow(name=ADD_WORKFLOW)
    def run_add(self, job_id: str, offered_at: str) -> dict[str, Any]:
        with self._idle:
            self._check_stopping()
            try:
                total = self.unpack(job_id)
                progress = ProgressOut(total=total)
                self._live[job_id] = progress
                for start in range(0, total, CHUNK):
                    outcome = self.add_images(job_id, start, offered_at)
                    progress = _plus(progress, outcome["counts"])
                    # Also when the job was cancelled meanwhile: these images were added.
                    self._live[job_id] = progress
                    DBOS.set_event("progress", progress.model_dump())
                self.clean(job_id)
                built = self.build_when_grown() if self._auto_build else None
            except (Exception, dbos_error.DBOSWorkflowCancelledError):
                # What was acknowledged is in the index; the rest of the upload is given up,
                # unless the job only stops to go on later.
                if not self._stopping.is_set():
                    self._spool.remove(job_id)
                raise
            else:
                self._live.pop(job_id, None)
                return {"generation": built}

    @DBOS.step(name="unpack")
    def unpack(self, job_id: str) -> int:
        self._check_stopping()
        return self._spool.unpack(job_id, self._check_stopping)

    @DBOS.step(name="add_images")
    def add_images(self, job_id: str, start: int, offered_at: str) -> dict[str, Any]:
        self._check_stopping()
        items = self._spool.items(job_id, start, start + CHUNK)
        metadata = self._spool.metadata(job_id)
        offered = [
            Offered(
                name=item.name,
                read=lambda item=item: self._spool.read(job_id, item),  # type: ignore[misc]
                metadata=metadata,
            )
            for item in items
        ]
        try:
            results = add_chunk(self._searcher, offered, stopping=self._stopping, since=offered_at)
        except InterruptedError as error:
            raise Stopping from error
        return {"counts": _counts(results), "errors": _errors(results)}

    @DBOS.step(name="clean")
    def clean(self, job_id: str) -> None:
        self._spool.remove(job_id)

    @DBOS.step(name="build_when_grown")
    def build_when_grown(self) -> int | None:
        """Projected vectors are smaller and rank better: worth it whenever a set has grown."""
        self._check_stopping()
        stats = self._searcher.stats()
        if stats.count < max(AUTO_BUILD_MIN, AUTO_BUILD_GROWTH * stats.fitted):
            return None
        return self._searcher.build(lambda *_: self._check_stopping()).number

    @DBOS.workflow(name=BUILD_WORKFLOW)
    def run_build(self, job_id: str) -> dict[str, Any]:
        with self._idle:
            self._check_stopping()
            try:
                return self.build_generation(job_id)
            finally:
                self._live.pop(job_id, None)

    @DBOS.step(name="build_generation")
    def build_generation(self, job_id: str) -> dict[str, Any]:
        self._check_stopping()

        def report(done: int, total: int) -> None:
            self._check_stopping()
            self._live[job_id] = ProgressOut(total=total, processed=done)

        manifest = self._searcher.build(report)
        return {
            "generation": manifest.number,
            "count": manifest.count,
            "dim": manifest.dim,
            "explained_variance": manifest.explained,
        }

    def _check_stopping(self) -> None:
        if self._stopping.is_set():
            raise Stopping


def _forget_instance(jobs: Jobs) -> None:
    """The library keeps instances by name for ever; a later start makes a new one."""
    from dbos import _dbos

    registry = _dbos._get_or_create_dbos_registry()
    for name, instance in list(registry.instance_info_map.items()):
        if instance is jobs:
            del registry.instance_info_map[name]


def _counts(results: list[AddResult]) -> dict[str, int]:
    counts = {outcome.value: 0 for outcome in AddOutcome}
    for result in results:
        counts[result.outcome.value] += 1
    return counts


def _errors(results: list[AddResult]) -> list[dict[str, Any]]:
    return [
        {
            "name": result.name,
            "outcome": result.outcome.value,
            "detail": result.detail or "",
            "id": result.id,
        }
        for result in results
        if result.outcome in (AddOutcome.FAILED, AddOutcome.SKIPPED)
    ]


def _plus(progress: ProgressOut, counts: dict[str, int]) -> ProgressOut:
    return progress.model_copy(
        update={
            "processed": progress.processed + sum(counts.values()),
            **{name: getattr(progress, name) + count for name, count in counts.items()},
        }
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _time(milliseconds: int | None) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None
