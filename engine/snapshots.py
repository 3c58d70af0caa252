"""Snapshots of an index: taken while it is in use, proven before they are trusted."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from engine.catalog_reader import CatalogReader
from engine.data_folder import DataFolder
from engine.errors import CorruptIndex, EmptyIndex, EngineError, IndexMismatch, UnknownSnapshot
from engine.generations import Generations, Manifest
from engine.learned_copies import FOLDER as LEARNED
from engine.learned_copies import copy_path
from engine.originals import FOLDER as ORIGINALS
from engine.originals import Originals
from engine.searcher import Searcher
from engine.storage import fsync_file, fsync_folder, storage_errors, write_atomically
from engine.stored_describer import StoredDescriber
from engine.swap import INDEX_FILES, check_no_swap, swap
from engine.types import Json, Recipe, SearchOptions

FOLDER, REPLACED = "snapshots", "replaced"
CATALOG, CURRENT, GENERATIONS = "catalog.sqlite", "CURRENT", "generations"
ABOUT, ORIGINALS_LIST, PART = "snapshot.json", "originals.txt", ".part"
RESTORING = "restoring.part"
FORMAT = 1
QUERIES, HITS = 32, 10
"""Searches that are answered when a snapshot is taken, and compared when it is restored."""
TOLERANCE = 1e-3
"""Difference of scores that another processor may cause."""
ATTEMPTS = 5
CHUNK = 1 << 20

Report = Callable[[int, int], None]
"""Called with (MiB done, MiB in all); may raise to stop."""


class Entry(NamedTuple):
    """A file of a snapshot."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Snapshot:
    """What a snapshot says about itself.

    `count` images up to row `last_row`; `generation` is the one that was live, 0 for none. `files`
    are by their path in it. Kept originals are listed in a file of their own, as they may be many:
    `originals` of them with `originals_bytes`. `queries` maps ids to the ids and scores that a
    search for each gave.
    """

    name: str
    created_at: str
    note: str
    program_version: str
    fingerprint: str
    recipe: Json
    precision: str
    count: int
    last_row: int
    generation: int
    files: dict[str, Entry]
    originals: int
    originals_bytes: int
    queries: dict[str, list[tuple[str, float]]]
    format: int = FORMAT

    @classmethod
    def read(cls, folder: Path) -> Snapshot:
        """Raises UnknownSnapshot if there is none, CorruptIndex if it is not what was written."""
        path = folder / ABOUT
        if not path.is_file():
            raise UnknownSnapshot(
                f"there is no snapshot in {folder}; `cooc snapshot list` names all"
            )
        try:
            content: dict[str, Any] = json.loads(path.read_bytes())
            expected = content.pop("sha256")
            found = _sha256_of(content)
            if content.get("format", FORMAT) != FORMAT:
                raise CorruptIndex(
                    f"{path} has format {content['format']}; this program reads {FORMAT}"
                )
            content["files"] = {name: Entry(*entry) for name, entry in content["files"].items()}
            content["queries"] = {
                query: [(str(hit), float(score)) for hit, score in hits]
                for query, hits in content["queries"].items()
            }
            snapshot = cls(**content)
        except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
            raise CorruptIndex(f"{path} cannot be read: {error!r}; {_OTHER}") from error
        if found != expected:
            raise CorruptIndex(f"{path} does not have the content that was written; {_OTHER}")
        return snapshot

    def write(self, folder: Path) -> None:
        content = asdict(self)
        content["files"] = {name: list(entry) for name, entry in self.files.items()}
        text = json.dumps({**content, "sha256": _sha256_of(content)}, indent=1)
        write_atomically(folder / ABOUT, text.encode())

    @property
    def bytes(self) -> int:
        """Of all files; originals that are shared with the index take no room of their own."""
        return sum(entry.bytes for entry in self.files.values()) + self.originals_bytes


_OTHER = "take another snapshot"


class Listed(NamedTuple):
    """A folder among the snapshots; `problem` says why it cannot be used."""

    name: str
    folder: Path
    snapshot: Snapshot | None
    problem: str | None


class Restored(NamedTuple):
    """`aside` has what was there before, and can be opened as a data folder; None for nothing."""

    snapshot: Snapshot
    aside: Path | None


# --- taking ----------------------------------------------------------------------------------


