"""Total co-occurrence vectors of queries and their groups (paper, section 3.1.1, Figure 2)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from torch import Tensor

from engine.cooccurrence import cooccurrence_vector, direct_cooccurrence
from engine.describer import Describer
from engine.evaluation.datasets import Dataset, Query
from engine.evaluation.descriptors import Progress, describe_files
from engine.evaluation.run import query_parts
from engine.pooling.base import Pooling
from engine.types import Vectors

RADIUS = 4
MAX_QUERIES = 200
"""More rows than that are no longer seen apart."""

_LANDMARK_SETS = frozenset({"oxford5k", "paris6k", "roxford5k", "rparis6k"})


@dataclass(frozen=True)
class QueryVectors:
    """Vectors of queries sorted by group.

    Attributes:
        vectors: (N, C), C_V of each query up to its scale.
        labels: the group of each row.
        total: queries there are, each counted once; more than N where an even choice was made.
    """

    vectors: Vectors
    labels: list[str]
    total: int


class TotalCooccurrence(Pooling):
    """C_V: the direct co-occurrence summed over all positions (Eq 4), of the deepest layer."""

    def __init__(self, channels: int, radius: int = RADIUS) -> None:
        super().__init__(channels)
        self.radius = radius
        self.options = {"radius": radius}

    def forward(self, features: Tensor | Sequence[Tensor]) -> Tensor:
        """(B, C, H, W), or such a map of each layer, shallow to deep -> (B, C)."""
        deepest = features if isinstance(features, Tensor) else features[-1]
        return cooccurrence_vector(direct_cooccurrence(deepest, self.radius))


def query_vectors(
    dataset: Dataset, describer: Describer, *, cache_dir: Path, progress: Progress
) -> QueryVectors:
    """C_V of the queries, each to its length 1, which no correlation depends on.

    At most `MAX_QUERIES`, an even choice of all. With several scales it is the mean over them.

    Raises: InvalidOption naming the file, if one cannot be read.
    """
    ordered = grouped_queries(dataset)
    rows = np.linspace(0, len(ordered) - 1, min(len(ordered), MAX_QUERIES)).astype(int)
    chosen = [ordered[row] for row in rows.tolist()]
    parts = query_parts(dataset)
    pooling = TotalCooccurrence(describer.trunk.channels)
    (vectors,) = describe_files(
        describer,
        [pooling],
        [parts[number] for number, _ in chosen],
        cache_dir=cache_dir,
        progress=progress,
    )
    return QueryVectors(vectors, [label for _, label in chosen], len(ordered))


def grouped_queries(dataset: Dataset) -> list[tuple[int, str]]:
    """Place in `dataset.queries` and group of each query, those of a group side by side.

    A group is a landmark in Oxford and Paris, elsewhere queries of one kind that are each
    other's positives. Groups come by kind and then in the data set's order. The same part of the
    same image, asked for under several protocols, comes once.
    """
    once: dict[object, int] = {}
    for number, query in enumerate(dataset.queries):
        once.setdefault((query.name, query.bbox), number)
    numbers = list(once.values())
    if dataset.benchmark in _LANDMARK_SETS:
        return _side_by_side([(number, _stem(dataset.queries[number].name)) for number in numbers])
    kinds = list(dict.fromkeys(dataset.queries[number].kind for number in numbers))
    grouped = []
    for kind in kinds:
        members = [number for number in numbers if dataset.queries[number].kind == kind]
        for group in _mutual(dataset.queries, members):
            label = _label(dataset, group[0])
            if len(kinds) > 1:
                label = f"{kind}: {label}"
            grouped += [(number, label) for number in group]
    return _side_by_side(grouped)


def _side_by_side(labelled: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    """In the order in which the labels first appear."""
    place = {label: row for row, label in enumerate(dict.fromkeys(label for _, label in labelled))}
    return sorted(labelled, key=lambda entry: place[entry[1]])


def _mutual(queries: Sequence[Query], numbers: Sequence[int]) -> list[list[int]]:
    """Sets of queries that are joined by being each other's positives, in their order."""
    named: defaultdict[str, list[int]] = defaultdict(list)
    for number in numbers:
        named[queries[number].name].append(number)
    seen: set[int] = set()
    groups = []
    for number in numbers:
        if number in seen:
            continue
        group, waiting = [], [number]
        seen.add(number)
        while waiting:
            one = waiting.pop()
            group.append(one)
            for name in queries[one].positives & named.keys():
                for other in named[name]:
                    if other not in seen and queries[one].name in queries[other].positives:
                        seen.add(other)
                        waiting.append(other)
        groups.append(sorted(group))
    return groups


def _label(dataset: Dataset, number: int) -> str:
    name = PurePosixPath(dataset.queries[number].name)
    return str(name.parent) if dataset.format == "groups" else _stem(name.stem)


def _stem(name: str) -> str:
    """`name` without the digits that number it."""
    return re.sub(r"[_\-\d]+$", "", name) or name
