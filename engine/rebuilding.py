"""Move a collection to another recipe: describe every image anew, then change over in one step."""

from __future__ import annotations

import logging
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from pathlib import Path

import numpy as np

from engine.catalog import Catalog
from engine.catalog.checksums import content_checksum
from engine.catalog.reader import CatalogReader
from engine.describer import Describer
from engine.errors import BadImage, EmptyIndex, EngineError, InvalidOption, RebuildIncomplete
from engine.files.storage import fsync_file, fsync_folder, storage_errors
from engine.files.swap import INDEX_FILES, swap
from engine.generations import Progress
from engine.images import Box
from engine.learned_copies import FOLDER as LEARNED
from engine.originals import FOLDER as ORIGINALS
from engine.originals import Originals
from engine.searcher import Searcher
from engine.snapshots import CATALOG, aside_folder
from engine.types import Recipe

log = logging.getLogger(__name__)

FOLDER = "rebuild"
WORK, NEW = "described.sqlite", "new"
CHUNK = 64
"""Images whose descriptors are kept in one transaction: at most these are described twice."""
ROWS_AT_ONCE = 500


class Source(StrEnum):
    """Where the pixels come from; `auto` takes a thumbnail where there is no original."""

    AUTO = "auto"
    ORIGINALS = "originals"
    THUMBNAILS = "thumbnails"


@dataclass(frozen=True)
class Plan:
    """How many images there are, how many with an original, and how many are described already."""

    images: int
    originals: int
    done: int


@dataclass
class Described:
    """How the images were described; `failures` are (id, reason)."""

    originals: int = 0
    thumbnails: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Rebuilt:
    """The outcome. `aside` holds the old index, and can be opened as a data folder."""

    count: int
    left_out: int
    generation: int
    aside: Path


@dataclass(frozen=True)
class _Pixels:
    """Bytes that are read when their turn comes; see `engine.describer.Source`."""

    read_bytes: Callable[[], bytes]
    box: Box | None = None
    upright: bool = True

    def read(self) -> bytes:
        return self.read_bytes()


