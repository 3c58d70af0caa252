"""The file of the job library: opened, set aside where it is damaged, kept small."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sqlalchemy.exc import DatabaseError

from engine.errors import CorruptIndex
from engine.files.storage import storage_errors

log = logging.getLogger(__name__)

BESIDE = ("-wal", "-shm", "-journal")
"""Files that SQLite keeps beside its own."""


@contextmanager
def job_errors(path: Path) -> Iterator[None]:
    """Turn what the job library says of its file into errors of ours.

    Raises: StorageFull, StorageReadOnly, CorruptIndex.
    """
    with storage_errors(path.parent):
        try:
            yield
        except (DatabaseError, sqlite3.DatabaseError) as error:
            if _is_damage(error):
                reason = getattr(error, "orig", error)  # without the query: one line
                raise CorruptIndex(
                    f"{path} is damaged ({reason}); restart the service, which begins a new one: "
                    "images are not affected"
                ) from error
            raise


def prepare(path: Path) -> None:
    """Make the file ready for the job library; a damaged one is set aside and reported.

    Raises: StorageFull, StorageReadOnly.
    """
    try:
        with storage_errors(path.parent), closing(sqlite3.connect(path)) as connection:
            # A commit then costs one wait for the disk instead of four.
            connection.execute("PRAGMA journal_mode=WAL")
            found = [str(row[0]) for row in connection.execute("PRAGMA quick_check(3)")]
    except sqlite3.DatabaseError as error:
        if not _is_damage(error):
            raise
        found = [str(error)]
    if found != ["ok"]:
        _set_aside(path, "; ".join(found))


def _set_aside(path: Path, problem: str) -> None:
    kept = path.with_name(path.name + ".damaged")
    for suffix in ("", *BESIDE):
        file = path.with_name(path.name + suffix)
        if file.exists():
            file.replace(kept.with_name(kept.name + suffix))
    log.error(
        "%s is damaged (%s) and was set aside as %s: the list of earlier jobs is lost, images are "
        "not; uploads that were not worked through are queued again",
        path,
        problem,
        kept.name,
    )


def _is_damage(error: Exception) -> bool:
    text = str(error)
    return "malformed" in text or "not a database" in text
