"""The page that `cooc evaluate --report` writes: one file that needs nothing beside it."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from app import __version__
from app.terminal.files import write_file
from engine.describer import Describer
from engine.errors import EngineError
from engine.evaluation.datasets import Dataset, Query, queries_without_positives
from engine.evaluation.protocols import QueryResult
from engine.evaluation.run import Evaluated
from engine.images import Box, decode, encode_thumbnail
from engine.types import Expansion

QUERIES = 10
"""Worst ones, and as many best ones, that are shown of each method."""
HITS = 10
MISSED = 4
"""Positives shown of those that were ranked last."""
BINS = 10
SIDE, SMALLEST_SIDE, FULL_SIZE = 160, 80, 250
"""Longest side of a picture in pixels. From `FULL_SIZE` pictures on they get smaller, so that
the file keeps its size, down to the smallest."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Hit:
    """An image of a ranking; `rank` counts from 1."""

    name: str
    rank: int
    score: float
    positive: bool


@dataclass(frozen=True)
class Card:
    """One query with what was found for it.

    Attributes:
        box: the part of the image that was searched for, within it; None for all of it.
        ap: average precision in percent.
        first: rank of the first positive, from 1.
        found: positives among the first `HITS`.
        missed: the positives ranked last, of those after the hits; of the worst queries only.
    """

    name: str
    kind: str
    box: Box | None
    ap: float
    first: int
    found: int
    positives: int
    hits: tuple[Hit, ...]
    missed: tuple[Hit, ...]


@dataclass(frozen=True)
class Bar:
    """Queries with an average precision of `low` up to `high` percent; `share` of the tallest."""

    low: int
    high: int
    count: int
    share: float


@dataclass(frozen=True)
class Section:
    """One method.

    Attributes:
        worst, best: worst or best first; no query is in both.
        first_right: queries whose first hit is a positive.
        none_found: queries without a positive among the first `HITS`.
    """

    number: int
    label: str
    entry: Evaluated
    bars: tuple[Bar, ...]
    worst: tuple[Card, ...]
    best: tuple[Card, ...]
    first_right: int
    none_found: int


@dataclass(frozen=True)
class Line:
    """One query in the table of all; `aps` has a percentage for each method."""

    query: Query
    aps: tuple[float, ...]


@dataclass(frozen=True)
class Thumbnail:
    """`width` and `height` are those of the whole image, in which boxes are measured."""

    number: int
    width: int
    height: int
    uri: str


def write_report(
    path: Path,
    dataset: Dataset,
    describer: Describer,
    evaluated: Sequence[Evaluated],
    *,
    progress: Progress = lambda done, total: None,
) -> None:
    """Write one HTML file on what was evaluated, which queries fail, and how.

    Pictures that can no longer be read become placeholders.

    Raises: InvalidOption if the file cannot be written.
    """
    page = render(dataset, describer, evaluated, progress=progress)
    # Names of files may hold what is no text in UTF-8.
    write_file(path, page.encode("utf-8", errors="backslashreplace"))


