"""Add, remove, search: the only place that joins catalog, vector index and model."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence, Set
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from engine.background import MIN_IMAGES, Background
from engine.batcher import Batcher, Priority
from engine.candidates import expand_query, rank_rows
from engine.catalog import Catalog, stored_descriptor
from engine.describer import Describer
from engine.errors import (
    CorruptIndex,
    DeadlineExceeded,
    EmptyIndex,
    IndexMismatch,
    NoGeneration,
    Overloaded,
)
from engine.generations import Generations, Manifest, Progress, project
from engine.images import DecodedImage, digest, encode_thumbnail
from engine.locks import ReadWriteLock
from engine.postprocess import LinearProjection
from engine.ranking import match_types, rank, select_hits
from engine.storage import storage_errors
from engine.types import (
    ImageRecord,
    Json,
    NewImage,
    Pixels,
    Recipe,
    SearchAnswer,
    SearchOptions,
    Vectors,
)
from engine.vector_index import VectorIndex
from engine.verification import verify

log = logging.getLogger(__name__)

RAW_LIMIT = 20_000
"""Images that may be searched by their raw descriptors; beyond it a start builds the index."""


@dataclass
class _View:
    """What searches use: one generation and what was added since."""

    index: VectorIndex
    projection: LinearProjection | None
    manifest: Manifest | None
    background: Background | None = None
    background_of: int = 0

    @property
    def generation(self) -> int:
        return self.manifest.number if self.manifest else 0


@dataclass(frozen=True)
class IndexStats:
    """The state of the index. `fitted` counts the images that the live generation was built on;
    `explained` is 1 before there is one."""

    count: int
    generation: int
    fitted: int
    dim: int
    projected: bool
    explained: float
    index_type: str
    bytes: int
    built_at: str | None
    recipe: Recipe
    precision: str


class Searcher:
    """A collection of images that can be added to, searched and built.

    Methods may be called from several threads. A write returns when it is durable and visible
    to every later search.
    """

    def __init__(
        self,
        data_dir: Path,
        describer: Describer,
        *,
        deadline_s: float = 120.0,
        batch_wait_ms: float = 2.0,
        max_queue: int = 256,
    ) -> None:
        """Open the index in `data_dir`: load the live generation and replay what came after.

        Raises: IndexMismatch if the index was made with another recipe, CorruptIndex if its
            catalog is damaged. A damaged generation is rebuilt from the catalog.
        """
        self.describer = describer
        self.recipe = describer.recipe
        self.deadline_s = deadline_s
        with storage_errors(data_dir):
            data_dir.mkdir(parents=True, exist_ok=True)
        self.catalog = Catalog(data_dir / "catalog.sqlite")
        try:
            self.generations = Generations(data_dir)
            self._check_recipe()
            # Catalog and vectors change together under this lock, so a search that holds it
            # sees every image either fully present or fully absent.
            self._lock = ReadWriteLock()
            self._building = threading.Lock()
            self._view = self._open_view()
        except BaseException:
            self.catalog.close()
            raise
        self._batcher: Batcher[Pixels, Vectors] = Batcher(
            lambda images: list(describer.describe(images)),
            max_batch=describer.options.batch_size,
            max_wait_ms=batch_wait_ms,
            max_queue=max_queue,
        )

    def close(self) -> None:
        self._batcher.close()
        self.catalog.close()

    def _check_recipe(self) -> None:
        stored, empty = self.catalog.recipe(), self.catalog.count() == 0
        if stored is not None and stored.fingerprint != self.recipe.fingerprint:
            if not empty:
                differences = "; ".join(stored.differences(self.recipe))
                raise IndexMismatch(
                    f"the index was made with another recipe ({differences}): "
                    "start with its own, or use another data folder for this one"
                )
            self.generations.discard()
        if stored is None or empty:
            self.catalog.set_recipe(self.recipe)

    # --- opening and building -------------------------------------------------------------

    def _open_view(self) -> _View:
        # A learned projection needs no collection to be fitted on: it serves from the start.
        learned = self.describer.projection
        dim = self.recipe.raw_dim if learned is None else learned.dim
        view = _View(VectorIndex(dim), learned, None)
        count = self.catalog.count()
        try:
            number = self.generations.current()
            if number is not None:
                view = self._load(number)
            elif count > RAW_LIMIT:
                log.warning("no generation is live; building one")
                return self._build_view()
        except (CorruptIndex, NoGeneration) as error:
            log.error("%s; rebuilding from the catalog", error)
            if count:
                return self._build_view()
            self.generations.discard()
        self._replay(view)
        return view

    def _load(self, number: int) -> _View:
        loaded = self.generations.load(number, self.recipe)
        # Row numbers start again in a new catalog, and an older copy of it gives some out again:
        # its rows would be answered with the vectors of other images.
        if loaded.manifest.last_row > self.catalog.highest_row():
            raise CorruptIndex(
                f"generation {number} has rows up to {loaded.manifest.last_row}, the catalog only "
                f"up to {self.catalog.highest_row()}: they do not belong together"
            )
        return _View(loaded.index, loaded.projection, loaded.manifest)

    def _build_view(self, progress: Progress | None = None) -> _View:
        rows = self.catalog.live_rows()
        built = self.generations.build(
            rows,
            self.catalog.descriptors,
            self.recipe,
            self.describer.precision,
            progress,
            learned=self.describer.projection,
        )
        self.generations.publish(built.manifest.number)
        return _View(built.index, built.projection, built.manifest)

    def _replay(self, view: _View) -> int:
        """Make the vectors of `view` those of the catalog; returns how many rows differed."""
        live, indexed = self.catalog.live_rows(), view.index.rows()
        missing, gone = np.setdiff1d(live, indexed), np.setdiff1d(indexed, live)
        for rows, vectors in self.catalog.descriptors(missing):
            view.index.add(rows, project(view.projection, vectors))
        view.index.remove(gone)
        if len(missing) or len(gone):
            log.info("replayed %d added and %d removed images", len(missing), len(gone))
        return len(missing) + len(gone)

    def build(self, progress: Progress | None = None) -> Manifest:
        """Fit the projection on the collection, build a generation and switch to it.

        With a learned projection there is nothing to fit. Searches, adds and deletes go on
        meanwhile; what they changed is replayed before the switch. Raises EmptyIndex, StorageFull.
        """
        with self._building:
            if self.catalog.count() == 0:
                raise EmptyIndex("the index is empty; add images before building it")
            view = self._build_view(progress)
            # Most of what changed meanwhile is caught up with before anybody has to wait.
            self._replay(view)
            with self._lock.writing():
                self._replay(view)
                self._view = view
            assert view.manifest is not None
            return view.manifest

    def reload(self) -> int:
        """Load the generation that CURRENT names and switch to it; returns its number.

        Raises: NoGeneration, CorruptIndex, IndexMismatch; the live generation then stays.
        """
        with self._building:
            number = self.generations.current()
            if number is None:
                raise NoGeneration("no generation has been built yet; build the index first")
            view = self._load(number)
            self._replay(view)
            with self._lock.writing():
                self._replay(view)
                self._view = view
            return number

    def check(self) -> None:
        """Raises CorruptIndex if catalog and vectors do not hold equally many images."""
        with self._lock.reading():
            stored, indexed = self.catalog.count(), len(self._view.index)
        if stored != indexed:
            raise CorruptIndex(
                f"{stored} images are stored, but {indexed} indexed; restart to index them"
            )

    def stats(self) -> IndexStats:
        view = self._view
        return IndexStats(
            count=self.catalog.count(),
            generation=view.generation,
            fitted=view.manifest.count if view.manifest else 0,
            dim=view.index.dim,
            projected=view.projection is not None,
            explained=view.manifest.explained if view.manifest else 1.0,
            index_type="flat",
            bytes=view.index.bytes,
            built_at=view.manifest.created_at if view.manifest else None,
            recipe=self.recipe,
            precision=self.describer.precision,
        )

    def verify(self, progress: Progress | None = None) -> list[str]:
        """Problems of the files and of the live index; [] if all is well. See `verification`."""
        view = self._view
        return verify(self.catalog, self.generations, view.index, view.projection, progress)

    # --- writing --------------------------------------------------------------------------

    def put(self, image_id: str, data: bytes, metadata: Json) -> tuple[ImageRecord, bool]:
        """Add or replace one image; searchable when this returns.

        Returns: its record, and whether the id is new. Raises the errors of decoding, of a full
        disk, Overloaded and DeadlineExceeded.
        """
        image = self.describer.decode(data)
        vector = self._wait(self._batcher.submit(image.pixels))
        with self._lock.writing():
            rows, replaced = self._store([new_image(image_id, image, vector, metadata)])
            # Within the lock: the id may be deleted right after.
            record = self.catalog.by_rows(rows)[rows[0]]
        return record, not replaced

    def describe_many(self, images: Sequence[DecodedImage]) -> list[Vectors | Exception]:
        """Raw descriptors for bulk work: searches overtake it in the queue. Order is kept."""
        futures = [self._submit_bulk(image.pixels) for image in images]
        answers: list[Vectors | Exception] = []
        for future in futures:
            try:
                answers.append(future.result())
            # Each image's own failure belongs to that image alone.
            except Exception as error:  # noqa: BLE001
                answers.append(error)
        return answers

    def _submit_bulk(self, pixels: Pixels) -> Future[Vectors]:
        while True:
            try:
                return self._batcher.submit(pixels, Priority.BULK)
            except Overloaded:
                # Nobody waits for bulk work by the second: it yields until there is room.
                time.sleep(0.05)

    def store(self, images: Sequence[NewImage], *, new_ids: Set[str] = frozenset()) -> list[int]:
        """Make images durable and searchable in one step; returns the rows they replaced.

        Raises: IdTaken, storing nothing, if one of `new_ids` is stored already.
        """
        if not images:
            return []
        with self._lock.writing():
            _, replaced = self._store(images, new_ids)
        return replaced

    def _store(
        self, images: Sequence[NewImage], new_ids: Set[str] = frozenset()
    ) -> tuple[list[int], list[int]]:
        """New and replaced rows. The caller holds the lock for writing."""
        view = self._view
        vectors = np.stack([stored_descriptor(image.descriptor) for image in images])
        projected = project(view.projection, vectors)
        rows, replaced = self.catalog.put(images, new_ids=new_ids)
        view.index.change(np.array(rows, np.int64), projected, np.array(replaced, np.int64))
        return rows, replaced

    def delete(self, image_id: str) -> None:
        """Forget an image; no later search finds it. Raises UnknownImage."""
        with self._lock.writing():
            row = self.catalog.delete(image_id)
            self._view.index.remove(np.array([row], np.int64))

    # --- searching ------------------------------------------------------------------------

    def search(self, data: bytes, options: SearchOptions) -> SearchAnswer:
        """The stored images most similar to an image file, best first.

        An image that is stored is found by its digest: rank 1, score 1, `exact`.
        """
        started = time.perf_counter()
        query_digest = digest(data)
        known = self.catalog.by_digest(query_digest) if data else []
        raw = self._stored_vector(known[0].row) if known else None
        decoded = described = time.perf_counter()
        if raw is None:
            image = self.describer.decode(data)
            decoded = time.perf_counter()
            raw = stored_descriptor(self._wait(self._batcher.submit(image.pixels)))
            described = time.perf_counter()
        answer = self._answer(raw, query_digest, None, options)
        return _timed(answer, decode=decoded - started, describe=described - decoded)

    def search_id(self, image_id: str, options: SearchOptions) -> SearchAnswer:
        """The stored images most similar to a stored one.

        Raises: UnknownImage, CorruptIndex if the catalog has lost its descriptor.
        """
        while True:
            record = self.catalog.get(image_id)
            raw = self._stored_vector(record.row)
            if raw is not None:
                return self._answer(raw, record.digest, image_id, options)
            # Replaced or deleted between the two reads, unless the row is still there.
            if self.catalog.by_rows([record.row]):
                raise CorruptIndex(f"the image {image_id!r} has no descriptor; add it again")

    def _stored_vector(self, row: int) -> Vectors | None:
        for _, vectors in self.catalog.descriptors([row]):
            first: Vectors = vectors[0]
            return first
        return None

    def _answer(
        self, raw: Vectors, query_digest: str, own_id: str | None, options: SearchOptions
    ) -> SearchAnswer:
        started = time.perf_counter()
        with self._lock.reading():
            view = self._view
            background = self._background(view)
            query = project(view.projection, raw[None])[0]
            exact = {record.row for record in self.catalog.by_digest(query_digest)}
            wanted = options.offset + options.limit
            expanded, joined = expand_query(view.index, query, exact, options, background)
            rows, scores = rank_rows(view.index, expanded, wanted, exact, options.augmentation)
            ranked = rank(rows, scores, exact)
            as_stored = not joined and not options.augmentation
            plain = scores if as_stored else view.index.vectors(rows) @ query
            records = self.catalog.by_rows(row for row, _ in ranked)
            count = len(view.index)
        kinds = match_types(rows, plain, exact, background)
        hits = select_hits(ranked, records, kinds, exact, own_id, options)
        return SearchAnswer(
            hits=hits,
            fingerprint=self.recipe.fingerprint,
            generation=view.generation,
            count=count,
            expanded_with=joined,
            timing_ms={"search": 1000 * (time.perf_counter() - started)},
        )

    def _background(self, view: _View) -> Background | None:
        """Measured again whenever the collection has doubled or halved."""
        size = len(view.index)
        if size >= MIN_IMAGES and not view.background_of <= size < 2 * view.background_of:
            power = 1 << (size.bit_length() - 1)
            rows = np.sort(view.index.rows())[:power]
            view.background = Background.of(view.index.vectors(rows[:: max(1, power // 512)]))
            view.background_of = power
        return view.background if size >= MIN_IMAGES else None

    def _wait(self, future: Future[Vectors]) -> Vectors:
        try:
            return future.result(self.deadline_s)
        except (FutureTimeout, CancelledError) as error:
            future.cancel()
            raise DeadlineExceeded(
                f"the image was not described within {self.deadline_s:g} s; try again later"
            ) from error


def new_image(image_id: str, image: DecodedImage, vector: Vectors, metadata: Json) -> NewImage:
    """A described image as it is stored."""
    return NewImage(
        id=image_id,
        digest=image.digest,
        width=image.width,
        height=image.height,
        format=image.format,
        metadata=metadata,
        thumbnail=encode_thumbnail(image.pixels),
        descriptor=vector,
    )


def _timed(answer: SearchAnswer, **seconds: float) -> SearchAnswer:
    timing = {name: 1000 * value for name, value in seconds.items()}
    return replace(answer, timing_ms={**timing, **answer.timing_ms})
