"""What can be checked about an open index: files, rows, vectors, that images find themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

import numpy as np

from engine.errors import CorruptIndex
from engine.generations import Generations, Progress, project
from engine.postprocess import LinearProjection
from engine.types import Rows, Vectors
from engine.vector_index import SearchKnobs, VectorIndex

SAMPLE = 200
"""Images whose vectors are searched for."""
TOLERANCE = 1e-3
"""Distance between unit vectors that rounding may cause."""
AT_ONCE = 16
"""Vectors of one search: beyond 20 similarities are rounded otherwise."""
LISTED = 20
"""Problems of one kind that are told one by one."""

BUILD = "build the index"
RESTORE = "restore a snapshot"
RESTART = "restart to index them"


class Stored(Protocol):
    """The catalog, or an unchanging view of it."""

    def check(self) -> list[str]: ...

    def live_rows(self) -> Rows: ...

    def descriptors(self, rows: Rows) -> Iterable[tuple[Rows, Vectors]]: ...


class Problem(NamedTuple):
    """Something that is not as it should be, and what helps."""

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}"


def verify(
    catalog: Stored,
    generations: Generations,
    index: VectorIndex,
    projection: LinearProjection | None,
    progress: Progress | None = None,
) -> list[str]:
    """What can be checked about an open index; one sentence per problem, [] if all is well.

    The catalog's own integrity, the checksums of the live generation, that vectors and catalog
    have the same rows, that each vector is the projection of its raw descriptor, and that the
    vectors of sampled images find themselves first, by the default search and by the exact one.
    """
    problems = [
        *collect(lambda: [Problem(what, RESTORE) for what in catalog.check()]),
        *collect(lambda: check_generation(generations)),
        *check_index(catalog, index, projection, progress),
    ]
    return [problem.what for problem in problems]


def collect(check: Callable[[], list[Problem]]) -> list[Problem]:
    """What a check finds; damage that keeps it from reading is a problem, too."""
    try:
        return check()
    except CorruptIndex as error:
        return [Problem(error.message, RESTORE)]


def check_generation(generations: Generations) -> list[Problem]:
    number = generations.current()
    found = [] if number is None else generations.verify(number)
    return [Problem(what, BUILD) for what in found]


def check_index(
    catalog: Stored,
    index: VectorIndex,
    projection: LinearProjection | None,
    progress: Progress | None,
) -> list[Problem]:
    return [
        *collect(lambda: _check_rows(catalog, index)),
        *collect(lambda: _check_vectors(catalog, index, projection, progress)),
    ]


def _check_rows(catalog: Stored, index: VectorIndex) -> list[Problem]:
    live, indexed = catalog.live_rows(), index.rows()
    return [
        Problem(f"{len(rows)} images are {name}, the first in row {rows[0]}", RESTART)
        for name, rows in (
            ("stored but not indexed", np.setdiff1d(live, indexed)),
            ("indexed but not stored", np.setdiff1d(indexed, live)),
        )
        if len(rows)
    ]


def _check_vectors(
    catalog: Stored,
    index: VectorIndex,
    projection: LinearProjection | None,
    progress: Progress | None,
) -> list[Problem]:
    wrong: list[int] = []
    done = 0
    common = np.intersect1d(catalog.live_rows(), index.rows())
    sampled = sample(common)
    samples: list[tuple[int, Vectors]] = []
    for rows, raw in catalog.descriptors(common):
        expected, found = project(projection, raw), index.vectors(rows)
        # A zero descriptor (a blank image) has no direction: compare by distance. NaN is wrong.
        bad = ~(np.linalg.norm(expected - found, axis=1) <= TOLERANCE)
        wrong += rows[bad].tolist()
        here = np.isin(rows, sampled)
        samples += zip(rows[here].tolist(), found[here], strict=True)
        done += len(rows)
        if progress:
            progress(done, len(common))
    problems = [
        Problem(f"the vector of row {row} is not that of its image", BUILD) for row in wrong
    ]
    return shortened(problems) + _check_self_search(index, samples)


def _check_self_search(index: VectorIndex, samples: list[tuple[int, Vectors]]) -> list[Problem]:
    problems = []
    for knobs, how in ((SearchKnobs(), ""), (SearchKnobs(exact=True), ", even by an exact search")):
        for start in range(0, len(samples), AT_ONCE):
            part = samples[start : start + AT_ONCE]
            _, best = index.search_many(np.stack([vector for _, vector in part]), 1, knobs)
            for (row, vector), scores in zip(part, best, strict=True):
                # Another with equal vector may come first; nothing may come without it.
                if not (len(scores) and abs(scores[0] - vector @ vector) <= TOLERANCE):
                    what = f"the vector of row {row} does not find itself first{how}"
                    problems.append(Problem(what, BUILD))
    return shortened(problems)


def sample(rows: Rows) -> Rows:
    """Evenly spread ones of ascending rows."""
    places = np.linspace(0, len(rows) - 1, min(len(rows), SAMPLE)).astype(int)
    sampled: Rows = rows[places]
    return sampled


def shortened(problems: list[Problem]) -> list[Problem]:
    if len(problems) <= LISTED:
        return problems
    more = len(problems) - LISTED
    return [*problems[:LISTED], Problem(f"and {more} more of the last kind", problems[-1].remedy)]
