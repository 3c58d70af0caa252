"""The source of truth: every acknowledged image, in one SQLite file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    Column,
    Connection,
    ForeignKey,
    Index,
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

from engine.catalog.checksums import content_checksum, record_checksum
from engine.catalog.merge_patch import merge_patch
from engine.errors import CorruptIndex, IdTaken, InvalidOption, UnknownImage
from engine.files.storage import storage_errors
from engine.types import ImageRecord, Json, NewImage, Recipe, Rows, Vectors

SCHEMA_VERSION = "1"
READ_CHUNK = 256
"""Descriptors read at a time while an index is built or replayed."""
METADATA_CHUNK, METADATA_BYTES = 512, 1 << 20
"""Metadata of so many images, or about so many bytes of it, are parsed at a time."""
MAX_METADATA = 1 << 16
"""Characters of the JSON of one image's metadata."""
_NAMED = 500
"""Values named in one query."""

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
# Counting and listing rows reads this alone: 10 MB at a million images, not their 250 MB.
_rows_index = Index("images_rows", _row)
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
# Beside the images, as files from before there were checksums have none for theirs.
checksums_table = Table(
    "checksums",
    schema,
    Column("row", ForeignKey(_row, ondelete="CASCADE"), primary_key=True),
    Column("record", Integer, nullable=False),
    Column("content", Integer, nullable=False),
)

