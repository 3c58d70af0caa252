"""What can be checked about an index: files, rows, vectors, and that images find themselves."""

from __future__ import annotations

import numpy as np

from engine.catalog import Catalog
from engine.errors import CorruptIndex
from engine.generations import Generations, Progress, project
from engine.postprocess import LinearProjection
from engine.types import Vectors
from engine.vector_index import VectorIndex

SAMPLE = 200
"""Images whose vectors are searched for."""
TOLERANCE = 1e-3
"""Distance between unit vectors that rounding may cause."""


def verify(
    catalog: Catalog,
    generations: Generations,
    index: VectorIndex,
    projection: LinearProjection | None,
    progress: Progress | None = None,
) -> list[str]:
    """Everything that can be checked; one sentence per problem, [] if all is well.

    The catalog's own integrity, the checksums of the live generation, that vectors and catalog
    have the same rows, that each vector is the projection of its raw descriptor, and that the
    vectors of sampled images find themselves first.
    """
    problems: list[str] = []
    for check in (
        catalog.check,
        lambda: _check_generation(generations),
        lambda: _check_rows(catalog, index),
        lambda: _check_vectors(catalog, index, projection, progress),
    ):
        try:
            problems += check()
        except CorruptIndex as error:
            problems.append(error.message)
    return problems


def _check_generation(generations: Generations) -> list[str]:
    number = generations.current()
    return [] if number is None else generations.verify(number)


def _check_rows(catalog: Catalog, index: VectorIndex) -> list[str]:
    live, indexed = catalog.live_rows(), index.rows()
    return [
        f"{len(rows)} images are {name}, the first in row {rows[0]}"
        for name, rows in (
            ("stored but not indexed", np.setdiff1d(live, indexed)),
            ("indexed but not stored", np.setdiff1d(indexed, live)),
        )
        if len(rows)
    ]


def _check_vectors(
    catalog: Catalog,
    index: VectorIndex,
    projection: LinearProjection | None,
    progress: Progress | None,
) -> list[str]:
    problems: list[str] = []
    done = 0
    common = np.intersect1d(catalog.live_rows(), index.rows())
    places = np.linspace(0, len(common) - 1, min(len(common), SAMPLE)).astype(int)
    sampled = set(common[places].tolist())
    for rows, raw in catalog.descriptors(common):
        expected, found = project(projection, raw), index.vectors(rows)
        # A zero descriptor (a blank image) has no direction: compare by distance. NaN is wrong.
        wrong = ~(np.linalg.norm(expected - found, axis=1) <= TOLERANCE)
        problems += [f"the vector of row {row} is not that of its image" for row in rows[wrong]]
        for row, vector in zip(rows.tolist(), found, strict=True):
            if row in sampled and not _finds_itself(index, vector):
                problems.append(f"the vector of row {row} does not find itself first")
        done += len(rows)
        if progress:
            progress(done, len(common))
    return problems


def _finds_itself(index: VectorIndex, vector: Vectors) -> bool:
    _, best = index.search(vector, 1)
    return bool(abs(best[0] - vector @ vector) <= TOLERANCE)
