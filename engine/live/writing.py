"""Writes: durable in the catalog first, then visible in the vectors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence, Set
from contextlib import AbstractContextManager, nullcontext

import numpy as np

from engine.catalog import Catalog, stored_descriptor
from engine.catalog.metadata_columns import MetadataColumns
from engine.generations import project
from engine.live.journal import Journal, Leaving
from engine.live.view import SMALL_REST, View, Views
from engine.originals import Originals
from engine.passes.cores import cores
from engine.types import ImageRecord, Json, NewImage, Vectors


class Writing:
    """The view that searches use, and all that changes it, one after the other.

    A write is committed by the catalog before the vectors change, which takes microseconds: that is
    all that searches can notice of it. The view itself is exchanged in one assignment.
    """

    def __init__(
        self,
        catalog: Catalog,
        columns: MetadataColumns,
        leaving: Leaving,
        originals: Originals | None,
        view: View,
    ) -> None:
        self.view = view
        self._catalog = catalog
        self._columns = columns
        self._leaving = leaving
        self._originals = originals
        self._lock = threading.Lock()
        self._journal: Journal | None = None

    def switch_to(self, make: Callable[[], View], views: Views) -> View:
        """Search what `make` returns from now on, with what was written while it was made."""
        journal = Journal()
        with self._lock:
            self._journal = journal
        try:
            view = make()
            cores().aside(view.measured_background)
            # Most of what changed meanwhile is caught up with before anybody has to wait.
            while len(journal) > SMALL_REST:
                views.catch_up(view, journal)
            with self._lock:
                views.catch_up(view, journal)
                self.view, self._journal = view, None
        finally:
            with self._lock:
                self._journal = None
        return view

    def counts(self) -> tuple[int, int]:
        """Images that are stored, and vectors, at one moment."""
        with self._lock:
            return self._catalog.count(), len(self.view.index)

    def store(
        self, images: Sequence[NewImage], new_ids: Set[str] = frozenset()
    ) -> tuple[list[ImageRecord], list[int]]:
        """Make images durable and searchable in one step.

        Returns: their records, and the rows that they replaced. Raises: StorageFull; IdTaken,
            storing nothing, if one of `new_ids` is stored already.
        """
        vectors = np.stack([stored_descriptor(image.descriptor) for image in images])
        replaced_digests: list[str] = []

        def remember(_: list[int], records: list[ImageRecord]) -> None:
            self._forget(records)
            replaced_digests.extend(record.digest for record in records)

        with self._lock:
            projected = project(self.view.projection, vectors)
            with self._keeping(images):
                rows, replaced = self._catalog.put(images, new_ids=new_ids, before_commit=remember)
            self._columns.put(rows, [image.metadata for image in images], [])
            self._change(rows, projected, replaced)
            self._drop_originals(replaced_digests)
            # Within the lock: an id may be deleted right after.
            records = self._catalog.by_rows(rows)
        return [records[row] for row in rows], replaced

    def patch(self, image_id: str, change: Json) -> ImageRecord:
        """Change metadata; returns the record. Raises: UnknownImage, InvalidOption."""
        with self._lock:
            record = self._catalog.patch(image_id, change)
            self._columns.patch(record.row, record.metadata)
        return record

    def delete(self, image_id: str) -> None:
        """Forget an image. Raises UnknownImage."""
        gone: list[ImageRecord] = []

        def remember(record: ImageRecord) -> None:
            gone.append(record)
            self._forget(gone)

        with self._lock:
            row = self._catalog.delete(image_id, before_commit=remember)
            self._change([], np.empty((0, self.view.index.dim), np.float32), [row])
            self._drop_originals([record.digest for record in gone])

    def _change(self, rows: list[int], vectors: Vectors, removed: list[int]) -> None:
        self.view.index.change(np.array(rows, np.int64), vectors, np.array(removed, np.int64))
        if self._journal is not None:
            self._journal.note(rows, removed)

    def _forget(self, records: Sequence[ImageRecord]) -> None:
        """Keep what searches that began before a change may still ask for."""
        # The columns go on knowing a removed row until no search can come upon it. One whose
        # removal could not be committed is still stored.
        gone = self._leaving.note(records)
        if gone:
            self._columns.remove(gone - self._catalog.by_rows(gone).keys())

    def _keeping(self, images: Sequence[NewImage]) -> AbstractContextManager[None]:
        if self._originals is None:
            return nullcontext()
        kept = [(image.digest, image.data) for image in images]
        return self._originals.holding(kept, self._catalog.used_digests)

    def _drop_originals(self, digests: Sequence[str]) -> None:
        if self._originals is not None and digests:
            self._originals.forget(digests, self._catalog.used_digests)
