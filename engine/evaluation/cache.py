"""Descriptors of files, kept on disk, so that a second evaluation takes seconds."""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

import engine
from engine.describer import Describer
from engine.images import Box
from engine.pooling import Pooling
from engine.types import Vectors

log = logging.getLogger(__name__)

DESCRIBING = ("images.py", "describer.py", "cooccurrence.py", "max_correlation.py", "postprocess*")
DESCRIBING_FOLDERS = ("backbones", "pooling", "postprocess")
"""What decides a descriptor besides its recipe. A change there empties nothing, but is not mixed
with what was computed before."""


class DescriptorCache:
    """One SQLite file for each way to describe: a table from file to descriptor.

    Losing it costs time only: a file that cannot be read is begun anew, and what does not fit on
    the disk is kept in memory.
    """

    def __init__(self, folder: Path, describer: Describer, pooling: Pooling) -> None:
        self.path = folder / f"{description_digest(describer, pooling)[:32]}.sqlite"
        self.dim = pooling.dim
        self._overflow: dict[str, Vectors] = {}
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
            rows = self._connection.execute(
                "SELECT file FROM descriptors WHERE length(vector) = ?", (4 * self.dim,)
            )
            stored |= {row[0] for row in rows}
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
                log.warning("descriptors are kept in memory: %s: %s", self.path, error)
            self._overflow.update(vectors)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _read(self, key: str) -> Vectors:
        row = None
        if self._connection is not None:
            row = self._connection.execute(
                "SELECT vector FROM descriptors WHERE file = ?", (key,)
            ).fetchone()
        if row is None:
            raise KeyError(key)
        return np.frombuffer(row[0], np.float32)

    def _open(self) -> sqlite3.Connection | None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                return self._connect()
            except sqlite3.DatabaseError as error:
                log.warning("%s cannot be read (%s); beginning it anew", self.path, error)
                for file in with_companions(self.path):
                    file.unlink(missing_ok=True)
                return self._connect()
        except (OSError, sqlite3.Error) as error:
            log.warning("%s cannot be used: %s", self.path, error)
            return None

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=30)
        try:
            # What a crash may lose here is computed again.
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=OFF")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS descriptors (file TEXT PRIMARY KEY, vector BLOB)"
            )
            problem = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if problem != "ok":
                raise sqlite3.DatabaseError(problem)
        except sqlite3.Error:
            connection.close()
            raise
        self.path.touch()  # `prune` keeps what was used last
        return connection


def description_digest(describer: Describer, pooling: Pooling) -> str:
    """SHA-256 over all that decides the raw descriptor of a file, precision and code included."""
    recipe = describer.recipe.to_json()
    content = {
        name: recipe[name] for name in ("backbone", "layer", "weights_digest", "max_side", "scales")
    }
    content |= {
        "pooling": pooling.kind,
        "options": dict(pooling.options),
        "digest": pooling.digest(),
        "root": pooling.signed_root,
        "precision": describer.precision,
        "device": describer.device.type,
        "code": _code_digest(),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@cache
def _code_digest() -> str:
    root = Path(engine.__file__).parent
    files = [file for pattern in DESCRIBING for file in root.glob(pattern) if file.is_file()]
    files += [file for folder in DESCRIBING_FOLDERS for file in (root / folder).glob("*.py")]
    content = hashlib.sha256()
    for file in sorted(files):
        content.update(file.name.encode())
        content.update(file.read_bytes())
    return content.hexdigest()


def file_key(path: Path, box: Box | None, upright: bool) -> str:
    """Path, size and time of the last change, with what is done to it: changes with the file.

    Raises: OSError for a file that is not there.
    """
    state = path.stat()
    part = "" if box is None else "|" + ",".join(f"{value:g}" for value in box)
    turned = "" if upright else "|stored"
    return f"{path.resolve()}|{state.st_size}|{state.st_mtime_ns}{part}{turned}"


def prune(folder: Path, max_bytes: int) -> list[Path]:
    """Delete the caches used longest ago until the folder has at most `max_bytes`."""
    entries = sorted(
        (
            (file.stat().st_mtime_ns, file.stat().st_size, file)
            for file in folder.glob("*.s*")
            if file.suffix in (".sqlite", ".safetensors")
        ),
        reverse=True,
    )
    total, gone = 0, []
    for _, size, file in entries:
        total += size
        if total > max_bytes:
            for companion in with_companions(file):
                companion.unlink(missing_ok=True)
            gone.append(file)
    return gone


def with_companions(file: Path) -> list[Path]:
    """A SQLite file and the files that SQLite keeps beside it."""
    return [file.with_name(file.name + suffix) for suffix in ("", "-wal", "-shm")]
