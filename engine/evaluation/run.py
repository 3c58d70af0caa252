"""Descriptors of a data set under several poolings, and what they score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from engine.describer import Describer, Source
from engine.errors import EngineError, InvalidOption
from engine.evaluation.datasets import Dataset
from engine.evaluation.protocols import evaluate_ranking
from engine.generations import project
from engine.images import Box
from engine.pooling import build_pooling
from engine.postprocess import PCAProjection
from engine.types import Vectors

Key = tuple[str, Box | None]


def evaluate_poolings(
    dataset: Dataset,
    describer: Describer,
    *,
    poolings: Sequence[str],
    projections: Sequence[str],
    source: Callable[[str, Box | None], Source],
    progress: Callable[[int, int], None],
) -> list[dict[str, Any]]:
    """One row per pooling and projection, all from the same forward passes.

    Args:
        projections: `none` ranks raw descriptors, `fitted` projects them with a PCA that is
            fitted on the database, without labels, as a build of the index does.
        source: where the bytes of a database or query name come from, cut to a box.

    Raises: InvalidOption naming the file, if an image cannot be read.
    """
    modules = [
        build_pooling(name, describer.trunk.channels).to(describer.device) for name in poolings
    ]
    keys: list[Key] = [(name, None) for name in dataset.database]
    keys += [(query.name, query.bbox) for query in dataset.queries]
    unique = list(dict.fromkeys(keys))
    described: dict[Key, list[Vectors]] = {}
    items = ((key, source(*key)) for key in unique)
    for key, result in describer.stream(items, poolings=modules):
        if isinstance(result, EngineError):
            raise InvalidOption(f"{dataset.path(key[0])}: {result}") from result
        described[key] = result
        progress(len(described), len(unique))
    rows = []
    for position, name in enumerate(poolings):
        database = np.stack([described[name_, None][position] for name_ in dataset.database])
        queries = np.stack([described[q.name, q.bbox][position] for q in dataset.queries])
        for projection in projections:
            fitted = None
            if projection == "fitted":
                options = describer.options
                fitted = PCAProjection.fit(
                    torch.from_numpy(database), options.projection_dim, options.projection_power
                )
            vectors = project(fitted, database)
            scores = evaluate_ranking(dataset, project(fitted, queries), vectors)
            rows.append(
                {
                    "pooling": name,
                    "projection": projection,
                    "map": round(scores.map, 4),
                    "kinds": {kind: round(value, 4) for kind, value in scores.kinds.items()},
                    "queries": scores.queries,
                    "dim": vectors.shape[1],
                }
            )
    return rows
