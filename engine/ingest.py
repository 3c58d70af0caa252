"""Adding many images: skip what is stored already, report each failure, choose ids."""

from __future__ import annotations

import itertools
import threading
import unicodedata
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from engine.errors import EngineError, IdTaken, InvalidOption, StorageFull, StorageReadOnly
from engine.images import DecodedImage, digest
from engine.searcher import Searcher, new_image
from engine.types import AddOutcome, AddResult, Json, NewImage

CHUNK = 16
"""Images that are described and stored together."""
MAX_ID_LENGTH = 512
MAX_NAME_LENGTH = MAX_ID_LENGTH - 13
"""Leaves room for a dash and 12 digits of the digest."""
_JOINERS = "\u200c\u200d"
RESERVED_SUFFIXES = ("/thumbnail", "/similar", "/original")


@dataclass(frozen=True)
class Offered:
    """An image offered to the index.

    `id` replaces the image of that id; without it the id is made from `name`, and an image whose
    bytes are stored already is skipped.
    """

    name: str
    read: Callable[[], bytes]
    id: str | None = None
    metadata: Json = field(default_factory=dict)


def check_id(image_id: str) -> str:
    """The id itself. Raises InvalidOption for one that cannot be part of an address."""
    if not 1 <= len(image_id) <= MAX_ID_LENGTH:
        raise InvalidOption(
            f"an id has 1 to {MAX_ID_LENGTH} characters; this one has {len(image_id)}"
        )
    if not all(map(_can_be_shown, image_id)) or image_id.strip("/ ") == "":
        raise InvalidOption(f"the id {image_id!r} has characters that cannot be shown")
    if {".", ".."} & set(image_id.split("/")):
        # Clients resolve them before they send the address.
        raise InvalidOption(f"the id {image_id!r} has `.` or `..` as a part; rename it")
    if image_id.endswith(RESERVED_SUFFIXES):
        raise InvalidOption(f"the id {image_id!r} ends like an address of its own; rename it")
    return image_id


def _can_be_shown(character: str) -> bool:
    """Printable, or a joiner or a space of another width.

    Emoji and Persian names have those joiners, names of macOS screenshots those spaces.
    """
    return (
        character.isprintable() or character in _JOINERS or unicodedata.category(character) == "Zs"
    )


def id_from_name(name: str) -> str:
    """An id from a file name: its path without `.`, `..` and leading slashes."""
    # First what cannot be shown and what is too long: either may leave a `..` behind.
    shown = "".join(filter(_can_be_shown, name.replace("\\", "/")))
    parts = [part for part in shown[-MAX_NAME_LENGTH:].split("/") if part.strip(". ")]
    kept = "/".join(parts).strip(" ") or "image"
    return "-".join(kept.rsplit("/", 1)) if kept.endswith(RESERVED_SUFFIXES) else kept


def add_chunk(
    searcher: Searcher,
    offered: Sequence[Offered],
    *,
    stopping: threading.Event | None = None,
    since: str | None = None,
) -> list[AddResult]:
    """Add images, all that can be in one durable step; one bad image never stops the others.

    Args:
        stopping: when set, nothing more is described and `InterruptedError` is raised.
        since: images stored after this time (ISO 8601, UTC) under the very id they would get
            count as added, not skipped: an interrupted run had stored them already.

    Returns: one result per image, in order. Raises: StorageFull, StorageReadOnly, DeviceLost.
    """
    results: dict[int, AddResult] = {}
    fresh: list[tuple[int, DecodedImage]] = []
    seen: dict[str, str] = {}
    resumed: set[str] = set()
    with ThreadPoolExecutor(2, thread_name_prefix="decode") as pool:
        for position, loaded in enumerate(
            pool.map(lambda item: _load(searcher, item, since), offered)
        ):
            if isinstance(loaded, AddResult):
                results[position] = _once(loaded, resumed)
            elif loaded.digest in seen and offered[position].id is None:
                results[position] = AddResult(
                    offered[position].name,
                    AddOutcome.SKIPPED,
                    detail=f"same bytes as {seen[loaded.digest]!r} of this upload",
                )
            else:
                seen.setdefault(loaded.digest, offered[position].name)
                fresh.append((position, loaded))
    if stopping is not None and stopping.is_set():
        raise InterruptedError("stopped before the images were described")
    vectors = searcher.describe_many([image for _, image in fresh], stopping=stopping)
    described: list[tuple[int, NewImage]] = []
    for (position, image), vector in zip(fresh, vectors, strict=True):
        item = offered[position]
        if isinstance(vector, Exception):
            if stopping is not None and stopping.is_set():
                raise InterruptedError("stopped while the images were described") from vector
            results[position] = AddResult(item.name, AddOutcome.FAILED, detail=str(vector))
            continue
        described.append((position, new_image(item.id or "", image, vector, item.metadata)))
    while True:
        try:
            results |= _store(searcher, offered, described)
            return [results[position] for position in range(len(offered))]
        except IdTaken:
            # Somebody else took a name between our look and our write: choose again.
            continue


