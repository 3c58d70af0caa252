"""Making a generation: the projection is fitted, vectors are written, coded and measured."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from engine.calibration import left_out
from engine.errors import EmptyIndex
from engine.files.storage import fsync_file, fsync_folder
from engine.generations.manifest import MANIFEST, Manifest, file_digest
from engine.postprocess import MAX_FIT_IMAGES, LinearProjection, PCAProjection
from engine.types import Recipe, Rows, Vectors
from engine.vector_index import (
    BuildOptions,
    Built,
    VectorIndex,
    build_base,
    choose_index_type,
    write_vectors,
)
from engine.vector_index.building import FLAT
from engine.vector_index.coded import CODES, Effort

log = logging.getLogger(__name__)

PROJECTION = "projection.safetensors"
MIN_FIT_IMAGES = 50
"""Below this a projection would be fitted to accidents; raw descriptors are searched instead."""
FEW = 4
"""Vectors that are projected without the threads of torch."""

Progress = Callable[[int, int], None]
"""Called with (images done, images in all); may raise to stop."""

ReadDescriptors = Callable[[Rows], Iterable[tuple[Rows, Vectors]]]
"""Raw descriptors of the given rows, in chunks; rows that are gone are left out."""


def _nothing(*_: object) -> None:
    pass


@dataclass(frozen=True)
class Reporter:
    """Where a build tells how far it is: its phases by name, and images within each."""

    progress: Progress = _nothing
    phase: Callable[[str], None] = _nothing


@dataclass(frozen=True)
class BuildPlan:
    """Everything a build needs to know besides the descriptors.

    With a `learned` projection, which the recipe then names, none is fitted.
    """

    recipe: Recipe
    precision: str
    options: BuildOptions = field(default_factory=BuildOptions)
    learned: LinearProjection | None = None


def write_generation(
    folder: Path, number: int, rows: Rows, read: ReadDescriptors, plan: BuildPlan, report: Reporter
) -> Manifest:
    """Fit, project and code all `rows`; a new generation at `folder`, complete and durable.

    Memory is bounded: descriptors are read in chunks, fitted and trained on samples, and the
    vectors of a large collection go to a file. Raises EmptyIndex without rows, RecallTooLow; what
    fails leaves nothing behind.
    """
    started = time.perf_counter()
    if not len(rows):
        raise EmptyIndex("the index is empty; add images before building it")
    partial = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        report.phase("fitting")
        projection, explained = _fit(rows, read, plan)
        dim = projection.dim if projection else plan.recipe.raw_dim
        chunks = ((chunk, project(projection, vectors)) for chunk, vectors in read(rows))
        report.phase("writing")
        count, built = _write_index(partial, rows, chunks, dim, plan.options, report)
        # Not `save_file`: it hides the error of a full disk in one of its own.
        (partial / PROJECTION).write_bytes(save(_tensors(projection)))
        manifest = Manifest(
            number=number,
            fingerprint=plan.recipe.fingerprint,
            recipe=plan.recipe.to_json(),
            precision=plan.precision,
            last_row=int(rows.max()),
            count=count,
            dim=dim,
            projected=projection is not None,
            explained=explained,
            created_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            files={path.name: file_digest(path) for path in sorted(partial.iterdir())},
            index_type=built.index_type,
            recall=built.recall,
            cells=built.cells,
            nprobe=built.effort.nprobe,
            candidates=built.effort.candidates,
            seconds=round(time.perf_counter() - started, 3),
        )
        manifest.write(partial)
        for name in (*manifest.files, MANIFEST):
            fsync_file(partial / name)
        fsync_folder(partial)
        partial.rename(folder)
        fsync_folder(folder.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return manifest


def _write_index(
    folder: Path,
    rows: Rows,
    chunks: Iterator[tuple[Rows, Vectors]],
    dim: int,
    options: BuildOptions,
    report: Reporter,
) -> tuple[int, Built]:
    """Write vectors and codes; how many there are, and what was made of them."""
    if choose_index_type(options, len(rows)) == FLAT:
        index = VectorIndex(dim)
        for chunk, vectors in chunks:
            index.add(chunk, vectors)
            report.progress(len(index), len(rows))
        index.save(folder / CODES)
        return len(index), Built(FLAT, 1.0, 0, Effort(0, 0))
    written = write_vectors(folder, chunks, report.progress, len(rows))
    if not len(written):
        raise EmptyIndex("all images were deleted meanwhile; add images before building the index")
    report.phase("coding")
    return len(written), build_base(folder, written, dim, options, report.progress)


def _fit(
    rows: Rows, read: ReadDescriptors, plan: BuildPlan
) -> tuple[LinearProjection | None, float]:
    """The projection, if there is to be one, and the share of the variance that it keeps."""
    if plan.learned is not None:
        return plan.learned, _kept_variance(plan.learned, _sample(rows, read))
    # Of a large collection there are enough others to let some stand for new photos when it is
    # measured what scores mean; a small one needs all it has.
    few = len(rows) <= MAX_FIT_IMAGES
    fitted_on = rows if few else np.setdiff1d(rows, left_out(rows), assume_unique=True)
    sample = _sample(fitted_on, read) if len(rows) >= MIN_FIT_IMAGES else None
    if sample is None:
        return None, 1.0
    recipe = plan.recipe
    try:
        fitted = PCAProjection.fit(
            sample, recipe.projection_dim, recipe.projection_power, recipe.projection_shrinkage
        )
    except ValueError as error:
        log.warning("no projection was fitted: %s", error)
        return None, 1.0
    return fitted, fitted.explained


def _sample(rows: Rows, read: ReadDescriptors) -> Tensor | None:
    """(N, D) descriptors of an even sample; None if all of them were deleted meanwhile."""
    step = np.linspace(0, len(rows) - 1, min(len(rows), MAX_FIT_IMAGES)).astype(int)
    chunks = [vectors for _, vectors in read(rows[step])]
    return torch.from_numpy(np.concatenate(chunks)) if chunks else None


def _kept_variance(projection: LinearProjection, sample: Tensor | None) -> float:
    """Share of the variance of (N, D) descriptors in the span of the directions, in [0, 1]."""
    if sample is None:
        return 1.0
    centred = sample.double() - sample.double().mean(dim=0)
    total = float(centred.square().sum())
    basis, _ = torch.linalg.qr(projection.directions.double().T)  # (D, d), orthonormal
    return min(1.0, float((centred @ basis).square().sum()) / total) if total else 1.0


def _tensors(projection: LinearProjection | None) -> dict[str, Tensor]:
    if projection is None:
        return {}
    if isinstance(projection, PCAProjection):
        return projection.tensors()
    return {"mean": projection.mean, "directions": projection.directions}


def read_projection(tensors: dict[str, Tensor], recipe: Recipe) -> LinearProjection:
    """What `write_generation` wrote. Raises KeyError where that was something else."""
    if recipe.projection_digest:
        return LinearProjection(tensors["mean"], tensors["directions"])
    return PCAProjection.from_tensors(tensors)


def project(projection: LinearProjection | None, vectors: Vectors) -> Vectors:
    """Raw descriptors as they are searched: projected, or unchanged where there is none."""
    if projection is None:
        return vectors
    if len(vectors) > FEW:
        projected: Vectors = projection(torch.from_numpy(vectors)).numpy()
        return projected
    # The same by numpy. Each search has a thread of its own, and torch would start as many again
    # for each of these as there are cores. Not as a product: OpenBLAS shares it with threads that
    # wait for the next one by computing, 50 ms long, at the cost of the model.
    centred = vectors.astype(np.float32) - projection.mean.numpy()
    rows = np.einsum("nd,kd->nk", centred, projection.directions.numpy())
    unit: Vectors = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return unit
