"""Builds: from what the catalog holds to a generation that may be published."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from engine.calibration.collect import calibrate
from engine.calibration.strangers import Strangers, refitted
from engine.catalog import Catalog
from engine.describer import Describer
from engine.errors import CorruptIndex, StorageFull, UnknownImage, WeightsUnavailable
from engine.generations import BuildPlan, Generations, Manifest, Reporter, project
from engine.live.build_process import build_in_process
from engine.live.view import View, Views
from engine.originals import Originals
from engine.postprocess import MAX_FIT_IMAGES, PCAProjection
from engine.types import Pixels, Rows, Vectors
from engine.vector_index import BuildOptions

log = logging.getLogger(__name__)

CHILD_FROM = 50_000
"""Images from which a build has a process of its own: below, starting one takes longer."""

DescribeMany = Callable[[Sequence[Pixels]], Vectors]
"""Raw descriptors (N, D) of pictures, at a low priority."""


@dataclass(frozen=True)
class Builder:
    """Makes generations of a catalog. One build at a time."""

    data_dir: Path
    catalog: Catalog
    generations: Generations
    describer: Describer
    options: BuildOptions
    originals: Originals | None = None
    child_from: int = CHILD_FROM

    def write(self, report: Reporter) -> Manifest:
        """A new generation, complete and durable, but not live. Raises as `write_generation`."""
        plan = BuildPlan(
            self.describer.recipe,
            self.describer.precision,
            self.options,
            self.describer.projection,
        )
        number = self.generations.reserve()
        count = self.catalog.count()
        self._check_room(count)
        if count >= self.child_from:
            try:
                return build_in_process(self.data_dir, number, plan, report)
            except BaseException:
                # What was killed could not clean up itself.
                self.generations.sweep()
                raise
        rows = self.catalog.live_rows()
        return self.generations.build(rows, self.catalog.descriptors, plan, report, number=number)

    def calibrated(
        self, views: Views, manifest: Manifest, describe: DescribeMany, report: Reporter
    ) -> View:
        """The view of a new generation, after measuring what its scores mean, where that can be."""
        view = views.load(manifest.number)
        report.phase("calibrating")
        started = time.perf_counter()
        rows = np.sort(view.index.rows())
        try:
            measured = calibrate(
                rows,
                view.index.vectors,
                self._picture,
                lambda pictures: project(view.projection, describe(pictures)),
                strangers=self._strangers(view, rows),
                max_side=self.describer.options.max_side,
                progress=report.progress,
            )
        except WeightsUnavailable as error:
            log.warning("scores are not calibrated: %s", error)
            return view
        if measured is None:
            return view
        # Here, as it loads what nobody else needs who starts a service.
        from engine.pictures.reliability import reliability_picture

        picture = reliability_picture(measured)
        manifest = self.generations.calibrate(
            manifest.number, measured.calibration, picture, time.perf_counter() - started
        )
        return replace(view, manifest=manifest, calibration=measured.calibration)

    def _strangers(self, view: View, rows: Rows) -> Strangers | None:
        """What new photos look like, where the projection was fitted on all that there are."""
        fitted = view.projection is not None and self.describer.projection is None
        if not fitted or len(rows) > MAX_FIT_IMAGES:
            return None
        recipe = self.describer.recipe
        return refitted(
            rows,
            self.catalog.descriptors,
            lambda sample: PCAProjection.fit(
                sample, recipe.projection_dim, recipe.projection_power, recipe.projection_shrinkage
            ),
        )

    def _picture(self, row: int) -> bytes | None:
        """The original of an image where it is kept, else its thumbnail."""
        record = self.catalog.by_rows([row]).get(row)
        if record is None:
            return None
        try:
            kept = self.originals.read(record.digest) if self.originals else None
            return kept or self.catalog.thumbnail(record.id)
        except (UnknownImage, CorruptIndex):
            return None

    def _check_room(self, count: int) -> None:
        """Say at once what would else come out after minutes of work."""
        recipe = self.describer.recipe
        projection = self.describer.projection
        dim = projection.dim if projection else min(recipe.projection_dim, recipe.raw_dim)
        needed, free = 4 * dim * count, shutil.disk_usage(self.data_dir).free
        if needed > free:
            raise StorageFull(
                f"a build of {count:,} images needs about {needed >> 20:,} MB in {self.data_dir}, "
                f"of which {free >> 20:,} MB are free; free space there and try again"
            )
