"""The state of an index, for those who look after it."""

from __future__ import annotations

from dataclasses import dataclass

from engine.calibration import Calibration
from engine.live.view import View
from engine.types import Recipe


@dataclass(frozen=True)
class IndexStats:
    """The state of the index.

    `fitted` counts the images that the live generation was built on, `fresh` those that were added
    since; `explained` is 1 before there is one. `bytes` is memory of vectors and codes,
    `mapped_bytes` that of files of which the system keeps in memory what is used.
    """

    count: int
    generation: int
    generations: tuple[int, ...]
    fitted: int
    fresh: int
    dim: int
    projected: bool
    explained: float
    index_type: str
    recall: float
    nprobe: int
    candidates: int
    cells: int
    bytes: int
    mapped_bytes: int
    built_at: str | None
    build_seconds: float
    recipe: Recipe
    precision: str
    calibration: Calibration | None

    @classmethod
    def of(
        cls, view: View, generations: tuple[int, ...], recipe: Recipe, precision: str
    ) -> IndexStats:
        manifest = view.manifest
        return cls(
            count=len(view.index),
            generation=view.generation,
            generations=generations,
            fitted=manifest.count if manifest else 0,
            fresh=view.index.rows_after(manifest.last_row) if manifest else len(view.index),
            dim=view.index.dim,
            projected=view.projection is not None,
            explained=manifest.explained if manifest else 1.0,
            index_type=manifest.index_type if manifest else "flat",
            recall=manifest.recall if manifest else 1.0,
            nprobe=manifest.nprobe if manifest else 0,
            candidates=manifest.candidates if manifest else 0,
            cells=manifest.cells if manifest else 0,
            bytes=view.index.bytes,
            mapped_bytes=view.index.mapped_bytes,
            built_at=manifest.created_at if manifest else None,
            build_seconds=manifest.seconds if manifest else 0.0,
            recipe=recipe,
            precision=precision,
            calibration=view.calibration,
        )
