"""Everything that the files of an index claim, checked beside whoever uses them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from engine.catalog.reader import CatalogReader
from engine.errors import BadImage, CorruptIndex, EngineError, UnsupportedImage
from engine.files.swap import check_no_swap
from engine.generations import Generation, Generations, Progress, project
from engine.images import check_decodable
from engine.learned_copies import read_copy
from engine.originals import FOLDER as ORIGINALS
from engine.originals import PART, STALE_S, Originals
from engine.postprocess import LinearProjection
from engine.snapshots import CATALOG, FOLDER, REPLACED, RESTORING, list_snapshots
from engine.types import Recipe, Rows
from engine.vector_index import VectorIndex
from engine.verification import (
    BUILD,
    RESTORE,
    SAMPLE,
    Problem,
    check_generation,
    check_index,
    collect,
    sample,
    shortened,
)

RAW_LIMIT = 20_000
"""Images that are searched by their raw descriptors where there is no generation."""
ATTEMPTS = 3
AGAIN = "add the image again, or restore a snapshot"


@dataclass
class Verification:
    """Problems with their remedies, harmless leftovers, and how much was looked at."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    checked: dict[str, int] = field(default_factory=dict)


def verify_folder(
    data_dir: Path, *, full: bool = False, progress: Progress | None = None
) -> Verification:
    """Everything that the files of an index claim; nothing is changed or repaired.

    Also beside a service that uses the folder: the catalog is seen as it was at one moment, and
    held against the live generation with what was added and deleted up to then. Memory: that of
    opening the index.

    Args:
        full: all originals and thumbnails are read, not a sample.

    Raises: EmptyIndex where there is no index.
    """
    result = Verification()
    problems: list[Problem] = []
    check_no_swap(data_dir)
    path = data_dir / CATALOG
    try:
        with closing(CatalogReader(path)) as reader:
            recipe = reader.recipe()
        if recipe is not None:
            problems += _check_learned(data_dir, recipe)
        generation, found = _live_generation(data_dir, recipe)
        problems += found
        # After the generation was read: whatever it has seen is in this view, or was deleted.
        with closing(CatalogReader(path)) as reader:
            problems += collect(lambda: [Problem(what, RESTORE) for what in reader.check()])
            count = reader.count()
            result.checked["images"] = count
            if recipe is not None and count and not found:
                if generation is None and count > RAW_LIMIT:
                    result.notes.append(f"{count} images, but no generation: {BUILD}")
                else:
                    problems += _check_against(reader, generation, recipe, data_dir, progress)
            problems += collect(lambda: _check_sums(reader, result))
            problems += _check_thumbnails(reader, count, full, result)
            problems += _check_originals(data_dir, reader, full, result, progress)
    except CorruptIndex as error:
        # Some say so themselves.
        problems.append(Problem(error.message.removesuffix(f"; {RESTORE}"), RESTORE))
    result.problems = [str(problem) for problem in problems]
    result.notes += _leftovers(data_dir)
    return result


def _live_generation(
    data_dir: Path, recipe: Recipe | None
) -> tuple[Generation | None, list[Problem]]:
    """The live generation, loaded, or what is wrong with it. A build may remove it meanwhile."""
    generations = Generations(data_dir)
    problems: list[Problem] = []
    for _ in range(ATTEMPTS):
        number: int | None = None
        try:
            number = generations.current()
            if number is None or recipe is None:
                return None, []
            problems = check_generation(generations)
            if not problems:
                return generations.load(number, recipe), []
        except EngineError as error:
            problems = [Problem(error.message, BUILD)]
        if number is None or generations.current() == number:
            break
    return None, problems


def _check_against(
    reader: CatalogReader,
    generation: Generation | None,
    recipe: Recipe,
    data_dir: Path,
    progress: Progress | None,
) -> list[Problem]:
    """The generation with what came after it, as a start would load them, against the catalog."""
    problems: list[Problem] = []
    live = reader.live_rows()
    if generation is None:
        digest = recipe.projection_digest
        copy = read_copy(data_dir, digest, "--projection") if digest else None
        projection = copy.projection if copy else None
        index = VectorIndex(projection.dim if projection else recipe.raw_dim)
    else:
        index, projection = generation.index, generation.projection
        manifest = generation.manifest
        if manifest.last_row > reader.highest_row():
            what = f"generation {manifest.number} has rows that the catalog never gave out"
            return [Problem(what, BUILD)]
    indexed = index.rows()
    missing, gone = np.setdiff1d(live, indexed), np.setdiff1d(indexed, live)
    if generation is not None:
        lost = missing[missing <= generation.manifest.last_row]
        if len(lost):
            what = f"{len(lost)} images are not in generation {generation.manifest.number}"
            problems.append(Problem(f"{what}, the first in row {lost[0]}", BUILD))
    problems += collect(lambda: _replay(reader, index, projection, missing, gone))
    return problems + check_index(reader, index, projection, progress)


