"""What jobs do: workflows whose steps are recorded, so that a crash repeats only the last one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

from dbos import DBOS, DBOSConfiguredInstance
from sqlalchemy.exc import DBAPIError, OperationalError

from app import __version__
from app.duplicates import duplicates_of
from app.jobs.downloads import AHEAD, Downloads
from app.jobs.record import judged
from app.jobs.reports import Reports
from app.jobs.running import Running, Stopping
from app.observing.jobs import JobsObserved
from app.schemas import JobType, ProgressOut, SnapshotOut
from app.spool import Spool
from engine.duplicates import DuplicateOptions
from engine.errors import DeviceLost, StorageFull, StorageReadOnly
from engine.ingest import CHUNK, Offered, add_chunk
from engine.passes.stages import stage
from engine.searcher import Searcher
from engine.snapshots import Listed, create_snapshot
from engine.types import AddOutcome, AddResult, Json

log = logging.getLogger(__name__)

RETRY_S = 5.0
"""How often a job tries again what the disk does not let it do."""
PASSING = (StorageFull, StorageReadOnly, OperationalError, DeviceLost)
"""What a job waits out."""

Result = TypeVar("Result")


class Hooks(Protocol):
    """What jobs ask of the part that runs them."""

    def build_if_grown(self, images: int) -> str | None:
        """Told how many images were added; the id of the build that this queued, if any."""
        ...

    def left(self, job_id: str) -> None:
        """Nobody works on this job any more, for whatever reason."""
        ...


@DBOS.dbos_class("Jobs")
class Workflows(DBOSConfiguredInstance):
    """One method for each type of job, and one for each step of it.

    A step may run again after a crash, so each is safe to repeat. There is one instance per
    process, as the library underneath is a process-wide service.
    """

    def __init__(
        self,
        searcher: Searcher,
        spool: Spool,
        data_dir: Path,
        reports: Reports,
        running: Running,
        downloads: Downloads,
        observed: JobsObserved,
        hooks: Hooks,
    ) -> None:
        self._data_dir = data_dir
        self._searcher = searcher
        self._spool = spool
        self._reports = reports
        self._running = running
        self._downloads = downloads
        self._observed = observed
        self._hooks = hooks
        super().__init__("jobs")

    # --- adding ---------------------------------------------------------------------------

    @DBOS.workflow(name="add")
    def run_add(self, job_id: str, again: bool) -> Json:
        """`again` for an upload whose earlier job was lost, with all that was recorded of it."""
        with self._at_work(job_id, "add"), self._downloads.of(job_id):
            # From a record, as the upload may be gone by now.
            unpacked = self.unpack(job_id)
            progress, since = ProgressOut(total=unpacked["total"]), unpacked["offered_at"]
            self._running.report(job_id, progress)
            for start in range(0, progress.total, CHUNK):
                outcome = self.add_images(job_id, start, since)
                since = since if again else outcome["ended_at"]
                progress = _plus(progress, outcome["counts"])
                self._running.report(job_id, progress)
            self.clean(job_id)
            return _ended(progress, {"build": self.build_if_grown(progress.added)})

    @DBOS.step(name="unpack")
    def unpack(self, job_id: str) -> Json:
        def unpack() -> int:
            return self._spool.unpack(job_id, lambda: self._running.check(job_id))

        total = self._patiently(job_id, unpack)
        return {"total": total, "offered_at": self._spool.offered_at(job_id)}

    @DBOS.step(name="add_images")
    def add_images(self, job_id: str, start: int, since: str) -> Json:
        """Images stored after `since` were stored by this very step, before it was cut off: they
        count as added."""
        self._running.check(job_id)
        metadata = self._spool.metadata(job_id)
        items = self._spool.items(job_id, start, start + CHUNK)
        offered = [
            Offered(
                name=item.name,
                read=lambda item=item: self._spool.read(job_id, item),  # type: ignore[misc]
                id=item.id,
                metadata=metadata if item.metadata is None else item.metadata,
            )
            for item in items
        ]

        def add() -> list[AddResult]:
            # What was added before is recorded by now: nobody will read it again.
            self._spool.drop(job_id, self._spool.items(job_id, max(0, start - CHUNK), start))
            ahead = self._spool.items(job_id, start + CHUNK, start + CHUNK + AHEAD)
            self._downloads.bring(job_id, items, ahead)
            stopping = self._running.stopping
            results = add_chunk(self._searcher, offered, stopping=stopping, since=since)
            # A client knows an image by the URL it sent.
            return [
                replace(result, name=item.url or result.name)
                for item, result in zip(items, results, strict=True)
            ]

        try:
            results = self._patiently(job_id, add)
        except InterruptedError as error:
            raise Stopping from error
        counts = _counts(results)
        self._observed.images(counts)
        # Here, too: if the job is cancelled meanwhile, nothing is recorded after this step.
        live = self._running.live(job_id)
        if live is not None:
            self._running.report(job_id, _plus(live.progress, counts))
        self._running.check(job_id)
        return {"counts": counts, "errors": _errors(results), "ended_at": _now()}

    @DBOS.step(name="clean")
    def clean(self, job_id: str) -> None:
        self._spool.remove(job_id)

    @DBOS.step(name="build_if_grown")
    def build_if_grown(self, added: int) -> str | None:
        return self._hooks.build_if_grown(added)

    # --- building and reporting -----------------------------------------------------------

    @DBOS.workflow(name="build")
    def run_build(self, job_id: str) -> Json:
        with self._at_work(job_id, "build"):
            result = self.build_generation(job_id)
            # Not of its last part, which may end before all that there was time for.
            done = ProgressOut(total=result["count"], processed=result["count"])
            return _ended(done, result)

    @DBOS.step(name="build_generation")
    def build_generation(self, job_id: str) -> Json:
        with stage("build"):
            progress, phase = self._progress(job_id), self._phase(job_id)
            manifest = self._patiently(
                job_id, lambda: self._searcher.build(progress, phase=phase), (DeviceLost,)
            )
        return {
            "generation": manifest.number,
            "count": manifest.count,
            "dim": manifest.dim,
            "explained_variance": manifest.explained,
        }

    @DBOS.workflow(name="duplicates")
    def run_duplicates(self, job_id: str, options: Json) -> Json:
        with self._at_work(job_id, "duplicates"):
            result = self.find_duplicates(job_id, options)
            return _ended(self._last(job_id), result)

    @DBOS.step(name="find_duplicates")
    def find_duplicates(self, job_id: str, options: Json) -> Json:
        report = duplicates_of(
            self._searcher, DuplicateOptions(**options), progress=self._progress(job_id)
        )
        content = report.to_json()
        self._reports.write(job_id, content)
        return {name: value for name, value in content.items() if name != "groups"}

    @DBOS.workflow(name="snapshot")
    def run_snapshot(self, job_id: str, note: str) -> Json:
        with self._at_work(job_id, "snapshot"):
            result = self.take_snapshot(job_id, note)
            return _ended(self._last(job_id), result)

    @DBOS.step(name="take_snapshot")
    def take_snapshot(self, job_id: str, note: str) -> Json:
        snapshot, _ = create_snapshot(
            self._data_dir,
            note=note,
            program_version=__version__,
            report=self._progress(job_id),
        )
        content = SnapshotOut.of(Listed(snapshot.name, self._data_dir, snapshot, None))
        result = content.model_dump(mode="json")
        self._reports.write(job_id, result)
        return result

    # --- internals ------------------------------------------------------------------------

    @contextmanager
    def _at_work(self, job_id: str, type: JobType) -> Iterator[None]:
        """Whether a job that is left ends, is taken up later, or is forgotten."""
        try:
            with self._running.job(job_id), self._observed.job(job_id, type) as outcome:
                try:
                    self._running.check(job_id)
                    yield
                    outcome.state = judged(self._last(job_id))
                except DBAPIError as error:
                    # What was done could not be recorded: it goes on once that is possible again.
                    log.error("the job %s cannot be recorded: %s", job_id, error.orig)
                    self._running.say(job_id, f"its progress cannot be recorded: {error.orig}")
                    raise Stopping from error
                except Exception:
                    outcome.state = "failed"
                    self._spool.remove(job_id)
                    raise
                finally:
                    if outcome.state is None and self._running.cancelled(job_id):
                        outcome.state = "cancelled"
                    outcome.images = self._last(job_id).processed
                    self._hooks.left(job_id)
        finally:
            # What was added stays; the rest of the upload is given up.
            if self._running.cancelled(job_id):
                self._spool.remove(job_id)

    def _patiently(
        self,
        job_id: str,
        do: Callable[[], Result],
        reasons: tuple[type[Exception], ...] = PASSING,
    ) -> Result:
        """`do()`, again and again while there are reasons to wait, such as a full disk: the upload
        was acknowledged.

        Without a device it waits for the end of the process; the next one goes on with it.
        """
        said = None
        while True:
            try:
                result = do()
            except reasons as error:
                if str(error) != said:
                    said = str(error)
                    log.warning("the job %s waits: %s", job_id, said)
                self._running.say(job_id, said)
                self._running.wait(job_id, RETRY_S)
            else:
                self._running.say(job_id, None)
                return result

    def _progress(self, job_id: str) -> Callable[[int, int], None]:
        """To be called while a step is at work; raises Stopping when that has to end."""
        self._running.enter(job_id, None)

        def report(done: int, total: int) -> None:
            self._running.check(job_id)
            self._running.report(job_id, ProgressOut(total=total, processed=done))

        return report

    def _phase(self, job_id: str) -> Callable[[str], None]:
        """As `_progress`, for the name of each part of the work."""

        def enter(phase: str) -> None:
            self._running.check(job_id)
            self._running.enter(job_id, phase)

        return enter

    def _last(self, job_id: str) -> ProgressOut:
        live = self._running.live(job_id)
        return live.progress if live is not None else ProgressOut()


def _ended(progress: ProgressOut, result: Json) -> Json:
    """What is recorded of a job that has ended."""
    return {"progress": progress.model_dump(), "result": result}


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
    """Finer than the times in the catalog, so that what is stored in this millisecond is before."""
    return datetime.now(UTC).isoformat(timespec="microseconds")