def create_snapshot(
    data_dir: Path,
    *,
    place: Path | None = None,
    note: str = "",
    program_version: str = "",
    report: Report | None = None,
) -> tuple[Snapshot, Path]:
    """Take a snapshot of the index in `data_dir`, whoever is using it; returns it and its folder.

    Writers never wait for it. It is opened and searched before it gets its name, so that there is
    none that cannot be used. Memory: that of opening the index.

    Args:
        place: folder for its folder; `snapshots` in `data_dir` unless given.

    Raises: EmptyIndex without an index, StorageFull (nothing is left behind), CorruptIndex if what
        should be kept is damaged already.
    """
    place = data_dir / FOLDER if place is None else place
    check_no_swap(data_dir)
    if not (data_dir / CATALOG).is_file():
        raise EmptyIndex(f"there is no index in {data_dir}; add images first")
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}"[:-3] + "Z"
    originals = Originals(data_dir / ORIGINALS)
    sweep_snapshots(place)
    with ExitStack() as stack:
        stack.enter_context(storage_errors(place))
        staged = stack.enter_context(_staging(place / f"{name}{PART}"))
        # Before the catalog: all that a generation has seen is then in the copy of the catalog too.
        generation = _take_generation(data_dir, staged, originals=originals, stack=stack)
        reader = stack.enter_context(closing(CatalogReader(data_dir / CATALOG)))
        recipe = reader.recipe()
        if recipe is None:
            raise EmptyIndex(f"the index in {data_dir} has no recipe yet; open it once")
        _check_together(generation, recipe, reader.highest_row())
        for digest in (recipe.cooccurrence_digest, recipe.projection_digest):
            if digest:
                (staged / LEARNED).mkdir(exist_ok=True)
                source = copy_path(data_dir, digest)
                _copy(source, staged / LEARNED / source.name)
        meter = _Meter(report)
        kept, kept_bytes = _take_originals(originals, reader, staged, meter)
        reader.backup(staged / CATALOG, meter.part)
        reader.close()
        precision = generation.precision if generation else "float32"
        last_row, count, queries = _answer(staged, recipe, precision)
        snapshot = Snapshot(
            name=name,
            created_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            note=note,
            program_version=program_version,
            fingerprint=recipe.fingerprint,
            recipe=json.loads(json.dumps(recipe.to_json())),  # as it will be read
            precision=precision,
            count=count,
            last_row=last_row,
            generation=Generations(staged).current() or 0,
            files=_digests(staged),
            originals=kept,
            originals_bytes=kept_bytes,
            queries=queries,
        )
        snapshot.write(staged)
        _flush(staged)
        staged.rename(place / name)
        fsync_folder(place)
    return snapshot, place / name


def _take_generation(
    data_dir: Path, staged: Path, *, originals: Originals, stack: ExitStack
) -> Manifest | None:
    """Copy the live generation and CURRENT, and keep originals from being removed from now on.

    A build may publish another one meanwhile and remove this one: then that is copied.
    """
    stack.enter_context(originals.frozen())
    source = Generations(data_dir)
    for _ in range(ATTEMPTS):
        number = source.current()
        if number is None:
            return None
        target = Generations(staged).path(number)
        shutil.rmtree(target.parent, ignore_errors=True)
        target.mkdir(parents=True)
        try:
            found = {
                path.name: _copy(path, target / path.name) for path in _files(source.path(number))
            }
            manifest = Manifest.read(target)
        except (FileNotFoundError, CorruptIndex) as error:
            if source.current() == number:
                raise CorruptIndex(
                    f"generation {number} is damaged ({error}); build the index, then take the "
                    "snapshot"
                ) from error
            continue
        damaged = [name for name, digest in manifest.files.items() if found.get(name) != digest]
        if not damaged:
            (staged / CURRENT).write_text(f"{number}\n")
            return manifest
        if source.current() == number:
            raise CorruptIndex(
                f"{source.path(number) / damaged[0]} does not have the content that was written; "
                "build the index, then take the snapshot"
            )
    raise CorruptIndex(f"{data_dir} was built {ATTEMPTS} times while a snapshot was taken; wait")


def _check_together(generation: Manifest | None, recipe: Recipe, highest_row: int) -> None:
    """Raises IndexMismatch if the folder was given another index between the two copies."""
    if generation is not None and (
        generation.fingerprint != recipe.fingerprint or generation.last_row > highest_row
    ):
        raise IndexMismatch(
            "generation and catalog do not belong together: the folder was restored or rebuilt "
            "meanwhile; take the snapshot again"
        )


def _take_originals(
    originals: Originals, reader: CatalogReader, staged: Path, meter: _Meter
) -> tuple[int, int]:
    """Link or copy the originals of the catalog's images, and list them; their number and bytes."""
    if not originals.folder.is_dir():
        return 0, 0
    count = size = 0
    target = Originals(staged / ORIGINALS)
    with (staged / ORIGINALS_LIST).open("w") as listed:
        for digest in reader.digests():
            meter.check()
            source = originals.path(digest)
            # Those of images that were added before they were kept are nowhere.
            if source.is_file():
                _link(source, target.path(digest), digest)
                size += source.stat().st_size
                count += 1
                listed.write(digest + "\n")
    return count, size


