"""The source of truth: every acknowledged image, in one SQLite file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import (
    Column,
    Connection,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    delete,
    event,
    func,
    insert,
    select,
)
from sqlalchemy.exc import DatabaseError

from engine.errors import CorruptIndex, IdTaken, UnknownImage
from engine.storage import storage_errors
from engine.types import ImageRecord, Json, NewImage, Recipe, Rows, Vectors

SCHEMA_VERSION = "1"
READ_CHUNK = 256
"""Descriptors read at a time while an index is built or replayed."""

schema = MetaData()
meta_table = Table(
    "meta",
    schema,
    Column("key", String, primary_key=True),
    Column("value", Text, nullable=False),
)
images_table = Table(
    "images",
    schema,
    Column("row", Integer, primary_key=True),
    Column("id", String, nullable=False, unique=True),
    Column("digest", String, nullable=False, index=True),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("format", String, nullable=False),
    Column("metadata", Text, nullable=False),
    Column("created_at", String, nullable=False),
    # A row number is never used twice, not even after the newest row is deleted.
    sqlite_autoincrement=True,
)
_row = images_table.c.row
# Blobs live apart, so that scanning ids and digests does not read them.
descriptors_table = Table(
    "descriptors",
    schema,
    Column("row", ForeignKey(_row, ondelete="CASCADE"), primary_key=True),
    Column("vector", LargeBinary, nullable=False),
)
thumbnails_table = Table(
    "thumbnails",
    schema,
    Column("row", ForeignKey(_row, ondelete="CASCADE"), primary_key=True),
    Column("jpeg", LargeBinary, nullable=False),
)


class Catalog:
    """Images by id, with digest, metadata, thumbnail and raw descriptor.

    A method returns only after its change is on disk (WAL, `synchronous=FULL`). Methods may be
    called from several threads. Raw descriptors are kept as float16: half the space, and a
    cosine to the original of 0.9999999.
    """

    def __init__(self, path: Path) -> None:
        """Open or create the file at `path`.

        Raises: StorageFull, StorageReadOnly, CorruptIndex (not a catalog of this version).
        """
        self.path = path
        self._engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 30})
        event.listen(self._engine, "connect", _configure)
        try:
            with self._write() as connection:
                self._prepare(connection)
        except BaseException:
            self.close()
            raise

    def _prepare(self, connection: Connection) -> None:
        """Create what a new file lacks; a file of another version is left as it is."""
        meta_table.create(connection, checkfirst=True)
        version = self._meta(connection, "schema_version")
        if version is None:
            schema.create_all(connection)
            self._set_meta(connection, "schema_version", SCHEMA_VERSION)
        elif version != SCHEMA_VERSION:
            raise CorruptIndex(
                f"{self.path} has schema version {version}; this program reads {SCHEMA_VERSION}"
            )

    def close(self) -> None:
        self._engine.dispose()

    # --- recipe ---------------------------------------------------------------------------

    def recipe(self) -> Recipe | None:
        """The recipe of the stored descriptors; None before the first."""
        with self._read() as connection:
            text = self._meta(connection, "recipe")
        return None if text is None else Recipe.from_json(json.loads(text))

    def set_recipe(self, recipe: Recipe) -> None:
        with self._write() as connection:
            self._set_meta(connection, "recipe", json.dumps(recipe.to_json()))

    # --- writing --------------------------------------------------------------------------

    def put(
        self, images: Sequence[NewImage], *, new_ids: Set[str] = frozenset()
    ) -> tuple[list[int], list[int]]:
        """Insert the images, each replacing the one of the same id, in one transaction.

        Args:
            new_ids: those of the ids that must replace nothing.

        Returns: the new row numbers, in order, and the row numbers that were replaced.
        Raises: ValueError if an id is given twice, IdTaken if one of `new_ids` is stored.
        """
        ids = [image.id for image in images]
        if len(set(ids)) != len(ids):
            raise ValueError(f"an id is given twice: {sorted(ids)}")
        with self._write() as connection:
            replaced = [
                int(row)
                for image_id in ids
                for row in connection.execute(
                    delete(images_table)
                    .where(images_table.c.id == image_id)
                    .returning(images_table.c.row)
                ).scalars()
                if _is_free(image_id, new_ids)
            ]
            rows = [self._insert(connection, image) for image in images]
        return rows, replaced

    def _insert(self, connection: Connection, image: NewImage) -> int:
        row = connection.execute(
            insert(images_table)
            .values(
                id=image.id,
                digest=image.digest,
                width=image.width,
                height=image.height,
                format=image.format,
                metadata=json.dumps(image.metadata),
                created_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            )
            .returning(images_table.c.row)
        ).scalar_one()
        vector = image.descriptor.astype(np.float16).tobytes()
        connection.execute(insert(descriptors_table).values(row=row, vector=vector))
        connection.execute(insert(thumbnails_table).values(row=row, jpeg=image.thumbnail))
        return int(row)

    def delete(self, image_id: str) -> int:
        """Forget an image; returns its row number. Raises UnknownImage."""
        with self._write() as connection:
            row = connection.execute(
                delete(images_table)
                .where(images_table.c.id == image_id)
                .returning(images_table.c.row)
            ).scalar_one_or_none()
        if row is None:
            raise UnknownImage(f"no image has the id {image_id!r}")
        return int(row)

    # --- reading --------------------------------------------------------------------------

    def get(self, image_id: str) -> ImageRecord:
        """Raises UnknownImage."""
        with self._read() as connection:
            found = connection.execute(
                select(images_table).where(images_table.c.id == image_id)
            ).first()
        if found is None:
            raise UnknownImage(f"no image has the id {image_id!r}")
        return _record(found._mapping)

    def has(self, image_id: str) -> bool:
        query = select(images_table.c.row).where(images_table.c.id == image_id)
        with self._read() as connection:
            return connection.execute(query).first() is not None

    def by_rows(self, rows: Iterable[int]) -> dict[int, ImageRecord]:
        """Records of those of `rows` that are still stored."""
        wanted = [int(row) for row in rows]
        with self._read() as connection:
            found = [
                record
                for start in range(0, len(wanted), 500)
                for record in connection.execute(
                    select(images_table).where(images_table.c.row.in_(wanted[start : start + 500]))
                )
            ]
        return {record.row: _record(record._mapping) for record in found}

    def by_digest(self, digest: str) -> list[ImageRecord]:
        """Images with exactly these bytes, oldest first."""
        with self._read() as connection:
            found = connection.execute(
                select(images_table)
                .where(images_table.c.digest == digest)
                .order_by(images_table.c.row)
            ).all()
        return [_record(record._mapping) for record in found]

    def thumbnail(self, image_id: str) -> bytes:
        """JPEG bytes. Raises UnknownImage."""
        query = (
            select(thumbnails_table.c.jpeg)
            .join(images_table, images_table.c.row == thumbnails_table.c.row)
            .where(images_table.c.id == image_id)
        )
        with self._read() as connection:
            jpeg = connection.execute(query).scalar_one_or_none()
        if jpeg is None:
            raise UnknownImage(f"no image has the id {image_id!r}")
        return bytes(jpeg)

    def count(self) -> int:
        with self._read() as connection:
            return connection.execute(select(func.count()).select_from(images_table)).scalar_one()

    def highest_row(self) -> int:
        """The newest row number that was ever given out; 0 before the first."""
        query = "SELECT seq FROM sqlite_sequence WHERE name = 'images'"
        with self._read() as connection:
            return int(connection.exec_driver_sql(query).scalar_one_or_none() or 0)

    def live_rows(self) -> Rows:
        """All stored row numbers, ascending."""
        with self._read() as connection:
            rows = connection.execute(select(images_table.c.row).order_by(images_table.c.row))
            return np.fromiter((row for (row,) in rows), np.int64)

    def descriptors(self, rows: Iterable[int]) -> Iterator[tuple[Rows, Vectors]]:
        """Raw descriptors of those of `rows` that are still stored, a chunk at a time.

        Raises: CorruptIndex if their lengths differ.
        """
        wanted = [int(row) for row in rows]
        for start in range(0, len(wanted), READ_CHUNK):
            query = (
                select(descriptors_table)
                .where(descriptors_table.c.row.in_(wanted[start : start + READ_CHUNK]))
                .order_by(descriptors_table.c.row)
            )
            with self._read() as connection:
                found = connection.execute(query).all()
            if found:
                lengths = {len(vector) for _, vector in found}
                if len(lengths) > 1 or lengths.pop() % 2:
                    raise CorruptIndex(
                        f"{self.path} holds a descriptor that was cut off; restore it from a backup"
                    )
                vectors = np.stack([np.frombuffer(vector, np.float16) for _, vector in found])
                yield np.array([row for row, _ in found], np.int64), vectors.astype(np.float32)

    def check(self) -> list[str]:
        """Damage that SQLite finds in the file itself; empty if there is none."""
        with self._read() as connection:
            answers = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
            missing = connection.execute(
                select(func.count())
                .select_from(images_table.outerjoin(descriptors_table))
                .where(descriptors_table.c.row.is_(None))
            ).scalar_one()
        problems = [f"{self.path.name}: {answer}" for answer in answers if answer != "ok"]
        if missing:
            problems.append(f"{self.path.name}: {missing} images have no descriptor")
        return problems

    # --- internals ------------------------------------------------------------------------

    @contextmanager
    def _errors(self) -> Iterator[None]:
        with storage_errors(self.path.parent):
            try:
                yield
            except DatabaseError as error:
                if "malformed" in str(error) or "not a database" in str(error):
                    raise CorruptIndex(
                        f"{self.path} is damaged ({error.orig}); restore it from a backup"
                    ) from error
                raise

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        with self._errors(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        with self._errors(), self._engine.begin() as connection:
            yield connection

    @staticmethod
    def _meta(connection: Connection, key: str) -> str | None:
        query = select(meta_table.c.value).where(meta_table.c.key == key)
        return connection.execute(query).scalar_one_or_none()

    @staticmethod
    def _set_meta(connection: Connection, key: str, value: str) -> None:
        connection.execute(delete(meta_table).where(meta_table.c.key == key))
        connection.execute(insert(meta_table).values(key=key, value=value))


def _is_free(image_id: str, new_ids: Set[str]) -> bool:
    """True, for an id whose image may be replaced. Raises IdTaken, which rolls everything back."""
    if image_id in new_ids:
        raise IdTaken(f"the id {image_id!r} was given to another image meanwhile")
    return True


def stored_descriptor(vector: Vectors) -> Vectors:
    """The value that reading `vector` back from the catalog gives (float16 precision)."""
    return vector.astype(np.float16).astype(np.float32)


def _record(found: Mapping[Any, Any]) -> ImageRecord:
    metadata: Json = json.loads(found["metadata"])
    return ImageRecord(
        row=found["row"],
        id=found["id"],
        digest=found["digest"],
        width=found["width"],
        height=found["height"],
        format=found["format"],
        metadata=metadata,
        created_at=found["created_at"],
    )


def _configure(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL",
        # Every commit reaches the disk before it is acknowledged.
        "synchronous=FULL",
        "foreign_keys=ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
