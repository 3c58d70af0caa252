"""Taking a snapshot of an index that is in use."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path

from engine.catalog.reader import CatalogReader
from engine.errors import CorruptIndex, EmptyIndex, IndexMismatch
from engine.files.storage import fsync_folder, storage_errors
from engine.files.swap import check_no_swap
from engine.generations import Generations, Manifest
from engine.learned_copies import FOLDER as LEARNED
from engine.learned_copies import copy_path
from engine.originals import FOLDER as ORIGINALS
from engine.originals import Originals
from engine.snapshots.answers import answer_samples
from engine.snapshots.copying import (
    Meter,
    Report,
    copy_file,
    digests_of,
    files_of,
    flush,
    link_file,
    staging,
)
from engine.snapshots.listed import sweep_snapshots
from engine.snapshots.names import CATALOG, CURRENT, FOLDER, ORIGINALS_LIST, PART
from engine.snapshots.snapshot import Snapshot
from engine.types import Recipe

ATTEMPTS = 5


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
        staged = stack.enter_context(staging(place / f"{name}{PART}"))
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
                copy_file(source, staged / LEARNED / source.name)
        meter = Meter(report)
        kept, kept_bytes = _take_originals(originals, reader, staged, meter)
        reader.backup(staged / CATALOG, meter.part)
        reader.close()
        precision = generation.precision if generation else "float32"
        last_row, count, queries = answer_samples(staged, recipe, precision)
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
            files=digests_of(staged),
            originals=kept,
            originals_bytes=kept_bytes,
            queries=queries,
        )
        snapshot.write(staged)
        flush(staged)
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
                path.name: copy_file(path, target / path.name)
                for path in files_of(source.path(number))
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
    originals: Originals, reader: CatalogReader, staged: Path, meter: Meter
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
                link_file(source, target.path(digest), digest)
                size += source.stat().st_size
                count += 1
                listed.write(digest + "\n")
    return count, size