_COLUMNS = "row, id, digest, width, height, format, metadata, created_at"
_BY_ID = f"SELECT {_COLUMNS} FROM images WHERE id = ?"
_BY_DIGEST = f"SELECT {_COLUMNS} FROM images WHERE digest = ? ORDER BY row"
_HAS = "SELECT row FROM images WHERE id = ?"
_IDS_AFTER = "SELECT id, row FROM images WHERE id > ? ORDER BY id LIMIT ?"
_PAGE_SCAN = 4096
"""Ids looked at together while few of them pass a filter."""
_DIGEST = "SELECT digest FROM images WHERE digest = ? LIMIT 1"
_DELETE = f"DELETE FROM images WHERE id = ? RETURNING {_COLUMNS}"
_INSERT = (
    "INSERT INTO images (id, digest, width, height, format, metadata, created_at) "
    "VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_INSERT_DESCRIPTOR = "INSERT INTO descriptors (row, vector) VALUES (?, ?)"
_INSERT_THUMBNAIL = "INSERT INTO thumbnails (row, jpeg) VALUES (?, ?)"
_INSERT_CHECKSUMS = "INSERT INTO checksums (row, record, content) VALUES (?, ?, ?)"
_SET_METADATA = "UPDATE images SET metadata = ? WHERE row = ?"
_SET_CHECKSUM = "UPDATE checksums SET record = ? WHERE row = ?"
_COUNT = "SELECT count(*) FROM images"
_LIVE_ROWS = "SELECT group_concat(row) FROM images"
_METADATA = (
    "SELECT group_concat(row), group_concat(metadata) "
    "FROM (SELECT row, metadata FROM images WHERE row > ? ORDER BY row LIMIT ?)"
)
_IS_PREPARED = (
    "SELECT 1 FROM sqlite_master WHERE name IN ('images_rows', 'checksums') "
    "GROUP BY 1 HAVING count(*) = 2"
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
            with self._read() as connection:
                prepared = connection.exec_driver_sql(_IS_PREPARED).first() is not None
            if not prepared or self._version() != SCHEMA_VERSION:
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
        # Files from before there was this index: half a second at a million images, once.
        _rows_index.create(connection, checkfirst=True)
        checksums_table.create(connection, checkfirst=True)

    def _version(self) -> str | None:
        with self._read() as connection:
            return self._meta(connection, "schema_version")

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

    # Statements that every search and write waits for are plain SQL: compiling and reading them
    # through the expression language takes several times as long as SQLite does.

    def put(
        self,
        images: Sequence[NewImage],
        *,
        new_ids: Set[str] = frozenset(),
        before_commit: Callable[[list[int], list[ImageRecord]], None] | None = None,
    ) -> tuple[list[int], list[int]]:
        """Insert the images, each replacing the one of the same id, in one transaction.

        Args:
            new_ids: those of the ids that must replace nothing.
            before_commit: gets the new row numbers and the replaced records; what it raises
                rolls everything back.

        Returns: the new row numbers, in order, and the row numbers that were replaced.
        Raises: ValueError if an id is given twice, IdTaken if one of `new_ids` is stored.
        """
        ids = [image.id for image in images]
        if len(set(ids)) != len(ids):
            raise ValueError(f"an id is given twice: {sorted(ids)}")
        with self._write() as connection:
            replaced = [
                _record(found)
                for image_id in ids
                for found in connection.exec_driver_sql(_DELETE, (image_id,))
                if _is_free(image_id, new_ids)
            ]
            rows = [self._insert(connection, image) for image in images]
            if before_commit:
                before_commit(rows, replaced)
        return rows, [record.row for record in replaced]

    def _insert(self, connection: Connection, image: NewImage) -> int:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        metadata = json.dumps(image.metadata)
        named = (image.id, image.digest, image.width, image.height, image.format, metadata, now)
        row = int(connection.exec_driver_sql(_INSERT, named).lastrowid)
        vector = image.descriptor.astype(np.float16).tobytes()
        connection.exec_driver_sql(_INSERT_DESCRIPTOR, (row, vector))
        connection.exec_driver_sql(_INSERT_THUMBNAIL, (row, image.thumbnail))
        sums = (record_checksum(named), content_checksum(vector, image.thumbnail))
        connection.exec_driver_sql(_INSERT_CHECKSUMS, (row, *sums))
        return row

    def delete(
        self, image_id: str, before_commit: Callable[[ImageRecord], None] | None = None
    ) -> int:
        """Forget an image; returns its row number.

        `before_commit` gets its record; what it raises keeps the image. Raises UnknownImage.
        """
        with self._write() as connection:
            record = _only(connection.exec_driver_sql(_DELETE, (image_id,)).all(), image_id)
            if before_commit:
                before_commit(record)
        return record.row

    def patch(self, image_id: str, change: Json) -> ImageRecord:
        """Change the metadata of an image by a JSON merge patch (RFC 7396); the row stays.

        Returns: the record as it now is. Raises: UnknownImage, InvalidOption if the metadata would
            become too long.
        """
        with self._write() as connection:
            record = _only(connection.exec_driver_sql(_BY_ID, (image_id,)).all(), image_id)
            metadata = merge_patch(record.metadata, change)
            length = len(json.dumps(metadata, ensure_ascii=False))
            if length > MAX_METADATA:
                raise InvalidOption(
                    f"the metadata of {image_id!r} would have {length:,} characters; at most "
                    f"{MAX_METADATA:,}: remove entries by setting them to null"
                )
            text = json.dumps(metadata)
            connection.exec_driver_sql(_SET_METADATA, (text, record.row))
            fields = _fields(record, text)
            connection.exec_driver_sql(_SET_CHECKSUM, (record_checksum(fields), record.row))
        return replace(record, metadata=metadata)

    # --- reading --------------------------------------------------------------------------

    def get(self, image_id: str) -> ImageRecord:
        """Raises UnknownImage."""
        with self._read() as connection:
            return _only(connection.exec_driver_sql(_BY_ID, (image_id,)).all(), image_id)

    def has(self, image_id: str) -> bool:
        with self._read() as connection:
            return connection.exec_driver_sql(_HAS, (image_id,)).first() is not None

    def by_rows(self, rows: Iterable[int]) -> dict[int, ImageRecord]:
        """Records of those of `rows` that are still stored."""
        wanted = [int(row) for row in rows]
        with self._read() as connection:
            return {record.row: record for record in _records(connection, wanted)}

    def by_digest(self, digest: str) -> list[ImageRecord]:
        """Images with exactly these bytes, oldest first."""
        with self._read() as connection:
            return [_record(row) for row in connection.exec_driver_sql(_BY_DIGEST, (digest,))]

    def used_digests(self, digests: Sequence[str]) -> set[str]:
        """Those of `digests` that a stored image has."""
        with self._read() as connection:
            return {
                found
                for digest in digests
                for (found,) in connection.exec_driver_sql(_DIGEST, (digest,))
            }

    def page(
        self,
        after: str,
        limit: int,
        *,
        allowed: Callable[[Rows], NDArray[np.bool_]] | None = None,
        keep: Callable[[ImageRecord], bool] = lambda _: True,
    ) -> list[ImageRecord]:
        """The first `limit` images whose ids come after `after`, in order of code points.

        In the order of ids, not of rows: an image that is replaced gets a new row, so that a
        reader of rows would meet it twice. An image that is there all the time is met exactly once.

        Args:
            allowed: of the given row numbers, those that may be looked at.
            keep: whether a record is wanted, asked of the allowed ones.
        """
        found: list[ImageRecord] = []
        with self._read() as connection:
            # One transaction: no image is replaced between the looks at its id and at its record.
            connection.exec_driver_sql("BEGIN")
            size = limit
            while len(found) < limit:
                ids = connection.exec_driver_sql(_IDS_AFTER, (after, size)).all()
                rows = np.array([row for _, row in ids], np.int64)
                if allowed is not None:
                    # Columns are asked for ascending rows.
                    ascending = np.sort(rows)
                    kept = set(ascending[allowed(ascending)].tolist())
                    rows = np.array([row for row in rows.tolist() if row in kept], np.int64)
                wanted = limit - len(found)
                for start in range(0, len(rows), wanted):
                    part = rows[start : start + wanted].tolist()
                    records = {record.row: record for record in _records(connection, part)}
                    found += [records[row] for row in part if keep(records[row])]
                if len(ids) < size:
                    break
                after = ids[-1][0]
                size = _PAGE_SCAN
        return found[:limit]

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
            return int(connection.exec_driver_sql(_COUNT).scalar_one())

    def highest_row(self) -> int:
        """The newest row number that was ever given out; 0 before the first."""
        query = "SELECT seq FROM sqlite_sequence WHERE name = 'images'"
        with self._read() as connection:
            return int(connection.exec_driver_sql(query).scalar_one_or_none() or 0)

    def live_rows(self) -> Rows:
        """All stored row numbers, ascending."""
        # As one text: to fetch them one by one takes five times as long, and holds the
        # interpreter's lock, which every search needs.
        with self._read() as connection:
            text = connection.exec_driver_sql(_LIVE_ROWS).scalar_one() or ""
        return np.sort(_numbers(text))

    def metadata(self) -> Iterator[tuple[Rows, list[Json]]]:
        """Ascending row numbers and the metadata of each, of all images, some at a time.

        An image that is changed, added or deleted meanwhile comes as it was before or after that.
        Raises: CorruptIndex if metadata is no JSON.
        """
        after, size = 0, 16
        while True:
            with self._read() as connection:
                found = connection.exec_driver_sql(_METADATA, (after, size)).one()
            rows_text, documents = found
            if rows_text is None:
                return
            rows = _numbers(rows_text)
            order = np.argsort(rows)
            try:
                parsed = json.loads(f"[{documents}]")
            except ValueError as error:
                raise CorruptIndex(
                    f"{self.path} holds metadata that is no JSON; restore it from a backup"
                ) from error
            yield rows[order], [parsed[place] for place in order.tolist()]
            after = int(rows.max())
            size = max(1, min(METADATA_CHUNK, METADATA_BYTES * len(rows) // len(documents)))

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
            # Else the transaction begins with its first change, after what it has read.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
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


def _records(connection: Connection, rows: Sequence[int]) -> Iterator[ImageRecord]:
    """Those of `rows` that are stored, in no particular order."""
    for start in range(0, len(rows), _NAMED):
        part = tuple(rows[start : start + _NAMED])
        places = ", ".join("?" * len(part))
        query = f"SELECT {_COLUMNS} FROM images WHERE row IN ({places})"
        yield from map(_record, connection.exec_driver_sql(query, part))


def _only(found: Sequence[Any], image_id: str) -> ImageRecord:
    """The record of an id. Raises UnknownImage where nothing was found."""
    if not found:
        raise UnknownImage(f"no image has the id {image_id!r}")
    return _record(found[0])


def _record(found: Any) -> ImageRecord:
    """From the values of `_COLUMNS`, in their order."""
    row, image_id, digest, width, height, kind, metadata, created_at = found
    return ImageRecord(row, image_id, digest, width, height, kind, json.loads(metadata), created_at)


def _fields(record: ImageRecord, metadata: str) -> tuple[object, ...]:
    """The values of `checksums.FIELDS`; `metadata` as the text that is stored."""
    size = (record.width, record.height)
    return (record.id, record.digest, *size, record.format, metadata, record.created_at)


def _numbers(text: str) -> Rows:
    """Integers from a text like `1,2,3`."""
    return np.fromstring(text, np.int64, sep=",") if text else np.empty(0, np.int64)


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
