"""Add, remove, search: the only place that joins catalog, vector index and model."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from engine.batcher import Batcher, Load
from engine.calibration import Calibration
from engine.catalog import Catalog, stored_descriptor
from engine.catalog.metadata_columns import MetadataColumns
from engine.describer import Describer
from engine.duplicates import DuplicateOptions, DuplicateReport, find_duplicates
from engine.errors import (
    BadImage,
    CorruptIndex,
    DeviceLost,
    EmptyIndex,
    EngineError,
    ImageTooLarge,
    IndexMismatch,
    NoGeneration,
    UnsupportedImage,
)
from engine.files.storage import storage_errors
from engine.generations import Generations, Manifest, Progress, Reporter, project
from engine.images import Cut, DecodedImage, encode_thumbnail
from engine.live.builder import CHILD_FROM, Builder
from engine.live.index_stats import IndexStats
from engine.live.journal import Leaving
from engine.live.view import RAW_LIMIT, View, Views
from engine.live.writing import Writing
from engine.originals import Originals
from engine.passes.calls import Call, current_call
from engine.passes.cores import cores
from engine.passes.devices import DeviceUse, device_use
from engine.passes.stages import stage, stages
from engine.queries.answering import Answering, Query, generation_problem
from engine.queries.comparing import Comparison, Described, compare
from engine.queries.explained_hits import HitExplainer
from engine.queries.querying import (
    DescribedExample,
    Example,
    Examples,
    ImageQuery,
    Queue,
    of_example,
    query_of,
)
from engine.tally import Tally
from engine.types import (
    ImageRecord,
    Json,
    NewImage,
    Pixels,
    SearchAnswer,
    SearchOptions,
    Vectors,
)
from engine.vector_index import BuildOptions
from engine.verification import verify
from engine.worker import workers

log = logging.getLogger(__name__)

CORES = os.cpu_count() or 1
STOP_CHECK_S = 0.2


class Searcher:
    """A collection of images that can be added to, searched and built.

    Methods may be called from several threads. A write returns when it is durable and visible
    to every later search. Writes wait for each other; searches wait for nobody: what is durable is
    made visible by a change of the vectors that takes microseconds.
    """

    def __init__(
        self,
        data_dir: Path,
        describer: Describer,
        *,
        deadline_s: float = 120.0,
        batch_wait_ms: float = 2.0,
        max_queue: int = 256,
        max_waiting_bytes: int = 1 << 30,
        more_describers: Sequence[Describer] = (),
        build_options: BuildOptions | None = None,
        build_process_from: int = CHILD_FROM,
        originals: Originals | None = None,
    ) -> None:
        """Open the index in `data_dir`: load the live generation and replay what came after.

        Args:
            deadline_s: for a call that says nothing else; see `engine.passes.calls`.
            max_waiting_bytes: decoded images that wait for the model.
            more_describers: of the same recipe, on other devices, to share the work with.
            build_process_from: images from which a build has a process of its own.
            originals: where the bytes of images are kept.

        Raises: IndexMismatch if the index was made with another recipe, CorruptIndex if its
            catalog is damaged. A damaged generation is replaced by the one before it, or rebuilt
            from the catalog.
        """
        self.describer = describer
        self.recipe = describer.recipe
        self.deadline_s = deadline_s
        self.originals = originals
        with storage_errors(data_dir):
            data_dir.mkdir(parents=True, exist_ok=True)
        self.catalog = Catalog(data_dir / "catalog.sqlite")
        self.describers = (describer, *more_describers)
        # Outside of the threads of the model, and no more at once than keep the cores busy.
        self._decoding = ThreadPoolExecutor(CORES + 1, thread_name_prefix="decode")
        work, together = workers(self.describers)
        self._batcher: Batcher[Pixels, Vectors] = Batcher(
            work,
            together=together,
            told=cores().told,
            max_batch=lambda pixels: describer.images_per_pass(pixels.shape),
            kind=lambda pixels: pixels.shape,
            size=lambda pixels: pixels.nbytes,
            max_wait_ms=batch_wait_ms,
            max_queue=max_queue,
            max_bytes=max_waiting_bytes,
        )
        try:
            self.generations = Generations(data_dir)
            self._check_recipe()
            self.columns = MetadataColumns(self.catalog)
            leaving = Leaving()
            self._answering = Answering(
                self.catalog, self.columns, leaving, self.recipe.fingerprint
            )
            self._building = threading.Lock()
            self._views = Views(self.catalog, self.generations, describer)
            self._builder = Builder(
                data_dir,
                self.catalog,
                self.generations,
                describer,
                build_options or BuildOptions(),
                originals,
                build_process_from,
            )
            queue = Queue(
                self._begin_decoding,
                lambda pixels, deadline: self._batcher.submit(pixels, deadline=deadline),
                self._batcher.expecting,
            )
            self._examples = Examples(self.catalog, originals, queue, deadline_s)
            self.explainer = HitExplainer(describer, self.catalog, originals, deadline_s)
            view = cores().aside(self._open_view)
            self._writing = Writing(self.catalog, self.columns, leaving, originals, view)
            if originals is not None:
                originals.sweep_later(self.catalog.path, self.catalog.used_digests)
        except BaseException:
            self._batcher.close()
            self._decoding.shutdown()
            self.catalog.close()
            raise

    def close(self) -> None:
        self._batcher.close()
        self._decoding.shutdown()
        if self.originals is not None:
            self.originals.close()
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
        if stored is None or (empty and stored != self.recipe):
            self.catalog.set_recipe(self.recipe)

    # --- opening and building -------------------------------------------------------------

    def _open_view(self) -> View:
        self.generations.sweep()
        view = self._views.newest()
        if view is None:
            count = self.catalog.count()
            built = self.generations.numbers() or self.generations.current_file.exists()
            if count and (built or count > RAW_LIMIT):
                log.warning("no generation can be searched; building one from the catalog")
                return self._built_view(Reporter())
            if not count:
                self.generations.discard()
            view = self._views.raw()
        self._views.replay(view)
        return view

    def _built_view(self, report: Reporter) -> View:
        manifest = self._builder.write(report)
        view = self._builder.calibrated(self._views, manifest, self._describe_bulk, report)
        self.generations.publish(manifest.number)
        return view

    def build(
        self, progress: Progress | None = None, *, phase: Callable[[str], None] | None = None
    ) -> Manifest:
        """Fit the projection on the collection, build a generation and switch to it.

        With a learned projection there is nothing to fit. Searches, adds and deletes go on
        meanwhile; what they changed is in the new generation, too. `phase` is called with the name
        of each part of the work, `progress` with how far that is; what they raise ends the build
        with nothing changed. Raises EmptyIndex, StorageFull, RecallTooLow.
        """
        with self._building:
            if not len(self._view.index):
                raise EmptyIndex("the index is empty; add images before building it")
            report = Reporter(progress or _nothing, phase or _nothing)
            manifest = self._writing.switch_to(
                partial(cores().aside, partial(self._built_view, report)), self._views
            ).manifest
            assert manifest is not None, "what was built has a manifest"
            return manifest

    def reload(self) -> int:
        """Load the generation that CURRENT names and switch to it; returns its number.

        Raises: NoGeneration, CorruptIndex, IndexMismatch; the live generation then stays.
        """
        with self._building:
            number = self.generations.current()
            if number is None:
                raise NoGeneration("no generation has been built yet; build the index first")
            return self._writing.switch_to(
                lambda: self._loaded_view(number), self._views
            ).generation

    def rollback(self, to: int | None = None) -> int:
        """Switch back to an earlier generation, by default the one before; returns its number.

        What was written since it was built is in the answers all the same. Raises: NoGeneration,
            CorruptIndex, IndexMismatch; the live generation then stays.
        """
        with self._building:
            live = self._view.generation
            earlier = [number for number in self.generations.numbers() if number < live]
            if to is None and not earlier:
                raise NoGeneration("there is no earlier generation to go back to")
            number = earlier[-1] if to is None else to

            def load() -> View:
                view = self._loaded_view(number)
                self.generations.publish(number)
                return view

            return self._writing.switch_to(load, self._views).generation

    def _loaded_view(self, number: int) -> View:
        view = cores().aside(partial(self._views.load, number))
        self._views.replay(view)
        return view

    def check(self) -> None:
        """Raises DeviceLost, and CorruptIndex if catalog and vectors do not hold equally many."""
        if self.lost is not None:
            raise DeviceLost(self.lost)
        stored, indexed = self._writing.counts()
        if stored != indexed:
            raise CorruptIndex(
                f"{stored} images are stored, but {indexed} indexed; restart to index them"
            )

    @property
    def lost(self) -> str | None:
        """Why a device computes no more; None as long as all do."""
        return next((one.lost for one in self.describers if one.lost is not None), None)

    @property
    def _view(self) -> View:
        """What searches use now; another one after the next build."""
        return self._writing.view

    @property
    def calibration(self) -> Calibration | None:
        """What scores mean in the live generation, if that could be measured."""
        return self._view.calibration

    def reliability_picture(self) -> bytes | None:
        """A PNG of how far the calibration of the live generation holds; None without one."""
        return self.generations.reliability_picture(self._view.generation)

    def stats(self) -> IndexStats:
        numbers = tuple(self.generations.numbers())
        return IndexStats.of(self._view, numbers, self.recipe, self.describer.precision)

    def verify(self, progress: Progress | None = None) -> list[str]:
        """Problems of the files and of the live index; [] if all is well. See `verification`."""
        view = self._view
        return cores().aside(
            partial(verify, self.catalog, self.generations, view.index, view.projection, progress)
        )

    def duplicates(
        self, options: DuplicateOptions, progress: Progress | None = None
    ) -> DuplicateReport:
        """Images that show the same picture, in groups; see `engine.duplicates`."""
        view = self._view
        find = partial(
            find_duplicates,
            self.catalog,
            view.index,
            options,
            calibration=view.calibration,
            progress=progress or _nothing,
        )
        return cores().aside(find)

    # --- writing --------------------------------------------------------------------------

    def put(self, image_id: str, data: bytes, metadata: Json) -> tuple[ImageRecord, bool]:
        """Add or replace one image; searchable when this returns.

        Returns: its record, and whether the id is new. Raises the errors of decoding, of a full
        disk, Overloaded and DeadlineExceeded.
        """
        image, vector = self._decode_and_describe(data)
        if self.originals is not None and self.originals.keeps:
            image = replace(image, data=data)
        with stage("store"):
            new = new_image(image_id, image, vector, metadata)
            (record,), replaced = self._writing.store([new])
        return record, not replaced

    def describe_many(
        self, images: Sequence[DecodedImage], *, stopping: threading.Event | None = None
    ) -> list[Vectors | Exception]:
        """Raw descriptors for bulk work: searches overtake it in the queue. Order is kept.

        Once `stopping` is set, images whose turn has not come are given up, as cancelled. Raises
        DeviceLost, which is no image's failure.
        """
        futures = [self._batcher.submit_bulk(image.pixels) for image in images]
        while stopping is not None and wait(futures, STOP_CHECK_S).not_done:
            if stopping.is_set():
                for future in futures:
                    future.cancel()
                break
        answers: list[Vectors | Exception] = []
        for future in futures:
            try:
                answers.append(future.result())
            except DeviceLost:
                raise
            # Each image's own failure belongs to that image alone.
            except Exception as error:  # noqa: BLE001
                answers.append(error)
        return answers

    def store(self, images: Sequence[NewImage], *, new_ids: Set[str] = frozenset()) -> list[int]:
        """Make images durable and searchable in one step; returns the rows they replaced.

        Raises: IdTaken, storing nothing, if one of `new_ids` is stored already.
        """
        if not images:
            return []
        return self._writing.store(images, new_ids)[1]

    def patch(self, image_id: str, change: Json) -> ImageRecord:
        """Change the metadata of an image by a JSON merge patch (RFC 7396).

        Returns: the record as it now is. Raises: UnknownImage, InvalidOption.
        """
        return self._writing.patch(image_id, change)

    def delete(self, image_id: str) -> None:
        """Forget an image; no later search finds it. Raises UnknownImage."""
        self._writing.delete(image_id)

    # --- searching ------------------------------------------------------------------------

    def search(self, data: bytes, options: SearchOptions) -> SearchAnswer:
        """The stored images most similar to an image file, best first.

        An image that is stored is found by its digest: rank 1, score 1, `exact`.
        """
        return self.search_query(ImageQuery((Example(data),)), options)

    def search_query(self, query: ImageQuery, options: SearchOptions) -> SearchAnswer:
        """As `search`, for files, stored images, regions, and several examples of them.

        Raises: as decoding does, BadRegion, RegionNeedsOriginal, UnknownImage, Overloaded,
            DeadlineExceeded, GenerationNotReached.
        """
        with stages("decode", "queue", "describe") as timing:
            (answer,) = self.search_many([(query, options)])
        if isinstance(answer, EngineError):
            raise answer
        return replace(answer, timing_ms=timing.milliseconds())

    def search_many(
        self, queries: Sequence[tuple[ImageQuery, SearchOptions]]
    ) -> list[SearchAnswer | EngineError]:
        """Several searches, described together: for each its answer or what it alone met."""
        view = self._view
        live = view.generation
        refused = [generation_problem(live, options) for _, options in queries]
        asked = [query for (query, _), why in zip(queries, refused, strict=True) if why is None]
        described = iter(
            self._examples.describe([example for query in asked for example in query.examples])
        )
        return [
            why
            or self._answered(view, query, options, list(islice(described, len(query.examples))))
            for (query, options), why in zip(queries, refused, strict=True)
        ]

    def _answered(
        self,
        view: View,
        query: ImageQuery,
        options: SearchOptions,
        described: Sequence[DescribedExample | EngineError],
    ) -> SearchAnswer | EngineError:
        good: list[DescribedExample] = []
        for number, example in enumerate(described, start=1):
            if isinstance(example, EngineError):
                return of_example(example, number, query)
            good.append(example)
        split = len(query.positives)
        try:
            asked = query_of(
                good[:split],
                good[split:],
                negative_weight=query.negative_weight,
                projection=view.projection,
            )
            answer = self._answering.answer(view, asked, options)
        except EngineError as error:
            return error
        # As long as each of them took, though they share their passes with others.
        took = {
            "decode": sum(example.decode_s for example in good),
            "queue": max(example.queue_s for example in good),
            "describe": max(example.describe_s for example in good),
        }
        timing = {name: 1000 * seconds for name, seconds in took.items()}
        return replace(answer, timing_ms={**timing, **answer.timing_ms})

    def search_described(
        self, raw: Vectors, file_digest: str, options: SearchOptions
    ) -> SearchAnswer:
        """As `search`, for an image whose (D,) raw descriptor is known, and its file's digest."""
        return self._answer(raw, file_digest, None, options)

    def search_id(self, image_id: str, options: SearchOptions) -> SearchAnswer:
        """The stored images most similar to a stored one.

        Raises: UnknownImage, CorruptIndex if the catalog has lost its descriptor.
        """
        raw, file_digest = self._examples.stored(image_id)
        return self._answer(raw, file_digest, image_id, options)

    def compare(self, a: str | bytes, b: str | bytes) -> Comparison:
        """Two images against each other, each an image file or the id of a stored one.

        Raises: UnknownImage, the errors of decoding, Overloaded and DeadlineExceeded.
        """
        described = [self._named(name, image) for name, image in (("first", a), ("second", b))]
        view = self._view
        first, second = (
            Described(project(view.projection, raw[None])[0], file_digest)
            for raw, file_digest in described
        )
        return compare(
            first,
            second,
            background=view.measured_background(),
            calibration=view.calibration,
            fingerprint=self.recipe.fingerprint,
            generation=view.generation,
            count=len(view.index),
        )

    def _named(self, name: str, image: str | bytes) -> tuple[Vectors, str]:
        """As `_described`; an error says which of two images it is about."""
        try:
            return self._described(image)
        except (BadImage, UnsupportedImage, ImageTooLarge) as error:
            raise type(error)(f"the {name} image: {error}") from error

    def _described(self, image: str | bytes) -> tuple[Vectors, str]:
        """Raw descriptor and digest of an image file or a stored image."""
        if isinstance(image, bytes):
            decoded, vector = self._decode_and_describe(image)
            return stored_descriptor(vector), decoded.digest
        return self._examples.stored(image)

    def _answer(
        self, raw: Vectors, query_digest: str, own_id: str | None, options: SearchOptions
    ) -> SearchAnswer:
        view = self._view
        vector = project(view.projection, raw[None])[0]
        return self._answering.answer(view, Query(vector, query_digest, own_id), options)

    def _describe_bulk(self, pictures: Sequence[Pixels]) -> Vectors:
        """Raw descriptors, after what anybody waits for."""
        futures = [self._batcher.submit_bulk(picture) for picture in pictures]
        return np.stack([stored_descriptor(future.result()) for future in futures])

    # --- what somebody waits for ----------------------------------------------------------

    def device_use(self) -> list[DeviceUse]:
        """Each device that describes, once."""
        devices = dict.fromkeys(describer.device for describer in self.describers)
        return [device_use(device) for device in devices]

    @property
    def tally(self) -> Tally:
        """Searches so far, by how they turned out."""
        return self._answering.tally

    @property
    def load(self) -> Load:
        """What the queue before the model has seen, and what it holds now."""
        return self._batcher.load

    def retry_after_s(self) -> int:
        """Seconds after which a request that was refused may be tried again."""
        return self._batcher.retry_after_s()

    def _decode_and_describe(self, data: bytes) -> tuple[DecodedImage, Vectors]:
        """Raises the errors of decoding, Overloaded, DeadlineExceeded, OutOfMemory,
        DeviceLost."""
        call = current_call(self.deadline_s)
        with self._batcher.expecting():
            image = self._decode(data, call)
            waiting = self._batcher.submit(image.pixels, deadline=call.deadline)
        return image, call.wait_in_line(waiting)

    def _decode(self, data: bytes, call: Call) -> DecodedImage:
        """In a thread for it, in turn; not at all if nobody waits any more by then."""
        with stage("decode"):
            return call.wait(self._begin_decoding(data))

    def _begin_decoding(self, data: bytes, cut: Cut | None = None) -> Future[DecodedImage]:
        decode = partial(self.describer.decode, data, box=cut)
        return self._decoding.submit(copy_context().run, decode)


def _nothing(*_: object) -> None:
    pass


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
        data=image.data,
    )
