"""One unchanging view of a catalog, beside the process that owns and changes it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy import (
    ColumnElement,
    Connection,
    Executable,
    create_engine,
    event,
    func,
    select,
    text,
)
from sqlalchemy.exc import DatabaseError

from engine.catalog.catalog import (
    READ_CHUNK,
    checksums_table,
    descriptors_table,
    images_table,
    meta_table,
    thumbnails_table,
)
from engine.catalog.checksums import FIELDS, differing
from engine.errors import CorruptIndex, EmptyIndex
from engine.files.storage import fsync_file, storage_errors
from engine.types import Recipe, Rows, Vectors

BACKUP_PAGES = 2048
"""Of 4 KiB, copied before anybody is told of the progress."""
_WITH_CHECKSUMS = (
    "images JOIN checksums USING (row) JOIN descriptors USING (row) JOIN thumbnails USING (row)"
)
SOME = 500
"""Values named in one query."""


class StoredImage(NamedTuple):
    """What tells images apart."""

    row: int
    id: str
    digest: str


class CatalogReader:
    """Reads a catalog as it was at one moment, however long that takes and whatever is written.

    All reading is one transaction: SQLite's log keeps the old content for it, so that writers
    neither wait nor are seen. The log cannot shrink meanwhile. For one thread.
    """

    def __init__(self, path: Path) -> None:
        """Raises EmptyIndex where there is no catalog, CorruptIndex if it is none."""
        if not path.is_file():
            raise EmptyIndex(f"there is no index in {path.parent}; add images first")
        self.path = path
        # Without the driver's own transactions: it would begin one at the first write only.
        options = {"timeout": 30, "isolation_level": None, "check_same_thread": False}
        self._engine = create_engine(f"sqlite:///{path}", connect_args=options)
        event.listen(self._engine, "begin", _begin)
        self._connection: Connection = self._engine.connect()
        try:
            with self._errors():
                self._connection.exec_driver_sql("PRAGMA query_only=ON")
                # The first read, not BEGIN, decides which moment is seen.
                self._connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").all()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._connection.close()
        self._engine.dispose()

    def recipe(self) -> Recipe | None:
        query = select(meta_table.c.value).where(meta_table.c.key == "recipe")
        with self._errors():
            text = self._connection.execute(query).scalar_one_or_none()
        return None if text is None else Recipe.from_json(json.loads(text))

    def count(self) -> int:
        return self._number(select(func.count()).select_from(images_table))

    def highest_row(self) -> int:
        """The newest row number that was ever given out; 0 before the first."""
        query = "SELECT seq FROM sqlite_sequence WHERE name = 'images'"
        with self._errors():
            return int(self._connection.exec_driver_sql(query).scalar_one_or_none() or 0)

    def live_rows(self) -> Rows:
        """All stored row numbers, ascending."""
        query = select(images_table.c.row).order_by(images_table.c.row)
        return np.fromiter((row for (row,) in self._stream(query)), np.int64)

    def images(self, after: int = 0) -> Iterator[StoredImage]:
        """Those with higher row numbers than `after`, ascending."""
        columns = (images_table.c.row, images_table.c.id, images_table.c.digest)
        query = select(*columns).where(images_table.c.row > after).order_by(images_table.c.row)
        return (StoredImage(*found) for found in self._stream(query))

    def digests(self) -> Iterator[str]:
        """Each digest once, ascending."""
        column = images_table.c.digest
        return (value for (value,) in self._stream(select(column).distinct().order_by(column)))

    def used(self, digests: Collection[str]) -> set[str]:
        """Those of `digests` that an image has."""
        column = images_table.c.digest
        return {value for part in _parts(list(digests)) for value in self._among(column, part)}

    def descriptors(self, rows: Rows) -> Iterator[tuple[Rows, Vectors]]:
        """As `Catalog.descriptors`. Raises CorruptIndex if their lengths differ."""
        for start in range(0, len(rows), READ_CHUNK):
            part = rows[start : start + READ_CHUNK].tolist()
            query = (
                select(descriptors_table)
                .where(descriptors_table.c.row.in_(part))
                .order_by(descriptors_table.c.row)
            )
            with self._errors():
                found = self._connection.execute(query).all()
            if not found:
                continue
            lengths = {len(vector) for _, vector in found}
            if len(lengths) > 1 or lengths.pop() % 2:
                raise CorruptIndex(
                    f"{self.path} holds a descriptor that was cut off; restore a snapshot"
                )
            vectors = np.stack([np.frombuffer(vector, np.float16) for _, vector in found])
            yield np.array([row for row, _ in found], np.int64), vectors.astype(np.float32)

    def thumbnail(self, row: int) -> bytes | None:
        query = select(thumbnails_table.c.jpeg).where(thumbnails_table.c.row == row)
        with self._errors():
            jpeg = self._connection.execute(query).scalar_one_or_none()
        return None if jpeg is None else bytes(jpeg)

    def check(self) -> list[str]:
        """Damage of the file itself, and images that lack a part; [] if there is none."""
        with self._errors():
            answers = self._connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
            orphans = self._connection.exec_driver_sql("PRAGMA foreign_key_check").all()
        name = self.path.name
        problems = [f"{name}: {answer}" for answer in answers if answer != "ok"]
        if orphans:
            problems.append(f"{name}: {len(orphans)} entries belong to no image")
        for what, table in (("descriptor", descriptors_table), ("thumbnail", thumbnails_table)):
            missing = self._number(
                select(func.count())
                .select_from(images_table.outerjoin(table))
                .where(table.c.row.is_(None))
            )
            if missing:
                problems.append(f"{name}: {missing} images have no {what}")
        return problems

    def differing(self) -> Iterator[tuple[str, str]]:
        """Ids of images that are not as they were written, and what of them; see `checksums`.

        Those from before there were checksums are not looked at.
        """
        if self._has_checksums():
            query = f"SELECT {FIELDS}, vector, jpeg, record, content FROM {_WITH_CHECKSUMS}"
            yield from differing(self._stream(text(query)))

    def without_checksum(self) -> int:
        """Images from before there were checksums."""
        if not self._has_checksums():
            return self.count()
        return self.count() - self._number(select(func.count()).select_from(checksums_table))

    def _has_checksums(self) -> bool:
        query = "SELECT count(*) FROM sqlite_master WHERE name = 'checksums'"
        return bool(self._number(text(query)))

    def backup(self, target: Path, progress: Callable[[int, int], None] | None = None) -> None:
        """Copy this view into a new file, durably; `progress` gets bytes and may raise.

        SQLite's online backup, a few pages at a time. Beside a writer it would begin anew at every
        change; not so here, where one transaction holds all of it. Raises StorageFull.
        """
        source: Any = self._connection.connection.driver_connection
        size = int(source.execute("PRAGMA page_size").fetchone()[0])

        def report(_: int, remaining: int, total: int) -> None:
            if progress:
                progress(size * (total - remaining), size * total)

        with storage_errors(target.parent), closing(sqlite3.connect(target)) as copy:
            # Nobody reads it before it is flushed as a whole, below.
            copy.execute("PRAGMA journal_mode=OFF")
            copy.execute("PRAGMA synchronous=OFF")
            source.backup(copy, pages=BACKUP_PAGES, progress=report)
        with storage_errors(target.parent):
            fsync_file(target)

    # --- internals ------------------------------------------------------------------------

    def _number(self, query: Executable) -> int:
        with self._errors():
            return int(self._connection.execute(query).scalar_one())

    def _among(self, column: ColumnElement[str], values: Sequence[str]) -> list[str]:
        with self._errors():
            found = self._connection.execute(select(column).where(column.in_(values)))
            return list(found.scalars())

    def _stream(self, query: Executable) -> Iterator[Any]:
        with self._errors():
            yield from self._connection.execution_options(yield_per=1000).execute(query)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        with storage_errors(self.path.parent):
            try:
                yield
            except (DatabaseError, sqlite3.DatabaseError) as error:
                if "malformed" in str(error) or "not a database" in str(error):
                    # Without the query that the driver's error is wrapped in: one line.
                    reason = getattr(error, "orig", error)
                    raise CorruptIndex(
                        f"{self.path} is damaged ({reason}); restore a snapshot"
                    ) from error
                raise


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def _parts(values: Sequence[str]) -> Iterator[Sequence[str]]:
    return (values[start : start + SOME] for start in range(0, len(values), SOME))