def _replay(
    reader: CatalogReader,
    index: VectorIndex,
    projection: LinearProjection | None,
    missing: Rows,
    gone: Rows,
) -> list[Problem]:
    for rows, vectors in reader.descriptors(missing):
        index.add(rows, project(projection, vectors))
    index.remove(gone)
    return []


def _check_learned(data_dir: Path, recipe: Recipe) -> list[Problem]:
    problems = []
    for option, digest in (
        ("--cooccurrence", recipe.cooccurrence_digest),
        ("--projection", recipe.projection_digest),
    ):
        try:
            if digest:
                read_copy(data_dir, digest, option)
        except CorruptIndex as error:
            problems.append(Problem(error.message, "or restore a snapshot"))
    return problems


def _check_sums(reader: CatalogReader, result: Verification) -> list[Problem]:
    without = reader.without_checksum()
    if without:
        result.notes.append(
            f"{without} images were added before there were checksums and are checked in part; "
            "those that are added again have one"
        )
    return shortened(
        [
            Problem(f"the {what} of {image_id!r} is not as it was written", AGAIN)
            for image_id, what in reader.differing()
        ]
    )


def _check_thumbnails(
    reader: CatalogReader, count: int, full: bool, result: Verification
) -> list[Problem]:
    problems = []
    wanted = None if full else set(sample(reader.live_rows()).tolist())
    checked = 0
    for image in reader.images():
        if wanted is not None and image.row not in wanted:
            continue
        jpeg = reader.thumbnail(image.row)
        checked += 1
        try:
            if jpeg is not None:  # those that are missing were counted
                check_decodable(jpeg)
        except (BadImage, UnsupportedImage) as error:
            what = f"the thumbnail of {image.id!r} cannot be decoded ({error})"
            problems.append(Problem(what, AGAIN))
    result.checked["thumbnails"] = checked
    return shortened(problems)


def _check_originals(
    data_dir: Path,
    reader: CatalogReader,
    full: bool,
    result: Verification,
    progress: Progress | None,
) -> list[Problem]:
    originals = Originals(data_dir / ORIGINALS)
    if not originals.folder.is_dir():
        return []
    problems: list[Problem] = []
    # A first pass counts, so that the sample is even; names are read, not files.
    total = sum(1 for path in originals.files() if not path.name.endswith(PART))
    step = 1 if full else max(1, total // SAMPLE)
    strays = young = checked = 0
    for path in originals.strays(reader.digests()):
        # What was just written may be stored any moment.
        old = _age_s(path) > STALE_S
        strays, young = strays + old, young + (not old)
    for number, path in enumerate(originals.files()):
        if number % step or path.name.endswith(PART):
            continue
        checked += 1
        try:
            originals.read(path.name)
        except CorruptIndex as error:
            problems.append(Problem(error.message, "`--full` looks at all of them"))
        if progress:
            progress(number + 1, total)
    missing = _missing(originals, reader.digests())
    result.checked |= {"originals": total, "originals read": checked}
    if strays:
        result.notes.append(f"{strays} originals belong to no image; the next start removes them")
    if missing:
        result.notes.append(
            f"{missing} images have no original: they were added without, or the file is gone"
        )
    return shortened(problems)


def _missing(originals: Originals, stored: Iterator[str]) -> int:
    """How many of the ascending digests have no file; both are walked through once."""
    files = (path.name for path in originals.files())
    current, missing = next(files, None), 0
    for digest in stored:
        while current is not None and current < digest:
            current = next(files, None)
        missing += current != digest
    return missing


def _leftovers(data_dir: Path) -> list[str]:
    """What a crash or a restore has left; none of it is used."""
    notes = []
    for folder in (data_dir / "generations", data_dir / FOLDER):
        if folder.is_dir():
            for path in sorted(folder.glob(f"*{PART}")):
                notes.append(f"{path} is not finished: work goes on, or the next removes it")
    if (data_dir / RESTORING).exists():
        notes.append(f"{data_dir / RESTORING} was left by a restore; the next one removes it")
    for listed in list_snapshots(data_dir / FOLDER):
        if listed.problem:
            notes.append(f"the snapshot {listed.name} cannot be used: {listed.problem}")
    for name, what in (
        (REPLACED, "was replaced by a restore or a rebuild"),
        ("rebuild", "is a rebuild that is not finished"),
    ):
        folder = data_dir / name
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            notes.append(f"{path} {what}; delete it when it is not needed any more")
    return notes


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