class Rebuild:
    """Work towards another recipe, in `rebuild/<fingerprint>` of the data folder.

    Descriptors are kept by the digest of their image as they come, so that work which was cut off
    goes on where it was, also after images were added and deleted in between. The index that is in
    use is only read, until `finish` changes over. Whoever makes one holds the data folder.
    """

    def __init__(self, data_dir: Path, describer: Describer, source: Source) -> None:
        """Raises EmptyIndex without images, InvalidOption if the recipe is the same."""
        self.data_dir, self.describer, self.source = data_dir, describer, source
        recipe = describer.recipe
        with closing(CatalogReader(data_dir / CATALOG)) as reader:
            self._old: Recipe | None = reader.recipe()
            if reader.count() == 0:
                raise EmptyIndex(f"the index in {data_dir} has no images; start with the recipe")
        if self._old is not None and self._old.fingerprint == recipe.fingerprint:
            raise InvalidOption(
                "the index has this recipe already; choose another, or `cooc index build`"
            )
        self.originals = Originals(data_dir / ORIGINALS)
        self.folder = data_dir / FOLDER / recipe.fingerprint[:16]
        with storage_errors(data_dir):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._work = sqlite3.connect(self.folder / WORK, isolation_level=None)
            self._work.execute("PRAGMA journal_mode=WAL")
            self._work.execute("PRAGMA synchronous=FULL")
            self._work.execute(
                "CREATE TABLE IF NOT EXISTS described "
                "(digest TEXT PRIMARY KEY, source TEXT NOT NULL, vector BLOB NOT NULL)"
            )

    def close(self) -> None:
        self._work.close()

    def plan(self) -> Plan:
        """Counts, before anything is described."""
        with closing(CatalogReader(self.data_dir / CATALOG)) as reader:
            images = kept = done = 0
            for image in reader.images():
                images += 1
                kept += self.originals.path(image.digest).is_file()
                done += self._is_done(image.digest)
        return Plan(images, kept, done)

    def describe(self, progress: Progress | None = None) -> Described:
        """Describe what was not yet; `progress` may raise, and nothing but a chunk is lost.

        Raises: StorageFull.
        """
        result = Described()
        with (
            storage_errors(self.data_dir),
            closing(CatalogReader(self.data_dir / CATALOG)) as reader,
        ):
            total = reader.count()
            images = reader.images()
            done = 0
            while chunk := list(islice(images, CHUNK)):
                wanted: dict[str, tuple[str, _Pixels, Source]] = {}
                for image in chunk:
                    if image.digest not in wanted and not self._is_done(image.digest):
                        pixels, source = self._pixels(reader, image.row, image.digest)
                        wanted[image.digest] = image.id, pixels, source
                self._describe_chunk(wanted, result)
                done += len(chunk)
                if progress:
                    progress(done, total)
        return result

    def _describe_chunk(
        self, wanted: dict[str, tuple[str, _Pixels, Source]], result: Described
    ) -> None:
        items = [(digest, pixels) for digest, (_, pixels, _) in wanted.items()]
        entries = []
        for digest, described in self.describer.stream(items):
            image_id, _, source = wanted[digest]
            if isinstance(described, EngineError):
                result.failures.append((image_id, described.message))
                continue
            (vector,) = described
            entries.append((digest, source.value, vector.astype(np.float16).tobytes()))
            if source is Source.ORIGINALS:
                result.originals += 1
            else:
                result.thumbnails += 1
        if entries:
            self._work.execute("BEGIN")
            self._work.executemany("INSERT OR REPLACE INTO described VALUES (?, ?, ?)", entries)
            self._work.execute("COMMIT")

    def _pixels(self, reader: CatalogReader, row: int, digest: str) -> tuple[_Pixels, Source]:
        kept = self.originals.path(digest).is_file()
        if self.source is Source.ORIGINALS or (self.source is Source.AUTO and kept):
            return _Pixels(lambda: self._original(digest)), Source.ORIGINALS
        jpeg = reader.thumbnail(row)
        return _Pixels(lambda: jpeg or b""), Source.THUMBNAILS

    def _original(self, digest: str) -> bytes:
        data = self.originals.read(digest)
        if data is None:
            raise BadImage("its original was not kept; --from auto takes its thumbnail")
        return data

    def _is_done(self, digest: str) -> bool:
        query = "SELECT source FROM described WHERE digest = ?"
        found = self._work.execute(query, (digest,)).fetchone()
        if found is None:
            return False
        # What a thumbnail gave does not stand for an original that is wanted.
        if self.source is Source.ORIGINALS:
            return bool(found[0] == Source.ORIGINALS)
        if self.source is Source.AUTO and found[0] != Source.ORIGINALS:
            return not self.originals.path(digest).is_file()
        return self.source is not Source.THUMBNAILS or bool(found[0] == Source.THUMBNAILS)

    def finish(self, *, allow_missing: bool = False, progress: Progress | None = None) -> Rebuilt:
        """Make the new catalog and its generation, and put them in the place of the old ones.

        Ids, row numbers, metadata, times, thumbnails stay. The old index is moved aside as it is.

        Args:
            allow_missing: images without a new descriptor are left out.

        Raises: RebuildIncomplete if there are such, StorageFull; the old index then stays.
        """
        new = self.folder / NEW
        with storage_errors(self.data_dir):
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir()
            with closing(CatalogReader(self.data_dir / CATALOG)) as reader:
                missing = [image for image in reader.images() if not self._is_done(image.digest)]
                if missing and not allow_missing:
                    raise RebuildIncomplete(
                        f"{len(missing)} images have no new descriptor, the first is "
                        f"{missing[0].id!r}; "
                        "mend or delete them, or leave them out with --allow-missing"
                    )
                if len(missing) == reader.count():
                    raise RebuildIncomplete("no image has a new descriptor")
                reader.backup(new / CATALOG)
            self._replace_descriptors(new / CATALOG, [image.row for image in missing])
            with closing(Catalog(new / CATALOG)) as catalog:
                catalog.set_recipe(self.describer.recipe)
            count, generation = self._build(new, progress)
            for path in new.rglob("*"):
                fsync_folder(path) if path.is_dir() else fsync_file(path)
            aside = self._prepare_aside()
            # The work is done with, but only gone when the new index is in its place.
            self.close()
            swap(self.data_dir, new, aside, INDEX_FILES)
            shutil.rmtree(self.folder, ignore_errors=True)
            with suppress(OSError):  # others may be unfinished
                self.folder.parent.rmdir()
        return Rebuilt(count, len(missing), generation, aside)

    def _replace_descriptors(self, path: Path, missing: list[int]) -> None:
        """In the copy of the catalog: new vectors, and no images in the rows that have none."""
        with closing(sqlite3.connect(path, isolation_level=None)) as copy:
            copy.execute("PRAGMA foreign_keys=ON")
            copy.execute("PRAGMA synchronous=OFF")  # flushed as a whole before it is used
            copy.execute("ATTACH DATABASE ? AS work", (str(self.folder / WORK),))
            copy.execute("BEGIN")
            copy.executemany("DELETE FROM images WHERE row = ?", ((row,) for row in missing))
            copy.execute("COMMIT")
            with closing(Catalog(path)):
                pass  # a copy from before there were checksums has a place for them now
            copy.create_function("content_checksum", 2, content_checksum, deterministic=True)
            for first, last in _ranges(copy):
                copy.execute("BEGIN")
                # What was damaged before stays known as that: its checksum is left as it is.
                copy.execute(
                    "UPDATE checksums SET content = content_checksum(described.vector, jpeg) "
                    "FROM images JOIN work.described ON described.digest = images.digest "
                    "JOIN descriptors ON descriptors.row = images.row "
                    "JOIN thumbnails ON thumbnails.row = images.row "
                    "WHERE images.row = checksums.row AND images.row BETWEEN ? AND ? "
                    "AND content = content_checksum(descriptors.vector, jpeg)",
                    (first, last),
                )
                copy.execute(
                    "INSERT OR REPLACE INTO descriptors (row, vector) "
                    "SELECT images.row, described.vector FROM images "
                    "JOIN work.described ON described.digest = images.digest "
                    "WHERE images.row BETWEEN ? AND ?",
                    (first, last),
                )
                copy.execute("COMMIT")

    def _build(self, new: Path, progress: Progress | None) -> tuple[int, int]:
        with closing(Searcher(new, self.describer)) as searcher:
            if not searcher.stats().generation:  # a large one is built when it is opened
                searcher.build(progress)
            problems = searcher.verify()
            if problems:
                raise RebuildIncomplete(f"the new index is not sound: {'; '.join(problems[:5])}")
            stats = searcher.stats()
            return stats.count, stats.generation

    def _prepare_aside(self) -> Path:
        """The old index's folder, with copies of what it needs and the new one keeps, too."""
        aside = aside_folder(self.data_dir, "rebuild")
        aside.mkdir(parents=True)
        if (self.data_dir / LEARNED).is_dir():
            shutil.copytree(self.data_dir / LEARNED, aside / LEARNED)
            for path in (aside / LEARNED).iterdir():
                fsync_file(path)
            fsync_folder(aside / LEARNED)
        return aside


def _ranges(copy: sqlite3.Connection) -> Iterator[tuple[int, int]]:
    """Row numbers, some at a time: memory and log stay small."""
    last = 0
    while True:
        rows = copy.execute(
            "SELECT row FROM images WHERE row > ? ORDER BY row LIMIT ?", (last, ROWS_AT_ONCE)
        ).fetchall()
        if not rows:
            return
        first, last = int(rows[0][0]), int(rows[-1][0])
        yield first, last