def _answer(
    folder: Path, recipe: Recipe, precision: str, report: Report | None = None
) -> tuple[int, int, dict[str, list[tuple[str, float]]]]:
    """Open an index and ask it for sampled images: highest row, count, and the answers."""
    with closing(Searcher(folder, StoredDescriber(folder, recipe, precision))) as searcher:
        rows = searcher.catalog.live_rows()
        places = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), QUERIES)).astype(int))
        ids = [record.id for record in searcher.catalog.by_rows(rows[places].tolist()).values()]
        searcher.check()
        answers = {image_id: _hits(searcher, image_id) for image_id in sorted(ids)}
        return searcher.catalog.highest_row(), len(rows), answers


def _hits(searcher: Searcher, image_id: str) -> list[tuple[str, float]]:
    answer = searcher.search_id(image_id, SearchOptions(limit=HITS))
    return [(hit.id, round(float(hit.score), 6)) for hit in answer.hits]


# --- listing ---------------------------------------------------------------------------------


def list_snapshots(place: Path) -> list[Listed]:
    """Those in a folder, oldest first; what was interrupted is not among them."""
    if not place.is_dir():
        return []
    found = []
    for folder in sorted(place.iterdir()):
        if folder.is_dir() and not folder.name.endswith(PART) and (folder / ABOUT).exists():
            try:
                found.append(Listed(folder.name, folder, Snapshot.read(folder), None))
            except EngineError as error:
                found.append(Listed(folder.name, folder, None, error.message))
    return found


def sweep_snapshots(place: Path) -> None:
    """Remove what interrupted ones have left; those still at work hold theirs."""
    if not place.is_dir():
        return
    for folder in place.iterdir():
        if folder.is_dir() and folder.name.endswith(PART):
            with _holding(folder) as free:
                if free:
                    shutil.rmtree(folder, ignore_errors=True)


def find_snapshot(name: str, data_dir: Path) -> Path:
    """The folder of a snapshot, by name or by path. Raises UnknownSnapshot."""
    for folder in (data_dir / FOLDER / name, Path(name)):
        if (folder / ABOUT).is_file():
            return folder
    known = [listed.name for listed in list_snapshots(data_dir / FOLDER)]
    raise UnknownSnapshot(
        f"there is no snapshot {name!r} in {data_dir / FOLDER}"
        + (f"; it has {', '.join(known[-5:])}" if known else ", which has none")
    )


# --- restoring -------------------------------------------------------------------------------


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
            with _staging(data_dir / RESTORING) as staged:
                _copy_checked(source, staged, snapshot, _Meter(report))
                _prove(staged, snapshot, source)
                _flush(staged)
            aside = aside_folder(data_dir, "restore")
            # Outside of what tidies up: from here on it can only be finished.
            swap(data_dir, staged, aside, (*INDEX_FILES, LEARNED, ORIGINALS))
    finally:
        folder.release()
    return Restored(snapshot, aside if aside.is_dir() else None)


def aside_folder(data_dir: Path, why: str) -> Path:
    """Where what is replaced now goes."""
    return data_dir / REPLACED / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}-{why}"