def _store(
    searcher: Searcher, offered: Sequence[Offered], described: Sequence[tuple[int, NewImage]]
) -> dict[int, AddResult]:
    """Give ids to images that have none and store all; the outcome of each by its position."""
    results: dict[int, AddResult] = {}
    images: dict[str, tuple[int, NewImage]] = {}
    for position, image in described:
        name = offered[position].name
        image_id = image.id or _free_id(searcher, id_from_name(name), image.digest, images)
        if image_id in images:
            earlier, _ = images[image_id]
            results[earlier] = AddResult(
                offered[earlier].name,
                AddOutcome.SKIPPED,
                image_id,
                "the same id was given again later in this upload",
            )
        images[image_id] = (position, replace(image, id=image_id))
    chosen = {image_id for image_id, (position, _) in images.items() if not offered[position].id}
    known = {image_id for image_id in images if searcher.catalog.has(image_id)} - chosen
    searcher.store([image for _, image in images.values()], new_ids=chosen)
    for image_id, (position, _) in images.items():
        outcome = AddOutcome.REPLACED if image_id in known else AddOutcome.ADDED
        results[position] = AddResult(offered[position].name, outcome, image_id)
    return results


def _load(searcher: Searcher, item: Offered, since: str | None) -> DecodedImage | AddResult:
    try:
        data = item.read()
        if item.id is not None:
            check_id(item.id)
            if _was_stored(searcher, item, digest(data), since):
                return AddResult(item.name, AddOutcome.ADDED, item.id)
        else:
            for record in searcher.catalog.by_digest(digest(data)):
                _keep_original(searcher, record.digest, data)
                resumed = since is not None and record.created_at >= since
                if resumed and record.id in _candidate_ids(id_from_name(item.name), record.digest):
                    return AddResult(item.name, AddOutcome.ADDED, record.id)
                return AddResult(
                    item.name,
                    AddOutcome.SKIPPED,
                    record.id,
                    f"the same bytes are indexed as {record.id!r}",
                )
        decoded = searcher.describer.decode(data)
        # Only then: 16 images may wait for a forward pass with all their bytes.
        keeps = searcher.originals is not None and searcher.originals.keeps
        return replace(decoded, data=data) if keeps else decoded
    except (StorageFull, StorageReadOnly):
        raise
    except EngineError as error:
        return AddResult(item.name, AddOutcome.FAILED, item.id, str(error))
    except OSError as error:
        return AddResult(item.name, AddOutcome.FAILED, item.id, f"cannot be read: {error}")


def _was_stored(searcher: Searcher, item: Offered, image_digest: str, since: str | None) -> bool:
    """Whether an interrupted run had stored an image under the id that it was offered with."""
    return since is not None and any(
        record.id == item.id and record.metadata == item.metadata and record.created_at >= since
        for record in searcher.catalog.by_digest(image_digest)
    )


def _keep_original(searcher: Searcher, image_digest: str, data: bytes) -> None:
    """Of an image that is stored: it may have been added while none were kept, or be damaged."""
    originals = searcher.originals
    if originals is not None and originals.keeps:
        with originals.holding([(image_digest, data)], searcher.catalog.used_digests):
            pass


def _once(result: AddResult, resumed: set[str]) -> AddResult:
    """An image that an interrupted run had stored was added once, however often it was offered."""
    if result.outcome is not AddOutcome.ADDED or result.id is None:
        return result
    if result.id in resumed:
        detail = f"the same bytes are indexed as {result.id!r}"
        return AddResult(result.name, AddOutcome.SKIPPED, result.id, detail)
    resumed.add(result.id)
    return result


def _candidate_ids(name: str, image_digest: str) -> tuple[str, str]:
    path = PurePosixPath(name)
    return name, str(path.with_name(f"{path.stem}-{image_digest[:12]}{path.suffix}"))


def _free_id(
    searcher: Searcher, name: str, image_digest: str, taken: dict[str, tuple[int, NewImage]]
) -> str:
    """`name`, or with the digest in it where another image has that id: nothing is replaced."""
    plain, unique = _candidate_ids(name, image_digest)
    numbered = (f"{number}-{unique}" for number in itertools.count(2))
    return next(
        candidate
        for candidate in itertools.chain((plain, unique), numbered)
        if candidate not in taken and not searcher.catalog.has(candidate)
    )
