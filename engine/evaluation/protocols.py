"""From similarities to mean average precision."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import InvalidOption
from engine.evaluation.average_precision import average_precision, precision_at
from engine.evaluation.datasets import Dataset, Query
from engine.types import Rows, Vectors

PRECISION_AT = (1, 5, 10)
KEPT = 50
"""Entries of each ranking that a result keeps."""

_BLOCK = 64
"""Queries that are compared with the database at once: bounds the memory, and still one product."""

Similarities = NDArray[np.floating[Any]]
"""(Q, N): how similar each query is to each database entry; higher is better."""


@dataclass(frozen=True, eq=False)
class QueryResult:
    """What became of one query.

    Attributes:
        query: its place in `dataset.queries`.
        average_precision: in [0, 1].
        ranking: rows of `dataset.database`, best first, without junk and as a rule without the
            query itself; the first `KEPT`.
        positive_ranks: ranks of all positives in that whole ranking, from 0, ascending.
    """

    query: int
    average_precision: float
    ranking: Rows
    positive_ranks: Rows


@dataclass(frozen=True)
class Scores:
    """mAP in percent: per kind of query, and the mean over kinds as `map`.

    `precision_at` holds mP@k in percent by k, averaged as `map` is; `queries` counts the queries
    that have a positive, and `per_query` has what became of each.
    """

    map: float
    kinds: dict[str, float]
    queries: int
    precision_at: dict[int, float]
    per_query: tuple[QueryResult, ...]


def evaluate_ranking(dataset: Dataset, queries: Vectors, database: Vectors) -> Scores:
    """Scores of ranking the database by inner product, for every query that has a positive.

    Args:
        dataset: the ground truth.
        queries: (Q, D), row i for `dataset.queries[i]`.
        database: (N, D), row i for `dataset.database[i]`.

    Junk is left out of each ranking, and the query itself unless it `keeps_itself`. Equal scores
    keep the order of the database, so the result is deterministic.

    Raises: InvalidOption if no query has a positive.
    """
    check_shape(dataset, (len(queries), len(database)))
    # A revisited query comes three times, with one descriptor and so with one ranking.
    sharing: defaultdict[bytes, list[int]] = defaultdict(list)
    for entry, row in enumerate(queries):
        sharing[row.tobytes()].append(entry)
    return _scores(dataset, _products(queries, database, list(sharing.values())))


def evaluate_similarities(dataset: Dataset, similarities: Similarities) -> Scores:
    """Scores of a (Q, N) matrix, row i for `dataset.queries[i]`: see `evaluate_ranking`."""
    check_shape(dataset, similarities.shape)
    return _scores(dataset, (([entry], row) for entry, row in enumerate(similarities)))


def check_shape(dataset: Dataset, shape: tuple[int, ...]) -> None:
    """Raises: ValueError unless `shape` is that of a (Q, N) matrix of the data set."""
    if shape != (len(dataset.queries), len(dataset.database)):
        raise ValueError(
            f"similarities of shape {shape} were given for {len(dataset.queries)} queries "
            f"and {len(dataset.database)} database entries"
        )


def _products(
    queries: Vectors, database: Vectors, groups: Sequence[list[int]]
) -> Iterator[tuple[list[int], Similarities]]:
    """Queries that share a descriptor, and its (N,) similarities."""
    for start in range(0, len(groups), _BLOCK):
        block = groups[start : start + _BLOCK]
        yield from zip(block, queries[[group[0] for group in block]] @ database.T, strict=True)


def _scores(dataset: Dataset, rows: Iterable[tuple[list[int], Similarities]]) -> Scores:
    position = {name: row for row, name in enumerate(dataset.database)}
    results: dict[int, QueryResult] = {}
    for group, similarities in rows:
        counted = [entry for entry in group if dataset.queries[entry].counted()]
        if not counted:
            continue
        ranking = np.argsort(-similarities, kind="stable")
        rank = np.empty_like(ranking)
        rank[ranking] = np.arange(len(ranking))
        for entry in counted:
            query = dataset.queries[entry]
            results[entry] = _result(entry, query, ranking, rank, position)
    if not results:
        raise InvalidOption(
            f"no query of the data set {dataset.name!r} has a positive: nothing can be scored"
        )
    return _averaged(dataset, [results[entry] for entry in sorted(results)])


def _result(
    entry: int, query: Query, ranking: Rows, rank: Rows, position: Mapping[str, int]
) -> QueryResult:
    """Args: ranking: (N,) rows, best first; rank: (N,) the place of each row in it."""
    ignored = np.sort(rank[[position[name] for name in query.ignored() if name in position]])
    positive = np.sort(rank[[position[name] for name in query.counted()]])
    positive_ranks = positive - np.searchsorted(ignored, positive)
    reach = KEPT + len(ignored)  # far enough, wherever the ignored ones are
    kept = np.delete(ranking[:reach], ignored[ignored < reach])[:KEPT]
    precision = average_precision(positive_ranks.tolist(), len(positive_ranks))
    return QueryResult(entry, precision, kept, positive_ranks)


def _averaged(dataset: Dataset, results: list[QueryResult]) -> Scores:
    by_kind: defaultdict[str, list[QueryResult]] = defaultdict(list)
    for result in results:
        by_kind[dataset.queries[result.query].kind].append(result)
    kinds = {
        kind: 100 * float(np.mean([result.average_precision for result in members]))
        for kind, members in by_kind.items()
    }
    precisions = {
        k: 100 * float(np.mean([_mean_precision_at(k, members) for members in by_kind.values()]))
        for k in PRECISION_AT
    }
    return Scores(
        map=float(np.mean(list(kinds.values()))),
        kinds=kinds,
        queries=len(results),
        precision_at=precisions,
        per_query=tuple(results),
    )


def _mean_precision_at(k: int, results: Iterable[QueryResult]) -> float:
    return float(np.mean([precision_at(result.positive_ranks.tolist(), k) for result in results]))