def _copy_checked(source: Path, staged: Path, snapshot: Snapshot, meter: _Meter) -> None:
    meter.total = snapshot.bytes
    for name, entry in snapshot.files.items():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise CorruptIndex(f"{source / ABOUT} names a file outside of it: {name!r}")
        if name == ORIGINALS_LIST:
            continue
        (staged / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            found = _copy(source / name, staged / name, meter)
        except FileNotFoundError as error:
            raise CorruptIndex(f"{source / name} is missing; {_OTHER}") from error
        if found != entry.sha256:
            raise CorruptIndex(
                f"{source / name} does not have the content that was written; {_OTHER}"
            )
    if ORIGINALS_LIST in snapshot.files:
        path = source / ORIGINALS_LIST
        if not path.is_file() or _sha256(path) != snapshot.files[ORIGINALS_LIST].sha256:
            raise CorruptIndex(f"{path} does not have the content that was written; {_OTHER}")
        given, taken = Originals(source / ORIGINALS), Originals(staged / ORIGINALS)
        with path.open() as listed:
            for digest in map(str.strip, listed):
                file = given.path(digest)
                if not file.is_file():
                    raise CorruptIndex(f"{file} is missing; {_OTHER}")
                if _sha256(file, meter) != digest:
                    raise CorruptIndex(
                        f"{file} does not have the content that was written; {_OTHER}"
                    )
                _link(file, taken.path(digest), digest)


def _prove(staged: Path, snapshot: Snapshot, source: Path) -> None:
    """Raises CorruptIndex unless the copy answers as the original did."""
    recipe = Recipe.from_json(snapshot.recipe)
    with closing(Searcher(staged, StoredDescriber(staged, recipe, snapshot.precision))) as searcher:
        stats = searcher.stats()
        found = (stats.count, stats.generation, searcher.catalog.highest_row())
        if found != (snapshot.count, snapshot.generation, snapshot.last_row):
            raise CorruptIndex(
                f"the snapshot {source} opens with (images, generation, newest row) = {found}, "
                f"not {(snapshot.count, snapshot.generation, snapshot.last_row)}; {_OTHER}"
            )
        searcher.check()
        for image_id, expected in snapshot.queries.items():
            if not same_hits(expected, _hits(searcher, image_id)):
                raise CorruptIndex(
                    f"the snapshot {source} answers a search for {image_id!r} otherwise than when "
                    f"it was taken; {_OTHER}"
                )


def same_hits(expected: list[tuple[str, float]], found: list[tuple[str, float]]) -> bool:
    """Whether two answers agree: the same ids with scores within `TOLERANCE`.

    Of images that score alike with the last place, either may have it.
    """
    if len(expected) != len(found):
        return False
    if not expected:
        return True
    last = min(expected[-1][1], found[-1][1]) + TOLERANCE

    def covers(some: Mapping[str, float], others: Mapping[str, float]) -> bool:
        return all(
            abs(score - others[hit]) <= TOLERANCE if hit in others else score <= last
            for hit, score in some.items()
        )

    return covers(dict(expected), dict(found)) and covers(dict(found), dict(expected))


# --- files -----------------------------------------------------------------------------------


class _Meter:
    """Counts bytes and tells of MiB."""

    def __init__(self, report: Report | None) -> None:
        self._report = report
        self.done = self.total = 0

    def add(self, count: int) -> None:
        self.part(self.done + count, self.total)

    def part(self, done: int, total: int) -> None:
        self.done, self.total = done, total
        self.check()

    def check(self) -> None:
        if self._report:
            self._report(-(-self.done >> 20), -(-self.total >> 20))


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """A new folder, removed again after an error; whoever sweeps sees that it is in use."""
    folder.mkdir(parents=True)
    try:
        with _holding(folder):
            yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


@contextmanager
def _holding(folder: Path) -> Iterator[bool]:
    """Hold a folder for this process; False if another one does. It ends with the process."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        yield False
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _digests(staged: Path) -> dict[str, Entry]:
    """All files but the originals, whose names say what they hold."""
    paths = (path for path in staged.iterdir() if path.name != ORIGINALS)
    files = [file for path in paths for file in (_files(path) if path.is_dir() else [path])]
    return {
        str(file.relative_to(staged)): Entry(_sha256(file), file.stat().st_size)
        for file in sorted(files)
    }


def _copy(source: Path, target: Path, meter: _Meter | None = None) -> str:
    """Copy a file in pieces; returns the SHA-256 of what was copied."""
    digest = hashlib.sha256()
    with source.open("rb") as given, target.open("wb") as taken:
        while piece := given.read(CHUNK):
            digest.update(piece)
            taken.write(piece)
            if meter:
                meter.add(len(piece))
    return digest.hexdigest()


def _link(source: Path, target: Path, digest: str) -> None:
    """One file under two names, as an original never changes; a copy where that cannot be."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError as error:
        # Another file system, one without links, too many of them, or a file of somebody else.
        unable = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.EACCES)
        if error.errno not in unable:
            raise
        if _copy(source, target) != digest:
            raise CorruptIndex(
                f"{source} does not have the content that was written; "
                "`cooc index verify` finds all such"
            ) from error
        fsync_file(target)


def _flush(staged: Path) -> None:
    """Make all of it durable; originals were flushed when they were written."""
    for path in staged.iterdir():
        if path.is_file():
            fsync_file(path)
        elif path.name != ORIGINALS:
            for file in _files(path):
                fsync_file(file)
    for folder in sorted((path for path in staged.rglob("*") if path.is_dir()), reverse=True):
        fsync_folder(folder)
    fsync_folder(staged)


def _sha256(path: Path, meter: _Meter | None = None) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            digest.update(piece)
            if meter:
                meter.add(len(piece))
    return digest.hexdigest()


def _sha256_of(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
