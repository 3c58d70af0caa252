"""Answers of writes by idempotency key, in a file that survives a crash."""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from engine.errors import EngineError
from engine.files.storage import storage_errors

KEPT_S = 24 * 3600.0
MAX_KEYS = 10_000
"""The oldest are forgotten first."""

_TABLE = """
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY, created REAL NOT NULL, process TEXT NOT NULL, job_id TEXT NOT NULL,
    digest TEXT, status INTEGER, headers TEXT, body BLOB
) WITHOUT ROWID
"""


@dataclass(frozen=True)
class Answer:
    """An answer as it was sent."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


@dataclass(frozen=True)
class Claim:
    """What is known of a key: the answer to its request, or whether it is `mine` to answer.

    `digest` is that of the request, once its body had arrived; `job_id` the id for its job.
    """

    key: str
    mine: bool
    job_id: str
    digest: str | None = None
    answer: Answer | None = None


class IdempotencyStore:
    """One SQLite file. Methods may be called from several threads; all raise StorageFull."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # What another process has claimed and not answered, it never will: it has ended.
        self._process = uuid.uuid4().hex

    def claim(self, key: str, now: float) -> Claim:
        """Look a key up, and take it if it is free, or was left by a process that has ended."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM answers WHERE created < ?", (now - KEPT_S,))
            found = connection.execute(
                "SELECT process, job_id, digest, status, headers, body FROM answers WHERE key = ?",
                (key,),
            ).fetchone()
            if found is None:
                job_id = uuid.uuid4().hex
                connection.execute(
                    "INSERT INTO answers (key, created, process, job_id) VALUES (?, ?, ?, ?)",
                    (key, now, self._process, job_id),
                )
                self._forget_oldest(connection)
                return Claim(key, True, job_id)
            process, job_id, digest, status, headers, body = found
            if status is not None:
                return Claim(key, False, job_id, digest, Answer(status, _headers(headers), body))
            mine = process != self._process
            if mine:
                connection.execute(
                    "UPDATE answers SET process = ? WHERE key = ?", (self._process, key)
                )
            return Claim(key, mine, job_id, digest)

    def begin(self, claim: Claim, digest: str) -> bool:
        """The whole request has come; whether it is the one that the key was used for before."""
        if claim.digest == digest:
            return True
        with self._transaction() as connection:
            if claim.digest is not None:
                # It stays for the request that it was used for.
                connection.execute("UPDATE answers SET process = '' WHERE key = ?", (claim.key,))
                return False
            connection.execute("UPDATE answers SET digest = ? WHERE key = ?", (digest, claim.key))
        return True

    def keep(self, claim: Claim, answer: Answer) -> None:
        headers = json.dumps([[part.decode("latin-1") for part in pair] for pair in answer.headers])
        with self._transaction() as connection:
            connection.execute(
                "UPDATE answers SET status = ?, headers = ?, body = ? WHERE key = ?",
                (answer.status, headers, answer.body, claim.key),
            )

    def release(self, claim: Claim, *, forget: bool) -> None:
        """Let go of a key without an answer that is kept; cannot fail.

        Where nothing was done for its request, which is to `forget` it, the key is free for any
        other. Else the same request may come again, to the same job.
        """
        mine = "key = ? AND process = ? AND status IS NULL"
        values = (claim.key, self._process)
        with suppress(sqlite3.Error, EngineError), self._transaction() as connection:
            connection.execute(
                f"DELETE FROM answers WHERE {mine} AND (digest IS NULL OR ?)", (*values, forget)
            )
            connection.execute(f"UPDATE answers SET process = '' WHERE {mine}", values)

    def _forget_oldest(self, connection: sqlite3.Connection) -> None:
        connection.execute(
            "DELETE FROM answers WHERE key IN "
            "(SELECT key FROM answers ORDER BY created DESC LIMIT -1 OFFSET ?)",
            (MAX_KEYS,),
        )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with storage_errors(self._path.parent):
            connection = sqlite3.connect(self._path, timeout=30, isolation_level=None)
            with closing(connection):
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=FULL")
                connection.execute(_TABLE)
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield connection
                except BaseException:
                    connection.execute("ROLLBACK")
                    raise
                connection.execute("COMMIT")


def _headers(text: str) -> tuple[tuple[bytes, bytes], ...]:
    pairs = json.loads(text)
    return tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs)
