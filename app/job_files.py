"""Whether the files of the jobs are whole, looked at from beside the service."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

UNFINISHED = ("ENQUEUED", "PENDING", "DELAYED")


def check_job_files(data_dir: Path) -> tuple[list[str], list[str]]:
    """Problems of `jobs.sqlite`, and notes on uploads in `spool/` that no job waits for."""
    path, spool = data_dir / "jobs.sqlite", data_dir / "spool"
    unfinished: set[str] = set()
    problems = []
    if path.is_file():
        try:
            with closing(sqlite3.connect(path, timeout=30)) as connection:
                connection.execute("PRAGMA query_only=ON")
                answers = connection.execute("PRAGMA integrity_check").fetchall()
                problems = [answer for (answer,) in answers if answer != "ok"]
                unfinished = _unfinished(connection)
        except sqlite3.DatabaseError as error:
            problems = [str(error)]
    folders = sorted(spool.iterdir()) if spool.is_dir() else []
    strays = [] if problems else [folder for folder in folders if folder.name not in unfinished]
    return (
        [
            f"{path.name}: {problem}; stop the service and move the file away: uploads that wait "
            "have to be sent again, stored images are not touched"
            for problem in problems
        ],
        [f"{folder} belongs to no job that waits; the next start removes it" for folder in strays],
    )


def _unfinished(connection: sqlite3.Connection) -> set[str]:
    """Ids of jobs that will go on; none before the first start has made the table."""
    table = "SELECT 1 FROM sqlite_master WHERE name = 'workflow_status'"
    if connection.execute(table).fetchone() is None:
        return set()
    marks = ", ".join("?" * len(UNFINISHED))
    query = f"SELECT workflow_uuid FROM workflow_status WHERE status IN ({marks})"
    return {str(job_id) for (job_id,) in connection.execute(query, UNFINISHED)}
