"""Methods on a data set: descriptors, what is done to them, and what the ranking scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from engine.augmentation import augment_database
from engine.describer import Describer
from engine.errors import InvalidOption
from engine.evaluation.datasets import Dataset, missing_files
from engine.evaluation.descriptors import ImagePart, Progress, describe_files, fit_regions
from engine.evaluation.methods import Method, Projection
from engine.evaluation.protocols import Scores, evaluate_similarities
from engine.expansion import expand_queries
from engine.pooling import Pooling
from engine.postprocess import (
    MAX_FIT_IMAGES,
    LearnedWhitening,
    LinearProjection,
    PCAProjection,
    ledoit_wolf_shrinkage,
)
from engine.types import Expansion, Vectors


@dataclass(frozen=True)
class Evaluated:
    """What one method scored.

    Attributes:
        method: what was done.
        scores: per kind and per query.
        dim: length of the vectors that were ranked.
        similarities: (Q, N) float32.
        fitted_on: name of the data set whose images a projection was fitted on, if any.
        label: of the published row, if it is one.
    """

    method: Method
    scores: Scores
    dim: int
    similarities: Vectors
    fitted_on: str | None
    label: str = ""


def evaluate_methods(
    dataset: Dataset,
    describer: Describer,
    methods: Sequence[Method],
    *,
    cache_dir: Path,
    progress: Callable[[str], Progress],
    fit_on: Dataset | None = None,
) -> Iterator[Evaluated]:
    """Evaluate methods that share a describer, pooling by pooling, in the order given.

    Args:
        cache_dir: where descriptors are kept.
        progress: called with what is being done, gives the callback that is told how far.
        fit_on: whose images projections are fitted on, without labels, except for `lw`, which
            learns from its matches; default the database of `dataset` itself, as a build of the
            index does.

    Raises: InvalidOption naming the file, if images are missing or cannot be read.
    """
    for content in (dataset, fit_on):
        if content is not None:
            check_files(content)
    specs = list(dict.fromkeys(method.pooling for method in methods))
    poolings = [describer.build_pooling(spec) for spec in specs]
    database, queries = database_parts(dataset), query_parts(dataset)
    fitting = database if fit_on is None else database_parts(fit_on)
    for pooling in poolings:
        if pooling.unfitted:
            fit_regions(
                describer,
                pooling,
                fitting,
                cache_dir=cache_dir,
                progress=progress("fitting the whitening of regions"),
            )
    parts = [*database, *queries]
    described = describe_files(
        describer,
        poolings,
        parts,
        cache_dir=cache_dir,
        progress=progress("describing"),
        fitting=any(method.projection.is_fitted for method in methods),
    )
    others = _others(describer, poolings, fit_on, methods, cache_dir, progress)
    for spec, vectors, other in zip(specs, described, others, strict=True):
        own, asked = vectors[: len(database)], vectors[len(database) :]
        projected: dict[Projection, _Projected] = {}
        for method in methods:
            if method.pooling != spec:
                continue
            if method.projection not in projected:
                project, fitted_on = fit_projection(method.projection, dataset, own, fit_on, other)
                projected[method.projection] = _Projected(project(own), project(asked), fitted_on)
            yield _evaluate(dataset, method, projected[method.projection])


def _others(
    describer: Describer,
    poolings: Sequence[Pooling],
    fit_on: Dataset | None,
    methods: Sequence[Method],
    cache_dir: Path,
    progress: Callable[[str], Progress],
) -> Iterator[Vectors | None]:
    """Descriptors of the images to fit on, database before queries, or None where not needed."""
    if fit_on is None or not any(method.projection.is_fitted for method in methods):
        yield from (None for _ in poolings)
        return
    parts = [*database_parts(fit_on), *query_parts(fit_on)]
    label = f"describing {fit_on.name}"
    yield from describe_files(
        describer, poolings, parts, cache_dir=cache_dir, progress=progress(label)
    )


@dataclass(frozen=True)
class _Projected:
    database: Vectors
    queries: Vectors
    fitted_on: str | None


def _evaluate(dataset: Dataset, method: Method, projected: _Projected) -> Evaluated:
    database, queries = projected.database, projected.queries
    if method.augmentation:
        database = augment_database(database, method.augmentation)
    if method.expansion.kind is not Expansion.NONE:
        queries = expand_queries(
            queries,
            database,
            method=method.expansion.kind,
            neighbours=method.expansion.neighbours,
            alpha=method.expansion.exponent,
            exclude=_own_rows(dataset),
        )
    similarities = queries @ database.T
    return Evaluated(
        method=method,
        scores=evaluate_similarities(dataset, similarities),
        dim=database.shape[1],
        similarities=similarities,
        fitted_on=projected.fitted_on,
    )


Project = Callable[[Vectors], Vectors]


def fit_projection(
    projection: Projection,
    dataset: Dataset,
    database: Vectors,
    fit_on: Dataset | None,
    other: Vectors | None,
) -> tuple[Project, str | None]:
    """The projection of (N, D) descriptors, and the name of the data set it was fitted on.

    Args:
        database: (N, D) descriptors of the data set that is evaluated.
        other: those of `fit_on`, its database before its queries.

    Raises: InvalidOption for `lw` without another data set: to learn from the matches that are
        then asked for would be no measurement.
    """
    if projection.given is not None:
        trained = projection.given.projection
        if trained is None or len(trained.mean) != database.shape[1]:
            raise InvalidOption(
                f"the projection {projection.kind} is not for descriptors of "
                f"{database.shape[1]} values; choose the --pooling that it was trained with"
            )
        return _applied(trained), None
    if projection.kind == "none":
        return lambda vectors: vectors, None
    fitted: PCAProjection | LearnedWhitening
    if projection.kind == "lw":
        if fit_on is None or other is None:
            raise InvalidOption(
                "projection lw learns from the matches of another data set; name it with --fit-on"
            )
        asked, matches = matched_pairs(fit_on)
        try:
            fitted = LearnedWhitening.fit(
                torch.from_numpy(other),
                asked,
                matches,
                projection.dim,
                shrinkage=projection.shrinkage or None,
            )
        except ValueError as error:
            raise InvalidOption(f"lw cannot be fitted on {fit_on.name}: {error}") from error
        return _applied(fitted), fit_on.name
    sample = database if fit_on is None or other is None else other[: len(fit_on.database)]
    most = MAX_FIT_IMAGES if projection.bounded else len(sample)
    rows = np.linspace(0, len(sample) - 1, min(len(sample), most)).astype(int)
    descriptors = torch.from_numpy(sample[rows])
    shrinkage = projection.shrinkage
    if shrinkage is None:
        shrinkage = ledoit_wolf_shrinkage(descriptors)
    try:
        fitted = PCAProjection.fit(
            descriptors,
            projection.dim,
            projection.power,
            shrinkage,
            bounded=projection.bounded,
        )
    except ValueError as error:
        raise InvalidOption(f"no projection can be fitted: {error}") from error
    return _applied(fitted), (fit_on or dataset).name


def _applied(fitted: LinearProjection) -> Project:
    return lambda vectors: fitted(torch.from_numpy(vectors)).numpy()


def matched_pairs(dataset: Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    """(P,) rows of queries and of their positives, database first, then queries."""
    position = {name: row for row, name in enumerate(dataset.database)}
    # Once, even where several kinds of query share them.
    pairs = list(
        {
            (query.name, query.bbox, name): (len(dataset.database) + row, position[name])
            for row, query in enumerate(dataset.queries)
            for name in sorted(query.positives - {query.name})
        }.values()
    )
    if not pairs:
        raise InvalidOption(f"{dataset.name} has no matches to learn from")
    rows = torch.tensor(pairs, dtype=torch.int64)
    return rows[:, 0], rows[:, 1]


def _own_rows(dataset: Dataset) -> list[list[int]]:
    """For each query, the rows that are itself and must not help to expand it."""
    position = {name: row for row, name in enumerate(dataset.database)}
    return [
        [] if query.keeps_itself or query.name not in position else [position[query.name]]
        for query in dataset.queries
    ]


def database_parts(dataset: Dataset) -> list[ImagePart]:
    return [ImagePart(dataset.path(name), None, dataset.upright) for name in dataset.database]


def query_parts(dataset: Dataset) -> list[ImagePart]:
    return [
        ImagePart(dataset.path(query.name), query.bbox, dataset.upright)
        for query in dataset.queries
    ]


def check_files(dataset: Dataset) -> None:
    """Raises InvalidOption, before any work, if images are not on the disk."""
    missing = missing_files(dataset)
    if missing:
        raise InvalidOption(
            f"{len(missing)} images of {dataset.name} are missing, the first is {missing[0]}"
        )
