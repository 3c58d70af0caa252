"""The pictures that `cooc evaluate` writes: contact sheets, and the correlation of queries."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from app.evaluating.report import Progress, method_label
from app.terminal.files import write_file
from engine.describer import Describer
from engine.errors import EngineError, InvalidOption
from engine.evaluation.correlation import RADIUS, query_vectors
from engine.evaluation.datasets import Dataset
from engine.evaluation.protocols import QueryResult
from engine.evaluation.run import Evaluated
from engine.images import SUFFIXES, Box, decode
from engine.pictures import (
    Relevance,
    SheetHit,
    contact_sheet,
    correlation_of,
    correlation_picture,
)
from engine.types import Pixels

SHEETS, HITS = 100, 20
SIDE = 200
"""Longest side of a picture on a sheet, pixels."""


def write_contact_sheets(
    folder: Path, dataset: Dataset, evaluated: Evaluated, progress: Progress
) -> None:
    """One picture for each of the first 100 queries: the query and its first 20 hits.

    `0001_name.jpg` is that of the first query; queries without a positive have none. The part of
    the query that was searched for is outlined. Pictures that can no longer be read are grey.

    Raises: InvalidOption if the folder or a file cannot be written.
    """
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise InvalidOption(f"cannot make the folder {folder}: {error.strerror}") from error
    results = evaluated.scores.per_query[:SHEETS]
    several_kinds = len({query.kind for query in dataset.queries}) > 1

    # The same images are found again and again.
    @lru_cache(maxsize=500)
    def picture(name: str) -> _Picture:
        try:
            data = dataset.path(name).read_bytes()
            image = decode(data, max_side=SIDE, upright=dataset.upright)
        except (OSError, EngineError):
            return _Picture(np.full((SIDE * 3 // 4, SIDE, 3), 0x8A, np.uint8), None)
        return _Picture(image.pixels, (image.width, image.height))

    for done, result in enumerate(results, start=1):
        query = dataset.queries[result.query]
        counted = query.counted()
        similarities = evaluated.similarities[result.query]
        hits = [
            SheetHit(
                pixels=picture(name).pixels,
                name=name,
                rank=rank,
                score=float(similarities[row]),
                relevance=Relevance.POSITIVE if name in counted else Relevance.UNRELATED,
            )
            for rank, row in enumerate(result.ranking[:HITS].tolist(), start=1)
            for name in (dataset.database[row],)
        ]
        label = method_label(evaluated) + (f", {query.kind}" if several_kinds else "")
        shown = picture(query.name)
        sheet = contact_sheet(
            shown.pixels,
            hits,
            name=query.name,
            title=f"{label}: {_found(result)}",
            part=shown.part(query.bbox),
            columns=7,
            kind="jpg",
        )
        write_file(folder / f"{result.query + 1:04d}_{safe_name(query.name)}.jpg", sheet)
        progress(done, len(results))


@dataclass(frozen=True)
class _Picture:
    """Small pixels, and the size (W, H) of the whole image; None where it cannot be read."""

    pixels: Pixels
    size: tuple[int, int] | None

    def part(self, box: Box | None) -> Box | None:
        """The box in shares of width and height."""
        if box is None or self.size is None:
            return None
        width, height = self.size
        return box[0] / width, box[1] / height, box[2] / width, box[3] / height


def safe_name(name: str) -> str:
    """What any file name may hold: letters, digits, dots and dashes, at most 100 of them.

    The suffix of an image goes, as the sheet has its own.
    """
    stem, dot, suffix = name.rpartition(".")
    if f"{dot}{suffix}".lower() in SUFFIXES:
        name = stem
    return re.sub(r"[^A-Za-z0-9.\-]+", "_", name)[:100]


def write_correlation(
    path: Path, dataset: Dataset, describer: Describer, cache_dir: Path, progress: Progress
) -> None:
    """Draw how alike the co-occurrence vectors of the queries are, group beside group.

    Raises: InvalidOption if an image cannot be read or the file cannot be written.
    """
    found = query_vectors(dataset, describer, cache_dir=cache_dir, progress=progress)
    shown = len(found.labels)
    count = f"{shown} queries" if shown == found.total else f"{shown} of {found.total} queries"
    layer = describer.trunk.layer.split("+")[-1]
    trunk = f"{describer.options.backbone} {layer}"
    if not describer.weights.trained:
        trunk += ", untrained weights"
    picture = correlation_picture(
        correlation_of(found.vectors),
        found.labels,
        f"{dataset.name}: correlation of total co-occurrences, {count}",
        caption=f"{trunk}; direct co-occurrence, r = {RADIUS}",
    )
    write_file(path, picture)


def _found(result: QueryResult) -> str:
    within = int(np.sum(result.positive_ranks < HITS))
    return (
        f"AP {100 * result.average_precision:.1f}, "
        f"{within} of {len(result.positive_ranks)} positives in the first {HITS}"
    )
