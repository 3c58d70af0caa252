"""Descriptors of files, kept on disk, so that a second evaluation takes seconds."""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np

from engine.describer import Describer
from engine.evaluation.cache_keys import description_digest
from engine.pooling import Pooling
from engine.types import Vectors

log = logging.getLogger(__name__)

WAIT_S = 30.0
"""For another process that writes."""


class DescriptorCache:
    """One SQLite file for each way to describe: a table from file to descriptor.

    Losing it costs time only: a damaged file is begun anew, and what cannot be written to the disk
    is kept in memory. Several processes may use one file. Each holds a shared lock beside it, as
    SQLite does not survive that its files are deleted under it: `prune` and a fresh start delete
    only what they have locked for themselves.
    """

    def __init__(self, folder: Path, describer: Describer, pooling: Pooling) -> None:
        self.path = folder / f"{description_digest(describer, pooling)[:32]}.sqlite"
        self.dim = pooling.dim
        self._overflow: dict[str, Vectors] = {}
        self._lock: BinaryIO | None = None
        self._connection = self._open()

    def get(self, keys: Sequence[str]) -> Vectors:
        """The descriptors of `keys`, (N, D) in their order. Raises KeyError for a missing one."""
        vectors = np.zeros((len(keys), self.dim), np.float32)
        for row, key in enumerate(keys):
            vectors[row] = self._overflow[key] if key in self._overflow else self._read(key)
        return vectors

    def missing(self, keys: Sequence[str]) -> list[str]:
        """Keys without a descriptor, in their order."""
        stored = set(self._overflow)
        if self._connection is not None:
            try:
                rows = self._connection.execute(
                    "SELECT file FROM descriptors WHERE length(vector) = ?", (4 * self.dim,)
                )
                stored |= {row[0] for row in rows}
            except sqlite3.Error as error:
                self._give_up(error)
                stored = set(self._overflow)
        return [key for key in keys if key not in stored]

    def put(self, vectors: Mapping[str, Vectors]) -> None:
        """Keep descriptors; an interrupted run goes on from there."""
        rows = [(key, vector.astype(np.float32).tobytes()) for key, vector in vectors.items()]
        try:
            if self._connection is None:
                raise sqlite3.OperationalError("the cache is not open")
            with self._connection:
                self._connection.executemany(
                    "INSERT OR REPLACE INTO descriptors VALUES (?, ?)", rows
                )
        except sqlite3.Error as error:
            if not self._overflow:
                log.warning("new descriptors are kept in memory: %s: %s", self.path, error)
            self._overflow.update(vectors)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _give_up(self, error: sqlite3.Error) -> None:
        """Nothing is there from now on, and what is put is kept in memory."""
        log.warning("%s cannot be read any more: %s", self.path, error)
        self.close()

    def _read(self, key: str) -> Vectors:
        row = None
        if self._connection is not None:
            try:
                row = self._connection.execute(
                    "SELECT vector FROM descriptors WHERE file = ? AND length(vector) = ?",
                    (key, 4 * self.dim),
                ).fetchone()
            except sqlite3.Error as error:
                self._give_up(error)
        if row is None:
            raise KeyError(key)
        return np.frombuffer(row[0], np.float32)

    def _open(self) -> sqlite3.Connection | None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock, alone = _hold(self.path)
            connection = self._connect_or_begin_anew(alone)
            fcntl.flock(self._lock, fcntl.LOCK_SH)
        except (OSError, sqlite3.Error) as error:
            return self._open_to_read(error)
        with suppress(OSError):
            os.utime(self.path)  # `prune` keeps what was used last
        return connection

    def _open_to_read(self, problem: Exception) -> sqlite3.Connection | None:
        connection = None if _is_damage(problem) else _connect_to_read(self.path)
        use = "not used" if connection is None else "only read"
        log.warning("%s is %s, new descriptors stay in memory: %s", self.path, use, problem)
        if self._lock is not None:
            with suppress(OSError):
                fcntl.flock(self._lock, fcntl.LOCK_SH)
        return connection

    def _connect_or_begin_anew(self, alone: bool) -> sqlite3.Connection:
        try:
            return _connect(self.path)
        except sqlite3.Error as error:
            if not (alone and _is_damage(error)):
                raise
            log.warning("%s is damaged (%s); beginning it anew", self.path, error)
        for file in with_companions(self.path):
            file.unlink(missing_ok=True)
        return _connect(self.path)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=WAIT_S)
    try:
        # What a crash may lose here is computed again.
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS descriptors (file TEXT PRIMARY KEY, vector BLOB)"
        )
        _check(connection)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _connect_to_read(path: Path) -> sqlite3.Connection | None:
    """What is there, on a disk or in a folder that may only be read; None where nothing is."""
    # Without files of its own beside the cache, SQLite wants to be told that nobody writes.
    for options in ("mode=ro", "mode=ro&immutable=1"):
        try:
            connection = sqlite3.connect(f"{path.resolve().as_uri()}?{options}", WAIT_S, uri=True)
        except sqlite3.Error:
            continue
        try:
            connection.execute("SELECT file FROM descriptors LIMIT 1").fetchone()
            _check(connection)
            return connection
        except sqlite3.Error as error:
            connection.close()
            if _kind(error) not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
                break
    return None


def _check(connection: sqlite3.Connection) -> None:
    problem = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if problem != "ok":
        error = sqlite3.DatabaseError(problem)
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error


def _is_damage(error: Exception) -> bool:
    """Of the file itself; a locked or full disk passes, and no descriptor is lost for it."""
    return _kind(error) in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)


def _kind(error: Exception) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _hold(path: Path) -> tuple[BinaryIO, bool]:
    """Lock the cache at `path` for oneself if nobody has it, else share it once it is open.

    Returns: the lock, which ends when it is closed, and whether it is held alone.
    """
    while True:
        file = _lock_file(path).open("ab")
        try:
            alone = _try_alone(file)
            if not alone:
                fcntl.flock(file, fcntl.LOCK_SH)
            # `prune` may have deleted the file while this waited for it.
            if _is_at(file, _lock_file(path)):
                return file, alone
        except OSError:
            file.close()
            raise
        file.close()


def _lock_file(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def _try_alone(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def prune(folder: Path, max_bytes: int) -> list[Path]:
    """Delete the caches used longest ago until the folder has at most `max_bytes`.

    What another process uses at the time stays, and may vanish at any time.
    """
    entries = []
    for file in folder.glob("*.s*"):
        if file.suffix in (".sqlite", ".safetensors"):
            with suppress(OSError):
                state = file.stat()
                entries.append((state.st_mtime_ns, state.st_size, file))
    total, gone = 0, []
    for _, size, file in sorted(entries, reverse=True):
        total += size
        if total > max_bytes and _delete(file):
            gone.append(file)
    return gone


def _delete(file: Path) -> bool:
    """False for a file that is in use, or may not be deleted."""
    try:
        if file.suffix != ".sqlite":
            file.unlink(missing_ok=True)
            return True
        with _lock_file(file).open("ab") as lock:
            if not _try_alone(lock) or not _is_at(lock, _lock_file(file)):
                return False
            for companion in [*with_companions(file), _lock_file(file)]:
                companion.unlink(missing_ok=True)
            return True
    except OSError as error:
        log.warning("%s cannot be deleted: %s", file, error)
        return False


def with_companions(file: Path) -> list[Path]:
    """A SQLite file and the files that SQLite keeps beside it."""
    return [file.with_name(file.name + suffix) for suffix in ("", "-wal", "-shm")]
