"""From similarities to mean average precision."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from engine.evaluation.average_precision import ranking_average_precision
from engine.evaluation.datasets import Dataset
from engine.types import Vectors


@dataclass(frozen=True)
class Scores:
    """mAP in percent: per kind of query, and the mean over kinds as `map`."""

    map: float
    kinds: dict[str, float]
    queries: int


def evaluate_ranking(dataset: Dataset, queries: Vectors, database: Vectors) -> Scores:
    """mAP of ranking the database by inner product, for every query that has a positive.

    Args:
        dataset: the ground truth.
        queries: (Q, D), row i for `dataset.queries[i]`.
        database: (N, D), row i for `dataset.database[i]`.

    Junk and the query itself are left out of each ranking. Equal scores keep the order of the
    database, so the result is deterministic.
    """
    position = {name: row for row, name in enumerate(dataset.database)}
    names = np.asarray(dataset.database)
    by_kind: defaultdict[str, list[float]] = defaultdict(list)
    for row, query in enumerate(dataset.queries):
        positives = query.positives - {query.name} - query.junk
        if not positives:
            continue
        positive = np.zeros(len(names), bool)
        positive[[position[name] for name in positives]] = True
        ignored = names == query.name
        ignored[[position[name] for name in query.junk]] = True
        ranking = np.argsort(-(database @ queries[row]), kind="stable")
        precision = ranking_average_precision(ranking, positive, ignored)
        by_kind[query.kind].append(100 * precision)
    kinds = {kind: float(np.mean(values)) for kind, values in by_kind.items()}
    return Scores(
        map=float(np.mean(list(kinds.values()))) if kinds else 0.0,
        kinds=kinds,
        queries=sum(len(values) for values in by_kind.values()),
    )