def render(
    dataset: Dataset,
    describer: Describer,
    evaluated: Sequence[Evaluated],
    *,
    progress: Progress = lambda done, total: None,
) -> str:
    """The page as text; see `write_report`."""
    sections = _sections(dataset, evaluated)
    names = dict.fromkeys(
        name
        for section in sections
        for card in (*section.worst, *section.best)
        for name in (card.name, *(hit.name for hit in (*card.hits, *card.missed)))
    )
    environment = Environment(
        loader=PackageLoader("app", "web_report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        dataset=dataset,
        recipe=describer.recipe,
        weights=Path(describer.weights.name).name,
        precision=describer.precision,
        trained=describer.weights.trained,
        without_positives=len(queries_without_positives(dataset)),
        sections=sections,
        kinds=list(dict.fromkeys(kind for entry in evaluated for kind in entry.scores.kinds)),
        best_map=max((entry.scores.map for entry in evaluated), default=0.0),
        lines=_lines(dataset, evaluated),
        pictures=_thumbnails(dataset, describer, list(names), progress),
        hits=HITS,
        date=date.today().isoformat(),
        version=__version__,
    )


def method_label(entry: Evaluated) -> str:
    """The method in words: `cbp_ac, projection fitted (paris6k), expansion average 10`.

    A row of a published table keeps its label: its scales and layer are not part of the method.
    """
    if entry.label:
        return entry.label
    method = entry.method
    projection = f"projection {method.projection.kind}"
    if entry.fitted_on is not None:
        projection += f" ({entry.fitted_on})"
    parts = [method.pooling, projection]
    if method.expansion.kind is not Expansion.NONE:
        parts.append(f"expansion {method.expansion.kind.value} {method.expansion.neighbours}")
    if method.augmentation:
        parts.append(f"augmentation {method.augmentation}")
    return ", ".join(parts)


def _sections(dataset: Dataset, evaluated: Sequence[Evaluated]) -> list[Section]:
    counts = [_histogram(entry.scores.per_query) for entry in evaluated]
    # One scale for all methods, so that their histograms can be compared.
    tallest = max((max(row) for row in counts), default=1)
    position = {name: row for row, name in enumerate(dataset.database)}
    sections = []
    for number, (entry, row) in enumerate(zip(evaluated, counts, strict=True), start=1):
        results = entry.scores.per_query
        rising = sorted(results, key=lambda result: result.average_precision)
        falling = sorted(results, key=lambda result: -result.average_precision)
        few = min(QUERIES, len(results) // 2)
        worst, best = rising[: min(QUERIES, len(results) - few)], falling[:few]
        sections.append(
            Section(
                number=number,
                label=method_label(entry),
                entry=entry,
                bars=tuple(_bars(row, tallest)),
                worst=tuple(
                    _card(dataset, entry, result, _missed(dataset, entry, result, position))
                    for result in worst
                ),
                best=tuple(_card(dataset, entry, result) for result in best),
                first_right=sum(int(result.positive_ranks[0]) == 0 for result in results),
                none_found=sum(int(result.positive_ranks[0]) >= HITS for result in results),
            )
        )
    return sections


def _histogram(results: Iterable[QueryResult]) -> list[int]:
    """Queries in each of `BINS` equal parts of [0, 1]; 1 is in the last."""
    counts = [0] * BINS
    for result in results:
        counts[min(BINS - 1, int(result.average_precision * BINS))] += 1
    return counts


def _bars(counts: Sequence[int], tallest: int) -> Iterable[Bar]:
    step = 100 // BINS
    for number, count in enumerate(counts):
        yield Bar(number * step, (number + 1) * step, count, count / max(1, tallest))


def _card(
    dataset: Dataset, entry: Evaluated, result: QueryResult, missed: tuple[Hit, ...] = ()
) -> Card:
    query = dataset.queries[result.query]
    counted = query.counted()
    hits = []
    for rank, row in enumerate(result.ranking[:HITS].tolist(), start=1):
        name = dataset.database[row]
        score = float(entry.similarities[result.query, row])
        hits.append(Hit(name, rank, score, name in counted))
    return Card(
        name=query.name,
        kind=query.kind,
        box=query.bbox,
        ap=100 * result.average_precision,
        first=int(result.positive_ranks[0]) + 1,
        found=int(np.sum(result.positive_ranks < HITS)),
        positives=len(counted),
        hits=tuple(hits),
        missed=missed,
    )


def _missed(
    dataset: Dataset, entry: Evaluated, result: QueryResult, position: Mapping[str, int]
) -> tuple[Hit, ...]:
    """The positives ranked last, of those after the hits."""
    similarities = entry.similarities[result.query]
    rows = [position[name] for name in dataset.queries[result.query].counted()]
    # As they were ranked: by similarity, equal ones by row.
    rows.sort(key=lambda row: (-float(similarities[row]), row))
    ranked = zip(rows, result.positive_ranks.tolist(), strict=True)
    after = [
        Hit(dataset.database[row], rank + 1, float(similarities[row]), True)
        for row, rank in ranked
        if rank >= HITS
    ]
    return tuple(after[-MISSED:])


def _lines(dataset: Dataset, evaluated: Sequence[Evaluated]) -> list[Line]:
    """All queries, those that all methods together find worst first."""
    scored: dict[int, list[float]] = {}
    for entry in evaluated:
        for result in entry.scores.per_query:
            scored.setdefault(result.query, []).append(100 * result.average_precision)
    order = sorted(scored, key=lambda number: (math.fsum(scored[number]), number))
    return [Line(dataset.queries[number], tuple(scored[number])) for number in order]


def _thumbnails(
    dataset: Dataset, describer: Describer, names: Sequence[str], progress: Progress
) -> dict[str, Thumbnail]:
    """Small versions by name; those that cannot be read are left out."""
    side = SIDE
    if len(names) > FULL_SIZE:
        side = max(SMALLEST_SIDE, round(SIDE * math.sqrt(FULL_SIZE / len(names))))
    limits = describer.options
    found = {}
    for number, name in enumerate(names, start=1):
        try:
            image = decode(
                dataset.path(name).read_bytes(),
                max_side=side,
                upright=dataset.upright,
                max_pixels=limits.max_pixels,
                max_bytes=limits.max_bytes,
            )
        except (OSError, EngineError):
            pass
        else:
            data = base64.b64encode(encode_thumbnail(image.pixels, side=side)).decode()
            uri = f"data:image/jpeg;base64,{data}"
            found[name] = Thumbnail(number, image.width, image.height, uri)
        progress(number, len(names))
    return found
