"""Results of jobs that are too long for a job's own entry, as files."""

from __future__ import annotations

import json
from pathlib import Path

from app.cursor import no_cursor
from app.errors import UnknownReport
from engine.files.storage import storage_errors, write_atomically
from engine.types import Json

KEPT = 20
"""The newest are kept."""


class Reports:
    """`reports/<job>.json` in the data folder."""

    def __init__(self, data_dir: Path) -> None:
        self.folder = data_dir / "reports"

    def write(self, job_id: str, content: Json) -> None:
        """Raises StorageFull, StorageReadOnly."""
        with storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path(job_id), json.dumps(content).encode())
        newest = sorted(self.folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        for old in newest[:-KEPT]:
            old.unlink(missing_ok=True)

    def read(self, job_id: str) -> Json:
        """Raises UnknownReport, also for one that made room for newer ones."""
        try:
            content: Json = json.loads(self._path(job_id).read_bytes())
        except (FileNotFoundError, ValueError) as error:
            raise UnknownReport(
                f"no result of the job {job_id!r} is kept: it has not ended, is of another kind, "
                f"or made room for the newest {KEPT}"
            ) from error
        return content

    def _path(self, job_id: str) -> Path:
        return self.folder / f"{job_id}.json"


def report_page(content: Json, limit: int, cursor: str | None) -> Json:
    """A report with `limit` of its groups. Raises InvalidFields for a bad cursor."""
    start = 0
    if cursor is not None:
        if not (cursor.isascii() and cursor.isdecimal() and len(cursor) < 10):
            raise no_cursor(cursor)
        start = int(cursor)
    if "groups" not in content:
        return content
    groups = content["groups"]
    stop = start + limit
    more = str(stop) if stop < len(groups) else None
    return {**content, "groups": groups[start:stop], "next_cursor": more}
