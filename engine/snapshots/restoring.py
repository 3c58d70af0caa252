"""Putting a snapshot in the place of an index, once it has been proven."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from engine.errors import CorruptIndex
from engine.files.data_folder import DataFolder
from engine.files.storage import storage_errors
from engine.files.swap import INDEX_FILES, swap
from engine.learned_copies import FOLDER as LEARNED
from engine.originals import FOLDER as ORIGINALS
from engine.originals import Originals
from engine.searcher import Searcher
from engine.snapshots.answers import hits, same_hits
from engine.snapshots.copying import Meter, Report, copy_file, flush, link_file, sha256, staging
from engine.snapshots.names import ABOUT, ORIGINALS_LIST, RESTORING, aside_folder
from engine.snapshots.snapshot import TAKE_ANOTHER, Snapshot
from engine.stored_describer import StoredDescriber
from engine.types import Recipe


class Restored(NamedTuple):
    """`aside` has what was there before, and can be opened as a data folder; None for nothing."""

    snapshot: Snapshot
    aside: Path | None


def restore_snapshot(source: Path, data_dir: Path, *, report: Report | None = None) -> Restored:
    """Put a snapshot in the place of the index in `data_dir`, or into a new folder.

    Every file is held against its checksum, the copy is opened, and the searches that were answered
    when the snapshot was taken have to give the same; only then is it moved in, in one step. What
    was there is moved into a folder `replaced/...` beside it.

    Raises: UnknownSnapshot, CorruptIndex naming the file, DataFolderInUse, StorageFull; the folder
        then is as it was.
    """
    snapshot = Snapshot.read(source)
    folder = DataFolder(data_dir)
    try:
        with storage_errors(data_dir):
            # Whatever is in it was left by another one: the folder is ours.
            shutil.rmtree(data_dir / RESTORING, ignore_errors=True)
            with staging(data_dir / RESTORING) as staged:
                _copy_checked(source, staged, snapshot, Meter(report))
                _prove(staged, snapshot, source)
                flush(staged)
            aside = aside_folder(data_dir, "restore")
            # Outside of what tidies up: from here on it can only be finished.
            swap(data_dir, staged, aside, (*INDEX_FILES, LEARNED, ORIGINALS))
    finally:
        folder.release()
    return Restored(snapshot, aside if aside.is_dir() else None)


def _copy_checked(source: Path, staged: Path, snapshot: Snapshot, meter: Meter) -> None:
    meter.total = snapshot.bytes
    for name, entry in snapshot.files.items():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise CorruptIndex(f"{source / ABOUT} names a file outside of it: {name!r}")
        if name == ORIGINALS_LIST:
            continue
        (staged / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            found = copy_file(source / name, staged / name, meter)
        except FileNotFoundError as error:
            raise CorruptIndex(f"{source / name} is missing; {TAKE_ANOTHER}") from error
        if found != entry.sha256:
            raise CorruptIndex(
                f"{source / name} does not have the content that was written; {TAKE_ANOTHER}"
            )
    if ORIGINALS_LIST in snapshot.files:
        path = source / ORIGINALS_LIST
        if not path.is_file() or sha256(path) != snapshot.files[ORIGINALS_LIST].sha256:
            raise CorruptIndex(f"{path} does not have the content that was written; {TAKE_ANOTHER}")
        given, taken = Originals(source / ORIGINALS), Originals(staged / ORIGINALS)
        with path.open() as listed:
            for digest in map(str.strip, listed):
                file = given.path(digest)
                if not file.is_file():
                    raise CorruptIndex(f"{file} is missing; {TAKE_ANOTHER}")
                if sha256(file, meter) != digest:
                    raise CorruptIndex(
                        f"{file} does not have the content that was written; {TAKE_ANOTHER}"
                    )
                link_file(file, taken.path(digest), digest)


def _prove(staged: Path, snapshot: Snapshot, source: Path) -> None:
    """Raises CorruptIndex unless the copy answers as the original did."""
    recipe = Recipe.from_json(snapshot.recipe)
    with closing(Searcher(staged, StoredDescriber(staged, recipe, snapshot.precision))) as searcher:
        stats = searcher.stats()
        found = (stats.count, stats.generation, searcher.catalog.highest_row())
        if found != (snapshot.count, snapshot.generation, snapshot.last_row):
            raise CorruptIndex(
                f"the snapshot {source} opens with (images, generation, newest row) = {found}, "
                f"not {(snapshot.count, snapshot.generation, snapshot.last_row)}; {TAKE_ANOTHER}"
            )
        searcher.check()
        for image_id, expected in snapshot.queries.items():
            if not same_hits(expected, hits(searcher, image_id)):
                raise CorruptIndex(
                    f"the snapshot {source} answers a search for {image_id!r} otherwise than when "
                    f"it was taken; {TAKE_ANOTHER}"
                )
