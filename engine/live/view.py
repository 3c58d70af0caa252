"""What searches use: one generation and what was added since; and how it is opened."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from engine.background import MIN_IMAGES, Background
from engine.calibration import Calibration
from engine.catalog import Catalog
from engine.describer import Describer
from engine.errors import CorruptIndex, IndexMismatch, NoGeneration
from engine.generations import Generations, Manifest, project
from engine.live.journal import Journal
from engine.postprocess import LinearProjection
from engine.types import Vectors
from engine.vector_index import VectorIndex

log = logging.getLogger(__name__)

RAW_LIMIT = 20_000
"""Images that may be searched by their raw descriptors; beyond it a start builds the index."""
SMALL_REST = 64
"""Changes that are few enough to be made while writers wait."""


@dataclass
class View:
    """What searches use. Only the background changes: it is measured again as the index grows."""

    index: VectorIndex
    projection: LinearProjection | None = None
    manifest: Manifest | None = None
    calibration: Calibration | None = None
    background: Background | None = None
    background_of: int = 0

    @property
    def generation(self) -> int:
        return self.manifest.number if self.manifest else 0

    def measured_background(self) -> Background | None:
        """Similarity of random pairs, measured again whenever the collection doubled or halved."""
        size = len(self.index)
        if size < MIN_IMAGES:
            return None
        if not self.background_of <= size < 2 * self.background_of:
            power = 1 << (size.bit_length() - 1)
            self.background = Background.of(self._sample(power))
            self.background_of = power
        return self.background

    def _sample(self, size: int) -> Vectors:
        while True:
            try:
                return self.index.vectors(self.index.sample(size))
            except KeyError:
                # One of them was deleted between the two looks.
                continue


class Views:
    """Opens views of what a catalog and its generations hold."""

    def __init__(self, catalog: Catalog, generations: Generations, describer: Describer) -> None:
        self._catalog = catalog
        self._generations = generations
        self._describer = describer

    def raw(self) -> View:
        """Nothing was built. A learned projection needs no collection: it serves from the start."""
        learned = self._describer.projection
        dim = self._describer.recipe.raw_dim if learned is None else learned.dim
        return View(VectorIndex(dim), learned)

    def load(self, number: int) -> View:
        """The view of a generation, without what was written since.

        Raises: NoGeneration, CorruptIndex, IndexMismatch.
        """
        loaded = self._generations.load(number, self._describer.recipe, self._describer.device)
        # Row numbers start again in a new catalog, and an older copy of it gives some out again:
        # its rows would be answered with the vectors of other images.
        if loaded.manifest.last_row > self._catalog.highest_row():
            raise CorruptIndex(
                f"generation {number} has rows up to {loaded.manifest.last_row}, the catalog only "
                f"up to {self._catalog.highest_row()}: they do not belong together"
            )
        return View(loaded.index, loaded.projection, loaded.manifest, loaded.calibration)

    def newest(self) -> View | None:
        """The live generation or, if it is damaged or CURRENT is, the newest other that is not.

        None if there is no such generation. Raises IndexMismatch if the live one is of another
        recipe.
        """
        live: int | None = None
        try:
            live = self._generations.current()
        except CorruptIndex as error:
            log.error("%s", error)
        others = [number for number in self._generations.numbers()[::-1] if number != live]
        for number in others if live is None else [live, *others]:
            try:
                view = self.load(number)
            except IndexMismatch:
                if number == live:
                    raise
            except (CorruptIndex, NoGeneration) as error:
                log.error("%s", error)
            else:
                if number != live:
                    log.warning("generation %d is searched instead", number)
                    self._generations.publish(number)
                return view
        return None

    def replay(self, view: View) -> int:
        """Make the vectors of `view` those of the catalog; returns how many rows differed."""
        live, indexed = self._catalog.live_rows(), view.index.rows()
        missing = np.setdiff1d(live, indexed, assume_unique=True)
        gone = np.setdiff1d(indexed, live, assume_unique=True)
        self._add(view, missing)
        view.index.remove(gone)
        if len(missing) or len(gone):
            log.info("replayed %d added and %d removed images", len(missing), len(gone))
        return len(missing) + len(gone)

    def catch_up(self, view: View, journal: Journal) -> None:
        """Make in `view` the changes that `journal` has noted so far."""
        added, removed = journal.take()
        rows = np.unique(np.array(added, np.int64))
        self._add(view, rows[~view.index.holds(rows)])
        view.index.remove(np.array(removed, np.int64))

    def _add(self, view: View, rows: Iterable[int]) -> None:
        for chunk, vectors in self._catalog.descriptors(rows):
            view.index.add(chunk, project(view.projection, vectors))
